"""Measures maps: accuracy, calibration and area estimates."""
