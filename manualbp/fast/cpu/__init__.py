"""Fast mode on CPU: the products of a Linear by ATen or oneDNN, with the activation next to it."""
