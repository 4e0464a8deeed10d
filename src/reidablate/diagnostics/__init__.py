"""What a data set and a model look like from the inside."""
