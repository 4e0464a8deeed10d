"""Training, its interruption and its return, and the extraction of features."""
