"""Every gradient by NumPy, by hand and by autograd: ``python -m comparisons gradients``."""
