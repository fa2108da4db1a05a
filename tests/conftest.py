import hashlib
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import rasterio.features
from hypothesis import settings
from msgspec.structs import replace
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from hsi_runtime.backends import cuda_memory, onnxruntime_cuda, tensorrt_gpu
from hsi_runtime.errors import EngineError
from hsi_runtime.model_file import (
    UNSIGNED,
    Array,
    Bands,
    ClassEntry,
    ModelDocument,
    Provenance,
    SelfTest,
    Values,
)
from hsi_runtime.scene import open_scene, valid_pixels

PROJECT = Path(__file__).parents[1]
# As the commands do; before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no failure.
settings.register_profile("hsi", deadline=None)
settings.load_profile("hsi")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get("HSI_DATA", PROJECT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the real scenes in {folder}; set HSI_DATA to them")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where the driver finds none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    try:
        cuda_memory.probe(cuda_memory.load())
    except EngineError as error:
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session")
def need_engine() -> Callable[[str], None]:
    """Skip a test whose engine is not installed; one that is there must work."""

    def need(device: str) -> None:
        packages = {"openvino": "openvino", "tensorrt": tensorrt_gpu.MODULE}
        # Found, not imported: how that is done is the engine's business.
        if device in packages and importlib.util.find_spec(packages[device]) is None:
            pytest.skip(f"{packages[device]} is not installed")
        if device == "cuda" and not onnxruntime_cuda.is_installed():
            pytest.skip("this onnxruntime has no CUDA")

    return need


CLASSES = (("grass", "#00aa00"), ("wet soil", "#804000"), ("Öl", "#0000ff"))
MATERIALS = ("grass", "conifer", "bright_soil", "water", "asphalt")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class Trained(NamedTuple):
    run: Path
    scene: Path
    truth: Path
    model: Path
    exported: dict[str, Any]


@pytest.fixture(autouse=True)
def no_sudden_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped command that has threads ends its process at once: here, pytest."""
    monkeypatch.setattr(os, "_exit", sys.exit)


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Run a command in this process: ``invoke(main, *arguments)``.

    What a user would see as a traceback escapes as an exception and fails the test.
    """
    packages = ("hsi_train", "hsi_export", "hsi_runtime")
    loggers = [logging.getLogger(p) for p in packages]
    before = [(g.handlers, g.propagate, g.level) for g in loggers]
    handlers_before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)
    }

    def run(main: Callable[[], Any], *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["hsi", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        assert isinstance(code, int)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(code, out, err)

    yield run
    for number, handler in handlers_before.items():
        signal.signal(number, handler)
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def digests() -> Callable[[Path], dict[str, str]]:
    """Hash every file below a folder, so that a test sees any change."""

    def hash_all(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): hashlib.sha256(
                p.read_bytes() if p.is_file() else b"folder"
            ).hexdigest()
            for p in sorted(folder.rglob("*"))
        }

    return hash_all


@pytest.fixture(scope="session")
def document() -> ModelDocument:
    """Describe a model of 4 bands, 3 classes and a receptive field of 5 pixels."""
    random = np.random.default_rng(5)
    return ModelDocument(
        schema_version=1,
        method="test",
        receptive_field=5,
        classes=[
            ClassEntry(code=code, name=name, color=color)
            for code, (name, color) in zip((2, 3, 7), CLASSES, strict=True)
        ],
        bands=Bands(
            source_count=4,
            used=[0, 1, 2, 3],
            wavelengths_nm=[450.0, 550.0, 650.0, 850.0],
            fwhm_nm=[10.0] * 4,
        ),
        values=Values(
            quantity="reflectance",
            dtype="uint16",
            scale=[1e-4] * 4,
            offset=[0.0] * 4,
            fill=[1000.0, 2000.0, 3000.0, 4000.0],
        ),
        reject_below=None,
        outputs=["probabilities"],
        endmembers=None,
        precision="fp32",
        parameters=303,
        macs_per_pixel=300.0,
        working_bytes=100.0,
        provenance=fixed_provenance(1),
        self_test=SelfTest(
            cube=Array.pack(random.integers(1, 9000, (4, 7, 7)).astype(np.uint16)),
            probabilities=Array.pack(np.zeros((3, 3, 3), dtype=np.float32)),
            tolerance=1e-4,
        ),
        checksum=UNSIGNED,
    )


def fixed_provenance(pixels: int) -> Provenance:
    return Provenance(
        version="0",
        seed=0,
        recipe="",
        data_sha256={},
        counts={"train": pixels},
        overall_accuracy=1.0,
        average_accuracy=1.0,
        kappa=1.0,
    )


@pytest.fixture(scope="session")
def write_model(document: ModelDocument) -> Callable[..., Path]:
    """Write a signed model file without torch: one convolution and a softmax.

    A ``metadata`` text stands in for the document; ``bias`` favours the first class.
    A model that unmixes gives the softmax of the negative scores as abundances.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")  # hsi_export.package imports it
    from onnx import TensorProto, helper, numpy_helper

    from hsi_export import package

    written = document

    def write(
        path: Path,
        document: ModelDocument = written,
        metadata: str | None = None,
        bias: float = 0.0,
        bfloat16: bool = False,
    ) -> Path:
        bands, side = len(document.bands.used), document.receptive_field
        classes = len(document.classes)
        weights = conv_weights(classes, bands, side)
        offset = np.zeros(classes, dtype=np.float32)
        offset[0] = bias
        shape: list[str | int] = ["batch", bands, "height", "width"]
        outputs: list[str | int] = ["batch", classes, "rows", "cols"]
        nodes = [
            helper.make_node("Conv", ["cube", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ]
        if document.unmixes:
            nodes += [
                helper.make_node("Neg", ["scores"], ["negative"]),
                helper.make_node("Softmax", ["negative"], ["abundances"], axis=1),
            ]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("cube", TensorProto.FLOAT, shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, outputs)
                for name in document.outputs
            ],
            [
                numpy_helper.from_array(weights, "weights"),
                numpy_helper.from_array(offset, "bias"),
            ],
        )
        opset = [helper.make_opsetid("", 20)]
        proto = helper.make_model(graph, opset_imports=opset, ir_version=10)
        onnx.checker.check_model(proto, full_check=True)
        if metadata is None:
            sample = document.self_test.cube.unpack()
            answer = conv_softmax(sample, weights, offset)
            test = replace(document.self_test, probabilities=Array.pack(answer))
            contract = replace(document, self_test=test)
            data = package.assemble(proto, contract, 1.0, bfloat16)
        else:
            helper.set_model_props(proto, {"hsi": metadata})
            data = proto.SerializeToString(deterministic=True)
        path.write_bytes(data)
        return path

    return write


def conv_weights(classes: int, bands: int, side: int) -> NDArray[np.float32]:
    weights = np.random.default_rng(1).normal(0, 1, (classes, bands, side, side))
    weights[:, :, side // 2, side // 2] *= 8
    weights -= weights.mean(axis=(1, 2, 3), keepdims=True)
    return (weights / 6000).astype(np.float32)


def conv_softmax(
    cube: NDArray[Any], weights: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Evaluate the model of `write_model` with numpy: ``(class, row, col)``."""
    side = weights.shape[-1]
    patches = sliding_window_view(cube.astype(np.float64), (side, side), axis=(1, 2))
    scores = np.einsum("brcij,kbij->krc", patches, weights) + bias[:, None, None]
    exp = np.exp(scores - scores.max(axis=0))
    probabilities: NDArray[np.float32] = (exp / exp.sum(axis=0)).astype(np.float32)
    return probabilities


@pytest.fixture(scope="session")
def conv_oracle() -> Callable[..., NDArray[np.float32]]:
    """Evaluate `write_model`'s model on a whole scene, mirrored by numpy."""

    def evaluate(
        cube: NDArray[Any], halo: int = 2, classes: int = 3, bias: float = 0.0
    ) -> NDArray[np.float32]:
        padded = np.pad(cube, ((0, 0), (halo, halo), (halo, halo)), mode="reflect")
        offset = np.zeros(classes, dtype=np.float32)
        offset[0] = bias
        weights = conv_weights(classes, len(cube), 2 * halo + 1)
        return conv_softmax(padded, weights, offset)

    return evaluate


@pytest.fixture(scope="session")
def write_scene_tiff() -> Callable[..., Path]:
    """Write a cube ``(band, row, col)`` as a GeoTIFF that suits `document`."""

    def write(
        path: Path,
        cube: NDArray[Any],
        wavelengths: Sequence[float] | None = (450.0, 550.0, 650.0, 850.0),
        scale: float | None = 1e-4,
        **options: Any,
    ) -> Path:
        bands, rows, cols = cube.shape
        profile = {
            "driver": "GTiff",
            "count": bands,
            "height": rows,
            "width": cols,
            "dtype": cube.dtype,
            "crs": "EPSG:32633",
            "transform": from_origin(400_000, 5_800_000, 2, 2),
            **options,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "w", **profile) as file:
                file.write(cube)
                if scale is not None:
                    file.scales = (scale,) * bands
                for band, centre in enumerate(wavelengths or (), start=1):
                    file.update_tags(
                        band, wavelength=repr(centre), wavelength_units="Nanometers"
                    )
        return path

    return write


@pytest.fixture(scope="session")
def cube() -> NDArray[np.uint16]:
    """Return 4 bands of 23 x 31 pixels, patches with noise, nowhere 0."""
    random = np.random.default_rng(2)
    patches = np.kron(random.integers(500, 9000, (4, 6, 8)), np.ones((1, 4, 4)))
    rough = patches[:, :23, :31] + random.normal(0, 300, (4, 23, 31))
    return rough.clip(1, 9999).astype(np.uint16)


@pytest.fixture(scope="session")
def write_crowns() -> Callable[[Path], None]:
    """Outline two classes of a folder's ``labels.tif`` as polygons with a genus."""
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")

    def write(folder: Path) -> None:
        with rasterio.open(folder / "labels.tif") as raster:
            labels, transform, crs = raster.read(1), raster.transform, raster.crs
        values, counts = np.unique(labels[labels > 0], return_counts=True)
        common = values[counts.argsort()[-2:]].tolist()
        genera = dict(zip(common, ("Acer", "Pinus"), strict=True))
        found = [
            (shapely.geometry.shape(shape), genera[int(code)])
            for shape, code in rasterio.features.shapes(labels, transform=transform)
            if int(code) in genera
        ]
        pyogrio.raw.write(
            folder / "crowns.gpkg",
            shapely.to_wkb([polygon for polygon, _ in found]),
            [np.array([genus for _, genus in found], dtype=object)],
            ["genus"],
            geometry_type="Polygon",
            crs=crs.to_wkt(),
            driver="GPKG",
        )

    return write


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Fit MF2CNet's last layer to a simulated scene, and export it.

    No epoch of training: random filters, the scene's statistics, least squares.
    """
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from hsi_export.exporting import export
    from hsi_train.simulate import SceneSpec, band_centres, write_scene

    folder = tmp_path_factory.mktemp("trained")
    scene, truth, run = folder / "scene.tif", folder / "truth.tif", folder / "run"
    spec = SceneSpec(
        rows=43,
        cols=52,
        wavelengths_nm=band_centres(30),
        seed=3,
        materials=MATERIALS,
        nodata_border=True,
    )
    write_scene(spec, scene, truth=truth)
    run.mkdir()
    write_checkpoint(run, scene, truth)
    model = folder / "model.onnx"
    return Trained(run, scene, truth, model, export(run, model))


def write_checkpoint(run: Path, scene: Path, truth: Path) -> None:
    """Write a checkpoint of an MF2CNet that knows the classes of a scene."""
    import torch
    from torch import nn

    from hsi_train import checkpoint
    from hsi_train import method as methods

    opened = open_scene(scene)
    info = opened.info
    stored = opened.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    opened.close()
    assert info.wavelengths_nm is not None
    valid = valid_pixels(stored, info.nodata)
    with rasterio.open(truth) as file:
        labels = file.read(1)
    codes = [int(code) for code in np.unique(labels) if code]
    counts = [int((labels == code).sum()) for code in codes]
    spectra = stored[:, valid].astype(np.float64)
    mean, deviation = spectra.mean(axis=1), spectra.std(axis=1)
    options = {"features": 8, "hidden": 24, "spectral_stride": 4}
    torch.manual_seed(0)
    problem = methods.Problem(
        band_mean=torch.from_numpy(mean),
        band_std=torch.from_numpy(deviation),
        class_counts=torch.tensor(counts),
        class_means=torch.from_numpy(
            np.stack([spectra[:, labels[valid] == c].mean(axis=1) for c in codes])
        ),
        top=torch.tensor(np.percentile(spectra, 99.9)),
    )
    method = methods.build("mf2cnet", problem, options)
    for layer in method.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.momentum = None  # take one pass as it is, not a running mean
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.weight, mean=1.0, std=0.1)
    filled = np.where(valid, stored, mean[:, None, None]).astype(np.float32)
    batch = torch.from_numpy(filled)[None]
    last: Any = method.get_submodule("network.head")[-1]  # type: ignore[index]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        method.train().network(batch)
        method.eval().network(batch)
        hook.remove()
        h = method.halo
        inner = torch.from_numpy(labels[h:-h, h:-h].ravel().astype(np.int64))
        hidden = seen[-1][0].flatten(1).T[inner > 0].double()  # (pixel, channel)
        hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
        wanted = inner[inner > 0, None] == torch.tensor(codes)
        solved = torch.linalg.lstsq(hidden, 8 * wanted.double()).solution.float()
        last.weight.copy_(solved[:-1].T[:, :, None, None])
        last.bias.copy_(solved[-1])
    description = checkpoint.Description(
        method="mf2cnet",
        options=methods.all_options("mf2cnet", options),
        classes=[
            ClassEntry(code=c, name=MATERIALS[c - 1], color=f"#{40 * c:02x}80c0")
            for c in codes
        ],
        bands=Bands(
            source_count=info.bands,
            used=list(range(info.bands)),
            wavelengths_nm=info.wavelengths_nm.tolist(),
            fwhm_nm=None if info.fwhm_nm is None else info.fwhm_nm.tolist(),
        ),
        values=Values(
            quantity="reflectance",
            dtype=info.dtype.name,
            scale=[1e-4] * info.bands,
            offset=[0.0] * info.bands,
            fill=mean.tolist(),
        ),
        resolution_m=1.0,
        provenance=fixed_provenance(sum(counts)),
    )
    sample = np.rint(filled).astype(stored.dtype)
    checkpoint.save(run, method, description, sample)


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Pretend that there are a GPU and TensorRT, with an empty cache of engines."""
    pytest.importorskip("onnx")
    place = Path(__file__).with_name("fake_gpu.py")
    spec = importlib.util.spec_from_file_location("fake_gpu", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield from module.installed(monkeypatch)
