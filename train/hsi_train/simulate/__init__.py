"""Simulate airborne hyperspectral scenes with known truth, of any size.

A scene is a function of its ``SceneSpec``: a landscape (`landscape`) is
sampled at 3x3 points per pixel, whose materials (`materials`) mix linearly,

    reflectance[band] = sum over points of light * spectrum[band] / points

and a sensor adds noise, worst at the ends of its range and where water vapour absorbs.
Each pixel row is computed from its coordinates alone, so a scene is written strip by
strip, and its bytes do not depend on the strips' height. Shadow is a factor of light
(the sky's blue is not modelled), and a label never means shadow.

Integers hold reflectance x 10000. The nodata value (uint16 0, int16 -32768, float32
-9999) is always declared, and no valid pixel holds it in any band.
"""

from hsi_train.simulate.shift import shift_cube
from hsi_train.simulate.spec import (
    DEFAULT_MATERIALS,
    DomainShift,
    SceneSpec,
    band_centres,
    class_colors,
    class_names,
)
from hsi_train.simulate.writer import simulate_window, truth_labels, write_scene

__all__ = [
    "DEFAULT_MATERIALS",
    "DomainShift",
    "SceneSpec",
    "band_centres",
    "class_colors",
    "class_names",
    "shift_cube",
    "simulate_window",
    "truth_labels",
    "write_scene",
]
