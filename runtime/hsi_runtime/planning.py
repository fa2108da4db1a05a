"""Matches a scene to a model and plans the walk, before any pixel is read."""

import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsi_runtime.engines import choosing
from hsi_runtime.engines.backend import CPU_DEVICES, Backend
from hsi_runtime.engines.classifying import Classifier, Compared
from hsi_runtime.engines.opening import best_tile
from hsi_runtime.errors import ModelFileError
from hsi_runtime.matching.adapting import fit_moments
from hsi_runtime.matching.bands import BandMatch, match_bands
from hsi_runtime.matching.missing import Missing, missing_in
from hsi_runtime.matching.novelty import Novelty
from hsi_runtime.matching.units import Conversion, conversion, with_scale
from hsi_runtime.model.model_file import ModelDocument, ModelFile
from hsi_runtime.output import layers, names, provenance
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.journal_plan import device_begun
from hsi_runtime.output.layers import Layer
from hsi_runtime.request import Request
from hsi_runtime.scenes import fingerprint
from hsi_runtime.scenes.georeference import is_grid
from hsi_runtime.scenes.scene import Scene, SceneInfo
from hsi_runtime.walk import memory, windows
from hsi_runtime.walk.decoding import block_of, decoded_bytes
from hsi_runtime.walk.regions import grid_of, region_of, swath_of
from hsi_runtime.walk.windows import Plan, Window

log = logging.getLogger(__name__)

# 2: panels lag by the halo as strips do; squares are alike. 3: OpenVINO computes in
# windows of fixed sizes, which round in their own way.
PLAN_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class MatchedScene:
    """A scene matched to a model, and the part of it to classify.

    Attributes:
        info: What the scene says about itself.
        bands: Bands of the scene that the model needs.
        units: Conversion from the scene's stored values to the model's.
        region: Pixels to classify.
        ground: The requested part of the grid of the maps; for most scenes the same.
        missing: Which pixels hold no measurement.
    """

    info: SceneInfo
    bands: BandMatch
    units: Conversion
    region: Window
    ground: Window
    missing: Missing


def match_scene(
    scene: Scene, document: ModelDocument, request: Request
) -> MatchedScene:
    """Match a scene to a model, and log what the user should know.

    What does not suffice for one window is refused here, before an engine starts.

    Raises:
        BandMismatchError: The scene lacks what the model needs.
        ModelFileError: The model lacks what was requested.
        OutputError: Polygons cannot be written under that name, or of so many pixels.
        ResourceError: The memory allowed is too little.
        SceneError: The requested part lies outside.
    """
    info, model_bands = scene.info, document.bands
    if request.scale is not None:
        info = with_scale(info, request.scale, document.values)
    for sentence in info.notes:  # one may be the reason for what is refused below
        log.warning(sentence)
    if request.abundances and not document.unmixes:
        raise ModelFileError(
            f"--abundances: method {document.method} gives none; train a method that "
            "unmixes, such as s2vnet."
        )
    request.set_threshold(document)
    request.check_training(document)
    bands = match_bands(
        info,
        model_bands.wavelengths_nm,
        model_bands.source_count,
        model_bands.used,
        model_bands.fwhm_nm,
    )
    units = conversion(info, bands, document.values)
    ground = region_of(info.ground, request.window, request.bounds)
    region = swath_of(info, ground)
    for sentence in (*bands.warnings, *units.warnings):
        log.warning(sentence)
    if info.driver != "memory":
        _warn_of_place(info)
    memory.check_blocks(info, request.max_memory_bytes)
    memory.check_limit(document, request.tile, _allowed(request, info))
    if request.vector is not None:
        # It needs an extra: one that is missing is reported now.
        from hsi_runtime.output import polygons

        pixels = ground.rows * ground.cols
        polygons.check(request.vector, pixels, request.max_memory_bytes)
    return MatchedScene(
        info=info,
        bands=bands,
        units=units,
        region=region,
        ground=ground,
        missing=missing_in(info, bands, document),
    )


def _warn_of_place(info: SceneInfo) -> None:
    """Say what the class map lacks of a place on the ground."""
    ground = info.ground
    if ground.transform is not None and is_grid(ground.transform):
        if not ground.crs:
            log.warning(
                f"{info.path.name} has coordinates, but no coordinate system that can "
                "be read; neither has its class map."
            )
    elif not (ground.control or ground.rpcs):
        log.warning(f"{info.path.name} has no georeference; neither has its class map.")


def windows_at_once(
    info: SceneInfo, document: ModelDocument, request: Request, possible: int
) -> int:
    """Return how many windows memory allows beside the decoding of a scene's file.

    Args:
        info: The scene.
        document: Model document.
        request: What the user asked for.
        possible: Windows that the engine can compute at the same time; it was started
            before the scene was known.
    """
    if request.max_memory_bytes is None or not info.decoding_bytes:
        return possible
    allowed = _allowed(request, info)
    return memory.windows_at_once(document, request.tile, allowed, possible)


def plan_walk(
    matched: MatchedScene,
    document: ModelDocument,
    request: Request,
    device: str,
    windows_at_once: int,
) -> Plan:
    """Plan the walk over a scene for one engine.

    Args:
        matched: Scene matched to the model.
        document: Model document.
        request: What the user asked for.
        device: Device of the engine.
        windows_at_once: Windows that the engine computes at the same time.

    Raises:
        ResourceError: The memory allowed is too little.
    """
    info, limits = matched.info, (request.tile, _allowed(request, matched.info))
    size, block = (info.rows, info.cols), block_of(info)
    pixel_bytes = len(matched.bands.indices) * info.dtype.itemsize
    default, halo = best_tile(document, device), document.halo
    side = max(request.tile or default, 2 * halo)
    tile, strip_bytes = memory.tile_and_strip(
        document,
        *limits,
        default_tile=default,
        windows_at_once=windows_at_once,
        pieces=memory.Pieces(
            whole=windows.piece_bytes(size, pixel_bytes, block, halo, side),
            decoding=_decoding(info),
        ),
    )
    return windows.plan(
        size,
        matched.region,
        pixel_bytes=pixel_bytes,
        block=block,
        halo=halo,
        tile=tile,
        strip_bytes=strip_bytes,
        # A user who limits the memory wants short strips, too.
        squares=windows.STRIP_SQUARES if limits == (None, None) else 1,
    )


def _allowed(request: Request, info: SceneInfo) -> int | None:
    """Return the memory that is left besides decoding the scene's file."""
    limit = request.max_memory_bytes
    return None if limit is None else max(limit - info.decoding_bytes, 1)


def _decoding(info: SceneInfo) -> int:
    """Return the size of a block of all bands, where `_allowed` does not count it."""
    counted = info.decoding_bytes or info.interleave != "bip"
    return 0 if counted else memory.block_bytes(info)


def source_bytes(matched: MatchedScene, halo: int) -> int:
    """Return the size of all blocks that a map needs, each once, as values."""
    info = matched.info
    rows, cols = windows.needed_of((info.rows, info.cols), matched.region, halo)
    return decoded_bytes(info, rows, cols, len(matched.bands.indices))


def output_paths(request: Request) -> dict[str, Path]:
    """Name every output of a request, the polygons included."""
    paths = names.paths_of(request.output)
    return paths if request.vector is None else paths | {"vector": request.vector}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: what was requested, and what is known before a pixel is computed.

    Attributes:
        request: What the user asked for.
        model: Verified model.
        matched: Scene matched to the model.
        backend: Engine that holds the model.
        plan: Walk over the scene.
        reject_below: Smallest accepted probability.
        paths: Path of each output by name.
        layers: Rasters to write.
        content: Fingerprint of the scene's files before the run.
    """

    request: Request
    model: ModelFile
    matched: MatchedScene
    backend: Backend
    plan: Plan
    reject_below: float
    paths: dict[str, Path]
    layers: list[Layer]
    content: dict[str, Any]

    @property
    def document(self) -> ModelDocument:
        """Document of the model."""
        return self.model.document

    @property
    def grid(self) -> SceneInfo:
        """Size and georeference of the pixels that are classified."""
        return grid_of(self.matched.info, self.matched.region)

    @property
    def output_grid(self) -> SceneInfo:
        """Size and georeference of the outputs."""
        return grid_of(self.matched.info.ground, self.matched.ground)

    @property
    def classifier(self) -> Classifier:
        """What classifies the strips of the scene."""
        return Classifier(
            document=self.document,
            backend=self.backend,
            units=self.matched.units,
            tile=self.plan.tile,
            at_once=windows_at_once(
                self.matched.info,
                self.document,
                self.request,
                self.backend.windows_at_once,
            ),
            outputs=sorted({layer.source for layer in self.layers}),
            novelty=Novelty.of_model(self.document),
            compared=None
            if self.document.training is None
            else Compared.of(self.plan.count_windows()),
        )

    def tags(self, scene_sha256: str) -> dict[str, str]:
        """Collect the tags that say where the map comes from."""
        options = {
            provenance.SETS_KEY: self.request.sets,
            **self.request.tagged,
        }
        chosen = {key: repr(v) for key, v in options.items() if v is not None}
        return chosen | provenance.provenance(
            self.model,
            self.matched.info,
            scene_sha256,
            (self.backend.device, self.backend.precision),
            self.matched.bands.method,
            self.request.region_text,
            self.reject_below,
        )

    def dependencies(self) -> dict[str, Any]:
        """Collect all that the values of a map depend on."""
        references = [path and str(path) for path in self.request.references]
        return {
            **({"references": references} if any(references) else {}),
            "version": importlib.metadata.version("hsi-edge"),
            "scene": self.content,
            "model": self.model.sha256,
            "bands": [int(b) for b in self.matched.bands.indices],
            "region": list(self.matched.region),
            "plan": PLAN_VERSION,
            "strips": [[list(s.read), list(s.outputs)] for s in self.plan.strips],
            "panels": [[list(p.read), list(p.outputs)] for p in self.plan.panels],
            "passes": [list(p) for p in self.plan.passes],
            "tile": self.plan.tile,
            "device": f"{self.backend.device}, {self.backend.precision}",
            "reject": self.reject_below,
            "sets": self.request.sets,
            "frame_counter": self.request.frame_counter,
            "adapt": self.request.adapt,
            "scale": self.request.scale,
            "outputs": [layer.name for layer in self.layers],
        }

    def open_journal(self) -> Journal:
        """Describe the journal of unfinished results; entering it creates it."""
        return Journal(
            self.request.output,
            self.grid,
            self.layers,
            self.dependencies(),
            self.request.resume,
        )


def _kept_to(backend: Backend, request: Request) -> Backend:
    """Replace an engine that was chosen by a measurement where another one is due.

    An interrupted run goes on with the engine that it began with, and all parts of a
    scene are computed with the same one, whatever each machine measures.
    """
    choice: choosing.Choice | None = getattr(backend, "choice", None)
    if choice is None:
        return backend
    due = choosing.REFERENCE
    if request.part is None:
        began = device_begun(request.output) if request.resume else None
        due = began if began in choice.rates else backend.device
    return backend if due == backend.device else choice.start(due)


def prepare(
    request: Request, model: ModelFile, scene: Scene, start: Callable[[], Backend]
) -> Job:
    """Match a scene to a model, start the engine and plan the walk.

    Args:
        request: Scene, output and options.
        model: A verified model.
        scene: The open scene.
        start: Gives the engine; called once the scene has proved usable.

    Raises:
        HsiError: Scene, model, engine and request do not fit together.
    """
    document = model.document
    reject_below = request.threshold(document)
    least = request.set_threshold(document)
    matched = match_scene(scene, document, request)
    if request.adapt is not None:
        assert document.training is not None
        read = scene, matched.bands.indices, matched.missing
        units = fit_moments(read, matched.units, document.training)
        matched = replace(matched, units=units)
    backend = _kept_to(start(), request)
    if backend.precision == "fp16" and backend.device in CPU_DEVICES:
        log.warning(
            "The model is in half precision, which a CPU computes in float32; the "
            "float32 file is as fast and more exact."
        )
    possible = backend.windows_at_once
    at_once = windows_at_once(matched.info, document, request, possible)
    return Job(
        request=request,
        model=model,
        matched=matched,
        backend=backend,
        plan=plan_walk(matched, document, request, backend.device, at_once),
        reject_below=reject_below,
        paths=output_paths(request),
        layers=layers.layers(document, request.outputs(), least),
        content=fingerprint.of_scene(scene.info),
    )
