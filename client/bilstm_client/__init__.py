"""Client of the BiLSTM encoding service. Needs no torch.

with Client("localhost:50051") as client:
    encoding = client.encode(x)  # x [T, D]: ndarray, torch tensor or nested lists
    encoding.states  # ndarray [T, 2P]
"""

from .aio import AsyncClient
from .client import Client
from .errors import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    ServerError,
    Unavailable,
)
from .types import Encoding, Limits, Model, State, Timing

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "EncoderError",
    "Encoding",
    "InvalidInput",
    "Limits",
    "Model",
    "ModelNotFound",
    "Overloaded",
    "ServerError",
    "State",
    "Timing",
    "Unavailable",
]
