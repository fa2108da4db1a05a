"""PRISMA L2D: HDF-EOS5 with a cube of each spectrometer, whose bands run downwards.

Stored values stay as they are; scale and offset make reflectance of them, band by band:
``L2Scale..Min + value * (L2Scale..Max - L2Scale..Min) / 65535``. A stored 0 is nodata.
The corners that the product states are the centres of the pixels there.
"""

import numpy as np

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.georeference import Ground
from hsi_runtime.scenes.hdf5.layout import Bands, Layout, Product
from hsi_runtime.scenes.side_car import crs_of

FIELDS = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"
SPECTROMETERS = ("Vnir", "Swir")
STEPS = 65_535
PIXEL_M, TOLERANCE_M = 30.0, 0.01


def _bands(product: Product) -> Bands:
    lists: list[list[np.ndarray]] = [[], [], [], [], []]
    for name in SPECTROMETERS:
        centres = product.attribute(f"List_Cw_{name}")
        flags = product.file.attribute_numbers(f"List_Cw_{name}_Flags")
        least = product.attribute(f"L2Scale{name}Min")[0]
        most = product.attribute(f"L2Scale{name}Max")[0]
        widths = product.attribute(f"List_Fwhm_{name}")
        whole = np.ones(len(centres))
        # The list of bands that were acquired marks them by 1.
        flags = whole if flags is None else flags
        if not len(centres) == len(widths) == len(flags):
            raise SceneError(
                f"{product.file.path} is {product.layout.product} with bands of "
                f"{name}, but its lists of them have {len(centres)}, {len(widths)} and "
                f"{len(flags)} values. Is the file complete?"
            )
        lists[0].append(centres)
        lists[1].append(widths)
        lists[2].append(flags)
        lists[3].append(whole * ((most - least) / STEPS))
        lists[4].append(whole * least)
    centres, widths, flags, scale, offset = map(np.concatenate, lists)
    return Bands(
        centres=centres,
        widths=widths,
        good=(flags == 1) & (centres > 0),
        scale=scale,
        offset=offset,
    )


def _ground(product: Product) -> Ground:
    rows, _, cols = product.file.values(product.cubes[0]).shape
    if rows < 2 or cols < 2:
        raise SceneError(f"{product.file.path} has fewer than two rows or columns.")
    (left, right), (top, bottom) = (
        [
            float(product.attribute(f"Product_{corner}corner_{axis}")[0])
            for corner in ("UL", "LR")
        ]
        for axis in ("easting", "northing")
    )
    dx, dy = (right - left) / (cols - 1), (bottom - top) / (rows - 1)
    notes: tuple[str, ...] = ()
    if max(abs(abs(dx) - PIXEL_M), abs(abs(dy) - PIXEL_M)) > TOLERANCE_M:
        notes = (
            f"{product.file.path.name}: its corners, taken as centres of pixels, make "
            f"pixels of {dx:g} x {-dy:g} m instead of {PIXEL_M:g} m; its place may be "
            "off by half a pixel.",
        )
    code = product.file.attribute_numbers("Epsg_Code")
    return Ground(
        crs=None if code is None else crs_of(f"EPSG:{code[0]:.0f}"),
        transform=(left - dx / 2, dx, 0.0, top - dy / 2, 0.0, dy),
        notes=notes,
    )


LAYOUT = Layout(
    product="PRISMA L2D",
    cubes=((f"{FIELDS}/VNIR_Cube", f"{FIELDS}/SWIR_Cube"),),
    interleave="bil",
    bands=_bands,
    ground=_ground,
    fill=0,
    name="Product_Name",
    time="Product_StartTime",
    quality=(
        f"{FIELDS}/VNIR_PIXEL_L2_ERR_MATRIX",
        f"{FIELDS}/SWIR_PIXEL_L2_ERR_MATRIX",
    ),
)
