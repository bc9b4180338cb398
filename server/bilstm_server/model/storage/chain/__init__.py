"""From the names and shapes of a checkpoint's tensors to a graph of layers, or to a question."""
