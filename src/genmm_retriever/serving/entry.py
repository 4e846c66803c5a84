"""Where the program `genmm` begins: nothing is imported before Ctrl-C is heard."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line; see `cli.main`."""
    try:
        # A second or more goes by in here.
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
