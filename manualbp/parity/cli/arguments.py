"""The arguments of the command line, and what is refused before anything is run."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from torch import nn

from manualbp.parity.arms.runs import RUN_KINDS
from manualbp.parity.cli import options
from manualbp.parity.cli.options import UsageError
from manualbp.parity.versions import INSTALL

PROGRAM = "python -m manualbp.parity"
EXIT_CODES = """\
exit codes:
  0    they agree
  1    they differ, or NO POWER: nothing differs, but a fault would not show,
       or NOT JUDGED: the reference cannot judge
  2    bad usage, or something that cannot be run
  130  interrupted, 143 terminated; of a training the report and --checkpoint
       are written
"""
SPECS = """\
CANDIDATE, REFERENCE and every SPEC are package.module:name or
path/to/file.py:name, dotted names allowed; the current folder is importable.

  arms and --loss  a module, a function, an autograd.Function; a class of
                   modules or a function that takes no argument is called, with
                   torch.manual_seed(first seed)
  --inputs         a tensor, a tuple of arguments, a dict of keyword arguments,
                   or a function that makes them: of the seed, or without
                   arguments
  --target         the same; of several seeds the first, as the target does not
                   change
  --data           a list of batches (inputs, target), or a function that makes
                   one

Two modules are compared with the same parameters: the candidate gets the
reference's, by name, and by --parameters where names differ.

"""
LOSSES = {
    "mse": nn.MSELoss, "l1": nn.L1Loss, "huber": nn.HuberLoss, "smooth_l1": nn.SmoothL1Loss,
    "cross_entropy": nn.CrossEntropyLoss, "bce_with_logits": nn.BCEWithLogitsLoss,
}  # fmt: skip
OPTIMIZERS, STEPS, SECONDS = ("sgd", "adam"), 100, 60.0
# Options that only one of the two comparisons has.
OF_GRADIENTS = ("target", "also", "no_power", "no_situations", "repro")
OF_TRAINING = ("steps", "optimizers", "checkpoint", "checkpoint_every")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The settings of one comparison, checked without importing what they name.

    Raises:
        UsageError: something is missing, unknown, taken, or cannot be written.
    """
    again = arguments[:1] == ["replay"]
    args = (replay_parser() if again else parser()).parse_args(arguments[again:])
    if not again:
        _check_kind(args)
    _check_outputs(args)
    return args


def parser() -> argparse.ArgumentParser:
    """The arguments of a comparison; docs/api/commands.md is made of them."""
    parser = options.Parser(
        prog=PROGRAM, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"{PROGRAM} CANDIDATE REFERENCE (--inputs SPEC | --data SPEC) [options]\n"
              f"       {PROGRAM} replay FILE [options]",
        description="Do two implementations of the same agree? Outputs, losses and every gradient "
                    "(--inputs), or whole trainings (--data).",
        epilog=SPECS + EXIT_CODES,
    )  # fmt: skip
    add = parser.add_argument
    add("candidate", metavar="CANDIDATE", help="the implementation under test")
    add("reference", metavar="REFERENCE", help="what it should equal")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--inputs", metavar="SPEC", help="compare gradients, on these inputs")
    kind.add_argument("--data", metavar="SPEC", help="compare trainings, on these batches")
    add("--loss", metavar="SPEC", help=f"loss(output, target), loss(output), or {', '.join(LOSSES)}"
        " (default: random cotangents of the outputs)")  # fmt: skip
    add("--parameters", type=_pairs, metavar="A=B,...",
        help="the candidate's names of parameters and the reference's")  # fmt: skip
    add("--seeds", type=options.list_of(options.seed), metavar="0,1,...",
        help="of random numbers (default: 0,1,2; of trainings 0)")  # fmt: skip
    add("--dtype", type=options.dtype, help=f"{', '.join(options.DTYPES)} (default: the modules'; "
        "trainings run in float64, too)")  # fmt: skip
    add("--device", type=options.device, help="cpu, cuda or cuda:N (default: the modules')")
    add("--exact", action="store_true", help="ask for the reference's bits")
    gradients = parser.add_argument_group("gradients")
    gradients.add_argument("--target", metavar="SPEC", help="what the loss compares outputs with")
    derivative = options.one_of([kind for kind in RUN_KINDS if kind != "backward"], "a derivative")
    gradients.add_argument("--also", type=options.list_of(derivative), metavar="KIND,...",
                           help="second_order, forward_mode, vmap, autocast")  # fmt: skip
    gradients.add_argument("--no-power", action="store_true",
                           help="agree although a fault might not show")  # fmt: skip
    gradients.add_argument("--no-situations", action="store_true",
                           help="one forward and one backward, nothing else")  # fmt: skip
    gradients.add_argument("--repro", type=options.new_file("--repro"), metavar="FILE",
                           help="the comparison in a file, which replay runs again")  # fmt: skip
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=options.positive_int, metavar="N",
                          help=f"of each training (default: {STEPS})")  # fmt: skip
    training.add_argument("--optimizers", type=options.list_of(str), metavar="NAME,...",
                          help="sgd, momentum, adam, adamw "
                          f"(default: {','.join(OPTIMIZERS)})")  # fmt: skip
    training.add_argument("--checkpoint", type=options.new_file("--checkpoint"), metavar="FILE",
                          help="go on from here, where there is such a file")  # fmt: skip
    training.add_argument("--checkpoint-every", type=options.positive_float, metavar="SECONDS",
                          help="write it this often, at the end of a step "
                          f"(default: {SECONDS:.0f})")  # fmt: skip
    _add_outputs(parser)
    return parser


def replay_parser() -> argparse.ArgumentParser:
    """The arguments of ``replay``."""
    parser = options.Parser(
        prog=f"{PROGRAM} replay", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run the comparison in a file of --repro again. The file is a program: only "
                    "open what you trust.",
        epilog=EXIT_CODES,
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE", type=Path, help="what --repro wrote")
    _add_outputs(parser)
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", type=options.new_file("--json"), metavar="FILE", help="the whole report")
    add("--junit", type=options.new_file("--junit"), metavar="FILE", help="JUnit XML, for CI")
    add("--log-dir", type=options.log_dir, metavar="DIR", help="event files for TensorBoard")
    add("--run-name", type=options.run_name, metavar="NAME",
        help="folder in it (default: parity-time)")  # fmt: skip
    add("--verbose", action="store_true", help="every seed, planted fault and setting")


def _pairs(text: str) -> dict[str, str]:
    """``mine=theirs,other=theirs.too``."""
    found = {}
    for pair in text.split(","):
        ours, _, theirs = (part.strip() for part in pair.partition("="))
        if not ours or not theirs or ours in found:
            raise argparse.ArgumentTypeError(
                f"expected candidate's=reference's, each once, with commas between, got {text!r}"
            )
        found[ours] = theirs
    return found


def _check_kind(args: argparse.Namespace) -> None:
    """Every option belongs to the comparison that was asked for."""
    gradients = args.inputs is not None
    asked, other = ("--inputs", "--data") if gradients else ("--data", "--inputs")
    for name in OF_TRAINING if gradients else OF_GRADIENTS:
        if getattr(args, name):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"expected {option} with {other}, got it with {asked}; leave one out")
    if not gradients and args.loss is None:
        raise UsageError("expected --loss with --data, got none; training needs one")
    if args.checkpoint_every and not args.checkpoint:
        raise UsageError("expected --checkpoint with --checkpoint-every, got none; name the file")
    if args.target is not None and args.loss is None:
        raise UsageError("expected --loss with --target, got none; add it or leave --target out")


def _check_outputs(args: argparse.Namespace) -> None:
    """The report can be shown and written as asked; else nothing is run."""
    files = [path.resolve() for name in ("json", "junit", "repro", "checkpoint", "file")
             if (path := getattr(args, name, None))]  # fmt: skip
    if len(set(files)) < len(files):
        raise UsageError(f"expected files that differ, got {files[0]} more than once")
    for package in ("rich", "tensorboard", "matplotlib")[: 3 if args.log_dir else 1]:
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"the command line needs {package}; {INSTALL}")
    if args.run_name and not args.log_dir:
        raise UsageError("expected --log-dir with --run-name, got none; say where the run goes")
    if args.log_dir:
        args.run_name = args.run_name or options.stamped("parity")
        options.free_run(args.log_dir, args.run_name)
