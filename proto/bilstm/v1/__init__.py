"""Generated from encoder.proto by `make proto`."""
