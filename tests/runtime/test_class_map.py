import errno
import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from msgspec.structs import replace
from numpy.typing import NDArray
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from hsi_runtime.class_map import Scratch, check_outputs, layers, map_dtype, paths_of
from hsi_runtime.errors import OutputError, ResourceError, VerificationError
from hsi_runtime.geotiff import open_tiff
from hsi_runtime.model_file import ClassEntry, ModelDocument
from hsi_runtime.pipeline import Counts
from hsi_runtime.scene import SceneInfo

ALL = ("classes", "confidence", "probabilities")


NORTH_UP = Affine(2, 0, 4e5, 0, -2, 58e5)


def info_of(
    rows: int,
    cols: int,
    crs: str | None = "EPSG:32633",
    transform: Affine | None = NORTH_UP,
) -> SceneInfo:
    return SceneInfo(
        path=Path("scene.tif"),
        driver="memory",
        bands=4,
        rows=rows,
        cols=cols,
        dtype=np.dtype("uint16"),
        nodata=np.full(4, np.nan),
        good=np.ones(4, dtype=bool),
        block=(1, cols),
        crs=crs and CRS.from_string(crs).to_wkt(),
        transform=None if transform is None else transform.to_gdal(),
    )


def probabilities_of(rows: int, cols: int, classes: int = 3) -> NDArray[np.float32]:
    random = np.random.default_rng(0).random((classes, rows, cols)) ** 4
    shares: NDArray[np.float32] = (random / random.sum(axis=0)).astype(np.float32)
    return shares


def write_all(
    output: Path,
    document: ModelDocument,
    found: NDArray[np.float32],
    valid: NDArray[np.bool_] | None = None,
    wanted: tuple[str, ...] = ALL,
    info: SceneInfo | None = None,
    reject: float = 0.0,
) -> Counts:
    """Write probabilities in four squares, and publish."""
    rows, cols = found.shape[1:]
    valid = np.ones((rows, cols), dtype=bool) if valid is None else valid
    counts = Counts(np.zeros(len(document.classes), dtype=np.int64))
    codes = [c.code for c in document.classes]
    tags = {"HSI_METHOD": 'a "method" <&>'}
    rasters = layers(document, wanted)
    with Scratch(output, info or info_of(rows, cols), rasters, codes, tags) as scratch:
        for top, bottom in ((0, rows // 2), (rows // 2, rows)):
            for left, right in ((0, cols // 3), (cols // 3, cols)):
                part = slice(top, bottom), slice(left, right)
                known = valid[part]
                given = found[:, *part] if known.any() else None
                if known.size:
                    scratch.write(
                        (top, bottom), (left, right), given, known, reject, counts
                    )
        scratch.publish(scratch.convert(), paths_of(output))
    return counts


def with_codes(document: ModelDocument, *codes: int) -> ModelDocument:
    classes = [
        ClassEntry(code=c, name=f"class {c}", color=f"#{c % 256:02x}10ff")
        for c in codes
    ]
    return replace(document, classes=classes)


def only(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("top", "dtype", "nodata"),
    [
        (3, "uint8", 255),
        (254, "uint8", 255),
        (255, "uint16", 65535),
        (65534, "uint16", 65535),
    ],
)
def test_codes_are_the_users_and_nodata_is_declared(
    top: int, dtype: str, nodata: int, document: ModelDocument, tmp_path: Path
) -> None:
    described = with_codes(document, 1, top, 2)
    assert map_dtype(described) == dtype
    found = probabilities_of(9, 12)
    valid = np.ones((9, 12), dtype=bool)
    valid[0, :5] = valid[8, 11] = False
    counts = write_all(tmp_path / "o.tif", described, found, valid)
    with rasterio.open(tmp_path / "o.tif") as file:
        values = file.read(1)
        assert file.dtypes == (dtype,)
        assert file.nodata == nodata
        np.testing.assert_array_equal(file.dataset_mask() > 0, valid)
    expected = np.array([1, top, 2])[found.argmax(axis=0)]
    np.testing.assert_array_equal(values, np.where(valid, expected, nodata))
    assert counts.nodata == 6
    assert counts.of_class.tolist() == [(values == c).sum() for c in (1, top, 2)]


def test_names_and_colours(document: ModelDocument, tmp_path: Path) -> None:
    write_all(tmp_path / "o.tif", document, probabilities_of(5, 6))
    names = {0: "unclassified", 2: "grass", 3: "wet soil", 7: "Öl", 255: "nodata"}
    with rasterio.open(tmp_path / "o.tif") as file:
        tagged = json.loads(file.tags(1)["CLASS_NAMES"])
        assert {int(k): v for k, v in tagged.items()} == names
        assert file.tags()["HSI_METHOD"] == 'a "method" <&>'
        assert file.descriptions == ("class",)
        colours = file.colormap(1)
        assert colours[2][:3] == (0, 0xAA, 0)
        assert colours[3][:3] == (0x80, 0x40, 0)
        assert colours[7][:3] == (0, 0, 255)
        assert file.colorinterp[0].name == "palette"
    side_car = ElementTree.parse(tmp_path / "o.tif.aux.xml")
    listed = [c.text or "" for c in side_car.iter("Category")]
    assert {i: name for i, name in enumerate(listed) if name} == names


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine(2, 0, 4e5, 0, -2, 58e5)),
        ("EPSG:4326", Affine(1e-4, 0, 13.1, 0, -1e-4, 52.5)),
        ("EPSG:32733", Affine(1.5, 0.7, 4e5 + 1 / 3, 0.7, -1.5, 58e5)),
        ("EPSG:32633", Affine(2, 0, 4e5, 0, 2, 58e5)),
        (None, Affine(2, 0, 4e5, 0, -2, 58e5)),
        (None, None),
    ],
)
def test_georeference_is_that_of_the_scene(
    crs: str | None, transform: Affine | None, document: ModelDocument, tmp_path: Path
) -> None:
    found = probabilities_of(40, 30)
    write_all(tmp_path / "o.tif", document, found, info=info_of(40, 30, crs, transform))
    for name in ("o", "o_confidence", "o_probabilities"):
        with open_tiff(tmp_path / f"{name}.tif") as file:
            assert file.crs == (crs and CRS.from_string(crs))
            expected = transform or Affine.identity()
            np.testing.assert_allclose(
                file.transform.to_gdal(), expected.to_gdal(), rtol=1e-15, atol=1e-15
            )


@pytest.mark.parametrize("shape", [(1, 1), (37, 512), (513, 700), (1100, 530)])
def test_every_output_is_a_strictly_valid_cog(
    shape: tuple[int, int], document: ModelDocument, tmp_path: Path
) -> None:
    write_all(tmp_path / "o.tif", document, probabilities_of(*shape))
    for name in ("o", "o_confidence", "o_probabilities"):
        path = tmp_path / f"{name}.tif"
        valid, problems, warnings = cog_validate(path, strict=True)
        assert valid, (problems, warnings)
        with rasterio.open(path) as file:
            assert file.compression.name == "deflate"
            assert bool(file.overviews(1)) == (max(shape) > 512)


def test_overviews_of_a_class_map_hold_only_its_codes(
    document: ModelDocument, tmp_path: Path
) -> None:
    write_all(tmp_path / "o.tif", document, probabilities_of(800, 800), wanted=ALL[:1])
    with rasterio.open(tmp_path / "o.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= {2, 3, 7}


def test_confidence_and_probabilities_are_steps_of_a_half_per_cent(
    document: ModelDocument, tmp_path: Path
) -> None:
    found = probabilities_of(21, 20)
    valid = np.random.default_rng(1).random((21, 20)) > 0.2
    write_all(tmp_path / "o_classes.tif", document, found, valid)
    with rasterio.open(tmp_path / "o_probabilities.tif") as file:
        stored = file.read()
        assert file.dtypes == ("uint8",) * 3
        assert file.descriptions == ("grass", "wet soil", "Öl")
        assert set(file.scales) == {1 / 200}
        assert set(file.nodatavals) == {255}
    np.testing.assert_allclose(
        stored[:, valid] / 200, found[:, valid], atol=1 / 400 + 1e-6
    )
    assert (stored[:, ~valid] == 255).all()
    with rasterio.open(tmp_path / "o_confidence.tif") as file:
        confidence = file.read(1)
        assert file.scales == (1 / 200,)
    np.testing.assert_array_equal(confidence[valid], stored.max(axis=0)[valid])
    assert stored[:, valid].max() <= 200


def test_rejected_pixels_are_unclassified(
    document: ModelDocument, tmp_path: Path
) -> None:
    found = probabilities_of(20, 20)
    counts = write_all(tmp_path / "o.tif", document, found, reject=0.7)
    with rasterio.open(tmp_path / "o.tif") as file:
        values = file.read(1)
        assert (file.dataset_mask() == 255).all()  # 0 is no nodata
    np.testing.assert_array_equal(values == 0, found.max(axis=0) < 0.7)
    assert counts.unclassified == (values == 0).sum()


def test_same_call_twice_gives_the_same_bytes(
    document: ModelDocument,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, zone in (("a", "Pacific/Kiritimati"), ("b", "UTC")):
        monkeypatch.setenv("TZ", zone)
        (tmp_path / name).mkdir()
        write_all(tmp_path / name / "o.tif", document, probabilities_of(600, 90))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert only(tmp_path / "a") == {
        "o.tif", "o.tif.aux.xml", "o_confidence.tif", "o_probabilities.tif"
    }  # fmt: skip


def change_pixels(path: Path) -> None:
    with rasterio.open(path) as file:
        values, profile = file.read(), file.profile
    values[0, 0, 0] = 7 if values[0, 0, 0] != 7 else 2
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def shrink(path: Path) -> None:
    with rasterio.open(path) as file:
        profile = file.profile
    with rasterio.open(path, "w", **{**profile, "height": 10}):
        pass


@pytest.mark.parametrize("damage", [change_pixels, cut, empty, shrink])
def test_damaged_result_is_never_published(
    damage: Callable[[Path], None],
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = rasterio.shutil.copy

    def faulty(source: Path, target: Path, **options: Any) -> None:
        copy(source, target, **options)
        damage(target)

    monkeypatch.setattr(rasterio.shutil, "copy", faulty)
    (tmp_path / "o.tif").write_bytes(b"old")
    with pytest.raises(VerificationError, match="finished classes raster"):
        write_all(tmp_path / "o.tif", document, probabilities_of(60, 60))
    assert only(tmp_path) == {"o.tif"}
    assert (tmp_path / "o.tif").read_bytes() == b"old"


def test_second_writer_of_one_output_is_refused(
    document: ModelDocument, tmp_path: Path
) -> None:
    output, info = tmp_path / "o.tif", info_of(4, 4)
    rasters = layers(document, ["classes"])
    with Scratch(output, info, rasters, [2, 3, 7], {}):
        with (
            pytest.raises(OutputError, match="Another hsi-run is writing"),
            Scratch(output, info, rasters, [2, 3, 7], {}),
        ):
            pytest.fail("two writers")
        assert only(tmp_path / "o.tif.hsi-part") == {"lock", "classes.raw"}
        other = Scratch(tmp_path / "other.tif", info, rasters, [2, 3, 7], {})
        with other:
            pass
    assert only(tmp_path) == set()


def test_what_a_killed_run_left_is_no_obstacle(
    document: ModelDocument, tmp_path: Path
) -> None:
    part = tmp_path / "o.tif.hsi-part"
    part.mkdir()
    (part / "lock").touch()
    (part / "classes.raw").write_bytes(b"x" * 10_000)
    write_all(tmp_path / "o.tif", document, probabilities_of(6, 6), wanted=ALL[:1])
    assert only(tmp_path) == {"o.tif", "o.tif.aux.xml"}


def test_full_disk_is_met_at_the_start(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"is full; the outputs need up to 0\.1 MB"):
        write_all(tmp_path / "o.tif", document, probabilities_of(100, 100))
    assert only(tmp_path) == set()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_write_leaves_nothing(
    number: int,
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[int] = []
    pwrite = os.pwrite

    def failing(file: int, data: bytes, offset: int) -> int:
        written.append(offset)
        if len(written) == 30:
            raise OSError(number, "a fault")
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    expected = OutputError if number == errno.EIO else ResourceError
    with pytest.raises(expected):
        write_all(tmp_path / "o.tif", document, probabilities_of(50, 50))
    assert only(tmp_path) == set()


def test_partial_writes_are_continued(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset)
    )
    found = probabilities_of(20, 20)
    write_all(tmp_path / "o.tif", document, found, wanted=ALL[:1])
    with rasterio.open(tmp_path / "o.tif") as file:
        expected = np.array([2, 3, 7])[found.argmax(axis=0)]
        np.testing.assert_array_equal(file.read(1), expected)


def test_disk_that_fills_up_at_the_end(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rasterio.shutil.copy
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(source: Path, target: Path, **options: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        try:
            copy(source, target, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(rasterio.shutil, "copy", limited)
    with pytest.raises((ResourceError, VerificationError), match=r"disk|GeoTIFF"):
        write_all(tmp_path / "o.tif", document, probabilities_of(300, 300))
    assert only(tmp_path) == set()


def test_gdal_error_while_copying_is_a_sentence(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rasterio._err import CPLE_FileIOError

    def failing(*_: object, **__: object) -> None:
        raise CPLE_FileIOError(3, 3, "write failed")

    monkeypatch.setattr(rasterio.shutil, "copy", failing)
    with pytest.raises(ResourceError, match="cannot be turned into a GeoTIFF"):
        write_all(tmp_path / "o.tif", document, probabilities_of(5, 5))
    assert only(tmp_path) == set()


def test_replaced_map_takes_its_old_side_cars_along(
    document: ModelDocument, tmp_path: Path
) -> None:
    for name in ("o.tif.aux.xml", "o_confidence.tif.aux.xml"):
        (tmp_path / name).write_text("<PAMDataset><!-- stale --></PAMDataset>")
    write_all(tmp_path / "o.tif", document, probabilities_of(5, 5), wanted=ALL[:2])
    assert only(tmp_path) == {"o.tif", "o.tif.aux.xml", "o_confidence.tif"}
    assert "stale" not in (tmp_path / "o.tif.aux.xml").read_text()


def test_class_map_appears_last(
    document: ModelDocument, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[str] = []
    original = os.replace

    def replacing(source: Path, target: Path) -> None:
        renamed.append(target.name)
        original(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    write_all(tmp_path / "o.tif", document, probabilities_of(5, 5))
    assert renamed[-1] == "o.tif"
    assert set(renamed) == only(tmp_path)


def test_outputs_are_named_after_the_class_map() -> None:
    assert {k: p.name for k, p in paths_of(Path("a/b_classes.tif")).items()} == {
        "classes": "b_classes.tif",
        "confidence": "b_confidence.tif",
        "probabilities": "b_probabilities.tif",
        "preview": "b_preview.png",
    }
    assert paths_of(Path("c.tiff"))["confidence"].name == "c_confidence.tif"


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    scene, free = tmp_path / "s.tif", tmp_path / "free.tif"
    scene.write_bytes(b"scene")
    check_outputs([free], [scene], overwrite=False)
    (tmp_path / "link.tif").symlink_to(scene)
    (tmp_path / "hard.tif").hardlink_to(scene)
    (tmp_path / "sub").mkdir()
    for alias in ("s.tif", "link.tif", "hard.tif", "sub/../s.tif"):
        with pytest.raises(OutputError, match="is the input"):
            check_outputs([free, tmp_path / alias], [scene], overwrite=True)
    cases = {
        "sub": "is a folder",
        "nowhere/o.tif": "There is no folder",
        "s.tif/o.tif": "There is no folder",
        "long" * 90 + ".tif": "cannot be written: File name too long",
    }
    for name, match in cases.items():
        with pytest.raises(OutputError, match=match):
            check_outputs([tmp_path / name], [], overwrite=True)
    with pytest.raises(OutputError, match=r"exists; --overwrite replaces it"):
        check_outputs([scene], [], overwrite=False)
    check_outputs([scene], [], overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="not writable"):
            check_outputs([tmp_path / "o.tif"], [], overwrite=False)
    finally:
        tmp_path.chmod(0o700)


def test_concurrent_writers_of_different_outputs(
    document: ModelDocument, tmp_path: Path
) -> None:
    names = [f"{n}.tif" for n in range(4)]
    threads = [
        threading.Thread(
            target=write_all, args=(tmp_path / n, document, probabilities_of(30, 30))
        )
        for n in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / n).read_bytes() for n in names}) == 1
