"""Synthetic data sets: procedural pedestrians, drawn into the folders and file names of the real sets."""
