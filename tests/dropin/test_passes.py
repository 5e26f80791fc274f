"""Between forward and backward: edits, retained graphs, checkpoints, threads, processes."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.data import DataLoader, Dataset

from tests.dropin.nets import NAMES, backpropagated, pair, rows, unequal

EDITS: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda t: t.mul_(1.5) if t.is_floating_point() else t.add_(1),
    "through .data": lambda t: t.data.mul_(1.5) if t.is_floating_point() else t.data.add_(1),
    "new .data": lambda t: setattr(t, "data", (t.data * 1.5).to(t.dtype)),
}


def targets(net: nn.Module) -> list[str]:
    return ["input", "output", *dict(net.named_parameters()), *dict(net.named_buffers())]


def edited(net: nn.Module, target: str, how: str, wants_x: bool, create_graph: bool) -> Any:
    """Gradients after an edit between the passes, or what is raised."""
    x = rows(grad=wants_x)
    torch.manual_seed(1)
    output = net(x * 1)
    parts = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    cost = output.sum() if target == "output" else output.pow(2).sum()
    with torch.no_grad():
        EDITS[how]({"input": x, "output": output, **parts}[target])
    wanted = [*net.parameters(), *([x] if wants_x else [])]
    try:
        first = torch.autograd.grad(cost, wanted, create_graph=create_graph, allow_unused=True)
        if not create_graph:
            return first
        terms = [g.pow(2).sum() for g in first if g is not None and g.requires_grad]
        return first, torch.autograd.grad(torch.stack(terms).sum(), wanted, allow_unused=True)
    except RuntimeError as error:
        return str(error).split("[", 1)[0]


@pytest.mark.parametrize("create_graph", [False, True], ids=["first order", "second order"])
@pytest.mark.parametrize("how", EDITS)
@pytest.mark.parametrize("name", NAMES)
def test_edits_between_the_passes(name: str, how: str, create_graph: bool) -> None:
    """Raise where autograd's raise, in its words; elsewhere equal, at second order to rounding.

    The one difference: a weight given new .data, with a recorded backward, is an error of ours.
    """
    for target, wants_x in itertools.product(targets(pair(name)[1]), (True, False)):
        arms = [edited(net, target, how, wants_x, create_graph) for net in pair(name)]
        ours, theirs = arms
        if how == "new .data" and isinstance(ours, str) and not isinstance(theirs, str):
            assert create_graph and "run forward again" in ours and "weight" in target
            continue
        if isinstance(ours, str) or isinstance(theirs, str):
            assert ours == theirs, (target, wants_x)
        else:
            assert unequal(ours, theirs, rtol=1e-12 if create_graph else 0) == "", target


def below(net: nn.Module, edit: str, wanted: str) -> str:
    """What is raised for one gradient alone, after an edit elsewhere."""
    output = net(rows()).sum()
    with torch.no_grad():
        net.get_parameter(edit).mul_(2)
    try:
        torch.autograd.grad(output, net.get_parameter(wanted))
    except RuntimeError as error:
        return str(error)
    return ""


def test_one_node_is_checked_as_a_whole() -> None:
    """A difference: an edited weight below is an error though the gradient does not read it."""
    ours, theirs = (below(net, "2.weight", "4.bias") for net in pair("deep"))
    assert "modified by an inplace operation" in ours and theirs == ""
    ours, theirs = (below(net, "4.bias", "0.weight") for net in pair("deep"))
    assert ours == theirs == ""


def frozen_between(net: nn.Module, create_graph: bool) -> Any:
    x = rows(grad=True)
    output = net(x).pow(2).sum()
    net.requires_grad_(False)
    try:
        return torch.autograd.grad(output, x, create_graph=create_graph)
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize("name", ["deep", "residual", "gated", "block"])
def test_frozen_between_the_passes(name: str) -> None:
    """Bit-exact; with a recorded backward an error of ours, which autograd does not have."""
    ours, theirs = (frozen_between(net, False) for net in pair(name))
    assert unequal(ours, theirs) == ""
    assert "was frozen between forward and a backward" in frozen_between(pair(name)[0], True)


def unfrozen_between(net: nn.Module, weight: str) -> list[Tensor | None]:
    """The second order, where a weight that was frozen at forward is trained in backward."""
    net.get_parameter(weight).requires_grad_(False)
    torch.manual_seed(1)
    x = rows(grad=True)
    output = net(x).pow(2).sum()
    net.requires_grad_(True)
    (g,) = torch.autograd.grad(output, x, create_graph=True)
    g.pow(2).sum().backward()
    return [g.detach(), x.grad, *[p.grad for p in net.parameters()]]


@pytest.mark.parametrize("name", NAMES)
def test_unfrozen_between_the_passes(name: str) -> None:
    """To rounding: what was frozen at forward is a constant at second order as well."""
    weights = [n for n, p in pair(name)[0].named_parameters() if p.dim() == 2]
    for weight in weights:
        found = [unfrozen_between(net, weight) for net in pair(name)]
        assert unequal(*found, rtol=1e-12) == ""


def passes_of(net: nn.Module) -> Any:
    """Retained, accumulated, and for chosen inputs only."""
    x = rows(grad=True)
    torch.manual_seed(1)
    output = net(x).pow(2).sum()
    output.backward(retain_graph=True)
    output.backward(retain_graph=True)
    found = [[x.grad.clone()], [p.grad.clone() for p in net.parameters()]]
    chosen = list(net.parameters())[1]
    net.zero_grad()
    output.backward(inputs=[chosen], retain_graph=True)
    found.append([p.grad for p in net.parameters()])
    output.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        output.backward()
    for _ in range(3):
        net(x).sin().sum().backward()
    return [*found, x.grad, [p.grad for p in net.parameters()]]


@pytest.mark.usefixtures("deltas")
@pytest.mark.parametrize("name", NAMES)
def test_passes(name: str) -> None:
    """Bit-exact."""
    assert unequal(*[passes_of(net) for net in pair(name)]) == ""


CHECKPOINTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "non-reentrant": lambda net, x: checkpoint(net, x, use_reentrant=False),
    "reentrant": lambda net, x: checkpoint(net, x, use_reentrant=True),
    "nested": lambda net, x: checkpoint(
        lambda x: checkpoint(net, x, use_reentrant=False).sin(), x, use_reentrant=False
    ),
}


def checkpointed(net: nn.Module, way: str) -> list[Tensor | None]:
    x = rows(grad=True)
    torch.manual_seed(1)
    output = CHECKPOINTS[way](net, x)
    output.pow(2).sum().backward()
    return [output.detach(), x.grad, *[p.grad for p in net.parameters()]]


@pytest.mark.parametrize("way", CHECKPOINTS)
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints(name: str, way: str) -> None:
    """Bit-exact, the dropout mask and the running statistics too."""
    assert unequal(*[checkpointed(net, way) for net in pair(name)]) == ""


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_sequential(reentrant: bool) -> None:
    """Bit-exact; it cuts the children into segments of its own."""
    found = []
    for net in pair("deep"):
        x = rows(grad=True)
        output = checkpoint_sequential(net, 2, x, use_reentrant=reentrant)
        output.pow(2).sum().backward()
        found.append([output.detach(), x.grad, *[p.grad for p in net.parameters()]])
    assert unequal(*found) == ""


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_elsewhere(name: str) -> None:
    """Bit-exact; to rounding where the hooks lose the strides, by which products are chosen."""
    pack = torch.autograd.graph.saved_tensors_hooks
    for context, rtol in (
        (torch.autograd.graph.save_on_cpu(), 0.0),
        (pack(lambda t: t.detach().clone(), lambda t: t), 0.0),
        (pack(lambda t: (t.shape, t.flatten().tolist(), t.dtype),
              lambda s: torch.tensor(s[1], dtype=s[2]).view(s[0])), 1e-14),
    ):  # fmt: skip
        found = []
        for net in pair(name):
            with context:
                found.append(backpropagated(net))
        assert unequal(*found, rtol=rtol) == ""


def test_disabled_saved_tensor_hooks() -> None:
    with torch.autograd.graph.disable_saved_tensors_hooks("no hooks here"):
        assert unequal(*[backpropagated(net) for net in pair("deep")]) == ""


def test_threads() -> None:
    """Bit-exact: eight threads over one network, each with its own graph."""
    found = []
    for net in pair("layernorm"):
        results: dict[int, Tensor] = {}

        def work(i: int, net: nn.Module = net, results: dict[int, Tensor] = results) -> None:
            for _ in range(5):
                x = rows(4 + i, grad=True)
                (results[i],) = torch.autograd.grad(net(x).pow(2).sum(), x)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found.append([results[i] for i in range(8)])
    assert unequal(*found) == ""


class Transformed(Dataset[Tensor]):
    """Rows that went through a network, with gradients, in the worker."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        x = rows(2 + i, grad=True)
        return torch.autograd.grad(self.net(x).sum(), x)[0][:2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_in_a_loader_worker() -> None:
    """Bit-exact, in a forked process."""
    found = []
    for net in pair("layernorm"):
        loader = DataLoader(
            Transformed(net), batch_size=2, num_workers=1, multiprocessing_context="fork"
        )
        found.append(list(loader))
    assert unequal(*found) == ""


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outlives_its_graph(name: str) -> None:
    """No reference cycles: outputs go without the garbage collector, recorded backward or not."""
    net = pair(name)[0]
    gc.collect()
    gc.disable()
    try:
        for create_graph in (False, True):
            x = rows(grad=True)
            output = net(x)
            (g,) = torch.autograd.grad(output.pow(2).sum(), x, create_graph=create_graph)
            node, watched = output.grad_fn, [weakref.ref(t) for t in (x, output, g)]
            with suppress(TypeError):  # nodes of C++, as PyTorch's own, cannot be watched
                watched.append(weakref.ref(node))
            del x, output, g, node
            assert [w() for w in watched] == [None] * len(watched)
    finally:
        gc.enable()
