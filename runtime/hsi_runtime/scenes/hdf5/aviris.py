"""AVIRIS-3 and AVIRIS-5 orthorectified reflectance (``RFL_ORT``), netCDF4.

``GeoTransform`` places the corner of the first pixel, ``easting`` and ``northing`` the
centres. No band is marked as bad.
"""

import math

from hsi_runtime.scenes.georeference import Ground
from hsi_runtime.scenes.hdf5.layout import Bands, Layout, Product
from hsi_runtime.scenes.side_car import crs_of

MAPPING = "transverse_mercator"
NEAR = 1e-3  # share of a pixel


def _bands(product: Product) -> Bands:
    return Bands.of_reflectance(
        product.numbers("reflectance/wavelength"),
        widths=product.file.numbers("reflectance/fwhm"),
        good=product.file.numbers("reflectance/good_wavelengths"),
    )


def _ground(product: Product) -> Ground:
    file = product.file
    text = file.attribute_text("crs_wkt", MAPPING)
    text = text or file.attribute_text("spatial_ref", MAPPING)
    crs = crs_of(text) if text else None
    east, north = (product.numbers(name).tolist() for name in ("easting", "northing"))
    if len(east) < 2 or len(north) < 2:
        raise product.lacks("easting and northing")
    dx = (east[-1] - east[0]) / (len(east) - 1)
    dy = (north[-1] - north[0]) / (len(north) - 1)
    by_centres = (east[0] - dx / 2, dx, 0.0, north[0] - dy / 2, 0.0, dy)
    try:
        stated = [
            float(v) for v in file.attribute_text("GeoTransform", MAPPING).split()
        ]
    except ValueError:
        stated = []
    if len(stated) != 6 or not all(map(math.isfinite, stated)):
        return Ground(crs=crs, transform=by_centres)
    # At both ends of the grid, in pixels.
    ends = (0, 0), (len(east), len(north))
    apart = [
        (
            abs(stated[0] + col * stated[1] - by_centres[0] - col * dx) / abs(dx or 1),
            abs(stated[3] + row * stated[5] - by_centres[3] - row * dy) / abs(dy or 1),
        )
        for col, row in ends
    ]
    rotated = bool(stated[2] or stated[4])
    if rotated or max(map(max, apart)) > NEAR:
        note = (
            f"{file.path.name}: its GeoTransform and its coordinates disagree; the "
            "coordinates are used."
        )
        return Ground(crs=crs, transform=by_centres, notes=(note,))
    a, b, c, d, e, f = stated
    return Ground(crs=crs, transform=(a, b, c, d, e, f))


LAYOUT = Layout(
    product="AVIRIS-3 or AVIRIS-5 orthorectified reflectance",
    cubes=(("reflectance/reflectance",),),
    marks=("easting", "northing"),
    interleave="bsq",
    bands=_bands,
    ground=_ground,
    time="time_coverage_start",
)
