"""Sensor products that `write_scene` can imitate, as archives deliver them."""
