"""Simulated sensor products, and what must be found in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from once import Once


class Delivered(NamedTuple):
    """A product as an archive delivers it.

    Attributes:
        path: Its folder or file.
        truth: Labels on its grid.
        cube: Values that were written, ``(band, row, col)``, before the product's own
            bad bands were emptied.
        valid: Pixels inside the flight line, ``(row, col)``.
        spec: The scene.
    """

    path: Path
    truth: Path
    cube: NDArray[Any]
    valid: NDArray[np.bool_]
    spec: Any


@pytest.fixture(scope="session")
def delivered(once: Once) -> Callable[..., Delivered]:
    """Simulate a product, once for all tests; they only read it.

    ``delivered("enmap", bands=40, level="L1C")``: all bands if none are given; the
    level is that of products which have several.
    """
    from hsi_train.simulate import simulate_window, writer
    from hsi_train.simulate.products import generator

    def make(
        product: str, bands: int | None = None, level: str = "", rows: int = 48
    ) -> Delivered:
        fields = {"rows": rows, "cols": 52, "seed": 3, "nodata_border": True}
        spec = generator.product_spec(product, bands, **fields)
        made = generator.generator_of(product)
        if level:
            module = __import__(generator.MODULES[product], fromlist=[level])
            made = getattr(module, level)

        def fill(folder: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(writer, "generator_of", lambda _: made)
                target, truth = folder / "product", folder / "truth.tif"
                writer.write_scene(spec, target, truth=truth, product=product)

        folder = once(f"{product}-{bands}-{level}-{rows}", fill)
        cube, _, valid = simulate_window(spec, 0, spec.rows)
        return Delivered(
            path=folder / "product",
            truth=folder / "truth.tif",
            cube=cube,
            valid=valid,
            spec=spec,
        )

    return make


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a product, to be changed by the test."""
    import shutil

    def copy(product: Path, name: str = "copy") -> Path:
        target = tmp_path / name
        if product.is_dir():
            shutil.copytree(product, target)
        else:
            shutil.copy(product, target)
        return target

    return copy
