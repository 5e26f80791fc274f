"""What PyTorch from 2.6 on does otherwise than the newest; asked of itself where that can be."""

from __future__ import annotations

import torch
from torch.optim import optimizer

TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])

# FSDP2 without a GPU. In 2.6: "'Stream' object has no attribute 'record_event'".
SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")
# torch.optim.SGD with an lr of shape (1,). In 2.6: "alpha must be Number, not Tensor".
TAKES_LR_IN_A_LIST = hasattr(optimizer, "_to_scalar")
# BatchNorm's eps <= 0 is refused (https://github.com/pytorch/pytorch/pull/166756).
REFUSES_EPS = TORCH >= (2, 10)
# So is one running statistic without the other: in 2.11, not in 2.6; nobody looked between.
REFUSES_ONE_STATISTIC = TORCH >= (2, 11)
