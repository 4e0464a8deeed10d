"""A study as one file that others can check: an RO-Crate with its tables, configuration, report and provenance."""
