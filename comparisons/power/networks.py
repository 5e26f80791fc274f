"""Small networks around the operations, each under autograd and by hand.

A network runs every operation as PyTorch does. ``by_hand(network, ...)`` is a copy that runs them
as ByHand, with at most one fault at one site.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from comparisons.power.operations.attention import Attention, heads
from comparisons.power.operations.convolution import Convolution
from comparisons.power.operations.linear import LinearActivation, SwiGLU
from comparisons.power.operations.norms import LayerNorm, RMSNorm
from comparisons.power.operations.operation import ByHand, Change, Operation
from comparisons.power.operations.sums import IGNORED, CrossEntropy, CumulativeSum, Embedding

ROWS = 35
Inputs = tuple[Tensor, ...]


def features() -> Inputs:
    """x (ROWS, 5), from the global random state."""
    return (torch.randn(ROWS, 5),)


class Network(nn.Module):
    """``output(network, *inputs)`` of operations by the name of their site.

    ``inputs`` makes one batch. Parameters have the given shapes.
    """

    def __init__(
        self,
        sites: dict[str, Operation],
        output: Callable[..., Tensor],
        inputs: Callable[[], Inputs] = features,
        **shapes: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.sites, self.output, self.inputs, self.hand = sites, output, inputs, False
        self.planted: tuple[str, Change | None] = "", None  # the site of a fault, and the fault
        for name, shape in shapes.items():
            size = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.3
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * size))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output(self, *inputs)

    def at(self, site: str, *tensors: Tensor) -> Tensor:
        """The operation at a site: PyTorch's own, or by hand."""
        operation = self.sites[site]
        if not self.hand:
            return operation.plain(*tensors)
        where, change = self.planted
        planted = change if where == site else None
        return ByHand.apply(operation, planted, *tensors)  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self, name))  # no Parameter under torch.func.functional_call


def mlp(f: str, hidden: int = 2) -> Network:
    """5-7-...-7-3, each layer a LinearActivation, the last without f."""
    widths, functions = (5, *hidden * [7], 3), (*hidden * [f], "identity")
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(len(functions)):
        shapes |= {f"w{i}": (widths[i + 1], widths[i]), f"b{i}": (widths[i + 1],)}

    def output(net: Network, x: Tensor) -> Tensor:
        for i, site in enumerate(net.sites):
            x = net.at(site, x, net[f"w{i}"], net[f"b{i}"])
        return x

    sites: dict[str, Operation]
    sites = {f"layer {i}": LinearActivation(name) for i, name in enumerate(functions)}
    return Network(sites, output, features, **shapes)


def norm(operation: Operation) -> Network:
    """norm(x Wᵀ) Uᵀ; rows of very different size, so that ε counts in some."""
    affine = operation.arguments[1:]
    return Network(
        {"norm": operation},
        lambda net, x: net.at("norm", x @ net["w"].t(), *map(net.__getitem__, affine))
        @ net["u"].t(),
        lambda: (torch.randn(ROWS, 5) * torch.logspace(-1.5, 0.5, ROWS).unsqueeze(-1),),
        w=(12, 5), **{name: (12,) for name in affine}, u=(3, 12),
    )  # fmt: skip


def labelled() -> Inputs:
    """Features and labels, of which every fifth is ignored."""
    (x,) = features()
    labels = x[:, :4].argmax(-1)
    labels[::5] = IGNORED
    return x, labels


NETWORKS: dict[str, Callable[[], Network]] = {
    "MLP, tanh": lambda: mlp("tanh"),
    "MLP, ReLU": lambda: mlp("relu"),
    "8 layers of sigmoid": lambda: mlp("sigmoid", 8),
    "LayerNorm": lambda: norm(LayerNorm()),
    "attention": lambda: Network(  # two causal heads of 4 over 9 places
        {"attention": Attention()},
        lambda net, x: net.at("attention", *heads(x, net["wq"], net["wk"], net["wv"]))
        .transpose(1, 2).flatten(-2) @ net["wo"].t(),
        lambda: (torch.randn(2, 9, 8),),
        wq=(8, 8), wk=(8, 8), wv=(8, 8), wo=(8, 8),
    ),
    "convolution": lambda: Network(  # 3 x 3 kernels: stride 2 in two groups, then stride 1
        {"grouped": Convolution(2, 2), "last": Convolution(1, 1)},
        lambda net, x: net.at(
            "last", net.at("grouped", x, net["w0"], net["b0"]).tanh(), net["w1"], net["b1"]
        ),
        lambda: (torch.randn(2, 4, 8, 7),),
        w0=(6, 2, 3, 3), b0=(6,), w1=(6, 6, 3, 3), b1=(6,),
    ),
    "linear + GELU": lambda: mlp("gelu"),
    "cross entropy": lambda: Network(
        {"loss": CrossEntropy()},
        lambda net, x, labels: net.at("loss", x @ net["w"].t(), labels),
        labelled, w=(4, 5),
    ),
    "RMSNorm": lambda: norm(RMSNorm()),
    "SwiGLU": lambda: Network(
        {"gate": SwiGLU()},
        lambda net, x: net.at("gate", x, net["g"], net["u"]) @ net["d"].t(),
        g=(7, 5), u=(7, 5), d=(3, 7),
    ),
    "embedding": lambda: Network(  # of three words; some words repeat
        {"embedding": Embedding()},
        lambda net, words: net.at("embedding", words, net["w"]).sum(1).tanh() @ net["u"].t(),
        lambda: (torch.randint(0, 11, (ROWS, 3)),),
        w=(11, 4), u=(3, 4),
    ),
    "cumulative sum": lambda: Network(
        {"sum": CumulativeSum()},
        lambda net, x: net.at("sum", x @ net["w"].t()).tanh() @ net["u"].t(),
        w=(7, 5), u=(3, 7),
    ),
}  # fmt: skip


def by_hand(reference: nn.Module, site: str = "", change: Change | None = None) -> Network:
    """A copy of a network with every operation's backward by hand, ``change`` planted at a site."""
    network = cast(Network, copy.deepcopy(reference))
    network.hand, network.planted = True, (site, change)
    return network
