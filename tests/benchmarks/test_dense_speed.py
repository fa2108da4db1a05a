from collections.abc import Callable
from pathlib import Path

import dense_speed
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from hsi_runtime.engines.opening import open_backend
from hsi_runtime.model.model_file import read_model


@pytest.mark.parametrize("cores", [1, 2])
def test_squares_and_patches_give_the_map_of_the_window(
    cores: int,
    write_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = read_model(write_model(tmp_path / "model.onnx"))
    backend = open_backend(model, "cpu", cores)
    side = model.document.receptive_field
    bands = len(model.document.bands.used)
    rng = np.random.default_rng(0)
    window = 4000 * rng.random((1, bands, side + 12, side + 12), dtype=np.float32)
    whole = backend.predict(window)["probabilities"]  # (1, class, 13, 13)
    squares = dense_speed.in_squares(backend, window, side - 1, tile=5)
    np.testing.assert_allclose(squares, whole, atol=1e-6)

    monkeypatch.setattr(dense_speed, "PATCHES", 13 * 13)
    views = sliding_window_view(window[0], (side, side), (1, 2))
    patches = views.transpose(1, 2, 0, 3, 4).reshape(-1, bands, side, side)
    at_once = backend.windows_at_once
    parts = dense_speed.by_patches(backend.predict, patches, 16, at_once)
    found = np.concatenate([part["probabilities"] for part in parts])[:, :, 0, 0]
    np.testing.assert_allclose(found.T.reshape(whole.shape), whole, atol=1e-6)
