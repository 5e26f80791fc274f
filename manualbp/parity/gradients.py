r"""One forward and one backward on two modules, held together tensor by tensor.

    candidate  (working dtype) ----\
    reference  (working dtype) -----+--> output, loss, input gradient, every parameter gradient
    float64 run of the reference --/     the oracle; 9 pairs of twins say what rounding may do

A pair of twins is the reference with every input, parameter and output gradient off by at most
one eps of the working dtype, run in the working dtype and in float64. How far the float64 twin
moves, over eps, is the size s of the sums behind a number; how far the two twins lie apart is one
more draw of e, the reference's own error (tolerance.py). Both are known element by element.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manualbp.parity.tolerance import TensorReport, bit_identical, compare_tensors, to_double

TWINS = 9
# An independent float64 oracle must meet the float64 run this closely, relative to the sums.
ORACLE_TOLERANCE = 1e-12

Loss = Callable[[Tensor, Any], Tensor]
Hook = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor | None]


@dataclass(frozen=True)
class GradientReport:
    """One TensorReport per tensor, in the order output, loss, input gradients, parameters."""

    tensors: tuple[TensorReport, ...]

    @property
    def agrees(self) -> bool:
        """Every tensor agrees."""
        return all(tensor.agrees for tensor in self.tensors)

    @property
    def bit_identical(self) -> bool:
        """Every tensor has the reference's bits."""
        return all(tensor.bit_identical for tensor in self.tensors)

    @property
    def differing(self) -> tuple[TensorReport, ...]:
        """The tensors that do not agree."""
        return tuple(tensor for tensor in self.tensors if not tensor.agrees)

    @property
    def worst(self) -> TensorReport:
        """The tensor to look at first: one that differs, else the one nearest to its limit."""

        def badness(tensor: TensorReport) -> tuple[bool, bool, float]:
            share = tensor.candidate_error / tensor.allowed if tensor.allowed > 0 else 0.0
            return (not tensor.agrees, not tensor.bit_identical, share)

        return max(self.tensors, key=badness)


def compare_gradients(
    candidate: nn.Module,
    reference: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    target: Any,
    loss: Loss,
    candidate_loss: Loss | None = None,
    oracle: Mapping[str, NDArray[Any]] | None = None,
    *,
    cotangent: Tensor | None = None,
    seed: int = 0,
) -> GradientReport:
    """Compare outputs, losses and all gradients of two modules with the same parameters.

    Args:
        candidate: the module under test.
        reference: the module it should equal; its parameter names are the ones reported.
        inputs: one tensor or several; floating-point ones get a gradient.
        target: passed to the loss as it is (in float64 for the float64 run).
        loss: ``loss(output, target)``, a scalar or any shape.
        candidate_loss: the candidate's own loss; ``loss`` by default.
        oracle: independently computed float64 arrays by tensor name (``output``, ``loss``,
            ``input.grad``, ``0.weight.grad``); they must meet the float64 run within 1e-12.
        cotangent: what the loss is multiplied with on the way back; ``random_cotangent`` of
            ``seed`` by default, so that a backward which forgets its grad_output is seen.
        seed: of the cotangent, the twins and any random layer.

    Neither module is changed: no ``.grad``, buffer, mode or global random state.

    Raises:
        ValueError: the parameters of the two modules differ before anything is run, or the
            oracle names a tensor that is not compared.
    """
    _check_parameters(candidate, reference)
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    with _undisturbed(candidate, reference, seed=seed):
        r = _run(reference, inputs, target, loss, cotangent, seed)
        c = _run(candidate, inputs, target, candidate_loss or loss, cotangent, seed)
        yardstick = _yardstick(reference, inputs, target, loss, cotangent, seed)
    unknown = set(oracle or ()) - set(r)
    if unknown:
        raise ValueError(
            f"the oracle names {', '.join(sorted(unknown))}; expected some of {', '.join(r)}"
        )
    reports = []
    for name in [*r, *(name for name in c if name not in r)]:
        exact, sums, noise = (part.get(name) for part in yardstick)
        report = compare_tensors(name, c.get(name), r.get(name), exact, sums=sums, noise=noise)
        if oracle and name in oracle:
            report = _with_oracle(report, oracle[name], exact, sums)
        reports.append(report)
    return GradientReport(tuple(reports))


def random_cotangent(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of either sign with sizes in [0.5, 1.5]: never 1 by habit, never near zero."""
    generator = torch.Generator().manual_seed(seed)
    size = 0.5 + torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1
    return (size * sign).to(dtype)


def _run(
    module: nn.Module,
    inputs: Sequence[Tensor],
    target: Any,
    loss: Loss,
    cotangent: Tensor | None,
    seed: int,
    output_hook: Hook | None = None,
    cotangent_dtype: torch.dtype | None = None,
) -> Tensors:
    """Every tensor that is compared, by name; None for a gradient that does not exist."""
    torch.manual_seed(seed)  # both arms see the same dropout; inside fork_rng
    leaves = [_leaf(x) for x in inputs]
    names = ["input"] if len(leaves) == 1 else [f"input[{i}]" for i in range(len(leaves))]
    wanted = {f"{name}.grad": x for name, x in zip(names, leaves, strict=True) if x.requires_grad}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            wanted[f"{name}.grad"] = parameter
    with torch.enable_grad():
        output = module(*leaves)
        if not isinstance(output, Tensor):
            raise TypeError(f"a module must return one tensor, got {type(output).__name__}")
        if output_hook is not None and output.requires_grad:
            output.register_hook(output_hook)  # type: ignore[no-untyped-call]
        value = loss(output, target)
    found: Tensors = {"output": output.detach(), "loss": value.detach()}
    if not value.requires_grad:  # an output cut off from its graph: no gradient at all
        return found | dict.fromkeys(wanted)
    if cotangent is None:
        cotangent = random_cotangent(value.shape, cotangent_dtype or value.dtype, seed)
    gradients = torch.autograd.grad(
        value, list(wanted.values()), cotangent.to(value.device, value.dtype), allow_unused=True
    )
    return found | dict(zip(wanted, gradients, strict=True))


class _Yardstick(NamedTuple):
    """The float64 run, s and e by tensor name; see the head of this file."""

    exact: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    noise: Mapping[str, Tensor]


def _yardstick(
    reference: nn.Module,
    inputs: Sequence[Tensor],
    target: Any,
    loss: Loss,
    cotangent: Tensor | None,
    seed: int,
) -> _Yardstick:
    dtype = next((p.dtype for p in reference.parameters()), inputs[0].dtype)
    eps = torch.finfo(dtype).eps
    double_loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    double_target = _to_float64(target)
    generator = torch.Generator().manual_seed(seed + 1)

    def in_float64(
        module: nn.Module, inputs: Sequence[Tensor], hook: Hook | None = None
    ) -> dict[str, Tensor]:
        module, inputs = copy.deepcopy(module).double(), [_to_float64(x) for x in inputs]
        # A cotangent that is drawn is drawn in the working dtype, the same numbers in every arm.
        run = _run(module, inputs, double_target, double_loss, cotangent, seed, hook, dtype)
        return {name: to_double(value) for name, value in run.items() if value is not None}

    exact = in_float64(reference, inputs)
    sums = {name: torch.zeros_like(value) for name, value in exact.items()}
    noise = {name: torch.zeros_like(value) for name, value in exact.items()}
    for _ in range(TWINS):
        twin = copy.deepcopy(reference)
        for parameter in twin.parameters():
            parameter.data = _nudged(parameter.data, eps, generator)
        shaken = [_nudged(x, eps, generator) if x.is_floating_point() else x for x in inputs]
        state = generator.get_state()  # both twins get the same nudge of the output gradient
        run = _run(
            twin, shaken, target, loss, cotangent, seed, lambda g: _nudged(g, eps, generator)
        )
        generator.set_state(state)
        moved = in_float64(twin, shaken, lambda g: _nudged(g, eps, generator))
        for name, value in moved.items():
            mine = run[name]
            sums[name] = torch.maximum(sums[name], (value - exact[name]).abs())
            if mine is not None:
                noise[name] = torch.maximum(noise[name], (to_double(mine) - value).abs())
    sums = {name: exact[name].abs() + moved / eps for name, moved in sums.items()}
    return _Yardstick(exact, sums, noise)


def _nudged(values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """Every number off by a random relative error of at most eps."""
    noise = torch.rand(values.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (values * (1 + eps * noise.to(values.device))).to(values.dtype)


def _with_oracle(
    report: TensorReport, oracle: NDArray[Any], exact: Tensor | None, sums: Tensor | None
) -> TensorReport:
    """The report, with the independent oracle held against the float64 run."""
    if exact is None or sums is None or tuple(oracle.shape) != tuple(exact.shape):
        shape = None if exact is None else tuple(exact.shape)
        reason = f"the oracle is {tuple(oracle.shape)}, the float64 run {shape}"
        return replace(report, agrees=False, reason=_join(report.reason, reason))
    apart = (to_double(oracle) - to_double(exact)).abs()
    relative = torch.where(apart == 0, 0.0, apart / sums)
    difference = float(relative.max()) if relative.numel() else 0.0
    report = replace(report, oracle_difference=difference)
    if difference <= ORACLE_TOLERANCE:  # false for NaN
        return report
    reason = f"the oracle is {difference:.1e} from the float64 run, allowed {ORACLE_TOLERANCE}"
    return replace(report, agrees=False, reason=_join(report.reason, reason))


def _check_parameters(candidate: nn.Module, reference: nn.Module) -> None:
    theirs = dict(candidate.named_parameters())
    for name, parameter in reference.named_parameters():
        twin = theirs.get(name)
        alike = twin is not None and (twin.shape, twin.dtype) == (parameter.shape, parameter.dtype)
        if twin is not None and alike and not bit_identical(twin, parameter):
            raise ValueError(
                f"expected both modules to hold the same parameters, got different {name}; "
                "use candidate.load_state_dict(reference.state_dict())"
            )


@contextmanager
def _undisturbed(*modules: nn.Module, seed: int) -> Iterator[None]:
    """Put buffers and the global random state back as they were."""
    buffers = [(b, b.clone()) for module in modules for b in module.buffers()]
    devices = {p.device for m in modules for p in m.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_(values.is_floating_point())


def _to_float64(values: Any) -> Any:
    if isinstance(values, Tensor) and values.is_floating_point():
        return values.detach().double()
    return values


def _join(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)
