"""What the owner has: code that makes the module, a checkpoint, examples. Runs their code."""
