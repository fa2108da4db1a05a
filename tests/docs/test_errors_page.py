"""Every message on the page of errors is the real one: each is provoked here."""

import json
import os
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import pytest
import rasterio
import scipy.io
import shapely
from fake_gpu import CUDA, TENSORRT, Gpu
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hsi_export.cli import main as hsi_export
from hsi_runtime.cli import main as hsi_run
from hsi_runtime.engines import plugin
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.follow.sources.growing_file import GrowingFile
from hsi_train.cli import main as hsi_train
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.simulate.products.generator import product_spec

PAGE = Path(__file__).parents[2] / ".docs" / "pages" / "errors.md"
MODEL = "-m runs/fields/model.onnx"
TRAIN = "mf2cnet --scene scene.tif --labels"
RANDOM = (
    f"{TRAIN} labels.tif --train-fraction 0.1 --epochs 1 "
    "--set options.features=4 --set options.hidden=4"
)
Patch = Callable[[pytest.MonkeyPatch], None]


class Entry(NamedTuple):
    """A message of the page, under its heading."""

    heading: str
    kind: str
    message: str


def entries() -> list[Entry]:
    found = re.findall(
        r'^### (.+?)$\n+^```text title="(exit \d+|warning)"\n(.*?)\n^```$',
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return [Entry(*parts) for parts in found]


def no_torch(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "torch", None)
    patch.delitem(sys.modules, "hsi_train.training", raising=False)


def another_engine(patch: pytest.MonkeyPatch) -> None:
    right = OnnxruntimeCpu.predict

    def wrong(*arguments: Any) -> dict[str, Any]:
        return {k: np.roll(v, 1, axis=1) for k, v in right(*arguments).items()}

    patch.setattr(OnnxruntimeCpu, "predict", wrong)


def impatient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hsi_runtime.parts.connecting.CONNECT_S", 1)


def without(package: str) -> Patch:
    return lambda patch: patch.setitem(sys.modules, package, None)


def no_accelerator(patch: pytest.MonkeyPatch) -> None:
    """Let the plug-in of WebGPU be installed, and find no GPU (a FAKE)."""
    fake = SimpleNamespace(get_library_path=str, get_ep_name=lambda: "NoSuchProvider")
    patch.setitem(sys.modules, plugin.PLUGINS["webgpu"].module, fake)
    register = "onnxruntime.register_execution_provider_library"
    patch.setattr(register, lambda *_: None)


def full_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hsi_runtime.output.polygons.held_bytes", lambda: 10**10)


def gpu_that_fails(patch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a GPU (a FAKE), and that it fails in mid-run."""
    gpu = Gpu()
    gpu.cuda.lasts = 4
    said = b"an illegal memory access was encountered"
    patch.setattr(gpu.cuda, "cudaGetErrorString", lambda code: (code, said))
    patch.setitem(sys.modules, CUDA, gpu.cuda)
    patch.setitem(sys.modules, TENSORRT, gpu.trt)
    patch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))


def camera_that_starts_again(patch: pytest.MonkeyPatch) -> None:
    """Truncate a file that is followed, once its first lines were read."""
    right = GrowingFile.read

    def read(self: GrowingFile, *given: Any) -> Any:
        cube = right(self, *given)
        os.truncate(self.path, 0)
        return cube

    patch.setattr(GrowingFile, "read", read)


PROVOKED: dict[str, tuple[Callable[[], None], str] | tuple[Any, str, Patch]] = {
    "No model file": (hsi_run, "scene.tif"),
    "A package is missing": (hsi_train, f"{TRAIN} labels.tif -o r", no_torch),
    "The output exists": (hsi_run, f"scene.tif {MODEL}"),
    "The output is a link": (hsi_run, f"scene.tif {MODEL} -o link.tif --overwrite"),
    "Foreign files in the folder of unfinished results": (
        hsi_run,
        f"scene.tif {MODEL} -o o.tif",
    ),
    "The run folder is not empty": (hsi_train, f"{TRAIN} labels.tif -o runs/fields"),
    "Another recipe than the interrupted run": (
        hsi_train,
        f"{TRAIN} labels.tif -o runs/begun --resume --epochs 3",
    ),
    "A folder of several seeds": (hsi_export, "runs/seeds"),
    "Unknown key": (hsi_train, f"{TRAIN} labels.tif --set fit.epoch=3 -o r"),
    "Not a scene that hsi-run reads": (hsi_run, f"cube.mat {MODEL}"),
    "A format that is not read": (hsi_run, f"granule.zip {MODEL}"),
    "A folder without a product": (hsi_run, "runs --info"),
    "A product without its cube": (hsi_run, "granule --info"),
    "The scene cannot be read": (hsi_run, f"cut.tif {MODEL}"),
    "A TIFF of several images": (hsi_run, f"pages.tif {MODEL}"),
    "Spectra of zeros": (hsi_run, f"dark.tif {MODEL}"),
    "A side-car that cannot be read": (hsi_run, f"torn.tif {MODEL}"),
    "Wavelengths that cannot be": (hsi_run, f"far.tif {MODEL}"),
    "Labels on another grid": (hsi_train, f"{TRAIN} small.tif -o r"),
    "Which field names the class": (
        hsi_train,
        f"{TRAIN} crowns.gpkg --label-field taxon -o r",
    ),
    "Spectra without a scale": (hsi_train, "lda --spectra field.csv -o r"),
    "Spectra for a method that sees neighbours": (
        hsi_train,
        "mf2cnet --spectra field.csv --scale 1 -o r",
    ),
    "Spectra with gaps": (hsi_train, "lda --spectra gaps.csv --scale 1 -o r"),
    "Few spectra": (hsi_train, "lda --spectra field.csv --scale 1 -o r"),
    "Labels elsewhere": (hsi_train, f"{TRAIN} elsewhere.gpkg -o r"),
    "No coordinate reference system": (hsi_train, f"{TRAIN} nowhere.gpkg -o r"),
    "The class file": (hsi_train, f"{TRAIN} labels.tif --classes bad.json -o r"),
    "Too few pixels for a draw": (
        hsi_train,
        f"{TRAIN} few.tif --samples-per-class 20 -o r",
    ),
    "No probability sample": (
        hsi_train,
        f"{TRAIN} labels.tif --probability-sample -o r",
    ),
    "Test pixels inside training windows": (hsi_train, f"{RANDOM} -o r"),
    "Too few validation pixels": (hsi_train, f"{RANDOM} -o r"),
    "Too few labels for a split": (hsi_train, f"{TRAIN} few.tif -o r"),
    "Labels that are not read": (hsi_train, f"{TRAIN} points.csv -o r"),
    "A vector file of another kind": (hsi_train, f"{TRAIN} virtual.gpkg -o r"),
    "Coordinates that are not degrees": (hsi_train, f"{TRAIN} metres.geojson -o r"),
    "A scene declares too little": (
        hsi_train,
        RANDOM.replace("scene.tif", "plain.tif") + " -o r",
    ),
    "The scene does not cover the model": (hsi_run, f"vnir.tif {MODEL}"),
    "No wavelengths, other band count": (hsi_run, f"rgb.tif {MODEL}"),
    "Matched by position": (hsi_run, f"unnamed.tif {MODEL}"),
    "Another sensor": (hsi_run, f"other.tif {MODEL}"),
    "Raw counts": (hsi_run, f"counts.bil {MODEL}"),
    "References of the camera": (
        hsi_run,
        f"flight.bil {MODEL} --dark flight.bil --white flight.bil",
    ),
    "A sensor that cannot be followed": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --follow --idle 1s",
    ),
    "No lines yet": (hsi_run, f"empty.bil {MODEL} --follow --idle 1s"),
    "Lines that are gone": (
        hsi_run,
        f"flight.bil {MODEL} --follow",
        camera_that_starts_again,
    ),
    "A class that the model does not have": (
        hsi_run,
        f"flight.bil {MODEL} --follow --on-class weeds",
    ),
    "OpenVINO is missing": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --device openvino",
        without("openvino"),
    ),
    "CUDA is missing": (hsi_run, f"scene.tif {MODEL} -o n.tif --device cuda"),
    "TensorRT is missing": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --device tensorrt",
        without("cuda.bindings.runtime"),
    ),
    "A plug-in finds no accelerator": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --device webgpu",
        no_accelerator,
    ),
    "No suggested threshold": (hsi_run, f"scene.tif {MODEL} -o n.tif --reject auto"),
    "Too little memory": (hsi_run, f"scene.tif {MODEL} -o n.tif --max-memory 20M"),
    "The GPU fails": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --device tensorrt --tile 16",
        gpu_that_fails,
    ),
    "Polygons that cannot be written": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --vector fields.shp",
    ),
    "Polygons that need too much memory": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --vector n.gpkg --max-memory 1G",
        full_memory,
    ),
    "Window outside": (hsi_run, f"scene.tif {MODEL} -o n.tif --window 40,40,50,50"),
    "No abundances": (hsi_run, f"scene.tif {MODEL} -o n.tif --abundances"),
    "No sets of classes": (hsi_run, f"scene.tif {MODEL} -o n.tif --sets 0.9"),
    "An interrupted run is in the way": (
        hsi_run,
        f"scene.tif {MODEL} -o half.tif --reject 0.5",
    ),
    "Parts are missing": (hsi_run, f"scene.tif {MODEL} -o map.tif --tile 32 --join"),
    "Parts of another run": (
        hsi_run,
        f"scene.tif {MODEL} -o map.tif --tile 32 --part 1/2 --reject 0.5",
    ),
    "A scheduler on another machine": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --scheduler tcp://10.0.0.7:8786",
    ),
    "TLS without certificates": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --scheduler tls://10.0.0.7:8786",
    ),
    "No scheduler": (
        hsi_run,
        f"scene.tif {MODEL} -o n.tif --scheduler 127.0.0.1:9",
        impatient,
    ),
    "A part is damaged": (hsi_run, f"scene.tif {MODEL} -o hurt.tif --tile 32 --join"),
    "The model file is damaged": (hsi_run, "scene.tif -m damaged.onnx -o n.tif"),
    "The model file is of another version": (hsi_run, "scene.tif -m newer.onnx"),
    "The model file is none of ours": (hsi_run, "scene.tif -m labels.tif"),
    "Half precision would overflow": (hsi_export, "runs/loud --fp16"),
    "The self-test fails": (hsi_run, f"--self-test {MODEL}", another_engine),
}


@pytest.fixture
def folder(
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_crowns: Callable[[Path], None],
    invoke: Callable[..., Any],
) -> Path:
    """A reader's folder, with all that goes wrong on the page."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.run, "runs/fields")
    shutil.copy(trained.model, "runs/fields")
    shutil.copy(trained.scene, "scene.tif")
    shutil.copy(trained.truth, "labels.tif")
    Path("scene_classes.tif").touch()
    Path("link.tif").symlink_to("scene_classes.tif")
    Path("o.tif.hsi-part").mkdir()
    Path("o.tif.hsi-part/notes.txt").touch()
    write_crowns(tmp_path)
    Path("field.csv").write_text("kind,450,550\nsoil,0.1,0.2\ngrass,0.1,0.05\n")
    Path("gaps.csv").write_text("kind,450,550\nsoil,0.1,0.2\ngrass,0.1,\n")
    scipy.io.savemat("cube.mat", {"cube": np.zeros((3, 4, 5))})
    with zipfile.ZipFile("granule.zip", "w") as archive:
        archive.writestr("P/ENMAP-METADATA.XML", "")
    granule = product_spec("enmap", 3, rows=4, cols=5, seed=3)
    write_scene(granule, Path("granule"), product="enmap")
    next(Path("granule").glob("*SPECTRAL_IMAGE.TIF")).unlink()
    data = bytearray(trained.model.read_bytes())
    data[len(data) // 2] ^= 1
    Path("damaged.onnx").write_bytes(data)
    newer = trained.model.read_bytes().replace(
        b'"schema_version":1', b'"schema_version":2'
    )
    Path("newer.onnx").write_bytes(newer)
    shutil.copytree(trained.run, "runs/seeds/seed-0")
    shutil.copytree(trained.run, "runs/begun")
    Path("runs/begun/resume.pt").touch()
    Path("runs/begun/recipe.toml").touch()
    write_loud(trained.run, Path("runs/loud"))
    square = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)]))
    for name, crs in (("elsewhere.gpkg", "EPSG:32633"), ("nowhere.gpkg", None)):
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            pyogrio.raw.write(
                name, square, [np.array([1])], ["code"], crs=crs,
                geometry_type="Polygon",
            )  # fmt: skip
    Path("points.csv").write_text("x,y,code\n1,2,3\n")
    Path("virtual.gpkg").write_text("<OGRVRTDataSource/>")
    corners = [[4e5, 5e6], [5e5, 5e6], [5e5, 6e6], [4e5, 5e6]]
    metres = {"type": "Polygon", "coordinates": [corners]}
    feature = {"type": "Feature", "properties": {"code": 1}, "geometry": metres}
    content = {"type": "FeatureCollection", "features": [feature]}
    Path("metres.geojson").write_text(json.dumps(content))
    Path("bad.json").write_text('{"1": "grass", "2": 7}')
    whole = trained.scene.read_bytes()
    Path("cut.tif").write_bytes(whole[: len(whole) // 2])
    for name, bands, last in (("vnir.tif", 20, 1000.0), ("other.tif", 90, 2500.0)):
        centres = band_centres(bands, 400.0, last)
        spec = SceneSpec(rows=20, cols=20, wavelengths_nm=centres, seed=3)
        write_scene(spec, Path(name), truth=Path(f"of_{name}"))
    Path("of_vnir.tif").rename("small.tif")
    write_flights()
    with rasterio.open(trained.scene) as scene, rasterio.open(trained.truth) as truth:
        cube, codes, profile = scene.read(), truth.read(1), scene.profile
    for name, kept in (("plain.tif", cube), ("rgb.tif", cube[:3])):
        with rasterio.open(name, "w", **profile | {"count": len(kept)}) as file:
            file.write(kept)
    for number in range(3):
        image = profile | {"count": 1, "APPEND_SUBDATASET": number > 0}
        with rasterio.open("pages.tif", "w", **image) as file:
            file.write(cube[number], 1)
    cube[:, :50] = 0
    with rasterio.open("dark.tif", "w", **profile | {"nodata": None}) as file:
        file.write(cube)
        file.scales = [1e-4] * file.count
    shutil.copy("plain.tif", "torn.tif")
    shutil.copy("plain.tif", "unnamed.tif")
    with rasterio.open("unnamed.tif", "r+") as file:
        file.scales = [1e-4] * file.count
    Path("torn.tif.aux.xml").write_text("<PAMDataset>")
    shutil.copy("plain.tif", "far.tif")
    with rasterio.open("far.tif", "r+") as file:
        for band, centre in enumerate(np.linspace(4e4, 2.5e5, file.count), start=1):
            file.update_tags(band, wavelength=f"{centre:g}", wavelength_units="nm")
    few = np.where(codes == 1, codes, 0)
    few[tuple(np.argwhere(codes == 2)[0])] = 2
    with rasterio.open("few.tif", "w", **profile | {"count": 1, "dtype": "uint8"}) as f:
        f.write(few.astype(np.uint8), 1)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hsi_runtime.pipeline.publish", stopped)
        found = invoke(hsi_run, *f"scene.tif {MODEL} -o half.tif".split())
        assert found.code == 130
    for name, part in (("map.tif", "0/2"), ("hurt.tif", "0/1")):
        task = f"scene.tif {MODEL} -o {name} --tile 32 --part {part}"
        assert invoke(hsi_run, *task.split()).code == 0
    os.truncate("hurt.tif.hsi-parts/000000.piece", 500)
    return tmp_path


def write_flights() -> None:
    """Write lines of a camera, lines that declare nothing, and a header only."""
    spec = SceneSpec(rows=80, cols=30, wavelengths_nm=band_centres(40, 400.0, 2500.0))
    write_scene(spec, Path("flight.bil"), layout="bil")
    header = Path("flight.hdr").read_text()
    Path("empty.hdr").write_text(header.replace("lines = 80", "lines = 0"))
    Path("empty.bil").touch()
    shutil.copy("flight.bil", "counts.bil")
    plain = re.sub("^reflectance scale factor.*\n", "", header, flags=re.M)
    Path("counts.hdr").write_text(plain)


def write_loud(run: Path, loud: Path) -> None:
    """Write a checkpoint whose values leave the range of half precision."""
    shutil.copytree(run, loud)
    path = loud / "checkpoint.safetensors"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.startswith("network.head") and tensor.ndim == 4:
            tensors[name] = tensor * np.float32(1e7)
    save_file(tensors, path, metadata)


def masked(text: str) -> str:
    return re.sub(r"\d[\d.]*(e[-+]?\d+)?", "#", text)


def test_every_message_has_a_way_to_provoke_it() -> None:
    assert {entry.heading for entry in entries()} == set(PROVOKED)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.heading)
def test_message_is_what_the_command_says(
    entry: Entry,
    folder: Path,
    invoke: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main, arguments, *patches = PROVOKED[entry.heading]
    for patch in patches:
        patch(monkeypatch)
    found = invoke(main, *arguments.split())
    if entry.kind == "warning":
        assert found.code == 0
    else:
        assert entry.kind == f"exit {found.code}"
    assert masked(entry.message) in masked(found.err)
