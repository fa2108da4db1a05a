"""Brings a scene's bands and units to those that a model was trained on."""
