"""`Settings`: all settings, of which flags, environment variables and `--help` are made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, DirectoryPath, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..addresses import is_unix
from .limits import (
    CallLimits,
    ConnectionLimits,
    MessageLimits,
    QueueLimits,
    ReceiveLimits,
    ReplyLimits,
    RequestLimits,
    StreamLimits,
)
from .sources import SHIPPED_MODEL, LeftOut, ModelSource, find_models, has_model
from .types import (
    BytesOrAll,
    Host,
    MetricsHost,
    ModelSources,
    OtlpEndpoint,
    Port,
    Ratio,
    SecondsOrNone,
    Threads,
)

PREFIX = "BILSTM_"  # of the environment's variables
_LOOPBACK = "127.0.0.1"
# What must not exceed what.
_NESTED = (
    ("max_sequence_tokens", "max_batch_tokens"),
    ("max_batch_tokens", "max_queue_tokens"),
    ("max_request_sequences", "max_queue_sequences"),
    ("max_stream_bytes", "max_streams_bytes"),
    ("max_message_bytes", "max_connection_reply_bytes"),
    ("max_connection_reply_bytes", "max_reply_bytes"),
)


class ModelSettings(BaseModel):
    """Which models are served, and what computes them."""

    model: ModelSources = Field(
        default=(),
        description="NAME=FOLDER of a model to serve; repeat for more, or separate by commas. "
        "The first is the default model. Without any, the small model that ships is served.",
    )
    models_folder: DirectoryPath | None = Field(
        default=None,
        description="Folder of model folders: each is served too, under its own name.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to compute; auto: cuda if there is one."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="Type of weights and products."
    )
    float32_matmul_precision: Literal["highest", "high"] = Field(
        default="highest",
        description="As torch has it: high rounds the factors of float32 products to TF32 on a "
        "GPU, which is faster, and precise to three digits.",
    )
    kernel: Literal["auto", "gpu", "cpu", "reference"] = Field(
        default="auto", description="What runs a layer; auto: the fastest this machine can run."
    )
    threads: Threads = Field(
        default=0,
        description="Threads that compute on the CPU; 0: what OMP_NUM_THREADS says, or one for "
        "each processor that the process may use, by its affinity and the CPU quota of its "
        "control groups.",
    )
    max_device_bytes: BytesOrAll = Field(
        default=0,
        description="Bytes of the GPU's memory for all models and their batches; 0: all there is. "
        "CUDA itself and loaded kernels take some more.",
    )

    @field_validator("models_folder")
    @classmethod
    def _is_no_model(cls, folder: Path | None) -> Path | None:
        if folder is not None and has_model(folder):
            raise ValueError(
                f"must hold model folders, and is one itself: name it by --model NAME={folder}"
            )
        return folder

    def find_models(self) -> tuple[tuple[ModelSource, ...], list[LeftOut]]:
        """Find what to serve: `model`, or else the model that ships; then what is in
        `models_folder`, unless `model` names it already. A model there with the shipped one's name
        takes its place. Returns also what else is in `models_folder` and not served.

        Raises `ModelError` if the folder can't be read.
        """
        if self.models_folder is None:
            return self.model or (SHIPPED_MODEL,), []
        in_folder, left_out = find_models(self.models_folder)
        named = {source.folder.resolve() for source in self.model}
        found = tuple(source for source in in_folder if source.folder.resolve() not in named)
        if self.model:
            return self.model + found, left_out
        replaced = SHIPPED_MODEL.name in (source.name for source in found)
        return found if replaced else (SHIPPED_MODEL, *found), left_out


class AddressSettings(BaseModel):
    """Where the server listens."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on; 0.0.0.0: every interface; unix:PATH or "
        "unix-abstract:NAME: a unix socket for gRPC.",
    )
    port: Port = Field(default=50051, description="gRPC port; 0: any free one.")
    metrics_host: MetricsHost = Field(
        default="",
        description="Address of metrics and probes; empty: that of --host, or 127.0.0.1 where that "
        "is a unix socket.",
    )
    metrics_port: Port = Field(
        default=9464, description="Port of metrics and probes, over HTTP; 0: any free one."
    )

    @property
    def metrics_address(self) -> str:
        """The address to listen on for metrics and probes."""
        return self.metrics_host or (_LOOPBACK if is_unix(self.host) else self.host)


# pydantic lists the fields of the last base first.
class Settings(
    RequestLimits,
    StreamLimits,
    ReplyLimits,
    ReceiveLimits,
    ConnectionLimits,
    QueueLimits,
    CallLimits,
    MessageLimits,
    AddressSettings,
    ModelSettings,
    BaseSettings,
):
    """All settings of the server; it is each of the groups of limits."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    drain_delay_seconds: SecondsOrNone = Field(
        default=0.0,
        description="On SIGTERM: seconds to go on serving as not ready, so that load balancers "
        "notice.",
    )
    drain_timeout_seconds: SecondsOrNone = Field(
        default=30.0, description="On SIGTERM: seconds that accepted requests have to finish."
    )
    tracing_endpoint: OtlpEndpoint = Field(
        default="",
        description="http://HOST:4317 of an OpenTelemetry collector (OTLP over gRPC) that traces "
        "go to; https for TLS; empty: no traces. Needs the extra `tracing`.",
    )
    tracing_sample_ratio: Ratio = Field(
        default=1.0,
        description="Share of requests to trace, of those whose callers trace nothing themselves; "
        "otherwise the caller decides.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, else json, one event a line."
    )

    @model_validator(mode="after")
    def _bounds_nest(self) -> Self:
        for smaller, larger in _NESTED:
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ValueError(f"{smaller} ({low}) must not exceed {larger} ({high})")
        if 2 * self.max_message_bytes >= self.max_reply_bytes:  # no reply may have over half
            raise ValueError(
                f"max_reply_bytes ({self.max_reply_bytes}) must be more than twice "
                f"max_message_bytes ({self.max_message_bytes})"
            )
        return self
