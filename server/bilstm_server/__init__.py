"""The BiLSTM encoding service."""
