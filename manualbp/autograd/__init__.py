"""The maths as torch.autograd.Functions.

segment.py          layers in a row with their parameters: what one Function runs
chain.py            the recursion as one Function, and its second order
recomputed.py       the same with next to nothing kept: activations are computed once more
cost.py             a loss
gated.py            the gated MLP
torch_internals.py  every private probe of PyTorch's
"""
