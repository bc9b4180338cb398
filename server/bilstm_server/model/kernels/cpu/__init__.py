"""The kernel for CPUs: C++ that is compiled ahead of time, for each instruction set."""
