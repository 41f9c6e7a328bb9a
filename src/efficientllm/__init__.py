"""Measure, on your own hardware, which efficiency technique of language models to use."""

__version__ = "0.1.0"
