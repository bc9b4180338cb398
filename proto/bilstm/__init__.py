"""What client and server agree on: the messages of `bilstm.v1`, and tensors as bytes."""
