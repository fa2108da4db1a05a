import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from hsi_train.data.projection import project

DEGREES, UTM33 = CRS.from_epsg(4326), CRS.from_epsg(32633)
POINTS = st.lists(st.tuples(st.floats(), st.floats()), max_size=12)


@given(POINTS)
@settings(max_examples=50)
def test_points_that_have_no_place_are_infinite_and_leave_others_alone(
    wild: list[tuple[float, float]],
) -> None:
    here = np.array([[13.0, 52.0], *wild, [14.0, 53.0]])
    x, y = project(DEGREES, UTM33, *here.T)
    assert x.shape == y.shape == (len(here),)
    alone = project(DEGREES, UTM33, *here[[0, -1]].T)
    np.testing.assert_allclose([x[[0, -1]], y[[0, -1]]], alone)
    lost = ~np.isfinite(here).all(axis=1)
    assert np.isinf(x[lost]).all()
