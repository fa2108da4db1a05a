import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from scipy.io import savemat

Cli = Callable[..., Any]
Digests = Callable[[Path], dict[str, str]]


def damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class Ground:
    """A folder with a good scene and labels, and ways to spoil them."""

    def __init__(self, folder: Path, example: Any) -> None:
        self.folder = folder
        self.scene = Path(shutil.copy(example.scene, folder / "scene.tif"))
        self.labels = Path(shutil.copy(example.labels, folder / "labels.tif"))

    def raster(self, name: str, change: Callable[[Any], Any], **profile: Any) -> Path:
        """Write changed labels."""
        with rasterio.open(self.labels) as source:
            values = change(source.read(1))
            settings = source.profile | {"dtype": values.dtype, "nodata": None}
        settings |= {"height": values.shape[0], "width": values.shape[1]} | profile
        settings |= {"tiled": False}
        for key in ("blockxsize", "blockysize"):
            settings.pop(key, None)
        path = self.folder / name
        with rasterio.open(path, "w", **settings) as out:
            out.write(values, 1)
        return path

    def file(self, name: str, content: bytes | str) -> Path:
        raw = content.encode() if isinstance(content, str) else content
        return damaged(self.folder / name, raw)

    def matlab(self, name: str, **arrays: Any) -> Path:
        savemat(self.folder / name, arrays)
        return self.folder / name

    def vector(self, name: str, west: float, **properties: Any) -> Path:
        square = [[west, 52], [west + 1, 52], [west + 1, 53], [west, 53], [west, 52]]
        feature = {
            "type": "Feature",
            "properties": properties,
            "geometry": {"type": "Polygon", "coordinates": [square]},
        }
        content = {"type": "FeatureCollection", "features": [feature]}
        return self.file(name, json.dumps(content))

    def nan_cube(self) -> Path:
        with rasterio.open(self.scene) as source:
            settings = source.profile | {"dtype": "float32", "nodata": None}
            cube = np.full(source.read().shape, np.nan, dtype=np.float32)
        with rasterio.open(self.folder / "nan.tif", "w", **settings) as out:
            out.write(cube)
        return self.folder / "nan.tif"

    def run(self) -> Path:
        (self.folder / "run").mkdir()
        self.file("run/recipe.toml", "method = 'mf2cnet'")
        return self.folder / "run"

    def empty(self) -> Path:
        (self.folder / "none").mkdir()
        return self.folder / "none"


def rare(codes: Any) -> Any:
    out = np.where(codes == 1, 2, codes)
    out[3, 3] = 1
    return out


# name: (exit code, part of the message, options instead of the good ones)
Case = tuple[int, str, Callable[[Ground], dict[str, Any]]]
BAD_INPUT: dict[str, Case] = {
    "no method": (2, "Missing METHOD", lambda g: {"what": ()}),
    "missing scene": (3, "no file", lambda g: {"scene": g.folder / "no.tif"}),
    "no scene option": (2, "Missing --scene", lambda g: {"scene": ()}),
    "no labels option": (2, "Missing --labels", lambda g: {"labels": ()}),
    "missing labels": (3, "no file", lambda g: {"labels": g.folder / "no.tif"}),
    "scene is a folder without scenes": (
        3, "holds no .tif", lambda g: {"scene": g.empty()}),
    "labels are a folder": (3, "is a folder", lambda g: {"labels": g.empty()}),
    "unknown method": (4, "no method or recipe mf3cnet", lambda g: {"what": "mf3cnet"}),
    "unknown recipe": (
        4, "no method or recipe", lambda g: {"what": g.folder / "no.toml"}),
    "bad TOML": (4, "is not TOML", lambda g: {"what": g.file("r.toml", "method = [")}),
    "binary TOML": (
        4, "is not TOML", lambda g: {"what": g.file("r.toml", b"\xff\xfe")}),
    "unknown key in the recipe": (
        4, "unknown field `colour`",
        lambda g: {"what": g.file("r.toml", "method='mf2cnet'\ncolour=1")}),
    "section that is a value": (
        4, "data must be a section",
        lambda g: {"what": g.file("r.toml", "method='mf2cnet'\ndata=3")}),
    "fit that is a value": (
        4, "fit must be a section",
        lambda g: {"what": g.file("r.toml", "method='mf2cnet'\nfit=3")}),
    "recipe without a method": (
        4, "field `method`", lambda g: {"what": g.file("r.toml", "seed=1")}),
    "class file of an unset variable": (
        4, "length >= 1 - at `$.data.classes`", lambda g: {"classes": ""}),
    "label field of an unset variable": (
        4, "length >= 1 - at `$.data.label_field`", lambda g: {"label-field": ""}),
    "encoder of an unset variable": (
        4, "length >= 1 - at `$.pretrain.init`", lambda g: {"init": ""}),
    "--set of another form": (4, "section.key=value", lambda g: {"set": "epochs"}),
    "--set of an unknown key": (
        4, "unknown field `epoch`", lambda g: {"set": "fit.epoch=3"}),
    "--set of a wrong type": (4, "Expected `int", lambda g: {"set": "fit.epochs=many"}),
    "--set of no number": (
        4, "learning_rate", lambda g: {"set": "fit.learning_rate=inf"}),
    "unknown option of the method": (
        4, "[options] of mf2cnet", lambda g: {"set": "options.depth=3"}),
    "option of the method out of range": (
        4, "[options] of mf2cnet", lambda g: {"set": "options.dropout=1.5"}),
    "two ways to split": (
        2, "exclude each other", lambda g: {"train-fraction": 0.5}),
    "disjoint and per class": (
        2, "exclude each other", lambda g: {"split": "disjoint"}),
    "fraction of one": (
        2, "train-fraction", lambda g: {"samples": (), "train-fraction": 1}),
    "no epochs": (2, "epochs", lambda g: {"epochs": 0}),
    "negative seed": (2, "seed", lambda g: {"seed": -1}),
    "unknown device": (2, "device", lambda g: {"device": "tpu"}),
    "text named .tif": (
        3, "neither a TIFF nor",
        lambda g: {"scene": g.file("text.tif", "hello " * 99)}),
    "empty file named .tif": (
        3, "neither a TIFF nor", lambda g: {"scene": g.file("void.tif", "")}),
    "truncated TIFF": (
        3, "cut.tif", lambda g: {
            "scene": g.file("cut.tif", g.scene.read_bytes()[:20_000])}),
    "TIFF of a header only": (
        3, "cut.tif", lambda g: {"scene": g.file("cut.tif", g.scene.read_bytes()[:8])}),
    "truncated label TIFF": (
        3, "cut.tif", lambda g: {
            "labels": g.file("cut.tif", g.labels.read_bytes()[:600])}),
    "MATLAB file with two cubes": (
        3, "2 3-D arrays", lambda g: {
            "scene": g.matlab("two.mat", a=np.ones((4, 4, 3)), b=np.ones((4, 4, 3)))}),
    "MATLAB file without a cube": (
        3, "0 3-D arrays", lambda g: {"scene": g.matlab("gt.mat", gt=np.ones((4, 4)))}),
    "MATLAB variable that is not there": (
        3, "no 3-D array 'x'", lambda g: {
            "scene": f"{g.matlab('a.mat', a=np.ones((4, 4, 3)))}:x"}),
    "damaged MATLAB file": (
        3, "not a readable MATLAB file", lambda g: {
            "scene": g.file("bad.mat", "MATLAB 5.0 MAT-file" + "?" * 500)}),
    "cube as labels": (3, "12 bands; labels have one", lambda g: {"labels": g.scene}),
    "labels of another size": (
        3, "40 x 39 pixels",
        lambda g: {"labels": g.raster("l.tif", lambda c: c[:, 1:])}),
    "shifted labels": (
        3, "grid lies elsewhere", lambda g: {
            "labels": g.raster(
                "l.tif", lambda c: c,
                transform=Affine(8, 0, 400_008, 0, -8, 5_800_000))}),
    "labels all zero": (
        3, "No labelled pixel",
        lambda g: {"labels": g.raster("l.tif", lambda c: c * 0)}),
    "one class": (
        3, "at least two", lambda g: {"labels": g.raster("l.tif", lambda c: c // c)}),
    "class of one pixel": (
        3, "grass has 1", lambda g: {"labels": g.raster("l.tif", rare),
                                     "classes": g.file("c.json", '{"1": "grass"}')}),
    "disjoint split impossible": (
        3, "One labelled pixel cannot both train and test", lambda g: {
            "samples": (), "labels": g.raster("l.tif", rare)}),
    "negative labels": (
        3, "whole label codes", lambda g: {
            "labels": g.raster("l.tif", lambda c: c.astype("int16") - 2)}),
    "fractional labels": (
        3, "whole label codes", lambda g: {
            "labels": g.raster("l.tif", lambda c: c.astype("float32") / 2)}),
    "labels too large": (
        3, "to 65534", lambda g: {
            "labels": g.raster("l.tif", lambda c: c.astype("int32") * 40_000)}),
    "cube of NaN": (3, "nodata in every band", lambda g: {"scene": g.nan_cube()}),
    "vector file without the field": (
        3, "Fields: a, b", lambda g: {"labels": g.vector("v.geojson", 13, a=1, b=2)}),
    "vector file elsewhere": (
        3, "No labelled pixel", lambda g: {
            "labels": g.vector("v.geojson", -60, code=1), "label-field": "code"}),
    "vector file that is none": (
        3, "not a readable vector file", lambda g: {
            "labels": g.file("v.gpkg", "SQLite format 4")}),
    "vector file on a scene without georeference": (
        3, "has no georeference", lambda g: {
            "scene": g.matlab("c.mat", c=np.ones((4, 4, 3))),
            "labels": g.vector("v.geojson", 13, code=1)}),
    "two vector files": (
        3, "one vector file for all", lambda g: {
            "labels": tuple(g.vector(f"{n}.geojson", 13, c=1) for n in "ab")}),
    "field for a raster": (
        3, "--label-field needs polygons", lambda g: {"label-field": "genus"}),
    "one label raster for two scenes": (
        3, "1 label raster(s) for 2 scene(s)", lambda g: {"scene": (g.scene, g.scene)}),
    "class names that are no JSON": (
        3, "c.json", lambda g: {"classes": g.file("c.json", '{"1": ')}),
    "class colour that is none": (
        3, "colour 'red'", lambda g: {
            "classes": g.file("c.json", '[{"code": 1, "name": "a", "color": "red"}]')}),
    "missing class file": (3, "no.json", lambda g: {"classes": g.folder / "no.json"}),
    "split raster with other values": (
        3, "a split has 0 unused", lambda g: {
            "samples": (), "split": g.raster("s.tif", lambda c: c + 4)}),
    "areas of a split that is no sample": (
        4, "no random sample", lambda g: {"samples": (), "probability-sample": None}),
    "split raster without test pixels": (
        3, "no labelled pixel is test", lambda g: {
            "samples": (), "split": g.raster("s.tif", lambda c: c // c)}),
    "split raster of another size": (
        3, "39 x 40 pixels", lambda g: {
            "samples": (), "split": g.raster("s.tif", lambda c: c[1:])}),
    "missing split raster": (
        3, "no file", lambda g: {"samples": (), "split": g.folder / "no.tif"}),
    "more samples than pixels": (
        3, "leaves no test pixel", lambda g: {"samples": 100_000}),
    "output exists": (5, "is not empty", lambda g: {"output": g.run()}),
    "output is a file": (5, "is a file", lambda g: {"output": g.file("out", "mine")}),
    "output below a file": (
        5, "cannot be written", lambda g: {"output": g.file("out", "mine") / "run"}),
    "overwrite of what is no run": (
        5, "no run of hsi-train", lambda g: {"output": g.folder, "overwrite": None}),
    "resume without a run": (5, "no interrupted run", lambda g: {"resume": None}),
    "resume and overwrite": (
        2, "exclude each other", lambda g: {"resume": None, "overwrite": None}),
    "no GPU": (4, "no CUDA device", lambda g: {"device": "cuda"}),
    "variable that is not set": (
        4, "not set", lambda g: {"scene": "$HSI_TEST_NOWHERE/scene.tif"}),
    "steps of one pixel": (4, "fit.batch is 1", lambda g: {"set": "fit.batch=1"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(
    cli: Cli,
    example: Any,
    tmp_path: Path,
    digests: Digests,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    code, message, spoil = BAD_INPUT[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("HSI_TEST_NOWHERE", raising=False)
    ground = Ground(tmp_path, example)
    options: dict[str, Any] = {
        "scene": ground.scene,
        "labels": ground.labels,
        "samples": 5,
        "output": tmp_path / "new" / "run",
    } | spoil(ground)
    what = options.pop("what", "mf2cnet")
    before = digests(tmp_path)
    arguments: list[Any] = [] if what == () else [what]
    for key, value in options.items():
        option = "--samples-per-class" if key == "samples" else f"--{key}"
        if value is None:
            arguments.append(option)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            arguments += [option, one]
    done = cli(*arguments)
    assert done.code == code, done.err
    assert message in " ".join(done.err.split()), done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert digests(tmp_path) == before


@pytest.mark.parametrize("value", [1e30, 9.96921e36])
def test_a_pixel_with_an_undeclared_fill_value_stops_training(
    cli: Cli, tmp_path: Path, example: Any, value: float
) -> None:
    """Once it trained, its model passed its proof, and the map was of one class."""
    ground = Ground(tmp_path, example)
    with rasterio.open(ground.scene) as source:
        settings = source.profile | {"dtype": "float32"}
        cube = source.read().astype(np.float32) / 1e4
    cube[3, 20, 20] = value
    with rasterio.open(tmp_path / "wild.tif", "w", **settings) as out:
        out.write(cube)
    wild = ("--scene", tmp_path / "wild.tif", "--labels", ground.labels)
    few = ("--samples-per-class", "20", "--epochs", "1", "-o", tmp_path / "run")
    done = cli("mf2cnet", *wild, *few)
    assert done.code == 3
    assert "wild.tif holds 1 pixel" in done.err
    assert not (tmp_path / "run").exists()
