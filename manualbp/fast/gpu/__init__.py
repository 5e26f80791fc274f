"""Fast mode on GPUs. Not yet measured on one.

pairs.py        layers: a Linear and the activation next to it in one step
products.py     a product and its activation, by ATen or Triton
one_launch.py   forward, loss and backward of a narrow net in one launch
choice.py       ATen's routines or the kernels
kernels/        the equations as Triton kernels
"""
