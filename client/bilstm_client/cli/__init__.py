"""The shell command `bilstm`; it starts in `main.py`. Imported by nothing else of the client."""
