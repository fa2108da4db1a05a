"""The runtime from Python: a model on an engine, arrays and files in, maps out."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsi_runtime import batch
from hsi_runtime.engines.backend import Backend
from hsi_runtime.engines.classifying import Classifier, Square
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import OptionError
from hsi_runtime.machine import whole_number
from hsi_runtime.model.model_file import (
    ABUNDANCES,
    PROBABILITIES,
    ClassEntry,
    ModelDocument,
    ModelFile,
    read_model,
)
from hsi_runtime.output.layers import Canvas, layers
from hsi_runtime.parts.options import check, runner_of
from hsi_runtime.parts.workers import Workers
from hsi_runtime.planning import match_scene, plan_walk
from hsi_runtime.request import MAX_TILE, Options, Request
from hsi_runtime.scenes.array_scene import ArrayScene, declared, plain_array
from hsi_runtime.scenes.scene import SceneInfo
from hsi_runtime.walk.strips import read_strips

AnyPath = str | PathLike[str]


class Prediction(NamedTuple):
    """The classes of a cube, with their probabilities.

    Attributes:
        classes: Codes as in the labels, 0 unclassified, 255 (65535) without data,
            shape ``(row, col)``.
        probabilities: NaN without data, shape ``(class, row, col)``.
        abundances: NaN without data, shape ``(class, row, col)``; None where the model
            does not unmix.
    """

    classes: NDArray[np.unsignedinteger[Any]]
    probabilities: NDArray[np.float32]
    abundances: NDArray[np.float32] | None


class FollowedLines(NamedTuple):
    """The classes of some lines of a sensor.

    Attributes:
        row: Number of the first line, from 0.
        prediction: Classes and probabilities; axes as in `Prediction`.
    """

    row: int
    prediction: Prediction


class Model:
    """A model file on an engine.

    Args:
        path: The ``.onnx`` file.
        device: ``auto``, ``cpu``, ``cuda``, ``tensorrt``, ``openvino``, ``webgpu``,
            ``tensorrt-rtx`` or ``qnn``. If you name one, it is used or an error is
            raised. ``auto`` takes the best that is present, and measures once which
            engine of the CPU is faster with the model.
        threads: Threads of the engine; None for all usable cores.

    Raises:
        ModelFileError: Missing, damaged, or not a model of ours.
        EngineError: The device is not there.
    """

    def __init__(
        self, path: AnyPath, device: str = "auto", threads: int | None = None
    ) -> None:
        self.file = read_model(Path(path))
        self.backend = open_backend(self.file, device, threads, measure=True)

    @property
    def classes(self) -> list[ClassEntry]:
        """Code, name and colour of each class, in the order of the probabilities."""
        return self.file.document.classes

    @property
    def wavelengths_nm(self) -> list[float] | None:
        """Centres of the bands that the model needs, where they are known."""
        return self.file.document.bands.wavelengths_nm

    def predict(
        self,
        cube: ArrayLike,
        *,
        wavelengths_nm: ArrayLike | None = None,
        fwhm_nm: ArrayLike | None = None,
        nodata: float | None = None,
        scale: float | None = None,
        offset: float = 0.0,
        reject_below: float | None = 0.0,
        tile: int | None = None,
    ) -> Prediction:
        """Classify a cube; bands, units and missing values as hsi-run treats them.

        Args:
            cube: Stored units, shape ``(band, row, col)``; anything that numpy takes
                for an array, such as one of xarray. What is masked in an array of
                numpy.ma is nodata.
            wavelengths_nm: Band centres; by default the coordinate ``wavelength`` of an
                array of xarray. Without them the band count must fit.
            fwhm_nm: Band widths.
            nodata: Fill value; by default the one that an array of xarray declares, as
                for ``scale`` and ``offset``.
            scale: Quantity = stored value * scale + offset, where declared.
            offset: See ``scale``.
            reject_below: Smallest probability of a class; None for the one that the
                model suggests.
            tile: Side of the squares that are classified at once.

        Raises:
            OptionError: ``reject_below`` or ``tile`` is out of range.
            SceneError: The cube has another shape or type.
            BandMismatchError: It lacks what the model needs.
            ModelFileError: The model shall choose ``reject_below``, and suggests none.
        """
        document, engine = self.file.document, self.backend
        by_array = declared(cube)
        if scale is None and not offset:
            scale, offset = by_array.scale, by_array.offset
        scene = ArrayScene(
            plain_array(cube),
            nodata=by_array.nodata if nodata is None else nodata,
            wavelengths_nm=by_array.centres
            if wavelengths_nm is None
            else wavelengths_nm,
            fwhm_nm=fwhm_nm,
            scale=scale,
            offset=offset,
        )
        request = Request(Path(), Path(), tile=tile, reject_below=reject_below)
        matched = match_scene(scene, document, request)
        at_once = engine.windows_at_once
        plan = plan_walk(matched, document, request, engine.device, at_once)
        classifier = Classifier(
            document=document,
            backend=engine,
            units=matched.units,
            tile=plan.tile,
            at_once=at_once,
            outputs=document.outputs,
        )
        strips = read_strips(
            scene,
            matched.bands.indices,
            plan,
            document.halo,
            missing=matched.missing,
        )
        squares = (square for strip in strips for square in classifier.squares(strip))
        return _collected(squares, scene.info, document, request.threshold(document))

    def follow(
        self,
        lines: Iterable[ArrayLike],
        *,
        wavelengths_nm: ArrayLike | None = None,
        fwhm_nm: ArrayLike | None = None,
        nodata: float | None = None,
        scale: float | None = None,
        offset: float = 0.0,
        reject_below: float | None = 0.0,
        rows: int | None = None,
    ) -> Iterator[FollowedLines]:
        """Classify the lines of a sensor while they come.

        The results, put together, are what `predict` gives for all lines at once. The
        last ones wait for the receptive field's half of lines behind them, or the end.

        Args:
            lines: Lines ``(band, col)``, stored units, of one shape and type. A line is
                copied: its memory may be used again. What is masked in one of numpy.ma
                is nodata.
            wavelengths_nm: As for `predict`; so are the next five.
            fwhm_nm: Band widths.
            nodata: Fill value; by default the one that the first line declares, as for
                ``scale`` and ``offset``.
            scale: Quantity = stored value * scale + offset, where declared.
            offset: See ``scale``.
            reject_below: Smallest probability of a class.
            rows: Lines to classify at once; None for as few as are efficient.

        Yields:
            The classes of the next lines.

        Raises:
            OptionError: ``reject_below`` or ``rows`` is out of range.
            SceneError: A line has another shape or type.
            BandMismatchError: The lines lack what the model needs.
            ModelFileError: The model shall choose ``reject_below``, and suggests none.
        """
        from hsi_runtime.follow.blocks import Blocks
        from hsi_runtime.follow.flight import pace_of
        from hsi_runtime.follow.sources.iterated import IteratedLines

        document, engine = self.file.document, self.backend
        if rows is not None:
            rows = whole_number("rows", rows, MAX_TILE)
        request = Request(Path(), Path(), reject_below=reject_below)
        source = IteratedLines(
            lines,
            wavelengths_nm=wavelengths_nm,
            fwhm_nm=fwhm_nm,
            nodata=nodata,
            scale=scale,
            offset=offset,
        )
        matched = match_scene(source, document, request)
        pace = replace(pace_of(matched, document, engine, request), asked=rows)
        blocks = Blocks(
            source,
            source,
            matched.bands.indices,
            pace,
            threading.Event(),
            missing=matched.missing,
        )
        for block in blocks.after(0):
            assert block.strip is not None
            first, last = block.rows
            classifier = Classifier(
                document=document,
                backend=engine,
                units=matched.units,
                tile=pace.side(last - first),
                at_once=pace.at_once,
                outputs=document.outputs,
            )
            squares = (
                square._replace(row=square.row - first)
                for square in classifier.squares(block.strip)
            )
            size = replace(source.info, rows=last - first)
            threshold = request.threshold(document)
            yield FollowedLines(first, _collected(squares, size, document, threshold))


def _collected(
    squares: Iterable[Square],
    info: SceneInfo,
    document: ModelDocument,
    reject_below: float,
) -> Prediction:
    """Put the squares of a scene together."""
    size = info.rows, info.cols
    codes = [c.code for c in document.classes]
    canvas = Canvas(layers(document, ["classes"]), codes, *size)
    maps = {
        name: np.full((len(codes), *size), np.nan, dtype=np.float32)
        for name in document.outputs
    }
    for row, col, outputs, valid, _ in squares:
        if outputs is None:
            continue
        canvas.paint(row, col, outputs, valid, reject_below)
        height, width = valid.shape
        for name, values in outputs.items():
            target = maps[name][:, row : row + height, col : col + width]
            target[:, valid] = values[:, valid]
    return Prediction(
        classes=canvas.values["classes"][0],
        probabilities=maps[PROBABILITIES],
        abundances=maps.get(ABUNDANCES),
    )


def classify(
    scene: AnyPath,
    model: Model | Workers | AnyPath,
    output: AnyPath | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    **options: Any,
) -> dict[str, Any]:
    """Classify a scene file and write its class map, as ``hsi-run`` does.

    Args:
        scene: GeoTIFF, ENVI by its data file or header, or a sensor product by its
            folder or any of its files.
        model: Model file, or one already on an engine, or on the workers of a
            scheduler, which then compute the scene in parts. An engine was prepared
            for the default ``tile`` and no memory limit: where you set these, give the
            file, whose engine is started for them.
        output: Class map; by default ``SCENE_classes.tif`` beside the scene.
        progress: Called with finished and all output pixels.
        **options: Options by name; see `Options`.

    Returns:
        What ``hsi-run --json`` prints.

    Raises:
        HsiError: Any of its kinds; no output exists then that was not there before.
        TypeError: There is no option of that name.
    """
    from hsi_runtime.follow.flight import follow

    path = Path(scene)
    target = batch.output_of(path, None if output is None else Path(output), False)
    request = Request(scene=path, output=target, **options)
    if isinstance(model, Workers):
        return model.cluster.classify(request, progress)
    check(request, on_scheduler=False)
    run = runner_of(request) if request.follow is None else follow
    return run(request, *_on_engine(model, [request]), progress)


def classify_all(
    scenes: Iterable[AnyPath] | AnyPath,
    model: Model | Workers | AnyPath,
    output: AnyPath | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    **options: Any,
) -> dict[str, Any]:
    """Classify many scenes, as ``hsi-run`` does; a bad one does not stop the others.

    A scene whose outputs are finished is not classified again.

    Args:
        scenes: See `classify`; one that ends in ``.txt`` is a list of scenes. A single
            one need not be in a list.
        model: See `classify`; each worker of a scheduler classifies whole scenes.
        output: Folder of the class maps; by default beside the scenes.
        progress: Called with finished and all output pixels of a scene; on the workers
            of a scheduler with finished and all scenes.
        **options: Options by name; see `Options`.

    Returns:
        What ``hsi-run --json`` prints: ``scenes`` with the ``status`` of each, and a
        ``summary``.

    Raises:
        HsiError: The scenes or options do not fit together, or the model is unusable.
        TypeError: There is no option of that name.
    """
    chosen = Options(**options)
    # The characters of a path are no scenes.
    several = [scenes] if isinstance(scenes, str | PathLike) else scenes
    listed = batch.expand([Path(scene) for scene in several])
    if not listed:
        raise OptionError("There is no scene.", "scenes")
    folder = None if output is None else Path(output)
    requests = batch.make_requests(listed, folder, chosen, many=True)
    if isinstance(model, Workers):
        return batch.summed_up(model.cluster.classify_all(requests, progress))
    if chosen.part is not None or chosen.join or chosen.follow is not None:
        raise OptionError("part, join and follow take one scene.", "scenes")
    return batch.run_all(requests, *_on_engine(model, requests), progress)


def _on_engine(
    model: Model | AnyPath, requests: Sequence[Request]
) -> tuple[ModelFile, Callable[[], Backend]]:
    """Return a model and what gives its engine."""
    if isinstance(model, Model):
        ready = model
        return ready.file, lambda: ready.backend
    file = read_model(Path(model))
    opened_for = batch.engine_options(requests, requests[0])
    return file, partial(open_backend, file, "auto", **opened_for)
