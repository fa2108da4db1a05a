"""A scene that is computed in parts."""

from pathlib import Path
from typing import Any, NamedTuple

from hsi_runtime.engines.backend import Backend
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.parts.computing import compute_part
from hsi_runtime.parts.joining import join_parts
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request

LAYERS: dict[str, Any] = {
    **dict.fromkeys(("confidence", "probabilities", "abundances", "novelty"), True),
    "sets": 0.9,
    "reject_below": 0.4,
}


class Mosaic(NamedTuple):
    """A scene of several strips, and a model that gives every layer."""

    folder: Path
    model: ModelFile
    engine: Backend

    def request(self, name: str, **options: Any) -> Request:
        """Ask for every layer of a map in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        settings = {"tile": 8, **LAYERS, **options}
        return Request(self.folder / "scene.tif", folder / "o.tif", **settings)

    def plain(self, name: str, **options: Any) -> dict[str, Any]:
        return run(self.request(name, **options), self.model, self.start)

    def part(self, name: str, index: int, count: int, **options: Any) -> dict[str, Any]:
        request = self.request(name, part=(index, count), **options)
        return compute_part(request, self.model, self.start)

    def join(self, name: str, **options: Any) -> dict[str, Any]:
        return join_parts(self.request(name, join=True, **options), self.model)

    def start(self) -> Backend:
        return self.engine
