"""Fast mode on CPU: the products of a Linear by ATen or oneDNN, with the activation next to it.

routines.py   which routines there are, and which is faster here
products.py   the three products of a linear layer
layers.py     linear layers made of them
"""
