"""The model file: its description, its checksum, and a check of its graph."""
