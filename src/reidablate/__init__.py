"""A reproducible benchmark-and-ablation harness for person re-identification."""

__version__ = "0.2.0"
