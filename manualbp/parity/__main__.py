"""``python -m manualbp.parity CANDIDATE REFERENCE --inputs INPUTS``; see ``--help``."""

from __future__ import annotations

from manualbp.parity.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
