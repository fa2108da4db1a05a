"""Reads the formats of labels and MATLAB cubes, by their content and within bounds."""
