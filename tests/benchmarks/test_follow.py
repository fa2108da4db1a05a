import numpy as np
import pytest
from follow import lags, peaks


def test_delays_are_those_of_every_line() -> None:
    written = np.arange(100) / 250
    blocks = [
        {"rows": [first, first + 20], "time": (first + 25) / 250, "lag_lines": 5}
        | {"dropped": 0}
        for first in range(0, 100, 20)
    ]
    row = lags(blocks, written, halo=5)
    assert row["block_lines"] == 20
    assert row["limit_ms"] == pytest.approx(1000 * 42.5 / 250)
    assert row["share_within_limit"] == 1
    assert row["delay_ms"]["worst"] == pytest.approx(100)
    blocks[2]["time"] = 1.0
    assert lags(blocks, written, halo=5)["share_within_limit"] == pytest.approx(0.8)


def test_memory_of_the_quarters() -> None:
    row = peaks([1, 9, 2, 3, 4, 4, 5, 1])
    assert row["peak_memory_bytes"] == 9
    assert (row["memory_early_bytes"], row["memory_late_bytes"]) == (3, 4)
