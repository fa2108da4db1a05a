"""Planet Tanager, the orthorectified products: HDF-EOS5 with one grid.

The corners in ``StructMetadata.0`` are those of the pixels at the corners, not their
centres. Bad bands hold -0.01, or finite values without meaning.
"""

import re

from hsi_runtime.scenes.georeference import Ground
from hsi_runtime.scenes.hdf5.layout import Bands, Layout, Product
from hsi_runtime.scenes.side_car import crs_of

GRID = "HDFEOS/GRIDS/HYP"
FIELDS = f"{GRID}/Data Fields"
RADIANCE = "toa_radiance"
STRUCTURE = "HDFEOS INFORMATION/StructMetadata.0"
UTM_NORTH, UTM_SOUTH = 32600, 32700  # EPSG codes of zone 0
PAIR = r"\(([-+.\deE]+),([-+.\deE]+)\)"


def _bands(product: Product) -> Bands:
    cube = product.cubes[0]
    bands = Bands.of_reflectance(
        product.attribute("wavelengths", cube),
        widths=product.file.attribute_numbers("fwhm", cube),
        good=product.file.attribute_numbers("good_wavelengths", cube),
    )
    if cube.endswith(RADIANCE):
        return bands._replace(scale=None, offset=None)
    return bands


def _ground(product: Product) -> Ground:
    text = product.file.text(STRUCTURE)
    at = text.find('GridName="HYP"')
    block = text[max(at, 0) :]

    def number(key: str, form: str = r"([-+.\deE]+)") -> tuple[float, ...]:
        match = re.search(rf"\b{key}={form}", block)
        try:
            return tuple(map(float, match.groups())) if match else ()
        except ValueError:
            return ()

    cols, rows = number("XDim"), number("YDim")
    upper, lower = number("UpperLeftPointMtrs", PAIR), number("LowerRightMtrs", PAIR)
    if not (cols and rows and upper and lower and cols[0] > 0 and rows[0] > 0):
        raise product.lacks("grid in StructMetadata.0")
    code = product.file.attribute_numbers("epsg_code", product.cubes[0], GRID, "")
    zone = number("ZoneCode")
    crs = None
    if code is not None and len(code) == 1 and code[0].is_integer():
        crs = crs_of(f"EPSG:{code[0]:.0f}")
    if crs is None and zone and 1 <= abs(zone[0]) <= 60:
        base = UTM_SOUTH if zone[0] < 0 else UTM_NORTH
        crs = crs_of(f"EPSG:{base + abs(zone[0]):.0f}")
    dx, dy = (lower[0] - upper[0]) / cols[0], (lower[1] - upper[1]) / rows[0]
    return Ground(crs=crs, transform=(upper[0], dx, 0.0, upper[1], 0.0, dy))


LAYOUT = Layout(
    product="Tanager ortho",
    cubes=((f"{FIELDS}/surface_reflectance",), (f"{FIELDS}/{RADIANCE}",)),
    interleave="bsq",
    bands=_bands,
    ground=_ground,
    quality=(f"{FIELDS}/beta_cloud_mask", f"{FIELDS}/beta_cirrus_mask"),
)
