"""What users put into their programs.

sequential.py   Sequential, Residual, MLP
losses.py       MSELoss, CrossEntropyLoss, ...
gated.py        GatedMLP
fused_loss.py   FusedLoss
descent.py      GradientDescent
plan.py         which children make one chain: found once, kept until something changes
stretch.py      children in a row that make one chain: when they fit, and what runs them
refusal.py      why something does not run by hand: all such decisions are made there
"""
