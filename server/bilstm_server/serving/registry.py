"""The models that are served, by name and version."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..batching.intake import Intake
from ..callers import Caller, Priority
from ..errors import Loading, ModelError, ModelNotFound, PermissionDenied, ServiceError
from ..metrics import DropMetrics, ModelMetrics
from ..model.config import ModelConfig
from ..quoting import listed, quoted
from ..summary import ModelSummary

_MOST_LSTMS = 2  # that are described one by one


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """One version of a model, as those see it who serve its callers."""

    name: str
    config: ModelConfig
    batcher: Intake
    metrics: ModelMetrics
    itemsize: int  # bytes of one number, in the type in which it computes

    @property
    def version(self) -> str:
        return str(self.config.version)

    @property
    def summary(self) -> ModelSummary:
        """The model in words."""
        config = self.config
        parts = [
            _counted(given.ids, "token id") if given.ids else _counted(given.value.width, "input")
            for given in config.inputs.values()
        ]
        for lstm in config.lstms[:_MOST_LSTMS]:
            parts.append(f"{_counted(lstm.num_layers, 'layer')} of {lstm.hidden_size}")
            parts.append("bidirectional" if lstm.bidirectional else "unidirectional")
        if len(config.lstms) > _MOST_LSTMS:
            parts.append(f"{len(config.lstms) - _MOST_LSTMS} more LSTMs")
        classes = config.output_values.get("logits") or config.output_values.get("labels")
        if classes is not None:
            parts.append(_counted(classes.ids or classes.width, "class", "classes"))
        return ModelSummary(self.name, self.version, ", ".join(parts))


def _counted(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or f'{one}s'}"


class ModelRegistry:
    """Models in the order they were added; the first one is the default."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ServedModel]] = {}
        self.complete = False  # until it is, every request is refused as `Loading`

    def add(self, model: ServedModel) -> None:
        """Let callers find the model. Raises `ModelError` if that version of that name is there
        already."""
        versions = self._models.setdefault(model.name, {})
        if model.version in versions:
            raise ModelError(f"model {quoted(model.name)} has version {model.version} twice")
        versions[model.version] = model

    def remove(self, model: ServedModel) -> None:
        """Let callers find the model no more. Those that have found it already learn
        of its end from its batcher, once that is drained."""
        versions = self._models[model.name]
        del versions[model.version]
        if not versions:
            del self._models[model.name]

    def check_room(self, caller: Caller, priority: Priority) -> None:
        """Raise the error that a request of that caller gets whichever model it names: `Loading`,
        or where none that it may use has room, that of the first one."""
        self._require_complete()
        first: ServiceError | None = None
        for model in self:
            if caller.models is not None and model.name not in caller.models:
                continue
            refusal = model.batcher.refusal(caller.name, priority)
            if refusal is None:
                return
            first = first or refusal
        if first is not None:
            raise first

    def drops(self, no_model: DropMetrics) -> DropMetrics:
        """The metrics that count a request whose model is not known: those of the only model that
        there is, or `no_model`."""
        models = list(self)
        return models[0].metrics if len(models) == 1 else no_model

    def __iter__(self) -> Iterator[ServedModel]:
        """Those that there are, in the order in which they were added."""
        for versions in self._models.values():
            yield from versions.values()

    def all(self, allowed: Collection[str] | None = None) -> Iterator[ServedModel]:
        """Every model, or those that a caller is `allowed`; the default one first, and of each
        model the newest version first.

        Raises `Loading` until all are loaded.
        """
        self._require_complete()
        for name, versions in self._models.items():
            if allowed is None or name in allowed:
                yield from sorted(versions.values(), key=lambda model: -model.config.version)

    def get(self, name: str, version: str, allowed: Collection[str] | None = None) -> ServedModel:
        """The model of that name (empty: the default) and version (empty: the newest).

        Raises `PermissionDenied` where the caller is `allowed` some models and not this one,
        `ModelNotFound`, naming what there is, or `Loading` until all are loaded.
        """
        self._require_complete()
        if allowed is not None:
            self._require_allowed(name or next(iter(self._models), ""), name, allowed)
        versions = self._models.get(name) if name else next(iter(self._models.values()), None)
        if versions is None:
            there = [each for each in self._models if allowed is None or each in allowed]
            raise ModelNotFound(f"no model {quoted(name)}; there are: {listed(there)}")
        if not version:
            return max(versions.values(), key=lambda model: model.config.version)
        if version not in versions:
            raise ModelNotFound(
                f"model {quoted(name or next(iter(self._models)))} has no version "
                f"{quoted(version)}; it has: {listed(versions)}"
            )
        return versions[version]

    def _require_allowed(self, name: str, asked: str, allowed: Collection[str]) -> None:
        """Tell a caller only of what it may use, also where nothing has the name."""
        if name not in allowed:
            what = f"model {quoted(asked)}" if asked else "the default model"
            raise PermissionDenied(f"may not use {what}, but: {listed(sorted(allowed))}")

    def _require_complete(self) -> None:
        if not self.complete:
            raise Loading("the server is loading its models; try again soon")
