"""From the folders of runs to the tables of a study: what stands is gathered, what does not is named."""
