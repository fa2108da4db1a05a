"""A new method is one new file: nothing else is edited."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILE = '''
"""A 3x3 convolution and a layer on top of it."""

import msgspec
from torch import Tensor, nn

from hsi_train.layers import Standardise
from hsi_train.method import BaseMethod, Problem


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[options]`` table of a recipe."""

    hidden: int = 16


class Network(nn.Module):
    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__()
        bands, classes = len(problem.band_mean), len(problem.class_counts)
        self.layers = nn.Sequential(
            Standardise(problem.band_mean, problem.band_std),
            nn.Conv2d(bands, options.hidden, 3, bias=False),
            nn.BatchNorm2d(options.hidden),
            nn.ReLU(),
            nn.Conv2d(options.hidden, classes, 1),
        )

    def forward(self, cube: Tensor) -> Tensor:
        scores: Tensor = self.layers(cube)
        return scores


class Method(BaseMethod):
    receptive_field = 3

    def __init__(self, problem: Problem, options: Options) -> None:
        super().__init__(problem)
        self.network = Network(problem, options)
'''

PLUGIN = """
import sys
from pathlib import Path

import hsi_train.methods

hsi_train.methods.__path__.append(str(Path(__file__).parent / "methods"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fifth")
    (made / "methods").mkdir()
    (made / "methods" / "fifth.py").write_text(FILE, encoding="utf-8")
    (made / "add_fifth.py").write_text(PLUGIN, encoding="utf-8")
    return made


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_it_is_listed(folder: Path) -> None:
    script = (
        "import add_fifth, sys; from hsi_train.cli import main; "
        "sys.argv = ['hsi-train', '--list']; main()"
    )
    done = python(folder, "-c", script)
    assert done.returncode == 0, done.stderr
    assert "\n  fifth\n" in done.stdout


def test_it_passes_the_contract(folder: Path) -> None:
    done = python(
        folder,
        *("-m", "pytest", "-q", "-p", "add_fifth", "-p", "no:cacheprovider"),
        *("tests/train/test_method_contract.py", "-k", "fifth"),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 20
