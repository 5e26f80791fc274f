"""Time and memory of a step, against others: ``python -m comparisons speed``."""
