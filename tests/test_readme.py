"""Every command of the README runs, in its order; it stays short and up to date."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].split("    #")[0].strip() for line in lines if line]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def test_commands_of_the_own_scene_run(tmp_path: Path) -> None:
    own = [c for c in commands() if not c.startswith("make")]
    assert [c.split()[0] for c in own] == [
        "python",
        "hsi-train",
        "hsi-export",
        "hsi-run",
    ]
    for command in own:
        shell(command, tmp_path)
    for name in ("classes.tif", "classes.qml", "confidence.tif", "preview.png"):
        assert (tmp_path / f"scene_{name}").is_file()
    assert (tmp_path / "runs" / "fields" / "report.html").is_file()


def test_it_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120


def test_demo_maps_an_unseen_scene(tmp_path: Path) -> None:
    """The recipe of ``make demo``, in the environment at hand."""
    assert "make demo" in commands()
    installed = "-o .venv/torch -o .venv/main -o .venv/dev"
    done = shell(f"make {installed} demo BIN={BIN} DEMO={tmp_path}/demo", ROOT)
    accuracy = re.search(r"overall accuracy ([\d.]+)%", done.stdout)
    assert accuracy is not None, done.stdout
    assert float(accuracy[1]) >= 95
    preview = tmp_path / "demo" / "scene_preview.png"
    assert str(preview) in done.stdout
    assert preview.stat().st_size > 10_000


def test_make_test_is_what_ci_runs() -> None:
    assert "make test" in commands()
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_picture_is_there() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file()


@pytest.mark.parametrize("command", ["hsi-train", "hsi-export", "hsi-run"])
def test_every_option_in_the_readme_exists(command: str, tmp_path: Path) -> None:
    text = shell(f"{command} --help", tmp_path).stdout
    used = [c for c in commands() if c.startswith(command)]
    for option in re.findall(r"--[a-z-]+", " ".join(used)):
        assert option in text
