"""What others see while a flight lasts: a growing raster, a picture, events."""
