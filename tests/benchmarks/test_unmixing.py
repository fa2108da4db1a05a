from pathlib import Path
from typing import Any

import numpy as np
import pytest
import unmixing
from unmixing import Scene, Unmixed


def scene(areas: bool = True) -> Scene:
    """Three materials, one of them dark, in 30 x 40 pixels without noise."""
    rng = np.random.default_rng(0)
    spectra = rng.random((8, 3)) * [1000, 800, 40]
    true = rng.dirichlet([0.5, 0.5, 0.5], (30, 40)).transpose(2, 0, 1)
    true[:, :9, :9] = np.array([1, 0, 0])[:, None, None]
    true[:, 9:18, :9] = np.array([0, 1, 0])[:, None, None]
    true[:, 18:27, :9] = np.array([0, 0, 1])[:, None, None]
    cube = np.einsum("bk,krc->brc", spectra, true).astype(np.float32)
    return Scene(Path("s.tif"), cube, spectra, true, areas)


def test_constrained_least_squares_find_the_shares_of_areas() -> None:
    known = scene()
    solved = unmixing.least_squares(known.endmembers, known, constrained=True)
    np.testing.assert_allclose(solved, known.shares, atol=1e-4)
    figures = unmixing.compare(Unmixed(known.endmembers, solved), known)
    assert figures["rmse"] == figures["largest_area_error"] == 0
    assert figures["angle_rad"] == pytest.approx(0, abs=1e-3)


def test_shares_at_the_peak_are_those_of_brighter_endmembers() -> None:
    known = scene(areas=False)
    peaks = known.endmembers.max(axis=0)
    brighter = known._replace(endmembers=known.endmembers / peaks)
    solved = unmixing.least_squares(brighter.endmembers, known, constrained=False)
    converted = unmixing.at_peak(Unmixed(known.endmembers, known.shares))
    np.testing.assert_allclose(converted, solved, atol=1e-4)


def test_endmembers_are_matched_by_their_angles() -> None:
    known = scene()
    mixed = Unmixed(known.endmembers[:, [2, 0, 1]] * 3, known.shares[[2, 0, 1]])
    ordered = unmixing.matched(mixed, known)
    np.testing.assert_allclose(ordered.endmembers, known.endmembers * 3)
    np.testing.assert_array_equal(ordered.shares, known.shares)


def test_pure_pixels_are_found_where_there_are_some() -> None:
    known = scene()
    found = unmixing.best_vca(known, seed=0)
    near = unmixing.angles(found, known.endmembers).min(axis=0)
    assert near.max() < 1e-2


def test_labels_are_of_covered_pixels_or_of_the_nearest_spectra() -> None:
    known = scene()
    labels = unmixing.labels_of(known, known.endmembers, seed=1)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    rows, cols = np.nonzero(labels)
    own = known.shares[labels[rows, cols].astype(int) - 1, rows, cols]
    assert own.min() >= unmixing.PURE
    without = known._replace(areas=False)
    nearest = unmixing.labels_of(without, known.endmembers, seed=1)
    assert np.bincount(nearest.ravel())[1:].max() <= unmixing.NEAREST


def test_the_table_has_a_row_for_each_scene_and_way() -> None:
    own: dict[str, Any] = {"angle_rad": 0.1, "rmse": 0.2, "largest_area_error": 0.012}
    own["block_rmse"] = 0.01
    own["area_errors"] = [[0.012, 0.002, 0.022], [-0.012, -0.022, -0.002]]
    counted = {k: v for k, v in own.items() if k != "angle_rad"}
    peak = {"angle_rad": 0.1, "rmse": 0.2, "rmse_at_peak": 0.3}
    lines = [
        {"scene": name, "seed": seed, "figures": figures}
        for seed in (0, 1)
        for name, figures in (
            ("samson", {"vca_fcls": peak}),
            ("simulated_8m", {"s2vnet": own, "counted": counted}),
        )
    ]
    rows = unmixing.markdown(lines).splitlines()[-3:]
    assert rows[0].startswith("| samson | VCA + FCLS | 2 | 0.100 ± 0.000 | 0.200 ± 0.0")
    assert "; 0.300 ± 0.000 |  |  |  |  |" in rows[0]
    assert rows[1].endswith("| 1.20 ± 0.00 | 1.20 ± 0.00 | 1.00 | 1.00 ± 0.00 |")
    assert rows[2].startswith(
        "| simulated_8m | pixels of S2VNet's class map, counted |"
    )
