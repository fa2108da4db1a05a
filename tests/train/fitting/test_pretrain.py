import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from masks import add_mask
from safetensors.torch import load_file

from hsi_runtime.errors import OutputError, RecipeError, ResourceError, SceneError
from hsi_train import methods, recipe
from hsi_train.data import parts
from hsi_train.fitting.encoder_file import Origin, read_encoder
from hsi_train.fitting.pretrain import (
    Pretrainable,
    Pretrainer,
    caveats,
    complete_windows,
    decay_groups,
    read_sources,
)
from hsi_train.fitting.progress import Watch
from hsi_train.method import Problem
from hsi_train.methods import names
from hsi_train.recipe import Pretrain, Recipe
from hsi_train.run_folder import checkpoint
from hsi_train.run_folder import folder as run_folder
from hsi_train.simulate import SceneSpec, band_centres, write_scene
from hsi_train.training import train

Cli = Callable[..., Any]
WriteTif = Callable[..., Path]
Digests = Callable[[Path], dict[str, str]]

STEPS = 5
CPU = torch.device("cpu")
ENCODER, CHECKPOINT = "encoder.safetensors", "checkpoint.safetensors"


@pytest.fixture(scope="module", autouse=True)
def short_probe() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsi_train.methods.s2former.linear_head.ITERATIONS", 3)
        patch.setattr("hsi_train.fitting.pretrain.SAVE_EVERY", 2)
        yield


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of other sensors, in a folder of their own."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for name, bands in (("a", 7), ("b", 20)):
        spec = SceneSpec(
            rows=30,
            cols=28,
            wavelengths_nm=band_centres(bands),
            materials=("grass", "asphalt"),
            resolution_m=8.0,
            seed=bands,
        )
        write_scene(spec, folder / f"{name}.tif")
    return folder


@pytest.fixture(scope="module")
def finished(
    example: Any, unlabelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[tuple[int, int]]]:
    """A run with pre-training, its result, and its reports of progress."""
    run = tmp_path_factory.mktemp("runs") / "one"
    done: list[tuple[int, int]] = []
    result = train(
        asked(example, unlabelled), run, "cpu",
        watch=Watch(step=lambda step, steps, _: done.append((step, steps))),
    )  # fmt: skip
    return run, result, done


def asked(example: Any, unlabelled: Path | None, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "method": "s2former",
        "seed": 1,
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 4},
        "fit": {"epochs": 2, "batch": 6},
    }
    if unlabelled is not None:
        content["pretrain"] = {
            "scenes": [str(unlabelled)], "steps": STEPS, "batch": 2, "outputs": 2,
        }  # fmt: skip
    return recipe.parse(content | changes)


def build() -> Pretrainable:
    problem = Problem(
        *(torch.ones(4), torch.ones(4), torch.ones(2), torch.ones(2, 4)),
        torch.tensor(1.0),
    )
    torch.manual_seed(0)
    method = methods.build("s2former", problem, {})
    assert isinstance(method, Pretrainable)
    return method


# Reading scenes ---------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_windows_are_complete_and_none_is_missed(side: int) -> None:
    valid = np.random.default_rng(side).random((8, 11)) < 0.93
    expected = [
        [row, col]
        for row in range(8 - side + 1)
        for col in range(11 - side + 1)
        if valid[row : row + side, col : col + side].all()
    ]
    assert complete_windows(valid, side).tolist() == expected
    assert len(complete_windows(valid, 12)) == 0


def test_fill_is_never_read(tmp_path: Path, write_tif: WriteTif) -> None:
    cube = np.random.default_rng(0).normal(500, 50, (5, 30, 30)).astype(np.int16)
    cube[:, :9] = -1
    cube[2, 20, 20] = -1  # one band of one pixel
    cube[4] = -1  # a band without any value
    path = write_tif(tmp_path / "a.tif", cube, nodata=-1)
    (source,) = read_sources([str(path)], 8, pytest.fail)
    assert source.name == "a.tif"
    assert source.cube.shape == (4, 30, 30)
    for row, col in source.corners:
        assert (source.cube[:, row : row + 8, col : col + 8] != -1).all()
    valid = (cube[:4] != -1).all(axis=0)
    np.testing.assert_allclose(source.mean, cube[:4, valid].mean(axis=1))
    np.testing.assert_allclose(source.std, cube[:4, valid].std(axis=1))


def test_masked_pixels_are_never_read(tmp_path: Path, write_tif: WriteTif) -> None:
    cube = np.random.default_rng(0).normal(500, 50, (4, 20, 20)).astype(np.int16)
    seen = np.ones((20, 20), dtype=bool)
    seen[:5] = seen[15, 15] = False
    path = add_mask(write_tif(tmp_path / "a.tif", cube), seen)
    (source,) = read_sources([str(path)], 6, pytest.fail)
    np.testing.assert_array_equal(source.corners, complete_windows(seen, 6))
    np.testing.assert_allclose(source.mean, cube[:, seen].mean(axis=1))


def test_bands_marked_bad_are_left_out(tmp_path: Path, write_tif: WriteTif) -> None:
    cube = np.random.default_rng(0).normal(500, 50, (4, 9, 9)).astype(np.int16)
    tags = [{"bbl": good} for good in ("1", "0", "1", "1")]
    path = write_tif(tmp_path / "a.tif", cube, tags=tags)
    (source,) = read_sources([str(path)], 8, pytest.fail)
    np.testing.assert_array_equal(source.cube, cube[[0, 2, 3]])


def test_band_that_never_varies_is_not_blown_up(
    tmp_path: Path, write_tif: WriteTif
) -> None:
    cube = np.random.default_rng(0).normal(500, 50, (3, 9, 9)).astype(np.int16)
    cube[1] = 77
    (source,) = read_sources([str(write_tif(tmp_path / "a.tif", cube))], 8, pytest.fail)
    assert source.std[1] == 1
    assert source.std[0] > 10


def test_scene_too_small_is_left_out_and_said(
    unlabelled: Path, tmp_path: Path, write_tif: WriteTif
) -> None:
    small = write_tif(tmp_path / "c.tif", np.ones((3, 40, 10), dtype=np.int16))
    said: list[str] = []
    sources = read_sources([str(unlabelled), str(small)], 14, said.append)
    assert [s.name for s in sources] == ["a.tif", "b.tif"]
    (sentence,) = said
    assert "c.tif has no window of 14 x 14 px" in sentence


def test_no_window_at_all(unlabelled: Path) -> None:
    with pytest.raises(SceneError, match=r"29 x 29 px.*pretrain\.outputs"):
        read_sources([str(unlabelled)], 29, lambda _: None)


# The loop ---------------------------------------------------------------------------


def test_only_weights_of_linear_layers_decay() -> None:
    method = build()
    decayed, free = decay_groups(method, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
    known = {id(p): n for n, p in method.named_parameters()}
    assert len(decayed["params"]) + len(free["params"]) == len(known)
    kept = {known[id(p)] for p in free["params"]}
    tokens = {"network.encoder.group", "pretraining.mask_vector"}
    tokens |= {f"network.encoder.blocks.{k}.look.position" for k in range(3)}
    assert tokens <= kept
    assert all("norm" in n or n.endswith("bias") for n in kept - tokens)
    assert not any("norm" in known[id(p)] for p in decayed["params"])


def test_pretraining_lowers_the_loss(unlabelled: Path, tmp_path: Path) -> None:
    settings = Pretrain(scenes=("",), steps=25, batch=2, outputs=2)
    sources = read_sources([str(unlabelled)], 14, pytest.fail)
    method = build()
    losses: list[float] = []
    Pretrainer(method, "s2former", sources, settings, 0, CPU).run(
        tmp_path, after_step=lambda done, steps, loss: losses.append(loss)
    )
    assert len(losses) == 25
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    _, origin = read_encoder(tmp_path / ENCODER)
    assert origin.scenes == ["a.tif", "b.tif"]
    assert (origin.method, origin.steps, origin.seed) == ("s2former", 25, 0)
    assert min(losses) < origin.loss < max(losses)


def test_windows_are_standardised_by_their_own_scene(
    unlabelled: Path, tmp_path: Path, write_tif: WriteTif
) -> None:
    stored = np.random.default_rng(0).normal(9000, 300, (3, 20, 20)).astype(np.int16)
    bright = write_tif(tmp_path / "c.tif", stored)
    sources = read_sources([str(unlabelled), str(bright)], 14, pytest.fail)
    settings = Pretrain(scenes=("",), steps=1, batch=40, outputs=2)
    learner = Pretrainer(build(), "s2former", sources, settings, 0, CPU)
    cube = learner._windows()
    assert cube.shape == (40, 128, 14, 14)
    assert cube.mean().abs() < 0.5
    assert 0.3 < cube.std() < 2


def test_loss_that_is_no_number(
    unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build()
    monkeypatch.setattr(
        type(method), "pretraining_loss", lambda self, cube: cube.mean() * np.nan
        + sum(p.sum() for p in self.encoder.parameters())
    )  # fmt: skip
    settings = Pretrain(scenes=("",), steps=2, batch=2, outputs=2)
    sources = read_sources([str(unlabelled)], 14, pytest.fail)
    learner = Pretrainer(method, "s2former", sources, settings, 0, CPU)
    with pytest.raises(RecipeError, match=r"nan in step 1.*pretrain\.learning_rate"):
        learner.run(tmp_path)


# Whole runs -------------------------------------------------------------------------


def test_run_keeps_its_encoder_and_says_where_it_is_from(finished: Any) -> None:
    run, result, done = finished
    assert done[:STEPS] == [(k + 1, STEPS) for k in range(STEPS)]
    assert [step for step, _ in done[STEPS:]] == list(range(1, len(done) - STEPS + 1))
    assert result["pretraining"]["scenes"] == ["a.tif", "b.tif"]
    assert result["pretraining"]["steps"] == STEPS
    assert json.loads((run / "metrics.json").read_text())["pretraining"]
    assert not (run / "pretrain.pt").exists()
    read = checkpoint.load(run).description.provenance.data_sha256
    assert {"a.tif", "b.tif"} <= read.keys()


def test_an_encoder_that_has_seen_the_test_pixels_is_said(
    make_data: Callable[..., Any],
) -> None:
    data = make_data(np.array([[1, 2]]))  # of memory.tif
    origin = Origin(
        method="s2former", version="0", scenes=["a.tif"], steps=1, seed=0, loss=0.0
    )
    assert caveats(origin, data) == []
    seen = msgspec.structs.replace(origin, scenes=["a.tif", "memory.tif"])
    (said,) = caveats(seen, data)
    assert "pre-trained on memory.tif, test pixels included" in said


def test_run_from_a_kept_encoder_is_the_same_from_there_on(
    finished: Any, example: Any, tmp_path: Path
) -> None:
    run, result, _ = finished
    source, again = tmp_path / "other.safetensors", tmp_path / "again"
    shutil.copy(run / ENCODER, source)
    init = {"init": str(source)}
    reused = train(asked(example, None, pretrain=init), again, "cpu")
    assert reused["confusion"] == result["confusion"]
    assert reused["pretraining"] == result["pretraining"]
    ours, theirs = (load_file(r / CHECKPOINT) for r in (run, again))
    for name in ours:
        if name.startswith("network."):
            assert torch.equal(ours[name], theirs[name]), name
    assert (again / ENCODER).read_bytes() == source.read_bytes()
    read = checkpoint.load(again).description.provenance.data_sha256
    assert "other.safetensors" in read


@pytest.mark.parametrize(
    ("stopped_after", "first"),
    [(0, (1, STEPS)), (3, (3, STEPS)), (STEPS, (1, 4)), (STEPS + 1, (1, 4))],
)
def test_interrupted_pretraining_goes_on(
    finished: Any,
    example: Any,
    unlabelled: Path,
    tmp_path: Path,
    stopped_after: int,
    first: tuple[int, int],
) -> None:
    """Stopped in pre-training, at its end, or in the training after it."""
    wanted, run = asked(example, unlabelled), tmp_path / "run"
    calls: list[tuple[int, int]] = []

    def stop(done: int, steps: int, _: float) -> None:
        calls.append((done, steps))
        if len(calls) > stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(wanted, run, "cpu", watch=Watch(step=stop))
    assert (run / "pretrain.pt").exists() == (stopped_after < STEPS)
    with pytest.raises(OutputError, match="--resume goes on with it"):
        train(wanted, run, "cpu")
    stopped_after = 1000
    calls.clear()
    train(wanted, run, "cpu", resume=True, watch=Watch(step=stop))
    assert calls[0] == first, "saved every second step, and after each epoch"
    assert {p.name for p in run.iterdir()} == {p.name for p in finished[0].iterdir()}
    for name in (ENCODER, CHECKPOINT):
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()


def test_damaged_state_of_pretraining(
    example: Any, unlabelled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked(example, unlabelled), run, "cpu", watch=Watch(step=stop))
    (run / "pretrain.pt").write_bytes(b"half a file")
    with pytest.raises(OutputError, match=r"pretrain\.pt cannot be resumed.*damaged"):
        train(asked(example, unlabelled), run, "cpu", resume=True)


def test_unusable_scenes_leave_nothing(
    example: Any, unlabelled: Path, tmp_path: Path
) -> None:
    table = {"scenes": [str(unlabelled)], "outputs": 40}
    with pytest.raises(SceneError, match="52 x 52 px"):
        train(asked(example, None, pretrain=table), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_overwrite_keeps_the_encoder_it_reads(
    finished: Any, example: Any, tmp_path: Path, digests: Digests
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "pretrain.pt").touch()  # of an interruption
    before = digests(run)
    init = {"init": str(run / ENCODER)}
    with pytest.raises(OutputError, match=r"encoder\.safetensors is an input"):
        train(asked(example, None, pretrain=init), run, "cpu", overwrite=True)
    assert digests(run) == before
    run_folder.check_folder(run, resume=False, overwrite=True)  # all files are ours


NO_ENCODER = [
    n for n in names() if not issubclass(methods.method_class(n), Pretrainable)
]


@pytest.mark.parametrize("name", NO_ENCODER)
def test_methods_without_an_encoder_refuse(
    cli: Cli, example: Any, unlabelled: Path, tmp_path: Path, name: str
) -> None:
    for option, value in (("--pretrain-scene", unlabelled), ("--init", "none")):
        done = cli(
            name, "--scene", example.scene, "--labels", example.labels,
            option, value, "-o", tmp_path / "run",
        )  # fmt: skip
        assert done.code == 4
        assert f"{name} has no encoder to pre-train" in done.err
        assert not (tmp_path / "run").exists()


def test_few_labels_need_no_epoch(
    example: Any, unlabelled: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = train(asked(example, unlabelled, fit={}), run, "cpu")
    assert result["best_epoch"] == 0
    assert len((run / "history.csv").read_text().splitlines()) == 1  # its head
    assert "No epoch was trained" in (run / "report.html").read_text()
    again = recipe.load(str(run / "recipe.toml"))
    assert "epochs" not in again["fit"]
    repeated = train(recipe.parse(again), tmp_path / "again", "cpu")
    assert repeated["confusion"] == result["confusion"]


def test_options_become_the_recipe(
    cli: Cli, example: Any, unlabelled: Path, tmp_path: Path
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    common = [
        "--scene", example.scene, "--labels", example.labels, "--epochs", 1,
        "--samples-per-class", 2, "--device", "cpu", "-q",
    ]  # fmt: skip
    done = cli(
        "s2former", *common, "-o", run, "--pretrain-scene", unlabelled / "a.tif",
        "--pretrain-scene", unlabelled / "b.tif", "--set", "pretrain.steps=1",
        "--set", "pretrain.outputs=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    table = recipe.load(str(run / "recipe.toml"))["pretrain"]
    assert table["scenes"] == [str(unlabelled / n) for n in ("a.tif", "b.tif")]
    assert table["steps"] == 1
    # --init replaces the scenes of the recipe.
    done = cli(run / "recipe.toml", *common, "-o", again, "--init", run / ENCODER)
    assert done.code == 0, done.err
    table = recipe.load(str(again / "recipe.toml"))["pretrain"]
    assert table["scenes"] == []
    assert table["init"] == str(run / ENCODER)
    done = cli("s2former", *common, "--init", "x", "--pretrain-scene", "y")
    assert done.code == 2
    assert "exclude each other" in done.err


@pytest.mark.parametrize("table", [{}, {"scenes": ["a"], "init": "b"}])
def test_recipe_names_one_origin(example: Any, table: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="either scenes or init"):
        asked(example, None, pretrain=table)


def test_missing_encoder_by_command_line(
    cli: Cli, example: Any, tmp_path: Path
) -> None:
    done = cli(
        "s2former", "--scene", example.scene, "--labels", example.labels,
        "--init", tmp_path / "none.safetensors", "-o", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 4
    assert "There is no encoder" in done.err
    assert not (tmp_path / "run").exists()


def test_scenes_that_memory_cannot_hold_are_refused_before_they_are_read(
    tmp_path: Path, write_tif: WriteTif, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        str(write_tif(tmp_path / f"{name}.tif", np.ones((2, 40, 40), np.int16)))
        for name in "ab"
    ]
    monkeypatch.setattr(parts, "machine_bytes", lambda: 30_000)
    read_sources(paths[:1], 8, pytest.fail)
    with pytest.raises(ResourceError, match="scenes to pre-train on need at least"):
        read_sources(paths, 8, pytest.fail)
