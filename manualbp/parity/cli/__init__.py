"""``python -m manualbp.parity``, and what other command lines may take from it."""

from manualbp.parity.cli.command import main

__all__ = ["main"]
