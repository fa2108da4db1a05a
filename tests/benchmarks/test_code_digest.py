"""That old results are noticed: by what was measured, not by when."""

import json
from collections.abc import Sequence
from pathlib import Path

import code_digest
import pytest


def test_stale_results_are_declared_and_no_others() -> None:
    stale = {
        path.relative_to(code_digest.RESULTS).as_posix()
        for path in code_digest.result_files()
        if not code_digest.is_fresh(path)
    }
    declared = set(code_digest.declared_stale())
    assert not stale - declared, (
        f"{sorted(stale - declared)} no longer belong to the present code: run their "
        "benchmarks again, or add a line with the reason to "
        "benchmarks/results/stale.toml and renew the pages (python .docs/generate.py)."
    )
    assert not declared - stale, (
        f"{sorted(declared - stale)} are fresh or gone: remove their lines from "
        "benchmarks/results/stale.toml and renew the pages (python .docs/generate.py)."
    )
    assert all(code_digest.declared_stale().values()), "each line needs a reason"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose training imports a helper and, elsewhere, a reader."""
    files = {
        "train/hsi_train/__init__.py": "",
        "train/hsi_train/training.py": (
            '"""Trains."""\nfrom hsi_train import helper  # why\n'
            "from hsi_train.report import page\nfrom hsi_runtime.reader import read\n"
        ),
        "train/hsi_train/helper.py": "import math\n\nRATE = 1\n",
        "train/hsi_train/unused.py": "RATE = 1\n",
        "train/hsi_train/report/__init__.py": "",
        "train/hsi_train/report/page.py": "TITLE = 1\n",
        "train/hsi_train/methods/__init__.py": "",
        "train/hsi_train/methods/one.py": "WIDTH = 1\n",
        "train/hsi_train/methods/two.py": "WIDTH = 1\n",
        "runtime/hsi_runtime/__init__.py": "",
        "runtime/hsi_runtime/reader.py": "def read(): pass\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code_digest, "ROOT", tmp_path)
    monkeypatch.setattr(code_digest, "RESULTS", tmp_path)
    return tmp_path


def digest() -> str:
    code_digest._digest.cache_clear()
    return str(code_digest.of_training("one")["sha256"])


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("train/hsi_train/helper.py", "import math\nRATE = 2\n", False),
        ("train/hsi_train/methods/one.py", "WIDTH = 2\n", False),
        ("train/hsi_train/__init__.py", "import hsi_train.helper\n", False),
        (
            "train/hsi_train/helper.py",
            '"""Help."""\nimport math\n# a\nRATE = 1\n',
            True,
        ),
        ("train/hsi_train/methods/two.py", "WIDTH = 2\n", True),
        ("train/hsi_train/unused.py", "RATE = 2\n", True),
        ("train/hsi_train/report/page.py", "TITLE = 2\n", True),
        ("runtime/hsi_runtime/reader.py", "def read(): return 1\n", True),
    ],
)
def test_what_training_imports_counts_but_for_comments(
    file: str, text: str, same: bool, tree: Path
) -> None:
    before = digest()
    (tree / file).write_text(text)
    assert (digest() == before) is same
    code_digest._digest.cache_clear()


def test_a_hash_sign_in_a_text_is_no_comment() -> None:
    assert code_digest.bare('color = "#fff"  # white\n') == 'color = "#fff"'


def test_a_result_is_fresh_if_every_line_is(tree: Path) -> None:
    now = code_digest.of_training("one")
    old = now | {"sha256": "0"}
    for codes, fresh in (([now, now], True), ([now, old], False), ([now, None], False)):
        path = tree / "a.jsonl"
        path.write_text("\n".join(json.dumps({"code": code}) for code in codes))
        assert code_digest.is_fresh(path) is fresh
    (tree / "b.json").write_text(json.dumps({"code": now}, indent=1))
    assert code_digest.is_fresh(tree / "b.json")
    code_digest._digest.cache_clear()


def test_equal_outputs_keep_the_results_of_earlier_code(tree: Path) -> None:
    earlier = code_digest.of_training("one")
    others = [code_digest.of_training("two") | {"sha256": "0"}, code_digest.of("x")]
    lines = [json.dumps({"code": code}) for code in (earlier, *others)]
    (tree / "a.jsonl").write_text("\n".join(lines))
    (tree / "train/hsi_train/helper.py").write_text("RATE = 1\n")
    assert digest() != earlier["sha256"]

    def old(modules: Sequence[str]) -> str:
        return earlier["sha256"] if list(modules) == earlier["modules"] else "1"

    code_digest.record_same(old)
    assert digest() == earlier["sha256"]
    assert "0" not in code_digest._table(code_digest.SAME).values()
    code_digest.record_same(old)  # again, by code that has not changed since
    assert digest() == earlier["sha256"]
    (tree / "train/hsi_train/helper.py").write_text("RATE = 2\n")
    assert digest() != earlier["sha256"]
    code_digest._digest.cache_clear()


def test_what_stands_for_other_code_is_in_a_result() -> None:
    files = code_digest.result_files()
    measured = {c["sha256"] for path in files for c in code_digest.codes_in(path) if c}
    kept = set(code_digest._table(code_digest.SAME).values())
    assert kept <= measured, "run .ci/same_outputs.py --record again, or remove them"
