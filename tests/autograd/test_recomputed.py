"""set_memory("low"): the same gradients from x and the parameters alone; tiles in fast mode."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import manualbp
from manualbp.autograd import recomputed as recompute
from manualbp.maths import backprop
from manualbp.maths.activations import ACTIVATIONS
from tests.dropin.nets import backpropagated, pair, rows, unequal
from tests.dropin.test_passes import passes_of, unfrozen_between
from tests.helpers import autograd_twin, differing, fitted, gradients, kept_bytes

NAMES = ["deep", "relu", "elu", "layernorm", "rmsnorm", "residual", "block"]
KEPT = ["dropout", "batchnorm"]  # with randomness or statistics: as with "full"


def low_pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    ours, theirs = pair(name, dtype)
    manualbp.set_memory("low", ours)
    return ours, theirs


def node(output: Tensor) -> str:
    return type(output.grad_fn).__name__


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*NAMES, *KEPT, "unknown", "gated"])
def test_bit_identical(name: str, dtype: torch.dtype) -> None:
    """In exact mode, whatever is recomputed."""
    nets = low_pair(name, dtype)
    for wants_x in (True, False):
        found = [backpropagated(net, rows(7, dtype, wants_x)) for net in nets]
        assert unequal(*found) == ""
    by_hand = name in NAMES and (name != "rmsnorm" or dtype is not torch.bfloat16)
    assert (node(nets[0](rows(7, dtype))) == "RecomputedBackward") == by_hand


def test_keeps_the_input_and_the_weights_whatever_the_depth() -> None:
    """Of every storage only those that were there before."""
    x = torch.randn(256, 16, requires_grad=True)
    for mode in ("exact", "fast"):
        for depth in (2, 3, 9):
            model = manualbp.MLP([16] * depth, "gelu", "tanh")
            manualbp.set_memory("low", model)
            manualbp.set_mode(mode, model)
            total, new = kept_bytes(model, x)
            parameters = sum(p.nbytes for p in model.parameters())
            assert new == 0 and total == x.nbytes + parameters
    twin = autograd_twin(model)
    assert kept_bytes(twin, x)[1] > 7 * x.nbytes


@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if "relu" not in a])
def test_gradgradcheck(activation: str) -> None:
    """PyTorch's own tolerances; with respect to the input and all parameters."""
    torch.manual_seed(0)
    model = manualbp.MLP((3, 4, 2), activation, "sigmoid", dtype=torch.float64)
    manualbp.set_memory("low", model)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    names, values = zip(*model.named_parameters(), strict=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (x,))

    assert node(function(x, *values)) == "RecomputedBackward"
    assert torch.autograd.gradcheck(function, (x, *values))
    if activation != "hardtanh":
        assert torch.autograd.gradgradcheck(function, (x, *values))


def third_order(net: nn.Module) -> list[Tensor | None]:
    x, found = rows(grad=True), []
    value = net(x).sin().sum()
    for _ in range(2):
        (g,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(g.detach())
        value = g.pow(2).sum()
    value.backward()
    return [*found, x.grad, *[p.grad for p in net.parameters()]]


@pytest.mark.parametrize("name", NAMES)
def test_third_order(name: str) -> None:
    """fp64, relative 1e-9 as in test_chain."""
    assert unequal(*map(third_order, low_pair(name)), rtol=1e-9) == ""


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "4.weight", "4.bias"])
def test_frozen_parameters(frozen: str, mode: str) -> None:
    """None where autograd has none; the second order to rounding."""
    nets = low_pair("deep")
    manualbp.set_mode(mode, nets[0])
    assert node(nets[0](rows())) == "RecomputedBackward"
    for wants_x in (True, False):
        found = []
        for net in nets:
            net.get_parameter(frozen).requires_grad_(False)
            x = rows(grad=wants_x)
            wanted = [p for p in (x, *net.parameters()) if p.requires_grad]
            first = torch.autograd.grad(net(x).pow(2).sum(), wanted, create_graph=True)
            second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), wanted)
            found.append([*backpropagated(net, x), *first, *second])
        assert unequal(*found, rtol=1e-9 if mode == "fast" else 1e-12) == ""


@pytest.mark.parametrize("name", NAMES)
def test_passes(name: str) -> None:
    """Bit-exact: retained, accumulated, for chosen inputs; freed tensors raise."""
    assert unequal(*map(passes_of, low_pair(name))) == ""


def test_tied_layers() -> None:
    """Bit-exact: the gradients are added last layer first."""
    torch.manual_seed(0)
    linear = nn.Linear(16, 16)
    model = manualbp.Sequential(linear, nn.Tanh(), linear, nn.Tanh(), linear)
    manualbp.set_memory("low", model)
    first = copy.deepcopy(linear)
    twin = nn.Sequential(first, nn.Tanh(), first, nn.Tanh(), first)
    x = torch.randn(8, 16)
    assert differing(gradients(model, x), gradients(twin, x)) == []


@pytest.mark.parametrize("edit", ["0.weight", "0.bias", "2.weight", "4.weight", "input"])
def test_edits_in_place_raise(edit: str) -> None:
    """In autograd's words."""
    net, x = low_pair("deep")[0], rows(grad=True) * 1
    cost = net(x).sum()
    with torch.no_grad():
        (x if edit == "input" else net.get_parameter(edit)).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cost.backward()


def test_edits_that_do_not_matter() -> None:
    """Bit-exact: the last bias is in no derivative, and the output is not kept."""
    found = []
    for edits in (False, True):
        net = low_pair("deep")[0]
        output = net(rows())
        cost = output.sum()
        if edits:
            with torch.no_grad():
                output.mul_(2)
                net.get_parameter("4.bias").mul_(2)
        found.append(torch.autograd.grad(cost, list(net.parameters())))
    assert unequal(*found) == ""


def test_the_output_goes_with_its_last_reference() -> None:
    """Without the garbage collector: the node does not hold it."""
    gc.collect()
    gc.disable()
    try:
        output = low_pair("deep")[0](rows())
        watched, cost = weakref.ref(output), output.sum()
        del output
        assert watched() is None and cost.requires_grad
    finally:
        gc.enable()


def test_other_data_between_the_passes() -> None:
    """Of every parameter: the old values at first order, bit-exact; recorded it is an error."""
    for exchanged in ("0.weight", "0.bias", "2.bias", "4.weight"):
        found = []
        for net in low_pair("deep"):
            output = net(rows()).sum()
            p = net.get_parameter(exchanged)
            p.data = p.data * 2
            found.append(torch.autograd.grad(output, list(net.parameters())))
        assert unequal(*found) == ""
        net = low_pair("deep")[0]
        output, p = net(rows()).sum(), net.get_parameter(exchanged)
        p.data = p.data * 2
        with pytest.raises(RuntimeError, match="data was exchanged between forward"):
            torch.autograd.grad(output, p, create_graph=True)


def test_frozen_between_the_passes() -> None:
    """As for a chain that keeps its activations."""
    for create_graph in (False, True):
        net, x = low_pair("deep")[0], rows(grad=True)
        output = net(x).sum()
        net.requires_grad_(False)
        if not create_graph:
            expected = torch.autograd.grad(pair("deep")[1](x).sum(), x)
            assert unequal(torch.autograd.grad(output, x), expected) == ""
            continue
        with pytest.raises(RuntimeError, match="was frozen between forward and a backward"):
            torch.autograd.grad(output, x, create_graph=True)


def test_unfrozen_between_the_passes() -> None:
    """What was frozen at forward is a constant at second order; to rounding."""
    for name in ("0.weight", "2.weight"):
        found = [unfrozen_between(net, name) for net in low_pair("deep")]
        assert unequal(*found, rtol=1e-12) == ""


def test_backward_inside_autocast() -> None:
    """Bit-exact: what is computed again is not cast, as the first time."""
    for create_graph in (False, True):
        found = []
        for net in low_pair("layernorm", torch.float32):
            x = rows(64, torch.float32, True)
            output = net(x).sin().sum()
            with torch.autocast("cpu", torch.bfloat16):
                wanted = [x, *net.parameters()]
                found.append(torch.autograd.grad(output, wanted, create_graph=create_graph))
        assert unequal(*found) == ""


CONTEXTS: dict[str, Callable[[], object]] = {
    "save_on_cpu": torch.autograd.graph.save_on_cpu,
    "clones": lambda: torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_saved_tensors_elsewhere(context: str) -> None:
    """First order bit-exact, second to rounding."""
    for passed, rtol in ((backpropagated, 0.0), (third_order, 1e-9)):
        found = []
        for net in low_pair("deep"):
            with CONTEXTS[context]():  # type: ignore[attr-defined]
                found.append(passed(net))
        assert unequal(*found, rtol=rtol) == ""


def test_settings() -> None:
    """For the process, for a while, for a model; copies and files keep a model's."""
    model, other, x = manualbp.MLP((4, 4, 2)), manualbp.MLP((4, 4, 2)), torch.randn(3, 4)
    assert node(model(x)) == "ChainBackward"
    with manualbp.set_memory("low"):
        assert node(model(x)) == "RecomputedBackward"
        manualbp.set_memory("full", other)
        assert node(other(x)) == "ChainBackward"
    assert node(model(x)) == "ChainBackward"
    manualbp.set_memory("low", model)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert node(twin(x)) == "RecomputedBackward"
    with pytest.raises(ValueError, match="memory must be one of full, low, got 'lower'"):
        manualbp.set_memory("lower")
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got list"):
        manualbp.set_memory("low", [model])  # type: ignore[arg-type]
    assert manualbp.set_memory.now == "full"


def test_fallbacks_stay() -> None:
    """Bit-exact: torch.compile, torch.func, autocast."""
    model = manualbp.MLP((4, 8, 2), "silu")
    manualbp.set_memory("low", model)
    twin, x = autograd_twin(model), torch.randn(5, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), twin(x)) and node(model(x)) == "RecomputedBackward"
    assert torch.equal(torch.func.vmap(model)(x), torch.func.vmap(twin)(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), twin(x))


def test_distributed_keeps_a_node_for_each_layer() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        nets = low_pair("deep")
        assert node(nets[0](rows())) == "ChainBackward"
        assert unequal(*map(backpropagated, nets)) == ""
    finally:
        dist.destroy_process_group()


def test_trains_to_the_same_bits() -> None:
    torch.manual_seed(0)
    model = manualbp.MLP((8, 16, 16, 3), "gelu")
    twin = autograd_twin(model)
    manualbp.set_memory("low", model)
    x, y = torch.randn(64, 8), torch.randint(3, (64,))
    found = [fitted(net, torch.optim.Adam(net.parameters()), x, y, 20) for net in (model, twin)]
    assert differing(*found) == []


@pytest.mark.parametrize("fault", ["constants", "in autocast", "a layer lost"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations without their graph, computed inside autocast, or of another chain."""
    right = backprop.tape_of

    def wrong(x, steps):  # type: ignore[no-untyped-def]
        if fault == "constants":
            x = x.detach()
        if fault == "a layer lost":
            x = x * 1.0001
        return right(x, steps)

    monkeypatch.setattr(backprop, "tape_of", wrong)
    if fault == "in autocast":
        monkeypatch.setattr(recompute, "_no_autocast", lambda device: torch.enable_grad())
    with pytest.raises((AssertionError, RuntimeError)):
        if fault == "in autocast":
            test_backward_inside_autocast()
        elif fault == "constants":
            test_third_order("deep")
        else:
            test_bit_identical("deep", torch.float64)
