"""Recognises Wyvern products by their STAC item.

The cube itself states wavelengths and nodata; the item adds name, time and masks.
Read from the product guide, not yet held against a full product.
"""

from pathlib import Path, PurePosixPath

import msgspec

from hsi_runtime.files import read_whole
from hsi_runtime.scenes.products.recognised import Recognised
from hsi_runtime.scenes.products.tiff_product import TiffProduct
from hsi_runtime.scenes.scene import Product, QualityLayer
from hsi_runtime.scenes.side_car import Statements

MOST_BYTES = 16 * 1024**2


class _Provider(msgspec.Struct):
    name: str = ""


class _Asset(msgspec.Struct):
    href: str = ""


class _Properties(msgspec.Struct):
    datetime: str | None = None
    start_datetime: str | None = None
    platform: str = ""
    constellation: str = ""
    providers: list[_Provider] = []
    level: str = msgspec.field(default="", name="processing:level")


class _Item(msgspec.Struct):
    type: str
    stac_version: str
    id: str
    properties: _Properties
    assets: dict[str, _Asset]


def recognise(path: Path, start: bytes) -> Recognised | None:
    """Recognise the STAC item of a Wyvern product.

    Args:
        path: A file.
        start: Its first bytes.
    """
    if not start.lstrip().startswith(b"{") or path.stat().st_size > MOST_BYTES:
        return None
    try:
        item = msgspec.json.decode(read_whole(path, MOST_BYTES), type=_Item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # JSON of another kind
    stated = item.properties
    makers = [
        stated.platform,
        stated.constellation,
        *(p.name for p in stated.providers),
    ]
    known = any(
        w in maker.lower() for maker in makers for w in ("dragonette", "wyvern")
    )
    if item.type != "Feature" or not known:
        return None
    # Of a place on a server only the name counts: the file must lie beside the item.
    files = {
        name: PurePosixPath(asset.href).name for name, asset in item.assets.items()
    }
    rasters = [f for f in files.values() if f.lower().endswith((".tif", ".tiff"))]
    masks = [name for name in rasters if "mask" in name.lower()]
    return TiffProduct(
        product=Product(
            kind=f"Wyvern {stated.level}".strip(),
            name=item.id,
            time=stated.datetime or stated.start_datetime or "",
        ),
        statements=Statements(path, product=True),
        bands=None,
        cube_names=[name for name in rasters if name not in masks],
        members=list(files.values()),
        quality=[
            QualityLayer(name=_layer(mask, item.id), place=mask) for mask in masks
        ],
    ).recognised()


def _layer(file: str, product: str) -> str:
    """Name a mask by the part of its file's name that is its own."""
    return PurePosixPath(file).stem.removeprefix(product).strip("_")
