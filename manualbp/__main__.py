"""``python -m manualbp build`` and ``status``: the C++ library that makes fast mode fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from manualbp import fast


class _Parser(argparse.ArgumentParser):
    """Its errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: it runs, or is built; 1: it does not, or cannot be. One line says why and what to do."""
    options = parser().parse_args(arguments)
    return _build(options.verbose) if options.command == "build" else _status()


def parser() -> argparse.ArgumentParser:
    """The arguments; docs/api/commands.md is made of them."""
    whole = _Parser(
        prog="python -m manualbp", allow_abbrev=False,
        description="The C++ library that makes fast mode fast.",
    )  # fmt: skip
    commands = whole.add_subparsers(dest="command", required=True, metavar="build | status")
    build = commands.add_parser("build", help="compile it for this PyTorch and processor")
    build.add_argument("--verbose", action="store_true", help="all that a failing compiler says")
    commands.add_parser("status", help="say whether it runs, and if not, why")
    return whole


def _status() -> int:
    runs, words = fast.native.status()
    print(f"native step: {words}" if runs else f"native step: does not run: {words}")
    return 0 if runs else 1


def _build(verbose: bool) -> int:
    path = fast.native.find(fast.native.here())
    if path is not None and fast.native.loads(path):
        print(f"built already: {path}")
        return 0
    try:
        print(fast.native.plan(), flush=True)
        print(f"built: {fast.native.build()}")
    except fast.native.BuildError as error:
        print(f"not built, so pure Python runs: {error}", file=sys.stderr)
        print(error.output if verbose else "", file=sys.stderr, end="")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
