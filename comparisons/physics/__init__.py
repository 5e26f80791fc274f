"""Networks that solve equations, derivatives by autograd and by hand: ``comparisons physics``."""
