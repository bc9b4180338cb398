"""Every setting, once: name, default, unit and meaning. The flags of `bilstm-server serve`, the
environment variables and `--help` are made of this class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
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

from .errors import ModelError

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count64 = Annotated[int, Field(ge=1, le=2**63 - 1)]
Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class ModelSource(NamedTuple):
    name: str
    folder: Path


SHIPPED_MODEL = ModelSource("japanese_vowels", Path(__file__).parent / "models" / "japanese_vowels")


def _model_sources(value: object) -> object:
    """`NAME=FOLDER`, several of them in a list or separated by commas."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        return value
    sources = []
    for item in value:
        if not isinstance(item, str):
            sources.append(item)
            continue
        name, equals, folder = item.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"must be NAME=FOLDER, got {item!r}")
        if not name.isprintable():
            raise ValueError(f"the name must be of printable characters, got {name!r}")
        sources.append(ModelSource(name, Path(folder)))
    return sources


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
        raise ValueError(f"must be http://HOST:PORT or https://HOST:PORT, got {value!r}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port}"


class Settings(BaseSettings):
    """Settings of the server."""

    model_config = SettingsConfigDict(
        env_prefix="BILSTM_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    model: Annotated[tuple[ModelSource, ...], NoDecode, BeforeValidator(_model_sources)] = Field(
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
        "each core.",
    )
    max_device_bytes: Bytes = Field(
        default=0,
        description="Bytes of the GPU's memory for all models and their batches; 0: all there is. "
        "CUDA itself and loaded kernels take some more.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on, for gRPC and metrics; 0.0.0.0: every interface.",
    )
    port: Port = Field(default=50051, description="gRPC port; 0: any free one.")
    metrics_port: Port = Field(default=9464, description="Prometheus port; 0: any free one.")
    max_message_bytes: Count = Field(
        default=64 * 1024 * 1024, description="Bytes of one request, or of one reply's tensors."
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
    max_streams: Count = Field(
        default=128, description="Streams that may be open; one more is refused."
    )
    max_connection_streams: Count = Field(
        default=64, description="Streams that one connection may have open; one more is refused."
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
        if folder is not None and _has_model(folder):
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
        ):
            low, high = getattr(self, smaller), getattr(self, larger)
            if low > high:
                raise ValueError(f"{smaller} ({low}) must not exceed {larger} ({high})")
        return self

    @property
    def stream_wanted_seconds(self) -> float:
        """Of `stream_idle_seconds`, where others wait for what the stream holds."""
        return self.stream_idle_seconds / 10

    @property
    def models(self) -> tuple[ModelSource, ...]:
        """What to serve: `model`, or the one that ships; then what is in `models_folder`, unless
        `model` has it already. One found under the shipped one's name takes its place.

        Raises `ModelError` if the folder can't be read.
        """
        named = {source.folder.resolve() for source in self.model}
        folders = [f for f in self._folders() if _has_model(f) and f.resolve() not in named]
        found = tuple(ModelSource(folder.name, folder) for folder in folders)
        if self.model:
            return self.model + found
        replaced = SHIPPED_MODEL.name in (source.name for source in found)
        return found if replaced else (SHIPPED_MODEL, *found)

    @property
    def folders_without_model(self) -> tuple[Path, ...]:
        """What else is in `models_folder`."""
        return tuple(folder for folder in self._folders() if not _has_model(folder))

    def _folders(self) -> list[Path]:
        if self.models_folder is None:
            return []
        try:
            entries = sorted(self.models_folder.iterdir())
        except OSError as error:
            raise ModelError(f"{self.models_folder}: {error.strerror}") from error
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _has_model(folder: Path) -> bool:
    return (folder / "config.json").exists()
