"""The operator and the model around it. The only room for torch, with `engine/`."""

from .bilstm import BiLSTM
from .checkpoint import load_model, save_model
from .config import ModelConfig, Output, Pooling
from .encoder import Encodings, SequenceEncoder
from .importing import import_checkpoint
from .kernels import RaggedBatch

__all__ = [
    "BiLSTM",
    "Encodings",
    "ModelConfig",
    "Output",
    "Pooling",
    "RaggedBatch",
    "SequenceEncoder",
    "import_checkpoint",
    "load_model",
    "save_model",
]
