"""The models that are served, by name and version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..batching.intake import Intake
from ..errors import Loading, ModelError, ModelNotFound, listed, quoted
from ..metrics import DropMetrics, ModelMetrics
from ..model.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    name: str
    config: ModelConfig
    batcher: Intake
    metrics: ModelMetrics
    itemsize: int  # bytes of one number, in the type that it computes in

    @property
    def version(self) -> str:
        return str(self.config.version)


class ModelRegistry:
    """Models in the order they were added; the first one is the default."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ServedModel]] = {}
        self.complete = False  # until then, requests are told that the models are loading

    def add(self, model: ServedModel) -> None:
        """Raises `ModelError` if that version of that name is there already."""
        versions = self._models.setdefault(model.name, {})
        if model.version in versions:
            raise ModelError(f"model {quoted(model.name)} has version {model.version} twice")
        versions[model.version] = model

    def check_room(self) -> None:
        """Raises what a request is told whichever model it is for: `Loading`, or what the first
        one says if none has room."""
        self._require_complete()
        if not self.has_room:
            next(self._every()).batcher.check_room()

    @property
    def has_room(self) -> bool:
        """Whether some model has room for a small request, as far as they are loaded."""
        return not self.complete or any(model.batcher.has_room for model in self._every())

    def drops(self, no_model: DropMetrics) -> DropMetrics:
        """Where a request is counted whose model is not known: with the only one that there is, or
        with none."""
        models = list(self._every())
        return models[0].metrics if len(models) == 1 else no_model

    def _every(self) -> Iterator[ServedModel]:
        for versions in self._models.values():
            yield from versions.values()

    def all(self) -> Iterator[ServedModel]:
        """The default model first; of each model the newest version first.

        Raises `Loading` until all are there.
        """
        self._require_complete()
        for versions in self._models.values():
            yield from sorted(versions.values(), key=lambda model: -model.config.version)

    def get(self, name: str, version: str) -> ServedModel:
        """The model of that name (empty: the default) and version (empty: the newest).

        Raises `ModelNotFound`, naming what there is, or `Loading` until all are there.
        """
        self._require_complete()
        versions = self._models.get(name) if name else next(iter(self._models.values()), None)
        if versions is None:
            raise ModelNotFound(f"no model {quoted(name)}; there are: {listed(self._models)}")
        if not version:
            return max(versions.values(), key=lambda model: model.config.version)
        if version not in versions:
            raise ModelNotFound(
                f"model {quoted(name or next(iter(self._models)))} has no version "
                f"{quoted(version)}; it has: {listed(versions)}"
            )
        return versions[version]

    def _require_complete(self) -> None:
        if not self.complete:
            raise Loading("the server is loading its models; try again soon")
