"""Reading TIFF files without GDAL, where their values need no decoding."""
