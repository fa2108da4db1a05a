import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import hsi_train
from hsi_runtime.errors import EngineError, OptionError, RecipeError
from hsi_train import recipe
from hsi_train.recipe import Data, Fit, Recipe


def content(example: Any) -> dict[str, Any]:
    return {
        "method": "mf2cnet",
        "data": {"scenes": [str(example.scene)], "labels": [str(example.labels)]},
        "split": {"mode": "per-class", "samples_per_class": 6},
        "fit": {"epochs": 1, "batch": 12},
        "options": {"features": 4, "hidden": 4},
    }


def test_a_mapping_a_recipe_and_a_file_train_the_same(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = content(example)
    steps: list[tuple[int, int, float]] = []
    first = hsi_train.train(
        wanted, "one", device="cpu", progress=lambda *a: steps.append(a)
    )
    assert first.folder == Path("one")
    assert first.metrics == json.loads(Path("one/metrics.json").read_text())
    assert steps[-1][:2] == (len(steps), len(steps))
    assert wanted == content(example)  # as it was
    parsed = recipe.parse(wanted)
    assert hsi_train.train(parsed, device="cpu").folder == Path("runs/mf2cnet")
    Path("mine.toml").write_text(recipe.dump(parsed))
    assert hsi_train.train("mine.toml", device="cpu").folder == Path("runs/mine")
    weights = {p.read_bytes() for p in Path().rglob("checkpoint.safetensors")}
    assert len(weights) == 1


def test_mistakes_are_errors_of_ours(example: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no method or recipe"):
        hsi_train.train(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="unknown field `epoch`"):
        hsi_train.train(content(example) | {"fit": {"epoch": 1}}, tmp_path / "run")
    with pytest.raises(EngineError, match="knows no device 'cuda:1'"):
        hsi_train.train(content(example), tmp_path / "run", device="cuda:1")
    for workers in (0, -1, 1.5, True, "2", 257):
        with pytest.raises(OptionError, match=r"workers: .* is not in 1 to 256"):
            hsi_train.train(
                content(example) | {"members": 2},
                tmp_path / "run",
                workers=workers,  # type: ignore[arg-type]
            )
    assert list(tmp_path.iterdir()) == []


def test_public_names() -> None:
    assert set(hsi_train.__all__) == {"Run", "train"}
    for name in hsi_train.__all__:
        assert getattr(hsi_train, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fit_all'"):
        hsi_train.fit_all  # noqa: B018


def test_import_is_cheap() -> None:
    code = "import sys, hsi_train; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": -1}, r"`int` >= 0 - at `\$\.seed`"),
        ({"fit": Fit(epochs=0)}, r"`int` >= 1 - at `\$\.fit\.epochs`"),
        ({"data": Data(scenes="s.tif", labels=("l.tif",))}, r"at `\$\.data\.scenes`"),  # type: ignore[arg-type]
    ],
)
def test_a_recipe_that_is_built_by_hand_is_checked(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    data = Data(scenes=("s.tif",), labels=("l.tif",))
    made = replace(Recipe(method="lda", data=data), **change)
    with pytest.raises(RecipeError, match=why):
        hsi_train.train(made, tmp_path)
