"""The faults that are planted, bit-exact on numbers that are exact."""

from __future__ import annotations

import torch

from manualbp.parity.judge.faults import FAULTS, Site

G = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]).double()
S = torch.tensor([[1e6, 1e6, 1e6], [1e6, 5.0, 1e6]]).double()
SITE = Site("w", G, S, (torch.arange(6.0).double(),), G + 1, G - 1, rows=5, eps=2.0**-23, unit=8.0)


def test_each_fault_is_what_it_says() -> None:
    found = {name: fault(SITE) for name, fault in FAULTS.items()}
    expected = {
        "transposed": [[1, 4, -2], [5, 3, -6]], "sign": (-G).tolist(), "x N": (5 * G).tolist(),
        "missing": [[0, 0, 0], [0, 0, 0]], "wrong mask": [[1, 0, 3], [4, 5, 0]],
        "swapped parameters": [[0, 1, 2], [3, 4, 5]], "stale activation": (G + 1).tolist(),
        "one row dropped": (G - 1).tolist(), "one element off": [[1, -2, 3], [12, 5, -6]],
        "sign of the smallest line": [[1, 2, 3], [4, -5, -6]], "x 1.01": (1.01 * G).tolist(),
        "reduced precision": G.tolist(),
    }  # fmt: skip
    noisy = found.pop("noise")
    assert {n: None if g is None else g.tolist() for n, g in found.items()} == expected
    # 2^-11.5 x 8 = 2.8e-3 is one deviation; five of them is the most six numbers show
    assert noisy is not None and 0 < float((noisy - G).abs().max()) < 5 * 2.0**-8.5


def test_reduced_precision_keeps_half_of_the_bits() -> None:
    third = torch.tensor([1 / 3], dtype=torch.float64)
    for eps, bits in ((2.0**-23, 12), (2.0**-52, 26), (2.0**-7, 4)):
        site = Site("w", third, third, (), None, None, 2, eps, 1.0)
        got = FAULTS["reduced precision"](site)
        # the significand is in [0.5, 1): that many bits of it
        assert got is not None and 0 < abs(float(got - third)) <= 2.0 ** -(bits + 1)
