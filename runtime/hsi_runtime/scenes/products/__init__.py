"""Sensor products as archives deliver them, each recognised by its content."""
