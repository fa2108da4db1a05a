import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.cli import main
from hsi_runtime.model.array import Array

WAVELENGTHS = (450.0, 550.0, 650.0, 850.0)


def write_envi(place: Any, values: bytes, **fields: object) -> Path:
    known: dict[str, object] = {
        "samples": 31,
        "lines": 23,
        "bands": 4,
        "data type": 12,
        "interleave": "bsq",
        "byte order": 0,
    }
    lines = [f"{k} = {v}" for k, v in (known | fields).items()]
    folder: Path = place.folder
    (folder / "envi.hdr").write_text("\n".join(["ENVI", *lines]))
    (folder / "envi.img").write_bytes(values)
    return folder / "envi.img"


# Each makes one thing wrong in the folder and returns the arguments.
Make = Callable[[Any], list[object]]


def content(name: str, data: bytes) -> Make:
    def make(place: Any) -> list[object]:
        (place.folder / name).write_bytes(data)
        return [name]

    return make


def cube_of(change: Callable[[NDArray[Any]], NDArray[Any]], **options: Any) -> Make:
    def make(place: Any) -> list[object]:
        return [
            place.write_scene(place.folder / "x.tif", change(place.cube), **options)
        ]

    return make


def model_of(change: Callable[[bytes], bytes]) -> Make:
    def make(place: Any) -> list[object]:
        path = place.folder / "x.onnx"
        path.write_bytes(change(place.model.read_bytes()))
        return [place.scene, "-m", path]

    return make


def arguments(*given: object) -> Make:
    return lambda place: list(given)


def truncated_tiff(place: Any) -> list[object]:
    path = place.write_scene(place.folder / "x.tif", place.cube, compress="deflate")
    os.truncate(path, path.stat().st_size // 2)
    return [path]


def half_tiff(place: Any) -> list[object]:
    """Keep the tags, at the front, and lose half of the pixels."""
    path = place.write_scene(place.folder / "x.tif", place.cube, None, None)
    with rasterio.open(path) as file:
        profile = file.profile
    with rasterio.open(path, "w", **profile) as file:
        file.scales = [1e-4] * file.count
        file.write(place.cube)
    os.truncate(path, path.stat().st_size * 2 // 3)
    return [path]


def envi_header_alone(place: Any) -> list[object]:
    write_envi(place, b"").unlink()
    return ["envi.hdr"]


def truncated_envi(place: Any) -> list[object]:
    return [write_envi(place, place.cube.tobytes()[:-2])]


def over_declared_envi(place: Any) -> list[object]:
    return [write_envi(place, place.cube.tobytes(), bands=5)]


def older_model(place: Any) -> list[object]:
    path = place.write_model(place.folder / "x.onnx", metadata='{"schema_version": 0}')
    return [place.scene, "-m", path]


def foreign_model(place: Any) -> list[object]:
    proto = onnx.load(place.model)
    del proto.metadata_props[:]
    onnx.save(proto, place.folder / "x.onnx")
    return [place.scene, "-m", "x.onnx"]


def no_model(place: Any) -> list[object]:
    place.model.rename(place.folder / "elsewhere.onnx")
    return [place.scene]


def existing_output(place: Any) -> list[object]:
    (place.folder / "scene_classes.tif").write_bytes(b"precious")
    return [place.scene]


def existing_companion(place: Any) -> list[object]:
    (place.folder / "scene_preview.png").write_bytes(b"precious")
    return [place.scene, "--preview"]


def existing_probabilities(place: Any) -> list[object]:
    (place.folder / "o_probabilities.tif").write_bytes(b"precious")
    return [place.scene, "-o", "o_classes.tif", "--probabilities"]


def existing_style(place: Any) -> list[object]:
    (place.folder / "scene_classes.qml").write_bytes(b"precious")
    return [place.scene]


def symlink_to_input(place: Any) -> list[object]:
    (place.folder / "o.tif").symlink_to(place.scene)
    return [place.scene, "-o", "o.tif", "--overwrite"]


def hard_link_to_input(place: Any) -> list[object]:
    (place.folder / "o.tif").hardlink_to(place.scene)
    return [place.scene, "-o", "o.tif", "--overwrite"]


def envi_data_as_output(place: Any) -> list[object]:
    write_envi(place, place.cube.tobytes())
    return ["envi.hdr", "-o", "envi.img", "--overwrite"]


def envi_header_as_output(place: Any) -> list[object]:
    write_envi(place, place.cube.tobytes())
    return ["envi.img", "-o", "envi.hdr", "--overwrite"]


def folder_as_output(place: Any) -> list[object]:
    (place.folder / "sub").mkdir()
    return [place.scene, "-o", "sub"]


def locked_output(place: Any) -> list[object]:
    (place.folder / "o.tif.hsi-part").write_bytes(b"a file in the way")
    return [place.scene, "-o", "o.tif"]


def scaled_float_without_scale(place: Any) -> list[object]:
    values = (place.cube / 10_000).astype(np.float32)
    return [place.write_scene(place.folder / "x.tif", values, scale=None)]


def unlike_signature(place: Any) -> list[object]:
    """Sign a document of five classes over a graph of three."""
    classes = [replace(c, code=c.code + 10) for c in place.document.classes[:2]]
    answer = Array.pack(np.zeros((5, 3, 3), np.float32))
    described = replace(
        place.document,
        classes=[*place.document.classes, *classes],
        self_test=replace(place.document.self_test, probabilities=answer),
    )
    from hsi_export import package

    proto = onnx.load(place.model)
    (place.folder / "x.onnx").write_bytes(package.assemble(proto, described, None))
    return [place.scene, "-m", "x.onnx"]


VRT = (
    b'<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" '
    b'band="1"><SimpleSource><SourceFilename>/etc/passwd</SourceFilename>'
    b"</SimpleSource></VRTRasterBand></VRTDataset>"
)

BAD: dict[str, tuple[Make, int, str]] = {
    "missing scene": (arguments("nothing.tif"), 3, "There is no file nothing.tif"),
    "missing scene in a missing folder": (arguments("no/x.tif"), 3, "There is no file"),
    "folder as scene": (arguments("."), 3, "folder without a sensor product"),
    "text as scene": (content("x.tif", b"hello"), 3, "neither a TIFF nor an ENVI"),
    "empty scene": (content("x.tif", b""), 3, "neither a TIFF nor an ENVI file"),
    "TIFF header alone": (content("x.tif", b"II*\0\x08\0\0\0"), 3, "not a readable"),
    "truncated TIFF": (truncated_tiff, 3, "x.tif"),
    "TIFF without its last pixels": (half_tiff, 3, "x.tif"),
    "ENVI header alone": (envi_header_alone, 3, "its data file is missing"),
    "truncated ENVI": (truncated_envi, 3, "is truncated: its header promises 5704"),
    "over-declared ENVI": (over_declared_envi, 3, "is truncated"),
    "MATLAB file": (content("x.mat", b"MATLAB 5.0 MAT"), 3, "read by hsi-train only"),
    "HDF5 file": (content("x.h5", b"\x89HDF\r\n\x1a\n"), 3, "cannot be read as HDF5"),
    "VRT named tif": (content("x.tif", VRT), 3, "a VRT, which names other files"),
    "URL": (arguments("/vsicurl/http://127.0.0.1:9/x.tif"), 3, "There is no file"),
    "web address": (arguments("http://127.0.0.1:9/x.tif"), 3, "There is no file"),
    "complex scene": (cube_of(lambda c: c.astype(np.complex64)), 3, "complex64"),
    "int64 scene": (cube_of(lambda c: c.astype(np.int64)), 3, "int64; expected one of"),
    "wrong wavelength units": (
        cube_of(lambda c: c, wavelengths=(0.45, 0.55, 650.0, 850.0)),
        3,
        "wavelengths run from 0.45 to 850 nm, outside 200 to 20000",
    ),
    "no model there": (no_model, 4, "There is no model file model.onnx; name one"),
    "missing model": (arguments("scene.tif", "-m", "no.onnx"), 4, "no.onnx; name one"),
    "folder as model": (arguments("scene.tif", "-m", "."), 4, ". is a folder"),
    "text as model": (model_of(lambda _: b"hello"), 4, "x.onnx is not an ONNX file"),
    "empty model": (model_of(lambda _: b""), 4, "x.onnx is not an ONNX file"),
    "flipped bit in the model": (
        model_of(lambda d: d[:300] + bytes([d[300] ^ 16]) + d[301:]),
        4,
        "its checksum does not fit",
    ),
    "truncated model": (model_of(lambda d: d[:-40]), 4, "x.onnx"),
    "foreign model": (foreign_model, 4, "not written by hsi-export"),
    "older schema": (older_model, 4, "schema version 0; this hsi-run reads version 1"),
    "graph unlike its document": (unlike_signature, 4, "its document promises"),
    "no band matches": (
        cube_of(lambda c: c, wavelengths=(1000.0, 1100.0, 1200.0, 1300.0)),
        4,
        "and only 0 match within 2 nm",
    ),
    "bands missing": (
        cube_of(lambda c: c[:2], wavelengths=WAVELENGTHS[:2]),
        4,
        "Missing: 650.0, 850.0 nm",
    ),
    "other count without wavelengths": (
        cube_of(lambda c: c[:3], wavelengths=None),
        4,
        "has 3 bands, the model was trained on 4",
    ),
    "decimals without scale": (scaled_float_without_scale, 4, "Give its scale by"),
    "output exists": (existing_output, 5, "exists; --overwrite replaces it"),
    "preview exists": (existing_companion, 5, "scene_preview.png exists"),
    "probabilities exist": (existing_probabilities, 5, "o_probabilities.tif exists"),
    "output is the scene": (
        arguments("scene.tif", "-o", "scene.tif", "--overwrite"),
        5,
        "is the input",
    ),
    "output is the model": (
        arguments("scene.tif", "-o", "model.onnx", "--overwrite"),
        5,
        "is the input model.onnx",
    ),
    "output is a symlink to the scene": (symlink_to_input, 5, "is the input"),
    "output is a hard link to the scene": (hard_link_to_input, 5, "is the input"),
    "output is the ENVI data": (envi_data_as_output, 5, "is the input"),
    "output is the ENVI header": (envi_header_as_output, 5, "is the input"),
    "output folder missing": (
        arguments("scene.tif", "-o", "no/o.tif"),
        5,
        "There is no folder no; create it",
    ),
    "output is a folder": (folder_as_output, 5, "sub is a folder; -o names a file"),
    "output is this folder": (arguments("scene.tif", "-o", "."), 5, "is a folder"),
    "output without a name": (arguments("scene.tif", "-o", ""), 5, "is a folder"),
    "output is the folder above": (arguments("scene.tif", "-o", ".."), 5, "a folder"),
    "output below a file": (
        arguments("scene.tif", "-o", "model.onnx/o.tif"),
        5,
        "There is no folder model.onnx",
    ),
    "output name too long": (
        arguments("scene.tif", "-o", "o" * 300 + ".tif"),
        5,
        "File name too long",
    ),
    "scratch cannot be made": (locked_output, 5, "o.tif.hsi-part cannot be created"),
    "unknown device": (arguments("scene.tif", "--device", "tpu"), 2, "'tpu' is not"),
    "tile 0": (arguments("scene.tif", "--tile", "0"), 2, "'--tile'"),
    "threads 0": (arguments("scene.tif", "--threads", "0"), 2, "'--threads'"),
    "reject auto": (
        arguments("scene.tif", "--reject", "auto"),
        4,
        "suggests no threshold",
    ),
    "reject 2": (arguments("scene.tif", "--reject", "2"), 2, "'--reject'"),
    "reject nan": (arguments("scene.tif", "--reject", "nan"), 2, "'--reject'"),
    "unknown option": (arguments("scene.tif", "--turbo"), 2, "No such option"),
    "window and bbox": (
        arguments("scene.tif", "--window", "0,0,1,1", "--bbox", "0,0,1,1"),
        2,
        "A window and bounds exclude each other",
    ),
    "window of words": (arguments("scene.tif", "--window", "a,b"), 2, "four whole"),
    "window outside": (
        arguments("scene.tif", "--window", "30,0,2,1"),
        3,
        "Columns 30 to 32 and rows 0 to 1 were asked for; scene.tif has columns 0 to",
    ),
    "bbox elsewhere": (
        arguments("scene.tif", "--bbox", "0,0,1,1"),
        3,
        "does not meet the scene scene.tif",
    ),
    "too little memory": (
        arguments("scene.tif", "--max-memory", "100M"),
        6,
        "--max-memory allows 105 MB; this model needs about",
    ),
    "shard beyond": (arguments("scene.tif", "--shard", "3/3"), 2, "from 0 to N-1"),
    "style exists": (existing_style, 5, "scene_classes.qml exists"),
    "two outputs of one name": (
        arguments("scene.tif", "-o", "o.tif", "--vector", "./o.tif"),
        5,
        "Two outputs would be written",
    ),
    "list without scenes": (content("x.txt", b"# none\n"), 3, "names no scene"),
    "list that is no text": (content("x.txt", b"\xff\xfe\0"), 3, "cannot be read"),
    "list that is missing": (arguments("no.txt"), 3, "The list no.txt cannot be read"),
    "many scenes and a file": (
        arguments("scene.tif", "scene.tif", "-o", "o.tif"),
        5,
        "2 scenes: -o must be a folder that exists",
    ),
    "many scenes and one vector file": (
        arguments("scene.tif", "scene.tif", "--vector", "o.gpkg"),
        5,
        "--vector names one file",
    ),
    "one scene twice": (
        arguments("scene.tif", "./scene.tif"),
        5,
        "would both be written to scene_classes.tif",
    ),
    "no scene": (arguments(), 2, "Missing SCENE"),
    "no scene for a plan": (arguments("--dry-run"), 2, "Missing SCENE"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_input_is_a_sentence_and_touches_nothing(
    case: str, as_json: bool, place: Any, invoke: Any, digests: Any
) -> None:
    make, expected, fragment = BAD[case]
    given = make(place) + (["--json"] if as_json else [])
    before = digests(place.folder)
    code, out, err = invoke(main, *given)
    assert (code, out) == (expected, ""), err
    assert fragment in err
    assert "Error: " in err
    if expected > 2:
        said = [x for x in err.strip().splitlines() if not x.startswith("Engine: ")]
        assert [line.split(":")[0] for line in said[:-1]] == ["warning"] * len(said[1:])
        assert said[-1].startswith("Error: ")
    assert digests(place.folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder(place: Any, invoke: Any) -> None:
    folder = place.folder / "sub"
    folder.mkdir(mode=0o500)
    code, _, err = invoke(main, place.scene, "-o", folder / "o.tif")
    assert code == 5
    assert "not writable" in err
