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

from comparisons.power.operations.attention import Attention
from comparisons.power.operations.convolution import Convolution
from comparisons.power.operations.layers import (
    IGNORED,
    CrossEntropy,
    CumulativeSum,
    Embedding,
    LayerNorm,
    LinearActivation,
    RMSNorm,
    SwiGLU,
)
from comparisons.power.operations.operation import ByHand, Change, Operation
from comparisons.power.pair import Pair

ROWS = 35
Inputs = tuple[Tensor, ...]


class Network(nn.Module):
    """Operations by the name of their site, and parameters of the given shapes."""

    def __init__(self, sites: dict[str, Operation], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.sites, self.hand = sites, False
        self.planted: tuple[str, Change | None] = "", None  # the site of a fault, and the fault
        for name, shape in shapes.items():
            size = torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.3
            self.register_parameter(name, nn.Parameter(torch.randn(shape) * size))

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

    def inputs(self) -> Inputs:
        """One batch, from the global random state."""
        return (torch.randn(ROWS, 5),)


class MLP(Network):
    """5-7-...-7-3, each layer a LinearActivation, the last without f."""

    def __init__(self, f: str, hidden: int = 2) -> None:
        widths, functions = (5, *hidden * [7], 3), (*hidden * [f], "identity")
        sites: dict[str, Operation] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for i, name in enumerate(functions):
            sites[f"layer {i}"] = LinearActivation(name)
            shapes |= {f"w{i}": (widths[i + 1], widths[i]), f"b{i}": (widths[i + 1],)}
        super().__init__(sites, **shapes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.sites)):
            x = self.at(f"layer {i}", x, self[f"w{i}"], self[f"b{i}"])
        return x


class Norm(Network):
    """norm(x Wᵀ) Uᵀ; rows of very different size, so that ε counts in some."""

    def __init__(self, norm: Operation) -> None:
        shapes = {name: (12,) for name in norm.arguments[1:]}
        super().__init__({"norm": norm}, w=(12, 5), **shapes, u=(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        affine = [self[name] for name in self.sites["norm"].arguments[1:]]
        return self.at("norm", x @ self["w"].t(), *affine) @ self["u"].t()

    def inputs(self) -> Inputs:
        return (torch.randn(ROWS, 5) * torch.logspace(-1.5, 0.5, ROWS).unsqueeze(-1),)


class SelfAttention(Network):
    """Two causal heads of 4 over 9 places."""

    def __init__(self) -> None:
        names = ("wq", "wk", "wv", "wo")
        super().__init__({"attention": Attention()}, **{name: (8, 8) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        heads = [
            (x @ self[name].t()).reshape(*x.shape[:2], 2, 4).transpose(1, 2)
            for name in ("wq", "wk", "wv")
        ]
        return self.at("attention", *heads).transpose(1, 2).flatten(-2) @ self["wo"].t()

    def inputs(self) -> Inputs:
        return (torch.randn(2, 9, 8),)


class Convolutions(Network):
    """3 x 3 kernels: stride 2 in two groups, tanh, then stride 1."""

    def __init__(self) -> None:
        super().__init__(
            {"grouped": Convolution(2, 2), "last": Convolution(1, 1)},
            w0=(6, 2, 3, 3), b0=(6,), w1=(6, 6, 3, 3), b1=(6,),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.at(
            "last", self.at("grouped", x, self["w0"], self["b0"]).tanh(), self["w1"], self["b1"]
        )

    def inputs(self) -> Inputs:
        return (torch.randn(2, 4, 8, 7),)


class Classifier(Network):
    """A linear layer and its cross entropy; every fifth label is ignored."""

    def __init__(self) -> None:
        super().__init__({"loss": CrossEntropy()}, w=(4, 5))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.at("loss", x @ self["w"].t(), labels)

    def inputs(self) -> Inputs:
        x = torch.randn(ROWS, 5)
        labels = x[:, :4].argmax(-1)
        labels[::5] = IGNORED
        return x, labels


class GatedMLP(Network):
    """SwiGLU 5-7, then a linear layer to 3."""

    def __init__(self) -> None:
        super().__init__({"gate": SwiGLU()}, g=(7, 5), u=(7, 5), d=(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.at("gate", x, self["g"], self["u"]) @ self["d"].t()


class Bag(Network):
    """Embeddings of three words; some words repeat."""

    def __init__(self) -> None:
        super().__init__({"embedding": Embedding()}, w=(11, 4), u=(3, 4))

    def forward(self, words: Tensor) -> Tensor:
        return self.at("embedding", words, self["w"]).sum(1).tanh() @ self["u"].t()

    def inputs(self) -> Inputs:
        return (torch.randint(0, 11, (ROWS, 3)),)


class Running(Network):
    """A running sum over 7 features between two linear layers."""

    def __init__(self) -> None:
        super().__init__({"sum": CumulativeSum()}, w=(7, 5), u=(3, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.at("sum", x @ self["w"].t()).tanh() @ self["u"].t()


NETWORKS: dict[str, Callable[[], Network]] = {
    "MLP, tanh": lambda: MLP("tanh"),
    "MLP, ReLU": lambda: MLP("relu"),
    "8 layers of sigmoid": lambda: MLP("sigmoid", 8),
    "LayerNorm": lambda: Norm(LayerNorm()),
    "attention": SelfAttention,
    "convolution": Convolutions,
    "linear + GELU": lambda: MLP("gelu"),
    "cross entropy": Classifier,
    "RMSNorm": lambda: Norm(RMSNorm()),
    "SwiGLU": GatedMLP,
    "embedding": Bag,
    "cumulative sum": Running,
}


def correct_pair(name: str, seed: int, batches: int = 10) -> Pair:
    """A network and its copy by hand, with its loss and batches.

    The targets are those of another network of its kind, with noise of 0.1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reference, teacher = NETWORKS[name](), NETWORKS[name]()
        found = []
        for _ in range(batches):
            inputs = reference.inputs()
            with torch.no_grad():
                target = teacher(*inputs)
            found.append((inputs, target + 0.1 * torch.randn_like(target)))
    loss = own_loss if isinstance(reference, Classifier) else nn.functional.mse_loss
    return Pair(by_hand(reference), reference, loss, tuple(found))


def own_loss(output: Tensor, target: Tensor) -> Tensor:
    """C = o: the network ends with its loss and needs no target."""
    return output


def by_hand(reference: nn.Module, site: str = "", change: Change | None = None) -> Network:
    """A copy of a network with every operation's backward by hand, ``change`` planted at a site."""
    network = cast(Network, copy.deepcopy(reference))
    network.hand, network.planted = True, (site, change)
    return network
