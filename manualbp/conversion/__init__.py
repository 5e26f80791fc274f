"""Hand-written forwards for models that are already there.

convert.py        convert(model)
explain.py        explain(model): what runs by hand, and why the rest does not
blocks.py         another forward for a class of blocks
read_forward.py   what a block computes, read from the source of its forward
"""
