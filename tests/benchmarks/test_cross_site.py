from typing import Any

import cross_site


def run_of(row: str, seed: int, kappa: float) -> dict[str, Any]:
    scores = {"overall_accuracy": 0.5, "average_accuracy": 0.25, "kappa": kappa}
    target = scores | {"kappa": 0.0, "largest_class_share": 0.75}
    return {"row": row, "seed": seed, "source": scores, "target": target}


def test_spread_is_shown_of_several_seeds_only() -> None:
    runs = [run_of("one", 0, 0.3), run_of("two", 0, 0.2), run_of("two", 1, 0.4)]
    lines = cross_site.markdown("the command", runs).splitlines()
    assert lines[0] == "    the command"
    assert "| one | 1 | 50.0 | 25.0 | 30.0 | 50.0 | 25.0 | 0.0 |" in lines
    assert any(
        "| two | 2 | 50.0 ± 0.0 | 25.0 ± 0.0 | 30.0 ± 10.0 |" in x for x in lines
    )
    assert lines[-1].startswith("The largest genus has 75.0 %")
