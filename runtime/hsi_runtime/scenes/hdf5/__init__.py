"""Reads products in HDF5 and netCDF4 files; needs the extra ``hdf5``."""
