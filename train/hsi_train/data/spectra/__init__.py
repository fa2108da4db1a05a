"""Reads spectra that were measured one by one: libraries, and tables of points."""
