"""Divides labelled pixels into training, validation and test."""
