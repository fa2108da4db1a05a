"""Turn a checkpoint into one model file, and prove that it answers alike."""
