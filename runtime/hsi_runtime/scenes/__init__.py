"""Scenes on disk and in memory: how each is opened, and what it says about itself."""
