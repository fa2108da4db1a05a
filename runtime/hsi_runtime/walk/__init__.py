"""Walks a scene of any size: windows, strips, memory and threads."""
