"""Diagnostics: what a data set and a trained network look like from the inside, beyond their scores."""
