"""The core of the harness: samples, videos, score records, protocols, interfaces and the runner.

Importing this package is cheap: no torch, OpenCV or matplotlib is loaded before something needs it.
"""

__version__ = "0.1.0"

# Stands here so that the command line can name it in `--help` without loading anything.
DEFAULT_TRACK = "open-domain"
