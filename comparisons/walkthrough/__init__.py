"""The article, number by number: ``python -m comparisons walkthrough``."""
