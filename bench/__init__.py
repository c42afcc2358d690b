"""The core of the harness: samples, videos, score records, protocols, interfaces and the runner.

Importing this package is cheap: no torch, OpenCV or matplotlib is loaded before something needs it.
"""

__version__ = "0.1.0"

# These stand here so that the command line can name them in `--help` without loading anything.
DEFAULT_TRACK = "open-domain"
# Memory in which a worker holds decoded frames for its metrics: 345 frames of 1920×1080 (8 bits, 4:2:0).
FRAME_MEMORY_GIB = 1.0
