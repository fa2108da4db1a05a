"""Classify hyperspectral scenes of any size with an exported model file."""
