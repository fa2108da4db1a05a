"""Trains several runs of one recipe: seeds, spatial folds, members of one model."""
