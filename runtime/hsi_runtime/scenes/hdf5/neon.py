"""NEON AOP reflectance: flight lines (DP1) and tiles (DP3), revisions .001 and .002.

The attribute ``Interleave`` of the cube says BSQ whatever the order of its axes, which
is (row, col, band).
"""

import numpy as np

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.georeference import Ground, from_envi
from hsi_runtime.scenes.hdf5.layout import Bands, Layout, Product
from hsi_runtime.scenes.side_car import crs_of

CUBE = "*/Reflectance/Reflectance_Data"
WATER_WINDOWS = ("Band_Window_1_Nanometers", "Band_Window_2_Nanometers")


def _bands(product: Product) -> Bands:
    cube, group = product.cubes[0], f"{product.root}/Reflectance"
    spectral = f"{group}/Metadata/Spectral_Data"
    centres = product.numbers(f"{spectral}/Wavelength")
    good = np.ones(len(centres), dtype=bool)
    for name in WATER_WINDOWS:
        window = product.file.attribute_numbers(name, group, cube)
        if window is not None and len(window) == 2:
            good &= (centres < window[0]) | (centres > window[1])
    factor = product.attribute("Scale_Factor", cube, group)[0]
    if not (np.isfinite(factor) and factor > 0):
        raise SceneError(f"{product.file.path} declares a Scale_Factor of {factor:g}.")
    return Bands(
        centres=centres,
        widths=product.file.numbers(f"{spectral}/FWHM"),
        good=good,
        scale=np.full(len(centres), 1 / factor),
        offset=np.zeros(len(centres)),
    )


def _ground(product: Product) -> Ground:
    system = f"{product.root}/Reflectance/Metadata/Coordinate_System"
    fields = {
        "map info": product.file.text(f"{system}/Map_Info"),
        "coordinate system string": product.file.text(
            f"{system}/Coordinate_System_String"
        ),
    }
    code = product.file.text(f"{system}/EPSG Code")
    crs = crs_of(f"EPSG:{code}") if code.isdigit() else None
    stated = from_envi({k: v for k, v in fields.items() if v})
    return Ground(crs=crs or stated.crs, transform=stated.transform, notes=stated.notes)


LAYOUT = Layout(
    product="NEON AOP reflectance",
    cubes=((CUBE,),),
    interleave="bip",
    bands=_bands,
    ground=_ground,
    fill="Data_Ignore_Value",
    quality=("*/Reflectance/Metadata/Ancillary_Imagery/Weather_Quality_Indicator",),
)
