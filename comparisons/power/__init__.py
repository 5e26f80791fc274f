"""Does the harness see planted faults? ``python -m comparisons power``."""
