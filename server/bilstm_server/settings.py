"""Every setting, once: name, default, unit and meaning. The flags of `bilstm-server serve`, the
environment variables and `--help` are made of this class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    DirectoryPath,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .addresses import is_unix, parse_host
from .errors import StartError, quoted
from .sources import (
    SHIPPED_MODEL,
    LeftOut,
    ModelSource,
    find_models,
    has_model,
    parse_model_sources,
)

_LOOPBACK = "127.0.0.1"
_PREFIX = "BILSTM_"
# What Kubernetes tells a pod of a Service whose name begins so, with the value behind an =.
_SERVICE_LINK = re.compile(
    rf"{_PREFIX}(\w+_)?(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?=)"
)


def _metrics_host(value: str) -> str:
    host = parse_host(value) if value else value
    if is_unix(host):
        raise ValueError(f"must be an address, and no unix socket, got {quoted(value)}")
    return host


Host = Annotated[str, AfterValidator(parse_host)]
MetricsHost = Annotated[str, AfterValidator(_metrics_host)]
Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count64 = Annotated[int, Field(ge=1, le=2**63 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1)]
ModelSources = Annotated[tuple[ModelSource, ...], NoDecode, BeforeValidator(parse_model_sources)]

_OTLP_PORT = 4317


def _otlp_endpoint(value: str) -> str:
    """`http://HOST:PORT` or `https://HOST:PORT`, or empty."""
    if not value:
        return value
    try:
        url = urlsplit(value)
        port = url.port or _OTLP_PORT
    except ValueError as error:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT") from error
    if "@" in value:  # not repeated: it may be a secret
        raise ValueError(
            "must have no user or password; OTEL_EXPORTER_OTLP_HEADERS has such things"
        )
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise ValueError(f"must be http://HOST:PORT or https://HOST:PORT, got {quoted(value)}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


class Settings(BaseSettings):
    """Settings of the server."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

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
    max_device_bytes: Bytes = Field(
        default=0,
        description="Bytes of the GPU's memory for all models and their batches; 0: all there is. "
        "CUDA itself and loaded kernels take some more.",
    )
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
    max_message_bytes: Count = Field(
        default=16 * 1024 * 1024,
        description="Bytes of one request, or of one reply's tensors. gRPC puts a message together "
        "in one go, a millisecond a megabyte in which no other call is answered; streams take "
        "what is larger.",
    )
    max_sequence_tokens: Count = Field(
        default=16_384, description="Tokens (steps) of one sequence."
    )
    max_request_sequences: Count = Field(default=1_024, description="Sequences in one request.")
    max_batch_tokens: Count = Field(
        default=16_384, description="Tokens computed together, and so the most in one request."
    )
    max_batch_sequences: Count = Field(default=256, description="Sequences computed together.")
    max_queue_tokens: Count = Field(
        default=131_072,
        description="Tokens that may wait for each model; what comes beyond is refused.",
    )
    max_queue_sequences: Count = Field(
        default=16_384,
        description="Sequences that may wait for each model; what comes beyond is refused.",
    )
    max_queue_delay: Seconds = Field(
        default=0.0,
        description="Seconds that a batch may wait for more sequences while the device is idle.",
    )
    max_whole_tokens: Count = Field(
        default=2_048,
        description="Tokens of a sequence that is computed whole; a longer one is computed in "
        "slices, between which short ones have their turn.",
    )
    slice_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=0.002,
        description="Seconds that one slice of long sequences is to take; ten times that where "
        "nothing else has come for a second.",
    )
    max_queue_seconds: Seconds = Field(
        default=2.0,
        description="Seconds for which a request may have to wait, as far as that is known; what "
        "would have to wait longer is refused.",
    )
    max_connections: Count = Field(
        default=1_024, description="Connections that may be open; one more is closed at once."
    )
    connection_idle_seconds: Annotated[float, Field(gt=0, le=2e6, allow_inf_nan=False)] = Field(
        default=600.0,
        description="Seconds without a call after which a connection is closed; clients connect "
        "anew by themselves.",
    )
    max_connection_calls: Count = Field(
        default=256,
        description="Calls and streams that one connection may have in flight; more of them wait "
        "in the client.",
    )
    max_calls: Count = Field(
        default=4_096, description="Calls that may be in flight; one more is refused."
    )
    max_metadata_bytes: Count = Field(
        default=16 * 1024, description="Bytes of a call's metadata; one with more is refused."
    )
    max_receive_bytes: Count64 = Field(
        default=512 * 1024**2,
        description="Bytes that requests may hold which do not come at once: as many requests as "
        "may be of --max-message-bytes each. Beyond, the slowest is refused.",
    )
    receive_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0, description="Seconds in which a request must have come."
    )
    max_reply_bytes: Count64 = Field(
        default=1024**3,
        description="Bytes of all replies that are computed or on their way. Beyond, connections "
        "that do not take theirs are closed, and calls are refused.",
    )
    max_connection_reply_bytes: Count64 = Field(
        default=256 * 1024**2,
        description="The same of one connection, unless it is one of a unix socket; what comes "
        "beyond is refused.",
    )
    reply_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=60.0,
        description="Seconds in which a reply must have been taken; its connection is closed then.",
    )
    max_streams: Count = Field(
        default=128, description="Streams that may be open; one more is refused."
    )
    max_connection_streams: Count = Field(
        default=64,
        description="Streams that one connection may have open, unless it is one of a unix "
        "socket; one more is refused.",
    )
    stream_idle_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=300.0,
        description="Seconds without progress, by its client's fault, after which a stream is "
        "ended; a tenth of that where others wait for what it holds, memory or its place.",
    )
    max_stream_sequences: Count = Field(
        default=1_024, description="Sequences that one stream may have in flight."
    )
    max_stream_bytes: Count64 = Field(
        default=4 * 1024**3,
        description="Bytes that one stream may have in flight, with its results: beyond, the "
        "server reads no further. A sequence must fit with its result.",
    )
    max_streams_bytes: Count64 = Field(
        default=8 * 1024**3, description="Bytes that all streams together may have in flight."
    )
    drain_delay_seconds: Seconds = Field(
        default=0.0,
        description="On SIGTERM: seconds to go on serving as not ready, so that load balancers "
        "notice.",
    )
    drain_timeout_seconds: Seconds = Field(
        default=30.0, description="On SIGTERM: seconds that accepted requests have to finish."
    )
    tracing_endpoint: Annotated[str, AfterValidator(_otlp_endpoint)] = Field(
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

    @field_validator("models_folder")
    @classmethod
    def _is_no_model(cls, folder: Path | None) -> Path | None:
        if folder is not None and has_model(folder):
            raise ValueError(
                f"must hold model folders, and is one itself: name it by --model NAME={folder}"
            )
        return folder

    @model_validator(mode="after")
    def _bounds_nest(self) -> Self:
        for smaller, larger in (
            ("max_sequence_tokens", "max_batch_tokens"),
            ("max_batch_tokens", "max_queue_tokens"),
            ("max_request_sequences", "max_queue_sequences"),
            ("max_stream_bytes", "max_streams_bytes"),
            ("max_message_bytes", "max_connection_reply_bytes"),
            ("max_connection_reply_bytes", "max_reply_bytes"),
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ValueError(f"{smaller} ({low}) must not exceed {larger} ({high})")
        if 2 * self.max_message_bytes >= self.max_reply_bytes:  # no reply may have over half
            raise ValueError(
                f"max_reply_bytes ({self.max_reply_bytes}) must be more than twice "
                f"max_message_bytes ({self.max_message_bytes})"
            )
        return self

    @property
    def metrics_address(self) -> str:
        """The address of metrics and probes."""
        return self.metrics_host or (_LOOPBACK if is_unix(self.host) else self.host)

    @property
    def stream_wanted_seconds(self) -> float:
        """Of `stream_idle_seconds`, where others wait for what the stream holds."""
        return self.stream_idle_seconds / 10

    def find_models(self) -> tuple[tuple[ModelSource, ...], list[LeftOut]]:
        """What to serve: `model`, or the one that ships; then what is in `models_folder`, unless
        `model` has it already. One found under the shipped one's name takes its place. And what
        else is in `models_folder`.

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


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise `StartError` for a variable that looks like a setting's and is none."""
    known = [f"{_PREFIX}{name.upper()}" for name in Settings.model_fields]
    for name, value in environment.items():
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper in known:
            continue
        if _SERVICE_LINK.match(f"{upper}={value}"):
            continue
        nearest = get_close_matches(upper, known, n=1, cutoff=0)
        raise StartError(f"{quoted(name)} in the environment is no setting; nearest: {nearest[0]}")
