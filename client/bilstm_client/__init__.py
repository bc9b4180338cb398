"""Client of the BiLSTM encoding service. Needs no torch.

with Client("localhost") as client:  # port 50051
    encoding = client.encode(x)  # x [T, D]: ndarray, torch tensor or nested lists
    encoding.states  # ndarray [T, 2P]
    tags = client.encode({"tokens": ids, "features": x}, model="tagger", outputs="labels")
    [tags.label_names[label] for label in tags.labels]
    for encoding in client.encode_stream(source):  # any iterable, also one without end
        ...
"""

from .aio import AsyncClient
from .client import Client
from .errors import (
    Cancelled,
    DeadlineExceeded,
    EncoderError,
    InvalidInput,
    ModelNotFound,
    NotAnArray,
    NotRequested,
    NotSaved,
    NotTrusted,
    Overloaded,
    PermissionDenied,
    SequenceFailure,
    ServerError,
    Unauthenticated,
    Unavailable,
)
from .types import (
    Encoding,
    EncodingChunk,
    InputInfo,
    Limits,
    Live,
    Model,
    OutputInfo,
    Progress,
    State,
    Timing,
)

__all__ = [
    "AsyncClient",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "EncoderError",
    "Encoding",
    "EncodingChunk",
    "InputInfo",
    "InvalidInput",
    "Limits",
    "Live",
    "Model",
    "ModelNotFound",
    "NotAnArray",
    "NotRequested",
    "NotSaved",
    "NotTrusted",
    "OutputInfo",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "SequenceFailure",
    "ServerError",
    "State",
    "Timing",
    "Unauthenticated",
    "Unavailable",
]
