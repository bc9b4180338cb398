"""How far the project's operator is from nn.LSTM, in all that it takes and on every kernel here."""
