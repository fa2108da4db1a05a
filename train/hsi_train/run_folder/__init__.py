"""The folder of a run: its files, the checkpoint, and the model's description."""
