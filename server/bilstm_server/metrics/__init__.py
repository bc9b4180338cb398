"""Every metric's name, labels and buckets, once: the only room for prometheus_client.

Label children are resolved when a model or an RPC method is made known, not per request.
"""

from .model_families import DROP_REASONS
from .models import DropMetrics, ModelMetrics
from .rpcs import RpcMetrics
from .security import FileMetrics, RefusedCalls
from .server import STALLS, Metrics, can_accept

__all__ = [
    "DROP_REASONS",
    "STALLS",
    "DropMetrics",
    "FileMetrics",
    "Metrics",
    "ModelMetrics",
    "RefusedCalls",
    "RpcMetrics",
    "can_accept",
]
