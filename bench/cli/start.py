"""The first step of `refbench`: an interruption while the command line itself loads is one line, too."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it; see `main.main`."""
    try:
        from refbench.bench.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("refbench: stopped before anything began\n")
        sys.exit(EXIT_INTERRUPTED)
    run()
