"""Two trainings on real data, held together step by step: ``python -m comparisons training``."""
