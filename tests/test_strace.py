"""Under strace: hostile files lead to no other file, and to no connection."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")
scipy_io = pytest.importorskip("scipy.io")

STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(STRACE is None, reason="strace is not installed")

# Opens every file of a folder as whatever it could be given as.
OPENING = """
import sys, warnings
from pathlib import Path
import numpy as np
import h5py, scipy.io, pyogrio, rasterio, shapely
from hsi_runtime import batch
from hsi_runtime.engines.opening import open_backend
from hsi_runtime.errors import HsiError
from hsi_runtime.model.model_file import read_model
from hsi_runtime.scenes.opening import open_scene
from hsi_train import recipe
from hsi_train.data import labels, matlab
from hsi_train.data.classes import ClassTable
from hsi_train.data.formats.raster_classes import classes_of
from hsi_train.data.vectors import VectorLabels
from hsi_train.measuring.accuracy import compare

def scene(path):
    opened = open_scene(path)
    info = opened.info
    opened.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    classes_of(info)
    opened.close()

def both(path):
    compare(path, path)

def codes(path):
    opened = open_scene(path)
    labels.open_labels([str(path)], 1, "kind").codes(0, opened.info)

def model(path):
    open_backend(read_model(path), "cpu", 1)

ways = [
    scene, both, codes, model,
    lambda path: VectorLabels(str(path), "kind"),
    lambda path: matlab.open_cube(str(path)),
    lambda path: matlab.read_array(str(path), 2),
    lambda path: ClassTable.from_json(str(path)),
    lambda path: recipe.parse(recipe.load(str(path))),
    lambda path: batch.expand([path]),
]
done = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    for way in ways:
        try:
            way(path)
            done += 1
        except HsiError:
            pass
print(done)
"""
CALL = re.compile(r'\b(open|openat)\((?:AT_FDCWD|\d+)?(?:, )?"([^"]*)"')
VRT = (
    '<VRTDataset rasterXSize="5" rasterYSize="4"><VRTRasterBand dataType="UInt16" '
    'band="1"><SimpleSource><SourceFilename>{0}</SourceFilename></SimpleSource>'
    "</VRTRasterBand></VRTDataset>"
)
LAYER = (
    '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>{0}</SrcDataSource>'
    "</OGRVRTLayer></OGRVRTDataSource>"
)
SIDE_CAR = (
    '<!DOCTYPE PAMDataset [<!ENTITY x SYSTEM "file://{0}">]>',
    '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{0}</MDI>'
    '<MDI key="MASK_FILE">{0}</MDI></Metadata><SRS>file://{0}</SRS>'
    "<SourceFilename>{0}</SourceFilename></PAMDataset>",
)


def traced(folder: Path, log: Path) -> tuple[set[str], list[str], int]:
    """Return the files that were opened, the connections, and what could be read."""
    given = ["-f", "-qq", "-s", "4096", "-e", "trace=open,openat,connect", "-o"]
    opening = [sys.executable, "-c", OPENING, str(folder)]
    done = subprocess.run(
        [str(STRACE), *given, str(log), *opening],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = log.read_text(errors="replace")
    opened = {path for _, path in CALL.findall(text)}
    connections = [line for line in text.splitlines() if " connect(" in line]
    return opened, connections, int(done.stdout.split()[-1])


def write_good(folder: Path, write_scene_tiff: Any, write_model: Any) -> None:
    """Write one harmless file of each kind."""
    cube = np.arange(1, 61, dtype=np.uint16).reshape(3, 4, 5)
    write_scene_tiff(folder / "s.tif", cube, (450.0, 550.0, 650.0))
    write_scene_tiff(folder / "l.tif", cube[:1] % 3, None, None)
    (folder / "e.hdr").write_text(
        "ENVI\nsamples = 5\nlines = 4\nbands = 3\ndata type = 12\n"
        "interleave = bsq\nbyte order = 0\n"
        "map info = {UTM, 1, 1, 4e5, 5.8e6, 2, 2, 33, North, WGS-84}\n"
    )
    (folder / "e.img").write_bytes(cube.tobytes())
    scipy_io.savemat(folder / "five.mat", {"cube": cube.T, "gt": cube[0]})
    with h5py.File(folder / "seven.mat", "w") as file:
        file["cube"] = cube
    square = shapely.to_wkb(shapely.box(400_001, 5_799_993, 400_009, 5_799_999))
    for name, driver in {
        "v.gpkg": "GPKG", "v.geojson": "GeoJSON", "v.shp": "ESRI Shapefile",
        "v.fgb": "FlatGeobuf",
    }.items():  # fmt: skip
        pyogrio.raw.write(
            folder / name,
            np.array([square], dtype=object),
            [np.array([1], dtype=np.int32)],
            ["kind"],
            geometry_type="Polygon",
            crs="EPSG:32633",
            driver=driver,
        )
    write_model(folder / "m.onnx")
    (folder / "classes.json").write_text('{"1": "a", "2": "b"}')
    (folder / "r.toml").write_text(
        'method = "lda"\n[data]\nscenes = ["s"]\nlabels = ["l"]\n'
    )
    (folder / "list.txt").write_text("s.tif\n")


def write_hostile(folder: Path, bait: Path, change: Callable[[Path], Path]) -> None:
    """Write files that name the bait, or a server, in all ways that their kind has."""
    address = "/vsicurl/http://127.0.0.1:9/a"
    for number, goal in enumerate((str(bait), address)):
        for suffix in ("tif", "hdr", "img", "mat", "vrt"):
            (folder / f"r{number}.{suffix}").write_text(VRT.format(goal))
        for suffix in ("geojson", "json", "gpkg", "shp", "fgb"):
            (folder / f"o{number}.{suffix}").write_text(LAYER.format(goal))
        for kind, text in enumerate(SIDE_CAR):
            made = change(folder / f"p{number}{kind}.tif")
            made.with_name(made.name + ".aux.xml").write_text(text.format(goal))
        (folder / f"g{number}.geojson").write_text(
            json.dumps(
                {
                    "type": "FeatureCollection",
                    "crs": {"type": "link", "properties": {"href": goal}},
                    "features": [],
                }
            )
        )
        (folder / f"h{number}.hdr").write_text(
            f"ENVI\ndata file = {goal}\ncoordinate system string = {goal}\n"
            "samples = 5\nlines = 4\nbands = 3\ndata type = 12\ninterleave = bsq\n"
        )
        (folder / f"h{number}.img").write_bytes(bytes(120))
        (folder / f"list{number}.txt").write_text(f"{goal}\n")
        (folder / f"r{number}.toml").write_text(
            f'method = "../../{goal}"\n[data]\nscenes = ["{goal}"]\nlabels = ["x"]\n'
        )
    with h5py.File(folder / "linked.mat", "w") as file:
        file["x"] = h5py.ExternalLink(str(bait), "/x")
        file["cube"] = np.ones((3, 4, 5))
    with h5py.File(folder / "raw.mat", "w") as file:
        file.create_dataset("cube", (3, 4, 5), "u1", external=[(str(bait), 0, 60)])
    with h5py.File(folder / "virtual.mat", "w") as file:
        layout = h5py.VirtualLayout((3, 4, 5), "u1")
        layout[:] = h5py.VirtualSource(str(bait), "x", (3, 4, 5))
        file.create_virtual_dataset("cube", layout)
    # Compressed by a plug-in that HDF5 would look for.
    with h5py.File(folder / "plugin.mat", "w") as file:
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_chunk((3, 4, 5))
        kind.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((3, 4, 5))
        h5py.h5d.create(file.id, b"cube", h5py.h5t.NATIVE_UINT8, space, kind)


def test_hostile_files_lead_nowhere(
    tmp_path: Path, write_scene_tiff: Any, write_model: Any
) -> None:
    good, hostile = tmp_path / "good", tmp_path / "hostile"
    bait = tmp_path / "elsewhere" / "bait.tif"
    for folder in (good, hostile, bait.parent):
        folder.mkdir()
    cube = np.ones((3, 4, 5), np.uint16)
    write_scene_tiff(bait, cube, None)
    write_good(good, write_scene_tiff, write_model)
    write_hostile(hostile, bait, lambda path: write_scene_tiff(path, cube, None))
    usual, connections, read = traced(good, tmp_path / "good.log")
    assert read > 12
    assert not connections
    opened, connections, _ = traced(hostile, tmp_path / "hostile.log")
    assert not connections
    assert not {path for path in opened if "elsewhere" in path}
    assert {path for path in opened if path.startswith(str(hostile))}
    outside = {p for p in opened - usual if not p.startswith(str(tmp_path))}
    # What Python, and the machine, keep for themselves.
    own = re.compile(
        r"/(proc|sys|dev)/|.*\.(pyc|py|so)(\.\d+)*$|.*/__pycache__|/etc/ld"
    )
    assert not {path for path in outside if not own.match(path)}
