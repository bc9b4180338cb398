"""The example call: which of its tensors are inputs, and calls like it of other lengths."""
