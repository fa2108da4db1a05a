"""What the user may ask of a run that follows a sensor, for both doors."""
