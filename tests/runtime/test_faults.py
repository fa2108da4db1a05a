"""Calls that fail, hostile files and odd names: one sentence, and nothing half done."""

import errno
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from hsi_runtime import batch, files
from hsi_runtime.errors import HsiError, SceneError
from hsi_runtime.model.model_file import ModelFile, read_model
from hsi_runtime.output import journal
from hsi_runtime.pipeline import run
from hsi_runtime.request import Request
from hsi_runtime.scenes.opening import open_scene

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(write_model: Write, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return read_model(write_model(tmp_path_factory.mktemp("model") / "model.onnx"))


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory,
    cube: NDArray[Any],
    write_scene_tiff: Write,
) -> Path:
    """A scene of several pieces."""
    return write_scene_tiff(
        tmp_path_factory.mktemp("scene") / "s.tif", cube, blockysize=4
    )


def request_of(scene: Path, folder: Path, **options: Any) -> Request:
    return Request(
        scene, folder / "o.tif", tile=4, confidence=True, preview=True, stac=True,
        **options,
    )  # fmt: skip


class Failing:
    """Stands for a function; its n-th call fails."""

    def __init__(self, inner: Callable[..., Any], number: int, fault: int) -> None:
        self.inner, self.left, self.fault = inner, number, fault

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise OSError(self.fault, os.strerror(self.fault))
        return self.inner(*arguments, **options)


def failing_open(number: int, fault: int) -> Callable[..., Any]:
    """Fail the n-th file that is opened for writing."""
    inner = Path.open
    failing = Failing(inner, number, fault)

    def opened(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        chosen = inner if mode in ("r", "rb") else failing
        return chosen(self, mode, *more, **options)

    opened.failing = failing  # type: ignore[attr-defined]
    return opened


def counting(failing: Failing, other: Callable[..., Any]) -> Callable[..., Any]:
    """Count the calls of another function, too."""

    def counted(*arguments: Any) -> Any:
        inner, failing.inner = failing.inner, other
        try:
            return failing(*arguments)
        finally:
            failing.inner = inner

    return counted


def error_of(request: Request, model: ModelFile) -> HsiError | None:
    """Run, and return the error there was."""
    try:
        run(request, model)
    except HsiError as error:
        return error
    return None


@pytest.mark.parametrize(("fault", "code"), [(errno.ENOSPC, 6), (errno.EIO, 5)])
@pytest.mark.parametrize(
    "name",
    ["pwrite", "fdatasync", "fsync", "replace", "posix_fallocate", "unlink", "open"],
)
def test_whatever_call_fails_nothing_half_done_is_published(
    name: str,
    fault: int,
    code: int,
    model: ModelFile,
    scene: Path,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setattr(journal, "SYNC_BYTES", 0)  # sync after every piece
    (tmp_path / "reference").mkdir()
    run(request_of(scene, tmp_path / "reference"), model)
    reference = digests(tmp_path / "reference")
    failed = 0
    # A few of the many writes of pieces are enough: the first, and every seventh.
    step = 7 if name == "pwrite" else 1
    for number in itertools.count(1, step):
        folder = tmp_path / str(number)
        folder.mkdir()
        request = request_of(scene, folder)
        with monkeypatch.context() as patch:
            if name == "open":
                opened = failing_open(number, fault)
                patch.setattr(Path, "open", opened)
                failing = opened.failing  # type: ignore[attr-defined]
                own = files.open_own
                patch.setattr(files, "open_own", counting(failing, own))
            else:
                failing = Failing(getattr(os, name), number, fault)
                patch.setattr(os, name, failing)
            error = error_of(request, model)
        fine = error is None
        if error is not None:
            assert error.exit_code == code, error
            assert "\n" not in str(error)
        if failing.left > 0:
            assert fine
            break
        failed += not fine
        # What has its name is complete.
        left = {k: v for k, v in digests(folder).items() if "hsi-part" not in k}
        assert left.items() <= reference.items()
        if fine:
            assert left == reference
            continue
        run(request, model)
        assert digests(folder) == reference
    assert failed > 0 or name == "unlink"


@pytest.mark.parametrize(
    "name",
    ["a b.tif", "Größe 水.tif", "-m.tif", "HDF5:x.tif", "a#b?c&d.tif", "%41'\".tif",
     "NETCDF:a:b.tif", "zip+file!x.tif", "vsizip.tif"],
)  # fmt: skip
def test_names_are_only_names(
    name: str,
    tmp_path: Path,
    cube: NDArray[Any],
    write_scene_tiff: Write,
    write_model: Write,
) -> None:
    write_scene_tiff(tmp_path / "scene.tif", cube).rename(tmp_path / name)
    write_model(tmp_path / "model.onnx")
    script = "from hsi_runtime.cli import main; main()"
    options = ["--json", "--preview", "--stac", "--vector", "v w.gpkg", "--", name]
    done = subprocess.run(
        [sys.executable, "-c", script, *options],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stem = Path(name).stem
    assert json.loads(done.stdout)["output"] == f"{stem}_classes.tif"
    with rasterio.open((tmp_path / f"{stem}_classes.tif").as_posix()) as file:
        assert file.shape == (23, 31)
    assert (tmp_path / f"{stem}_classes.stac.json").is_file()
    assert (tmp_path / "v w.gpkg").is_file()
    assert not list(tmp_path.glob("*hsi-part"))


def test_time_zone_and_locale_change_no_byte(
    model: ModelFile,
    scene: Path,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
) -> None:
    found = []
    for number, (zone, locale) in enumerate(
        (("UTC", "C"), ("Pacific/Kiritimati", "de_DE.UTF-8"), ("US/Samoa", "C.UTF-8"))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        script = (
            "import locale, sys\n"
            "try: locale.setlocale(locale.LC_ALL, '')\n"
            "except locale.Error: pass\n"
            "from hsi_runtime.cli import main; main()"
        )
        arguments = [str(scene), "-m", str(model.path), "-o", str(folder / "o.tif")]
        more = ["--probabilities", "--preview", "--stac"]
        settings = {"TZ": zone, "LC_ALL": locale, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(
            [sys.executable, "-c", script, *arguments, *more],
            check=True, capture_output=True, env={**os.environ, **settings},
        )  # fmt: skip
        found.append(digests(folder))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 6


SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with open(sys.argv[1], "a") as log:
            log.write(self.path + "\\n")
        self.send_error(404)
    do_HEAD = do_GET
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Trap(NamedTuple):
    """A server on this machine that notes who asks."""

    address: str
    log: Path

    def hits(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log = tmp_path / "hits.log"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    yield Trap(f"http://127.0.0.1:{port}", log)
    process.kill()
    process.wait()
    process.stdout.close()


def vrt(source: str) -> str:
    band = (
        f'<VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>'
        f"{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
    )
    return f'<VRTDataset rasterXSize="31" rasterYSize="23">{band}</VRTDataset>'


def test_trap_works(trap: Trap) -> None:
    with pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(f"/vsicurl/{trap.address}/control.tif")
    assert trap.hits()


def test_files_that_refer_elsewhere_are_not_followed(
    trap: Trap, tmp_path: Path
) -> None:
    remote = f"/vsicurl/{trap.address}"
    contents = {
        "vrt.tif": vrt(f"{remote}/a.tif"),
        "vrt.img": vrt(f"{remote}/b.tif"),
        "gti.tif": (
            "<GDALTileIndexDataset><IndexDataset>"
            f"{remote}/c.gpkg</IndexDataset></GDALTileIndexDataset>"
        ),
        "wms.tif": (
            '<GDAL_WMS><Service name="TMS"><ServerUrl>'
            f"{trap.address}/d/${{z}}/${{x}}</ServerUrl></Service><DataWindow/>"
            "</GDAL_WMS>"
        ),
    }
    paths: list[str] = []
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        paths.append(str(tmp_path / name))
    paths += [
        f"{remote}/e.tif",
        f"{trap.address}/f.tif",
        f"/vsizip//vsicurl/{trap.address}/g.zip/x.tif",
        f"vrt://{remote}/h.tif",
        f"GTI:{remote}/i.gpkg",
        f"WMS:{trap.address}/j?",
        contents["vrt.tif"],
        contents["wms.tif"],
    ]
    for path in paths:
        with pytest.raises(SceneError) as error:
            open_scene(path)
        assert error.value.exit_code == 3
    header = "ENVI\nsamples = 3\nlines = 3\nbands = 1\ndata type = 12\nbyte order = 0\n"
    (tmp_path / "x.hdr").write_text(header + f"data file = {remote}/k.img\n")
    with pytest.raises(SceneError):
        open_scene(tmp_path / "x.hdr")
    assert trap.hits() == []


def test_hostile_side_cars_lead_nowhere(
    trap: Trap, model: ModelFile, tmp_path: Path, scene: Path, cube: NDArray[Any]
) -> None:
    remote = f"/vsicurl/{trap.address}"
    path = tmp_path / "s.tif"
    path.write_bytes(scene.read_bytes())
    aux = (
        '<PAMDataset><Metadata domain="OVERVIEWS">'
        f'<MDI key="OVERVIEW_FILE">{remote}/a.ovr</MDI></Metadata>'
        "</PAMDataset>"
    )
    side_cars = {
        "s.tif.aux.xml": aux,
        "s.aux.xml": aux,
        "s.tif.ovr": vrt(f"{remote}/c.tif"),
        "s.tif.vrt": vrt(f"{remote}/d.tif"),
        "s.hdr": "ENVI\nsamples = 1\n",
        "s.tfw": "1\n0\n0\n-1\n0\n0\n",
    }
    for name, content in side_cars.items():
        (tmp_path / name).write_text(content)
    reference = tmp_path / "reference.tif"
    run(Request(scene, reference), model)
    run(Request(path, tmp_path / "o.tif", preview=True), model)
    # Their tags differ: the side-cars are files of the scene.
    with rasterio.open(reference) as file, rasterio.open(tmp_path / "o.tif") as other:
        np.testing.assert_array_equal(file.read(), other.read())
    # Nor beside a map that is there, when a batch looks whether it is finished.
    for name in (".aux.xml", ".ovr"):
        (tmp_path / f"o.tif{name}").write_text(side_cars[f"s.tif{name}"])
    mask = vrt(f"{remote}/b.tif")
    (tmp_path / "o.tif.msk").write_text(mask)
    found = batch.run_all(
        [Request(path, tmp_path / "o.tif")], model, lambda: pytest.fail("a start")
    )
    assert [s["status"] for s in found["scenes"]] == ["skipped"]
    assert np.array_equal(cube[:, 3:5], read_rows(path))
    # A mask is refused, because to leave it out would change the map.
    (tmp_path / "s.tif.msk").write_text(mask)
    with pytest.raises(SceneError, match="has its mask in another file"):
        open_scene(path)
    assert trap.hits() == []


def read_rows(path: Path) -> NDArray[Any]:
    opened = open_scene(path)
    values: NDArray[Any] = opened.read((3, 5), (0, 31), np.arange(4))
    opened.close()
    return values
