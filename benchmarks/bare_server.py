"""`bilstm-server` with nothing that watches it: what `benchmarks.overhead` holds it against.

    python -m benchmarks.bare_server serve …

Metrics that count nothing, and no interceptor but for decoding, are put in place of the server's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from bilstm_server import app
from bilstm_server.__main__ import main
from bilstm_server.callers import Priority
from bilstm_server.metrics import Metrics, ModelMetrics, RpcMetrics
from bilstm_server.rpc.interceptors.chain import Handler, InterceptorChain
from bilstm_server.rpc.interceptors.outcomes import NOBODY, current_call


class BareModelMetrics(ModelMetrics):
    def drop(self, reason: str, caller: str = "") -> None:
        pass

    def observe_batch(
        self, sequences: int, tokens: int, seconds: float, queue_seconds: Iterable[float]
    ) -> None:
        pass

    def observe_encoded(self, sequences: int, tokens: int) -> None:
        pass

    def observe_caller(self, caller: str, tokens: int) -> None:
        pass


class BareRpcMetrics(RpcMetrics):
    def start(self) -> None:
        pass

    def finish(self, code: str, seconds: float) -> None:
        pass


class BareMetrics(Metrics):
    def model(self, name: str) -> ModelMetrics:
        return BareModelMetrics(self.models, name)

    def rpc(self, kind: str, service: str, method: str) -> RpcMetrics:
        return BareRpcMetrics(self.rpcs, kind, service, method)


class BareCall:
    """What `EncoderService` asks of its call."""

    caller = NOBODY
    priority = Priority.NORMAL
    trace = None
    reply = None


class BareInterceptorChain(InterceptorChain):
    def _wrap(self, path: str, handler: Any) -> Handler:
        method = self._tensor_methods.get(path)
        if method is None or handler.request_streaming:
            return super()._wrap(path, handler)
        current: Any = current_call

        async def answer(request: Any, context: Any) -> Any:
            current.set(BareCall())
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=method.decode)


if __name__ == "__main__":
    vars(app).update(Metrics=BareMetrics, InterceptorChain=BareInterceptorChain)
    main()
