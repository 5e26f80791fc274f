"""The equations as plain functions on tensors. They need torch alone, and stand on the ground.

activations/       f, f' and f'' side by side
losses.py          C(o, y) and dC/do: one error per output
cross_entropy.py   C(o, y) and dC/do: log softmax, and a weighted sum of log p
layers/            a = f(h; theta): forward and backward of each layer, one above the other
backprop.py        the recursion over the layers: forward, backward, and the second order
gated.py           the gated MLP's formulas
descent.py         w <- w - epsilon dC/dw
"""
