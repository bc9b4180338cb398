"""`Settings`: all settings, of which flags, environment variables and `--help` are made."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, DirectoryPath, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ..addresses import is_unix
from .limits import (
    CallerLimits,
    CallLimits,
    ConnectionLimits,
    MessageLimits,
    QueueLimits,
    ReceiveLimits,
    ReplyLimits,
    RequestLimits,
    StreamLimits,
)
from .probes import ProbeSettings
from .security import AuthSettings, TlsSettings
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
        description="A model to serve, as NAME=FOLDER. Repeat the flag for more, or separate them "
        "by commas. The first one is the default model. Without any, the small model that ships is "
        "served.",
    )
    models_folder: DirectoryPath | None = Field(
        default=None,
        description="A folder of model folders. Each of them is served too, under its own name.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="The device that computes. auto takes cuda if there is one, else cpu.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="The type in which weights are kept and products are computed.",
    )
    float32_matmul_precision: Literal["highest", "high"] = Field(
        default="highest",
        description="The precision of float32 products on a GPU, in torch's words. high rounds "
        "the factors to TF32, which is faster and exact to three digits.",
    )
    kernel: Literal["auto", "gpu", "cpu", "reference"] = Field(
        default="auto",
        description="The kernel that computes a layer. auto takes the fastest that this machine "
        "can run.",
    )
    threads: Threads = Field(
        default=0,
        description="The number of threads that compute on the CPU. 0 takes the number in "
        "OMP_NUM_THREADS, or else one for each processor that the process may use, by its affinity "
        "and by the CPU quota of its control groups.",
    )
    max_device_bytes: BytesOrAll = Field(
        default=0,
        description="The most bytes of the GPU's memory that all models and their batches may "
        "take. 0 allows all there is. CUDA itself and loaded kernels take some more.",
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
        description="The address to listen on. 0.0.0.0 is every interface. unix:PATH or "
        "unix-abstract:NAME is a unix socket for gRPC.",
    )
    port: Port = Field(default=50051, description="The port of gRPC. 0 takes any free one.")
    metrics_host: MetricsHost = Field(
        default="",
        description="The address of metrics and probes. Empty takes that of --host, or 127.0.0.1 "
        "where that is a unix socket.",
    )
    metrics_port: Port = Field(
        default=9464, description="The port of metrics and probes, over HTTP. 0 takes any free one."
    )

    @property
    def metrics_address(self) -> str:
        """The address to listen on for metrics and probes."""
        return self.metrics_host or (_LOOPBACK if is_unix(self.host) else self.host)


class ProcessSettings(BaseModel):
    """How the server ends, and what it tells of itself."""

    drain_delay_seconds: SecondsOrNone = Field(
        default=0.0,
        description="The seconds after SIGTERM for which the server goes on serving and says that "
        "it is not ready, so that load balancers notice.",
    )
    drain_timeout_seconds: SecondsOrNone = Field(
        default=30.0,
        description="The seconds that accepted requests have to finish once the server has "
        "stopped taking new ones.",
    )
    hang_seconds: SecondsOrNone = Field(
        default=60.0,
        description="The seconds within which the engine must have computed a batch, or ten times "
        "what such a batch should take, if that is more. After that the server ends, so that it "
        "can be started anew. 0 waits for ever.",
    )
    stall_seconds: SecondsOrNone = Field(
        default=10.0,
        description="The seconds for which the event loop may stand still. After that the server "
        "ends, so that it can be started anew. 0 waits for ever, as long as a debugger needs.",
    )
    tracing_endpoint: OtlpEndpoint = Field(
        default="",
        description="The http://HOST:4317 of an OpenTelemetry collector (OTLP over gRPC) that "
        "traces are sent to, or https for TLS. Empty sends none. It needs the extra `tracing`.",
    )
    tracing_sample_ratio: Ratio = Field(
        default=1.0,
        description="The share of requests to trace, of those whose callers do not trace them. "
        "Where a caller traces, it decides.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="The form of the log. auto is console on a terminal and json elsewhere: one "
        "event a line.",
    )


# pydantic lists the fields of the last base first.
class Settings(
    ProcessSettings,
    RequestLimits,
    StreamLimits,
    ReplyLimits,
    ReceiveLimits,
    ConnectionLimits,
    QueueLimits,
    CallerLimits,
    CallLimits,
    MessageLimits,
    ProbeSettings,
    AuthSettings,
    TlsSettings,
    AddressSettings,
    ModelSettings,
    BaseSettings,
):
    """All settings of the server; it is each of the groups of limits."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.tls_client_port is None:
            return self
        if is_unix(self.host):
            raise ValueError(
                f"--tls-client-port needs a --host that has ports, and {self.host} is a unix socket"
            )
        if self.tls_client_port == self.port != 0:
            raise ValueError(f"--tls-client-port must not be --port, got {self.port} for both")
        return self

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
