"""This project's own comparisons, run from the clone: ``python -m comparisons NAME``."""
