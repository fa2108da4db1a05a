"""The install steps of the Dockerfile, run in a bare environment without torch.

Images cannot be built here; what they would run can.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from hsi_train.simulate import SceneSpec, band_centres, write_scene

ROOT = Path(__file__).parents[1]


def pip_lines(target: str) -> list[str]:
    """Return the pip commands of one build stage."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    stage = re.search(rf"^FROM \S+ AS {target}$(.*?)(?=^FROM|\Z)", text, re.M | re.S)
    assert stage is not None
    runs = re.findall(r"^RUN (?:--mount=\S+\s+)*(pip .*)$", stage[1], re.M)
    assert runs
    return [" ".join(run.split()) for run in runs]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do what the stages ``wheel`` and ``cpu`` do; return the environment's bin."""
    root = tmp_path_factory.mktemp("image")
    source, wheels = root / "src", root / "wheels"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("train", "export", "runtime"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    venv.create(root / "env", with_pip=True)
    bin_folder = root / "env" / "bin"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    for line in pip_lines("wheel") + pip_lines("cpu"):
        command = line.replace("/wheels", str(wheels))
        command = command.replace("/opt/constraints.txt", str(ROOT / "constraints.txt"))
        command = command.replace(" --no-cache-dir", "")  # the test may use the cache
        subprocess.run(command, shell=True, check=True, cwd=source, env=environment)
    return bin_folder


def test_image_has_no_torch(image: Path) -> None:
    found = subprocess.run(
        [image / "python", "-m", "pip", "list"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {line.split()[0].lower() for line in found.splitlines()[2:]}
    assert "hsi-edge" in names
    assert "onnxruntime" in names
    assert not names & {"torch", "onnx", "scipy", "matplotlib", "scikit-learn"}


def test_image_classifies_a_scene(image: Path, tmp_path: Path) -> None:
    labelled, labels = tmp_path / "scene.tif", tmp_path / "labels.tif"
    spec = SceneSpec(rows=80, cols=80, wavelengths_nm=band_centres(20), seed=3)
    write_scene(spec, labelled, truth=labels)
    here = Path(sys.executable).parent
    run = tmp_path / "run"
    for command in (
        f"{here}/hsi-train mf2cnet --scene {labelled} --labels {labels} --epochs 1 "
        f"--train-fraction 0.5 -q -o {run}",
        f"{here}/hsi-export {run} -q",
        f"{image}/hsi-run -m {run}/model.onnx --self-test",
        f"{image}/hsi-run {labelled} -m {run}/model.onnx --preview",
    ):
        subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "scene_classes.tif").is_file()
    assert (tmp_path / "scene_preview.png").is_file()


def test_commands_without_their_extra_name_it(image: Path, tmp_path: Path) -> None:
    for command, extra in (
        ("hsi-train mf2cnet", "train"),
        ("hsi-export run", "export"),
    ):
        arguments = " --scene a --labels b" if "train" in command else ""
        found = subprocess.run(
            f"{image}/{command}{arguments}",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 4
        assert f"hsi-edge[{extra}]" in found.stderr
        assert "Traceback" not in found.stderr
