import json
from pathlib import Path

import few_labels
import pytest
import results


def cell(row: str, seed: int, share: float) -> str:
    rivals = [
        {"name": name, "overall_accuracy": value, "average_accuracy": value}
        for name, value in (("lda-sum", 0.99), ("svm", share - 0.02), ("lda", 0.1))
    ]
    return json.dumps(
        {
            "data": "enmap_potsdam_5",
            "row": row,
            "seed": seed,
            "overall_accuracy": share,
            "rivals": rivals if row == "lda" else [],
        }
    )


def test_differences_are_paired_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        *(cell("lda", seed, share) for seed, share in enumerate((0.5, 0.6, 0.7))),
        *(cell("s2former_pretrained", seed, 0.61 + seed / 10) for seed in (0, 1)),
        cell("s2former_untrained", 0, 0.7),
    ]
    path = tmp_path / "accuracy" / "cells.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    _, _, row = few_labels.few_labels().splitlines()
    assert row == (
        "| the same, 5 | 60.0 (3) | svm -2.0 ± 0.0 (3) | +11.0 ± 0.0 (2) | not run |"
    )
