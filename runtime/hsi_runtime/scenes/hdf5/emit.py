"""EMIT L2A reflectance: lines as they were seen, and a table that places them (GLT).

Bad bands hold -0.01, not the fill value: only ``good_wavelengths`` tells them.
"""

from hsi_runtime.scenes.georeference import is_grid
from hsi_runtime.scenes.hdf5.layout import Bands, Layout, Product
from hsi_runtime.scenes.hdf5.lookup_table import LookupTable
from hsi_runtime.scenes.scene import Placement
from hsi_runtime.scenes.side_car import crs_of

PARAMETERS = "sensor_band_parameters"


def _bands(product: Product) -> Bands:
    return Bands.of_reflectance(
        product.numbers(f"{PARAMETERS}/wavelengths"),
        widths=product.file.numbers(f"{PARAMETERS}/fwhm"),
        good=product.numbers(f"{PARAMETERS}/good_wavelengths"),
    )


def placement_of(product: Product) -> Placement:
    """Read where the lookup table of an EMIT file lies, and its place on the ground.

    The attributes ``easternmost_longitude`` and so on have exchanged names in some
    files; the extent is that of ``geotransform``.
    """
    place = product.attribute("geotransform")
    if len(place) != 6 or not is_grid(tuple(place)):
        raise product.lacks("geotransform that places its pixels")
    a, b, c, d, e, f = place.tolist()
    crs = crs_of(product.file.attribute_text("spatial_ref"))
    lines, samples, *_ = product.file.values(product.cubes[0]).shape
    return LookupTable(
        product.file,
        names=("location/glt_y", "location/glt_x"),
        size=(lines, samples),
        crs=crs.to_wkt() if crs else None,
        transform=(a, b, c, d, e, f),
    )


LAYOUT = Layout(
    product="EMIT L2A reflectance",
    cubes=(("reflectance",),),
    marks=(f"{PARAMETERS}/wavelengths", "location/glt_x"),
    interleave="bip",
    bands=_bands,
    placement=placement_of,
    time="time_coverage_start",
)
