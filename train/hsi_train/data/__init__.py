"""Labelled scenes: rasters, MATLAB files and vector labels become cubes and classes."""
