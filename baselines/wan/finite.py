"""Latents and pixels that are no numbers: seen where they begin, so that no video is made of them.

As pixels they would be black, and a black video scores well in what measures motion.
"""

from __future__ import annotations

import torch

from refbench.bench.errors import SampleError


class FiniteSteps:
    """Looks at the latents of each step of a video.

    What a GPU finds is asked for one step later, when it already works on the next: nothing waits for it.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._finite: torch.Tensor | None = None

    def see(self, latents: torch.Tensor) -> None:
        """Take the latents after one more step. Raises SampleError as `end`, for the steps before."""
        self.end()
        self._done += 1
        self._finite = are_finite(latents)

    def end(self) -> None:
        """Raises SampleError that names the step whose latents were the first to hold NaN or infinity."""
        if self._finite is not None and not self._finite.item():
            raise SampleError(
                f"the latents are not finite (NaN or infinity) from step {self._done} of {self._total} on"
            )


def are_finite(values: torch.Tensor) -> torch.Tensor:
    """Whether all values are numbers, as a tensor (); without a mask of their size."""
    # NaN is handed on by both ends.
    return torch.stack(torch.aminmax(values)).isfinite().all()


def check_pixels(video: torch.Tensor) -> None:
    """Raises SampleError for a decoded video that holds NaN or infinity."""
    if not are_finite(video):
        raise SampleError("the decoded video is not finite (NaN or infinity), though its latents are")
