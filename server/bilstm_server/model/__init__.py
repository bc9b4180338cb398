"""The operator and the model around it. The only room for torch, with `engine/`."""

from .bilstm import BiLSTM
from .config import ModelConfig
from .graph import SequenceEncoder
from .kernels import RaggedBatch
from .storage.first_format import PlainConfig, Pooling
from .storage.folder import load_model, save_model
from .storage.importing import import_checkpoint

__all__ = [
    "BiLSTM",
    "ModelConfig",
    "PlainConfig",
    "Pooling",
    "RaggedBatch",
    "SequenceEncoder",
    "import_checkpoint",
    "load_model",
    "save_model",
]
