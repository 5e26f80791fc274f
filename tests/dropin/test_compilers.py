"""torch.compile, export, TorchScript, fx: they see PyTorch's operators, and as many graphs."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

import manualbp
from manualbp.autograd import chain as function
from manualbp.autograd import torch_internals
from tests.dropin.nets import NAMES, backpropagated, is_by_hand, pair, rows, unequal

# Seconds each; the others are the slow suite's.
QUICK = ("deep", "gated")
SOME = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
ROUNDING = 1e-13  # fp64: a compiler may take the sums in another order


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def passes(net: nn.Module, sizes: list[int]) -> list[Tensor | None]:
    """Batches of several sizes, in training and then in evaluation."""
    found: list[Tensor | None] = []
    for training in (True, False):
        net.train(training)
        for n in sizes:
            net.zero_grad()
            found += backpropagated(net, rows(n, grad=True))
    return found


@pytest.mark.parametrize("name", SOME)
def test_compiled(name: str) -> None:
    """fp64, to rounding; one graph without a break, and not more of them than nn.Sequential's."""
    found, graphs = [], []
    for net in pair(name):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=counter)
        found.append(passes(compiled, [3, 4, 7]))
        graphs.append(counter.frame_count)
    assert unequal(*found, rtol=ROUNDING) == ""
    assert graphs[0] == graphs[1] <= 4
    torch._dynamo.reset()
    explained = torch._dynamo.explain(pair(name)[0])(rows())
    assert (explained.graph_break_count, explained.graph_count) == (0, 1)


def test_compiled_module_goes_back_to_hand() -> None:
    """Compiling leaves nothing behind in the module itself; ``.compile()`` in place does."""
    ours, theirs = pair("deep")
    torch.compile(ours, backend="aot_eager")(rows())
    assert is_by_hand(ours(rows()))
    ours.compile(backend="aot_eager", fullgraph=True)
    assert unequal(backpropagated(ours), backpropagated(theirs), rtol=ROUNDING) == ""
    assert not is_by_hand(ours(rows()))


def test_a_compiled_child_is_called() -> None:
    ours, theirs = pair("deep")
    for net in (ours, theirs):
        net[0].compile(backend="aot_eager")
    assert unequal(backpropagated(ours), backpropagated(theirs), rtol=ROUNDING) == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["deep", "layernorm", "gated", "block"])
def test_inductor(name: str) -> None:
    """fp64, to rounding."""
    found = [passes(torch.compile(net, fullgraph=True), [4, 6]) for net in pair(name)]
    assert unequal(*found, rtol=ROUNDING) == ""


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", SOME)
def test_compiled_autograd(name: str) -> None:
    """fp64, to rounding: the recursion by hand becomes part of one graph of the backward pass."""
    found = []
    for net in pair(name):
        x = rows(grad=True)
        torch.manual_seed(1)
        cost = net(x).pow(2).sum()
        with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            cost.backward()
        found.append([x.grad, *[p.grad for p in net.parameters()]])
    assert unequal(*found, rtol=ROUNDING) == ""


@pytest.mark.usefixtures("in_python")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_planted_question_breaks_compiled_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking the engine while it is traced is what the test above must see."""

    def wanted(ctx: Any, needs: Any, present: Any) -> list[bool]:
        nodes = [node for node, _ in ctx.next_functions]
        return [need and torch_internals.asked_for(nodes[0]) for need in needs]

    monkeypatch.setattr(function, "wanted", wanted)
    in_2_6, later = r"GetAttrVariable\(.*, next_functions\)", "as_proxy"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=f"{later}|{in_2_6}"):
        test_compiled_autograd("deep")


def exported(net: nn.Module) -> nn.Module:
    """Written to a file and read again."""
    program = torch.export.export(net, (rows(4),), dynamic_shapes=({0: Dim("n", min=2)},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


# PyTorch's own reading of a file, in 2.11.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_export(name: str) -> None:
    """fp64, bit-exact: any batch, in evaluation; and once in training, with gradients."""
    ours, theirs = pair(name)
    assert unequal(backpropagated(exported(ours)), backpropagated(copy.deepcopy(theirs))) == ""
    module = exported(ours.eval())
    theirs.eval()
    if name == "batchnorm":
        theirs.load_state_dict(ours.state_dict())
    for n in (2, 9):
        assert unequal(module(rows(n)), theirs(rows(n))) == ""


def scripted(net: nn.Module) -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    return torch.jit.load(file)


def traced(net: nn.Module) -> Any:
    return torch.jit.trace(net, rows(), check_trace=False)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # a size checked by BatchNorm1d
@pytest.mark.parametrize(
    "tracer", [scripted, traced, torch.fx.symbolic_trace], ids=["script", "trace", "fx"]
)
@pytest.mark.parametrize("name", NAMES)
def test_traced(name: str, tracer: Callable[[nn.Module], Any]) -> None:
    """fp64, to rounding (TorchScript fuses); no Function of ours in what they saw."""
    ours, theirs = pair(name)
    module = tracer(ours)
    assert "PythonOp" not in str(getattr(module, "graph", ""))
    state = {k: v for k, v in ours.state_dict().items() if "running" in k or "batches" in k}
    theirs.load_state_dict(state, strict=False)  # jit.trace has run it once
    assert unequal(backpropagated(module), backpropagated(theirs), rtol=ROUNDING) == ""


def test_fx_graph_is_the_children() -> None:
    graphs = [torch.fx.symbolic_trace(net).graph for net in pair("deep")]
    assert str(graphs[0]) == str(graphs[1])


@pytest.mark.parametrize("name", ["deep", "batchnorm", "block"])
def test_retraced_after_conversion(name: str) -> None:
    """Bit-exact: a traced model is no nn.Sequential, and tracing a converted one is the same."""
    theirs = pair(name)[1]
    twin = copy.deepcopy(theirs)
    outer = nn.Sequential(nn.Sequential(theirs), nn.Identity())
    again = torch.fx.symbolic_trace(manualbp.convert(torch.fx.symbolic_trace(outer)))
    assert unequal(backpropagated(again), backpropagated(twin)) == ""


def step_of(net: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Any]:
    def step(parameters: dict[str, Tensor], x: Tensor) -> Any:
        output = torch.func.functional_call(net, parameters, (x,))
        wanted = list(parameters.values())
        return output, torch.autograd.grad(output.pow(2).sum(), wanted)

    return step


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("name", ["deep", "layernorm", "residual", "gated", "block"])
def test_make_fx(name: str, mode: str) -> None:
    """Bit-exact: the graph of a whole training step's gradients."""
    found = []
    for net in pair(name):
        parameters = dict(net.named_parameters())
        graph = make_fx(step_of(net), tracing_mode=mode)(parameters, rows())
        found.append((str(graph.graph), graph(parameters, rows())))
    assert unequal(found[0][1], found[1][1]) == "" and found[0][0] == found[1][0]
