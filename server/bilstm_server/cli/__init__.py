"""The command line of `bilstm-server`: a file for each command."""
