"""Simple rivals of a network on the same pixels: what it has to be better than."""
