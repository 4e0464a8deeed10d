"""The network: stem, transformer, positions, neck, and its weight files."""
