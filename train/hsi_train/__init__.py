"""Train hyperspectral classifiers from labelled scenes."""
