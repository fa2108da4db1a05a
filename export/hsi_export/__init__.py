"""Turns a checkpoint into one model file, and proves that it answers like torch."""
