"""Pictures of a scene's pixels: composites of three bands, and painted maps."""

import math

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image, ImageColor
from scipy import ndimage

from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.report.html import jpeg, png

SMALL_SIDE = 420  # px; a smaller picture is enlarged, by whole factors
PHOTO_PIXELS = 250_000  # from here on a composite is stored as a photograph

TRUE_COLOUR_NM = (640.0, 550.0, 460.0)  # shown as red, green and blue
INFRARED_NM = (860.0, 650.0, 550.0)
FARTHEST_NM = 50.0  # largest distance of a band from the wavelength it shows
STRETCH = (2, 98)  # percentiles of a band that become black and full

NOTHING, NODATA = "#ececec", "#ffffff"
SHARE_STEPS = 50  # shades between 0 and 1
SHARE_COLORS = [
    to_hex(c)
    for c in matplotlib.colormaps["viridis"](np.linspace(0, 1, SHARE_STEPS + 1))
]


def composites(data: LabelledData) -> tuple[dict[str, list[int]], str]:
    """Choose the bands of the colour pictures.

    Returns:
        Three indices into the cube for each picture, by its name, and a note on the
        pictures for which bands are missing, or an empty text.
    """
    used = len(data.bands)
    spread = {"Three bands": [used * n // 6 for n in (5, 3, 1)]}
    centres = data.reference.wavelengths_nm
    if centres is None:
        return spread, (
            "The scene has no wavelengths, so its red, green, blue and infrared bands "
            "are not known: three bands spread over the spectrum are shown."
        )
    centres = centres[data.bands]
    kinds = {"True colour": TRUE_COLOUR_NM, "Colour infrared": INFRARED_NM}
    nearest = {name: nearest_bands(centres, nm) for name, nm in kinds.items()}
    chosen = {name: bands for name, bands in nearest.items() if bands is not None}
    lacking = [
        f"{name} needs bands near {', '.join(f'{nm:.0f}' for nm in kinds[name])} nm."
        for name in kinds
        if name not in chosen
    ]
    if lacking:
        low, high = centres.min(), centres.max()
        lacking.append(f"The used bands lie between {low:.0f} and {high:.0f} nm.")
    return chosen or spread, " ".join(lacking)


def nearest_bands(
    centres: NDArray[np.float64], wavelengths_nm: tuple[float, ...]
) -> list[int] | None:
    """Find the band nearest to each wavelength, in nm.

    None if one is far from all bands, or one band is nearest to two of them.
    """
    bands = [int(np.abs(centres - nm).argmin()) for nm in wavelengths_nm]
    far = max(abs(centres[b] - nm) for b, nm in zip(bands, wavelengths_nm, strict=True))
    return bands if far <= FARTHEST_NM and len(set(bands)) == len(bands) else None


def composite(scene: LabelledScene, bands: list[int]) -> NDArray[np.uint8]:
    """Stretch three bands to a picture ``(row, col, colour)``; nodata is white."""
    picture = np.full((*scene.valid.shape, 3), 255, dtype=np.uint8)
    if not scene.valid.any():
        return picture
    for channel, band in enumerate(bands):
        values = scene.cube[band][scene.valid].astype(np.float64)  # (pixel,)
        low, high = np.percentile(values, STRETCH)
        shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
        picture[scene.valid, channel] = np.rint(255 * shares)
    return picture


def photograph(picture: NDArray[np.uint8], limit: int) -> str:
    """Encode a picture ``(row, col, colour)`` of at most ``limit`` pixels."""
    step = _step(picture.shape, limit)
    image = _enlarged(Image.fromarray(picture).reduce(step))
    return jpeg(image) if picture[..., 0].size > PHOTO_PIXELS else png(image)


def painted(
    indices: NDArray[np.integer],
    colors: list[str],
    valid: NDArray[np.bool_],
    limit: int,
    rare: bool = False,
) -> str:
    """Draw a map of colour indices, `UNLABELLED` where there is none.

    Args:
        indices: Shape ``(row, col)``.
        colors: ``#rrggbb`` of each index.
        valid: False where the scene has no data.
        limit: Largest number of pixels of the picture.
        rare: Where a large map is thinned out, show the highest index of the pixels
            that fall together, so that no label is lost.
    """
    step = _step(indices.shape, limit)
    if rare and step > 1:
        # Over the pixels that the thinned one stands for: itself and those after it.
        indices = ndimage.maximum_filter(indices, step, origin=-(step // 2))
    places = np.where(valid, indices, len(colors) + 1)
    places[valid & (indices == UNLABELLED)] = len(colors)
    table = [ImageColor.getrgb(c) for c in (*colors, NOTHING, NODATA)]
    picture = np.array(table, dtype=np.uint8)[places[::step, ::step]]
    return png(_enlarged(Image.fromarray(picture)))


def painted_shares(
    shares: NDArray[np.float32], valid: NDArray[np.bool_], limit: int
) -> str:
    """Draw shares in [0, 1], shape ``(row, col)``; NaN where there is none."""
    known = np.isfinite(shares)
    steps = np.full(shares.shape, UNLABELLED)
    steps[known] = np.rint(SHARE_STEPS * np.clip(shares[known], 0, 1))
    return painted(steps, SHARE_COLORS, valid, limit)


def _step(shape: tuple[int, ...], limit: int) -> int:
    """Return n, where a picture shows every n-th row and column."""
    return math.ceil(math.sqrt(shape[0] * shape[1] / limit))


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, SMALL_SIDE // max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)
