import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
TRAINING = {
    "torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "h5py", "sklearn",
    "matplotlib", "pyogrio", "shapely", "tomli_w", "dask", "distributed", "hsi_train",
    "hsi_export",
}  # fmt: skip
# Behind an option, and an extra of the package.
EXTRA = {
    "polygons.py": {"pyogrio", "shapely"},
    "activations.py": {"onnxruntime"},
    "cluster.py": {"dask", "distributed"},
    "connecting.py": {"dask", "distributed"},
    "container.py": {"h5py"},
    "filters.py": {"h5py"},
}
BANNED = {
    "runtime/hsi_runtime": TRAINING,
    "train/hsi_train": {"hsi_export", "onnx", "onnxscript", "onnx_ir", "onnxruntime"},
    "export/hsi_export": {"onnxruntime", "rasterio", "scipy", "h5py"},
}


def modules_after(code: str, *arguments: object) -> set[str]:
    """Run code in a fresh interpreter; return the packages it left imported."""
    said = "import json, sys\n" + code + "\n"
    said += "print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", said, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_of_hsi_run_imports_no_engine_and_no_arrays() -> None:
    found = modules_after("import hsi_runtime.cli")
    assert not found & (TRAINING | {"onnxruntime", "numpy", "rasterio", "PIL", "tqdm"})


@pytest.mark.parametrize("command", ["hsi_export.cli", "hsi_train.cli"])
def test_help_of_the_others_imports_no_torch(command: str) -> None:
    found = modules_after(f"import {command}")
    assert not found & {"torch", "onnx", "onnxruntime", "onnxscript", "matplotlib"}


def test_a_whole_run_imports_nothing_of_training(
    tmp_path: Path,
    cube: NDArray[Any],
    write_model: Callable[..., Path],
    write_scene_tiff: Callable[..., Path],
) -> None:
    scene = write_scene_tiff(tmp_path / "s.tif", cube)
    model = write_model(tmp_path / "m.onnx")
    found = modules_after(
        "from pathlib import Path\n"
        "from hsi_runtime.model.model_file import read_model\n"
        "from hsi_runtime.pipeline import run\n"
        "from hsi_runtime.request import Request\n"
        "scene, model, out = map(Path, sys.argv[1:])\n"
        "run(Request(scene, out, confidence=True, preview=True), read_model(model))",
        scene,
        model,
        tmp_path / "o.tif",
    )
    assert (tmp_path / "o.tif").is_file()
    assert "onnxruntime" in found
    assert not found & TRAINING


def test_engine_leaves_no_telemetry(
    tmp_path: Path, write_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime identifies the machine and uploads events, unless it is told not to.

    What it would upload it keeps in a database below the user's folder first.
    """
    model = write_model(tmp_path / "m.onnx")
    home = tmp_path / "home"
    home.mkdir()
    for name in ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    found = modules_after(
        "from pathlib import Path\n"
        "from hsi_runtime.engines.opening import open_backend\n"
        "from hsi_runtime.engines.self_test import self_test\n"
        "from hsi_runtime.model.model_file import read_model\n"
        "model = read_model(Path(sys.argv[1]))\n"
        "self_test(model, open_backend(model, 'cpu'))",
        model,
    )
    assert "onnxruntime" in found
    assert not [str(path) for path in home.rglob("*") if path.is_file()]


def test_a_plain_run_starts_without_what_options_need() -> None:
    found = modules_after(
        "import hsi_runtime.batch, hsi_runtime.reports\n"
        "from hsi_runtime.command_line import pixel_bar\n"
        "with pixel_bar(quiet=True):\n"
        "    pass"
    )
    assert not found & {"PIL", "onnxruntime", "pyogrio", "tqdm"}


@pytest.mark.parametrize("package", BANNED)
def test_no_file_imports_what_its_package_must_not(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
            found = {name.split(".")[0] for name in names} & BANNED[package]
            assert not found - EXTRA.get(path.name, set()), (path, found)


@pytest.mark.parametrize("package", BANNED)
def test_linter_refuses_a_crossing(package: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    folder = package.split("/")[0]
    (tmp_path / package).mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / folder / "ruff.toml", tmp_path / folder)

    def lint(*lines: str) -> str:
        """Lint a file of a function for each line: lazy imports count as well."""
        source = tmp_path / package / "added.py"
        functions = [
            f'def load_{n}() -> None:\n    """Doc."""\n    {line}  # noqa: F401\n'
            for n, line in enumerate(lines)
        ]
        source.write_text("\n\n".join(['"""Doc."""\n', *functions]))
        options = ["--no-cache", "--output-format", "concise"]
        return subprocess.run(
            [sys.executable, "-m", "ruff", "check", *options, str(source)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        ).stdout

    banned = sorted(BANNED[package])
    plain = lint(*(f"import {name}" for name in banned))
    assert plain.count("TID251") == len(banned), plain
    parts = lint(*(f"from {name}.part import thing" for name in banned))
    assert parts.count("TID251") == len(banned), parts
    assert "TID252" in lint("from . import neighbour")
    assert "All checks passed" in lint("import numpy")
