"""Writes the ENVI header of a raster that grows."""

from collections.abc import Mapping

from hsi_runtime.model.plain_text import plain
from hsi_runtime.output.layers import Layer, rgb
from hsi_runtime.output.raw_file import MAX_CATEGORIES

DATA_TYPES = {"uint8": 1, "uint16": 12}
# Fields of the scene's header that hold for its map, too.
PLACE = ("map info", "coordinate system string", "projection info", "geo points")


def header_text(
    layer: Layer, size: tuple[int, int], georeference: Mapping[str, str]
) -> str:
    """Write the header of a layer.

    Args:
        layer: The raster; one with names becomes an ENVI Classification.
        size: Rows and columns.
        georeference: Fields of the scene's header; those of `PLACE` are copied.
    """
    kind = "Classification" if layer.names else "Standard"
    fields = {
        "description": f"{{{_listed(layer.name)} of hsi-run --follow, still growing}}",
        "samples": size[1],
        "lines": size[0],
        "bands": len(layer.bands),
        "header offset": 0,
        "file type": f"ENVI {kind}",
        "data type": DATA_TYPES[layer.dtype.name],
        "interleave": "bil",
        "byte order": 0,
        "data ignore value": layer.nodata,
        "band names": f"{{{', '.join(map(_listed, layer.bands))}}}",
    }
    if layer.scale is not None:
        fields["reflectance scale factor"] = round(1 / layer.scale)
    if layer.names and layer.colors:
        listed = [code for code in layer.names if code < MAX_CATEGORIES]
        codes = range(max(listed) + 1)
        names = [_listed(layer.names.get(code, "")) for code in codes]
        colors = [layer.colors.get(code, "#000000") for code in codes]
        parts = [str(part) for color in colors for part in rgb(color)]
        fields["classes"] = len(codes)
        fields["class names"] = f"{{{', '.join(names)}}}"
        fields["class lookup"] = f"{{{', '.join(parts)}}}"
    fields |= {k: f"{{{georeference[k]}}}" for k in PLACE if georeference.get(k)}
    return "".join(["ENVI\n", *(f"{k} = {v}\n" for k, v in fields.items())])


def _listed(name: str) -> str:
    """Write a name without what ends a list or an entry of it."""
    return "".join(" " if c in "{},\n\r" else c for c in plain(name)).strip()
