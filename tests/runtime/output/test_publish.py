import json
import os
import random
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
from numpy.typing import NDArray
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_validate

from hsi_runtime.errors import ResourceError, VerificationError
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output import publish
from hsi_runtime.output.journal import Journal
from hsi_runtime.output.layers import Counts, layers
from hsi_runtime.scenes.geotiff import open_tiff
from hsi_runtime.scenes.scene import SceneInfo

ALL = ("classes", "confidence", "probabilities")


def only(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def assert_resumes_well(
    folder: Path,
    document: ModelDocument,
    write_all: Callable[..., Counts],
    found: NDArray[np.float32],
) -> None:
    """Repeat a run that failed: it gives what a run without the fault gives."""
    write_all(folder / "o.tif", document, found)
    (folder / "fresh").mkdir()
    write_all(folder / "fresh" / "o.tif", document, found)
    assert only(folder) == only(folder / "fresh") | {"fresh"}
    for path in (folder / "fresh").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_names_and_colours(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
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
    crs: str | None,
    transform: Affine | None,
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
    info_of: Callable[..., SceneInfo],
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
    shape: tuple[int, int],
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
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
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    write_all(tmp_path / "o.tif", document, probabilities_of(800, 800), wanted=ALL[:1])
    with rasterio.open(tmp_path / "o.tif", overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= {2, 3, 7}


def test_same_call_twice_gives_the_same_bytes(
    document: ModelDocument,
    tmp_path: Path,
    digests: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
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
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    copy = rasterio.shutil.copy

    def faulty(source: Path, target: Path, **options: Any) -> None:
        copy(source, target, **options)
        damage(target)

    monkeypatch.setattr(rasterio.shutil, "copy", faulty)
    (tmp_path / "o.tif").write_bytes(b"old")
    with pytest.raises(VerificationError, match="finished classes raster"):
        write_all(tmp_path / "o.tif", document, probabilities_of(60, 60))
    assert only(tmp_path) == {"o.tif", "o.tif.hsi-part"}
    assert (tmp_path / "o.tif").read_bytes() == b"old"
    monkeypatch.undo()
    assert_resumes_well(tmp_path, document, write_all, probabilities_of(60, 60))


def test_disk_that_fills_up_at_the_end(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
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
    assert only(tmp_path) == {"o.tif.hsi-part"}
    monkeypatch.undo()
    assert_resumes_well(tmp_path, document, write_all, probabilities_of(300, 300))


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("compress", ["deflate", "none"])
def test_full_disk_is_told_whatever_gdal_says_of_it(
    cores: int,
    compress: str,
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    info_of: Callable[..., SceneInfo],
) -> None:
    """It may say nothing, or fail without an error, by the byte where the disk ends."""
    monkeypatch.setattr(publish, "usable_cores", lambda: cores)
    rows, cols = 600, 700
    values = np.random.default_rng(0).integers(0, 8, (1, rows, cols), dtype=np.uint8)
    sizes, before = random.Random(0), resource.getrlimit(resource.RLIMIT_FSIZE)
    chosen = layers(document, ["classes"])
    failed = 0
    with Journal(tmp_path / "o.tif", info_of(rows, cols), chosen, {}) as journal:
        counts = Counts([0, 0, 0])
        journal.write(0, (0, rows), (0, cols), {"classes": values}, counts)
        publish.convert(journal, {}, compress)
        whole = (journal.folder / "classes.tif").stat().st_size
        for _ in range(30):
            limit = sizes.randrange(whole)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                publish.convert(journal, {}, compress)
            except ResourceError:
                failed += 1
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failed == 30


def test_compression_keeps_to_the_cores_it_may_use(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digests: Callable[[Path], dict[str, str]],
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    copy, used = rasterio.shutil.copy, []

    def watched(*args: Any, **options: Any) -> None:
        used.append(rasterio.env.getenv()["GDAL_NUM_THREADS"])
        copy(*args, **options)

    monkeypatch.setattr(rasterio.shutil, "copy", watched)
    for cores in (1, 3):
        monkeypatch.setattr(publish, "usable_cores", lambda cores=cores: cores)
        (tmp_path / str(cores)).mkdir()
        write_all(tmp_path / f"{cores}/o.tif", document, probabilities_of(600, 600))
    assert used == [1] * 3 + [3] * 3
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_gdal_error_while_copying_is_a_sentence(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    from rasterio._err import CPLE_FileIOError

    def failing(*_: object, **__: object) -> None:
        raise CPLE_FileIOError(3, 3, "write failed")

    monkeypatch.setattr(rasterio.shutil, "copy", failing)
    with pytest.raises(ResourceError, match="cannot be turned into a GeoTIFF"):
        write_all(tmp_path / "o.tif", document, probabilities_of(5, 5))
    assert only(tmp_path) == {"o.tif.hsi-part"}
    monkeypatch.undo()
    assert_resumes_well(tmp_path, document, write_all, probabilities_of(5, 5))


def test_replaced_map_takes_its_old_side_cars_along(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    for name in ("o.tif.aux.xml", "o_confidence.tif.aux.xml"):
        (tmp_path / name).write_text("<PAMDataset><!-- stale --></PAMDataset>")
    write_all(tmp_path / "o.tif", document, probabilities_of(5, 5), wanted=ALL[:2])
    assert only(tmp_path) == {"o.tif", "o.tif.aux.xml", "o_confidence.tif"}
    assert "stale" not in (tmp_path / "o.tif.aux.xml").read_text()


def test_class_map_appears_last(
    document: ModelDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
) -> None:
    renamed: list[str] = []
    original = os.replace

    def replacing(source: Path, target: Path) -> None:
        if target.parent == tmp_path:
            renamed.append(target.name)
        original(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    write_all(tmp_path / "o.tif", document, probabilities_of(5, 5))
    assert renamed[-1] == "o.tif"
    assert set(renamed) == only(tmp_path)


def test_concurrent_writers_of_different_outputs(
    document: ModelDocument,
    tmp_path: Path,
    write_all: Callable[..., Counts],
    probabilities_of: Callable[..., NDArray[np.float32]],
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
