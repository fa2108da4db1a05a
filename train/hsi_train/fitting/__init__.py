"""Trains networks: windows, optimisation, pre-training and resuming."""
