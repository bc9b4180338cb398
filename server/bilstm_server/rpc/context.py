"""`Context`: the type of a call's context, as gRPC gives it to every method."""

from __future__ import annotations

from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
