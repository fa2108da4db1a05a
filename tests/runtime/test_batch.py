import errno
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsi_runtime import batch
from hsi_runtime.batch import expand, make_requests, output_of, shard
from hsi_runtime.cli import main
from hsi_runtime.engines.onnxruntime_cpu import OnnxruntimeCpu
from hsi_runtime.errors import OutputError, SceneError
from hsi_runtime.model.model_file import PROBABILITIES, read_model
from hsi_runtime.request import Options

Write = Callable[..., Path]
OPTIONS = Options()


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("mark", "coding"), [("", "utf-8"), ("\ufeff", "utf-8"), ("", "utf-16")]
)
def test_lists_have_comments_and_paths_relative_to_themselves(
    ending: str, mark: str, coding: str, tmp_path: Path
) -> None:
    lines = ["a.tif", "  sub/b c.img  ", "# old.tif", "", "/data/Öl.tif"]
    listed = tmp_path / "list.TXT"
    listed.write_bytes((mark + ending.join(lines)).encode(coding))
    assert expand([Path("x.tif"), listed, Path("y.hdr")]) == [
        Path("x.tif"),
        tmp_path / "a.tif",
        tmp_path / "sub" / "b c.img",
        Path("/data/Öl.tif"),
        Path("y.hdr"),
    ]


def test_lists_that_are_none(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("# nothing\n\n")
    binary.write_bytes(b"\xfa\xfe\x00")
    with pytest.raises(SceneError, match="names no scene"):
        expand([empty])
    for path in (binary, tmp_path / "missing.txt", tmp_path):
        with pytest.raises(SceneError, match="cannot be read"):
            expand([path.with_suffix(".txt") if path == tmp_path else path])


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_list_that_never_ends_is_not_read(kind: str, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    if kind == "pipe":
        os.mkfifo(listed)
    else:
        listed.symlink_to("/dev/zero")
    if kind == "link to a device":
        (tmp_path / "again.txt").symlink_to(listed)
        listed = tmp_path / "again.txt"
    with pytest.raises(SceneError, match="cannot be read: it is not a regular file"):
        expand([listed])


def test_list_of_any_size_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a.tif\n" * 10)
    monkeypatch.setattr(batch, "MAX_LIST_BYTES", 60)
    assert len(expand([listed])) == 10
    monkeypatch.setattr(batch, "MAX_LIST_BYTES", 59)
    with pytest.raises(SceneError, match="MB; split it"):
        expand([listed])


def test_list_of_more_scenes_than_anybody_has_is_refused(tmp_path: Path) -> None:
    """Found by the fuzz: 600 kB of names took seconds, 16 MB a minute."""
    listed = tmp_path / "list.txt"
    listed.write_text("a\n" * batch.MAX_LISTED + "\r\n#\n")
    assert len(expand([listed])) == batch.MAX_LISTED
    listed.write_text("a\n" * 7_999_999)
    with pytest.raises(SceneError, match="names more than 100000 scenes; split it"):
        expand([listed])
    listed.write_text("\n" * 15_999_999)
    with pytest.raises(SceneError, match="names no scene"):
        expand([listed])


def test_names_hold_what_unicode_calls_the_end_of_a_line(tmp_path: Path) -> None:
    names = ["a\u2028b.tif", "c\x0bd.tif", "e\x85f.tif"]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8")
    assert expand([tmp_path / "list.txt"]) == [tmp_path / name for name in names]


@given(st.binary() | st.text().map(str.encode))
@example(b"a\0b.tif")
@example(b"\xef\xbb\xbf#\n\r \t\n" + b"x" * 5000)
def test_any_bytes_are_a_list_or_an_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list.txt"
        listed.write_bytes(content)
        try:
            scenes = expand([listed])
            requests = make_requests(scenes, None, OPTIONS, many=True)
        except (SceneError, OutputError):
            return
    assert [request.scene for request in requests] == scenes


@given(st.lists(st.integers()), st.integers(1, 40))
def test_shards_are_a_partition(items: list[int], count: int) -> None:
    numbered = list(enumerate(items))
    parts = [shard(numbered, (part, count)) for part in range(count)]
    assert sorted(item for part in parts for item in part) == numbered
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert shard(numbered, None) == numbered


def test_outputs_lie_beside_their_scenes_or_in_the_folder(tmp_path: Path) -> None:
    scene = Path("a/s.tif")
    assert output_of(scene, None, many=False) == Path("a/s_classes.tif")
    assert output_of(scene, None, many=True) == Path("a/s_classes.tif")
    assert output_of(scene, Path("o.tif"), many=False) == Path("o.tif")
    assert output_of(scene, tmp_path, many=True) == tmp_path / "s_classes.tif"
    assert output_of(Path("s.img.hdr"), None, many=True).name == "s.img_classes.tif"
    assert output_of(Path("a.b.tif"), None, many=True).name == "a.b_classes.tif"
    product = tmp_path / "ENMAP.L2A"
    product.mkdir()
    assert output_of(product, None, False) == tmp_path / "ENMAP.L2A_classes.tif"


def test_two_scenes_of_one_output_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    pairs = [
        ([tmp_path / "s.tif", tmp_path / "s.img"], None),
        ([tmp_path / "s.tif", tmp_path / "sub" / "s.tif"], tmp_path),
        ([tmp_path / "s.tif", tmp_path / "sub" / ".." / "s.tif"], None),
    ]
    for scenes, output in pairs:
        with pytest.raises(OutputError, match=r"would both be written to .*s_classes"):
            make_requests(scenes, output, OPTIONS, many=True)
    made = make_requests(
        [tmp_path / "s.tif", tmp_path / "sub" / "s.tif"], None, OPTIONS, True
    )
    assert [r.output.parent for r in made] == [tmp_path, tmp_path / "sub"]


def test_many_scenes_need_a_folder(tmp_path: Path) -> None:
    for output in (tmp_path / "o.tif", tmp_path / "no"):
        with pytest.raises(OutputError, match="2 scenes: -o must be a folder"):
            make_requests([Path("a.tif"), Path("b.tif")], output, OPTIONS, True)
    options = Options(vector=Path("v.gpkg"))
    with pytest.raises(OutputError, match="give one scene at a time"):
        make_requests([Path("a.tif"), Path("b.tif")], tmp_path, options, True)


class Place(NamedTuple):
    folder: Path
    model: Path
    names: list[str]


@pytest.fixture
def place(
    tmp_path: Path, cube: NDArray[Any], write_model: Write, write_scene_tiff: Write
) -> Place:
    """Four scenes and a broken one in their midst, in a list."""
    names = [f"s{n}" for n in range(4)]
    for number, name in enumerate(names):
        write_scene_tiff(tmp_path / f"{name}.tif", np.roll(cube, number, axis=2))
    (tmp_path / "bad.tif").write_bytes(b"no scene")
    listed = ["s0.tif", "s1.tif", "bad.tif", "s2.tif", "s3.tif"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    (tmp_path / "out").mkdir()
    return Place(tmp_path, write_model(tmp_path / "m.onnx"), names)


def test_bad_scene_does_not_stop_the_others(
    place: Place, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = OnnxruntimeCpu.__init__

    def counted(self: Any, *options: Any) -> None:
        started.append(1)
        start(self, *options)

    monkeypatch.setattr(OnnxruntimeCpu, "__init__", counted)
    arguments = [place.folder / "list.txt", "-m", place.model, "-o"]
    code, out, err = invoke(main, *arguments, place.folder / "out", "--json")
    assert code == 3
    found = json.loads(out)
    assert set(found) == {"scenes", "summary"}
    states = [s["status"] for s in found["scenes"]]
    assert states == ["done", "done", "failed", "done", "done"]
    failed = found["scenes"][2]
    assert failed["exit_code"] == 3
    assert "neither a TIFF nor an ENVI file" in failed["error"]
    assert f"error: {place.folder / 'bad.tif'}: {failed['error']}" in err
    assert {k: found["summary"][k] for k in ("done", "skipped", "failed")} == {
        "done": 4, "skipped": 0, "failed": 1
    }  # fmt: skip
    assert found["summary"]["pixels"] == 4 * 23 * 31
    assert found["summary"]["peak_memory_bytes"] > 10e6
    for entry in found["scenes"]:
        assert {"scene", "output", "status"} <= set(entry)
    assert found["scenes"][0]["pixels"]["classified"] == 23 * 31
    assert len(started) == 1  # one engine for all
    made = {p.name for p in (place.folder / "out").glob("*.tif")}
    assert made == {f"{name}_classes.tif" for name in place.names}
    # Each is what a run of its own gives.
    for name in place.names:
        single = place.folder / f"{name}_single.tif"
        scene = place.folder / f"{name}.tif"
        assert invoke(main, scene, "-m", place.model, "-o", single).code == 0
        together = place.folder / "out" / f"{name}_classes.tif"
        assert together.read_bytes() == single.read_bytes()


class FailsOnce:
    """An engine that fails on one scene; each has one window here."""

    device = "failing"
    precision = "fp32"
    windows_at_once = 1

    def __init__(self, error: Exception, scene: int) -> None:
        self.error, self.left = error, scene

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        self.left -= 1
        if self.left == 0:
            raise self.error
        rows, cols = cube.shape[2] - 4, cube.shape[3] - 4
        return {PROBABILITIES: np.full((1, 3, rows, cols), 1 / 3, np.float32)}


def run_with(place: Place, engine: FailsOnce) -> dict[str, Any]:
    scenes = [place.folder / f"{name}.tif" for name in place.names]
    requests = make_requests(scenes, place.folder / "out", OPTIONS, many=True)
    return batch.run_all(requests, read_model(place.model), lambda: engine)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError("8 GB"), 6, "memory ran out (8 GB); use smaller windows"),
        (OSError(errno.ENOSPC, "No space left on device"), 6, "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), 1, "OSError: [Errno 5] Input/out"),
    ],
)
def test_memory_and_disk_of_one_scene_do_not_stop_the_others(
    error: Exception,
    code: int,
    message: str,
    place: Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    results = run_with(place, FailsOnce(error, scene=3))
    assert batch.exit_code(results) == code
    scenes = results["scenes"]
    assert [s["status"] for s in scenes] == ["done", "done", "failed", "done"]
    assert scenes[2]["exit_code"] == code
    assert message in scenes[2]["error"]
    assert f"{place.folder / 's2.tif'}: {message}" in caplog.text


class Meeting(FailsOnce):
    """A CPU engine on which scenes after the first must be at work in pairs."""

    device = "cpu"
    windows_at_once = 2

    def __init__(self) -> None:
        super().__init__(MemoryError(), scene=0)
        self.pair = threading.Barrier(2, timeout=60)

    def predict(
        self, cube: NDArray[np.float32], outputs: Sequence[str] = (PROBABILITIES,)
    ) -> dict[str, NDArray[np.float32]]:
        if self.left < 0:  # the first scene has one window
            self.pair.wait()
        return super().predict(cube, outputs)


def test_small_scenes_are_at_work_in_pairs(place: Place) -> None:
    (place.folder / "s4.tif").write_bytes((place.folder / "s3.tif").read_bytes())
    place.names.append("s4")
    results = run_with(place, Meeting())
    assert [s["status"] for s in results["scenes"]] == ["done"] * 5
    assert [Path(s["scene"]).stem for s in results["scenes"]] == place.names


def test_bug_stops_a_batch(place: Place) -> None:
    with pytest.raises(ZeroDivisionError):
        run_with(place, FailsOnce(ZeroDivisionError(), scene=2))
    assert [p.name for p in (place.folder / "out").glob("*.tif")] == ["s0_classes.tif"]


def test_finished_outputs_are_skipped(place: Place, invoke: Any, digests: Any) -> None:
    (place.folder / "bad.tif").unlink()
    listed = place.folder / "list.txt"
    listed.write_text("\n".join(f"{name}.tif" for name in place.names))
    arguments = [listed, "-m", place.model]
    code, out, _ = invoke(main, *arguments)
    assert code == 0
    assert len(out.splitlines()) == 4
    (place.folder / "s2_classes.tif").unlink()
    (place.folder / "s2_classes.qml").unlink()
    (place.folder / "s2_classes.tif.aux.xml").unlink()
    before = digests(place.folder)
    code, out, err = invoke(main, *arguments)
    assert (code, out) == (0, f"{place.folder / 's2_classes.tif'}\n")
    assert "1 scenes done, 3 were finished before, 0 failed" in err
    assert {k: v for k, v in digests(place.folder).items() if k in before} == before
    code, out, _ = invoke(main, *arguments, "--json")
    states = [s["status"] for s in json.loads(out)["scenes"]]
    assert states == ["skipped"] * 4
    code, out, _ = invoke(main, *arguments, "--overwrite", "--json")
    states = [s["status"] for s in json.loads(out)["scenes"]]
    assert states == ["done"] * 4


def test_map_of_another_model_is_not_finished(
    place: Place, invoke: Any, write_model: Write
) -> None:
    scenes = [place.folder / "s0.tif", place.folder / "s1.tif"]
    other = write_model(place.folder / "other.onnx", bias=5.0)
    assert invoke(main, scenes[0], "-m", other).code == 0
    before = (place.folder / "s0_classes.tif").read_bytes()
    code, out, err = invoke(main, *scenes, "-m", place.model, "--json")
    assert code == 5
    found = json.loads(out)["scenes"]
    assert [s["status"] for s in found] == ["failed", "done"]
    assert "s0_classes.tif exists; --overwrite replaces it" in err
    assert (place.folder / "s0_classes.tif").read_bytes() == before
    code, *_ = invoke(main, *scenes, "-m", place.model, "--overwrite")
    assert code == 0
    assert (place.folder / "s0_classes.tif").read_bytes() != before


def test_map_of_another_scene_of_that_name_is_not_finished(
    place: Place, invoke: Any, cube: NDArray[Any], write_scene_tiff: Write
) -> None:
    days = [place.folder / "day1", place.folder / "day2"]
    for number, day in enumerate(days):
        day.mkdir()
        write_scene_tiff(day / "changed.tif", np.roll(cube, number, axis=2))
        # The same scene, copied at another time.
        shutil.copyfile(place.folder / "s0.tif", day / "same.tif")
        os.utime(day / "same.tif", ns=(number, number))
    out = place.folder / "out"
    assert invoke(main, *days[0].iterdir(), "-m", place.model, "-o", out).code == 0
    before = (out / "changed_classes.tif").read_bytes()
    again = [days[1] / "changed.tif", days[1] / "same.tif", "-m", place.model]
    code, found, err = invoke(main, *again, "-o", out, "--json")
    assert code == 5
    states = [s["status"] for s in json.loads(found)["scenes"]]
    assert states == ["failed", "skipped"]
    assert "changed_classes.tif exists; --overwrite replaces it" in err
    assert (out / "changed_classes.tif").read_bytes() == before
    assert invoke(main, *again, "-o", out, "--overwrite").code == 0
    assert (out / "changed_classes.tif").read_bytes() != before
    # The map is that of the first day's copy, byte by byte.
    assert invoke(main, days[0] / "same.tif", "-m", place.model).code == 0
    copied = (days[0] / "same_classes.tif").read_bytes()
    assert copied == (out / "same_classes.tif").read_bytes()


@pytest.mark.parametrize("time", ["kept", "new"])
@pytest.mark.parametrize("edit", ["rows", "square"])
def test_scene_that_was_edited_in_place_is_not_finished(
    edit: str, time: str, place: Place, invoke: Any, write_scene_tiff: Write
) -> None:
    path = place.folder / "large.tif"
    values = np.random.default_rng(1).integers(1, 9999, (4, 400, 1200))
    write_scene_tiff(path, values.astype(np.uint16))
    arguments = [path, place.folder / "s0.tif", "-m", place.model, "--json"]
    assert invoke(main, *arguments).code == 0
    before = (place.folder / "large_classes.tif").read_bytes()
    status = path.stat()
    # Of the first band, between two samples of the fingerprint's.
    rows, cols = (
        (slice(50, 70), slice(100, 120))
        if edit == "square"
        else (slice(60, 62), slice(None))
    )
    with rasterio.open(path, "r+") as file:
        values = file.read(1)
        values[rows, cols] = 9999 - values[rows, cols]
        file.write(values, 1)
    assert path.stat().st_size == status.st_size
    if time == "kept":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, err = invoke(main, *arguments)
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["failed", "skipped"]
    assert code == 5
    assert "large_classes.tif exists; --overwrite replaces it" in err
    assert invoke(main, *arguments, "--overwrite").code == 0
    assert (place.folder / "large_classes.tif").read_bytes() != before
    code, out, _ = invoke(main, *arguments)
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["skipped"] * 2


def test_scene_with_another_header_is_not_finished(
    place: Place, invoke: Any, cube: NDArray[Any]
) -> None:
    header = place.folder / "e.hdr"
    header.write_text(
        "ENVI\nsamples = 31\nlines = 23\nbands = 4\ndata type = 12\n"
        "interleave = bsq\nbyte order = 0\nreflectance scale factor = 10000\n"
    )
    (place.folder / "e.img").write_bytes(cube.tobytes())
    (place.folder / "list.txt").write_text("e.img\n")
    arguments = [place.folder / "list.txt", "-m", place.model, "--json"]
    for state, code in (("done", 0), ("skipped", 0)):
        found = invoke(main, *arguments)
        assert found.code == code
        assert [s["status"] for s in json.loads(found.out)["scenes"]] == [state]
    header.write_text(header.read_text() + "data ignore value = 7\n")
    assert invoke(main, *arguments).code == 5


def test_layer_of_another_model_is_not_finished(
    place: Place, invoke: Any, write_model: Write
) -> None:
    scenes = [place.folder / "s0.tif", place.folder / "s1.tif"]
    other = write_model(place.folder / "other.onnx", bias=5.0)
    assert invoke(main, scenes[0], "-m", other, "--confidence").code == 0
    assert invoke(main, scenes[0], "-m", place.model, "--overwrite").code == 0
    arguments = [*scenes, "-m", place.model, "--confidence"]
    code, out, err = invoke(main, *arguments, "--json")
    assert code == 5
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["failed", "done"]
    assert "exists; --overwrite replaces it" in err
    assert invoke(main, *arguments, "--overwrite").code == 0
    code, out, _ = invoke(main, *arguments, "--json")
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["skipped"] * 2


@pytest.mark.parametrize("kind", ["preview", "stac"])
@pytest.mark.parametrize("change", ["scene", "model", "part"])
def test_drawing_of_an_earlier_map_is_not_finished(
    kind: str, change: str, place: Place, invoke: Any, write_model: Write
) -> None:
    first, second = place.folder / "s0.tif", place.folder / "s1.tif"
    model, option = place.model, f"--{kind}"
    earlier: list[Any] = [first, "-m", model, option]
    if change == "model":
        earlier[2] = write_model(place.folder / "other.onnx", bias=5.0)
    if change == "part":
        earlier += ["--window", "0,0,9,9"]
    assert invoke(main, *earlier).code == 0
    if change == "scene":
        first.write_bytes((place.folder / "s3.tif").read_bytes())
    # The map is made anew; what was drawn of the earlier one stays where it is.
    assert invoke(main, first, "-m", model, "--overwrite").code == 0
    arguments = [first, second, "-m", model, option]
    code, out, err = invoke(main, *arguments, "--json")
    assert code == 5
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["failed", "done"]
    assert "exists; --overwrite replaces it" in err
    assert invoke(main, *arguments, "--overwrite").code == 0
    _, out, _ = invoke(main, *arguments, "--json")
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["skipped"] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        b"\x89PNG\r\n\x1a\n",
        b"{}",
        b'{"properties": 1}',
        b"[" * 10**5,
    ],
)
def test_damaged_drawing_is_not_finished(
    content: bytes, place: Place, invoke: Any
) -> None:
    scenes = [place.folder / "s0.tif", place.folder / "s1.tif"]
    arguments = [*scenes, "-m", place.model, "--preview", "--stac", "--json"]
    assert invoke(main, *arguments).code == 0
    (place.folder / "s0_preview.png").write_bytes(content)
    (place.folder / "s1_classes.stac.json").write_bytes(content)
    code, out, _ = invoke(main, *arguments)
    assert code == 5
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["failed"] * 2


def test_map_with_another_frame_counter_is_not_finished(
    place: Place, invoke: Any
) -> None:
    scenes = [place.folder / "s0.tif", place.folder / "s1.tif"]
    assert invoke(main, *scenes, "-m", place.model).code == 0
    counted = ["-m", place.model, "--frame-counter", "0,0", "--json"]
    code, out, _ = invoke(main, *scenes, *counted)
    assert code != 0
    assert [s["status"] for s in json.loads(out)["scenes"]] == ["failed"] * 2


def test_shards_of_a_list_do_all_of_it(place: Place, invoke: Any) -> None:
    (place.folder / "bad.tif").unlink()
    shutil.copy(place.folder / "s0.tif", place.folder / "bad.tif")
    made = []
    for part in range(3):
        code, out, _ = invoke(
            main, place.folder / "list.txt", "-m", place.model, "--shard", f"{part}/3"
        )
        assert code == 0
        made += out.splitlines()
    assert sorted(Path(p).name for p in made) == sorted(
        f"{name}_classes.tif" for name in [*place.names, "bad"]
    )
    code, out, _ = invoke(
        main, place.folder / "s0.tif", "-m", place.model, "--shard", "1/2", "--json"
    )
    assert code == 0
    assert json.loads(out)["scenes"] == []  # more parts than scenes


def test_plan_of_many_scenes(place: Place, invoke: Any, digests: Any) -> None:
    before = digests(place.folder)
    scenes = [place.folder / f"{name}.tif" for name in place.names]
    code, out, _ = invoke(main, *scenes, "-m", place.model, "--dry-run", "--json")
    assert code == 0
    assert [Path(s["scene"]).stem for s in json.loads(out)["scenes"]] == place.names
    assert digests(place.folder) == before


def test_plan_of_a_shard_with_a_bad_scene(
    place: Place, invoke: Any, digests: Any
) -> None:
    before = digests(place.folder)
    given = [place.folder / "list.txt", "-m", place.model, "--dry-run"]
    code, out, err = invoke(main, *given, "--shard", "0/2", "--json")
    assert code == 3
    plans = json.loads(out)["scenes"]
    assert [Path(p["scene"]).stem for p in plans] == ["s0", "bad", "s3"]
    assert (plans[1]["status"], plans[1]["exit_code"]) == ("failed", 3)
    assert plans[1]["error"] in err
    assert plans[0]["windows"] == plans[2]["windows"] == 1
    code, out, _ = invoke(main, *given)
    assert code == 3
    assert out.count("bands_read: 1-4\n") == 4
    code, out, _ = invoke(main, *given, "--shard", "1/2")
    assert (code, out.count("bands_read")) == (0, 2)
    code, out, _ = invoke(main, *given, "--shard", "7/9")
    assert (code, out) == (0, "")
    one = [place.folder / "s0.tif", *given[1:], "--json"]
    code, out, _ = invoke(main, *one, "--shard", "0/1")
    assert [Path(p["scene"]).stem for p in json.loads(out)["scenes"]] == ["s0"]
    assert digests(place.folder) == before


def test_lost_gpu_stops_the_batch_and_a_new_process_ends_it(
    place: Place,
    invoke: Any,
    fake_gpu: Any,
    digests: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fake_gpu import CUDA, TENSORRT, Gpu

    given = [place.folder / "list.txt", "-m", place.model, "--tile", "8", "--json"]
    given += ["--device", "tensorrt", "-o"]
    assert invoke(main, *given, make(place.folder / "whole")).code == 3
    # A scene has 12 windows: the GPU is lost at the last of the second.
    monkeypatch.setattr(fake_gpu.cuda, "waits", 0)
    monkeypatch.setattr(fake_gpu.cuda, "lasts", 12 + 11)
    code, out, err = invoke(main, *given, place.folder / "out")
    assert code == 75
    found = json.loads(out)["scenes"]
    ends = [(s["status"], s.get("exit_code")) for s in found]
    lost = ("failed", 75)
    assert ends == [("done", None), lost, ("failed", 3), lost, lost]
    for said in (found[1]["error"], found[3]["error"]):
        assert said in err
    kept = re.search(r"; start .* (\d+) of 12 windows are kept", found[1]["error"])
    assert kept is not None
    assert found[3]["error"] == found[4]["error"]
    assert found[3]["error"].startswith("Not tried: the GPU failed in an earlier scene")
    assert fake_gpu.cuda.waits == 12 + 12  # nothing was tried after that
    another = Gpu()  # as another process finds it
    monkeypatch.setitem(sys.modules, CUDA, another.cuda)
    monkeypatch.setitem(sys.modules, TENSORRT, another.trt)
    code, out, _ = invoke(main, *given, place.folder / "out")
    assert code == 3  # the bad scene
    found = json.loads(out)["scenes"]
    states = [s["status"] for s in found]
    assert states == ["skipped", "done", "failed", "done", "done"]
    assert found[1]["resumed_windows"] == int(kept[1])
    assert digests(place.folder / "out") == digests(place.folder / "whole")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_stopped_batch_does_not_deny_what_it_published(
    place: Place, invoke: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = OnnxruntimeCpu.predict
    calls: list[int] = []

    def stopping(self: OnnxruntimeCpu, *given: Any) -> Any:
        calls.append(1)
        if len(calls) >= 2:  # a stopped process computes nothing more, in no thread
            raise KeyboardInterrupt
        return predict(self, *given)

    monkeypatch.setattr(OnnxruntimeCpu, "predict", stopping)
    scenes = [place.folder / f"{name}.tif" for name in place.names]
    code, out, err = invoke(main, *scenes, "-m", place.model)
    assert code == 130
    published = [str(path) for path in sorted(place.folder.glob("*_classes.tif"))]
    assert out.splitlines() == published
    assert published[0] == str(place.folder / "s0_classes.tif")
    assert len(published) < len(scenes)
    assert "Nothing was published" not in err
    assert "Nothing of the scene at work was published" in err


def test_lost_device_gives_the_exit_code_before_the_first_failure() -> None:
    scenes = [
        {"status": "failed", "exit_code": 3},
        {"status": "failed", "exit_code": 75},
    ]
    assert batch.exit_code({"scenes": scenes}) == 75


def test_first_failure_gives_the_exit_code() -> None:
    scenes = [
        {"status": "done"},
        {"status": "failed", "exit_code": 5},
        {"status": "failed", "exit_code": 3},
    ]
    assert batch.exit_code({"scenes": scenes}) == 5
    assert batch.exit_code({"scenes": scenes[:1]}) == 0


def test_one_scene_in_a_list_may_go_to_a_folder(place: Place, invoke: Any) -> None:
    listed = place.folder / "list.txt"
    listed.write_text("s0.tif\n")
    out = place.folder / "out"
    assert invoke(main, listed, "-m", place.model, "-o", out).code == 0
    with rasterio.open(out / "s0_classes.tif") as file:
        assert file.shape == (23, 31)
