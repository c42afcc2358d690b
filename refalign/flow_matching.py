"""Flow matching as RefAlign trains it: the schedule, the noised sample, the target and the loss weight.

1000 noise levels: base points linspace(1, 0, 1001) without the last, shifted by u → s·u/(1 + (s-1)·u) with
s = 5; timestep = 1000·sigma. A sample is noised to (1-sigma)·clean + sigma·noise, the network predicts
noise - clean, and the squared error is weighted by exp(-2((t-500)/1000)²) minus its minimum, scaled to sum
1000: 0 at t = 1000.

A timestep stands for the entry of the table that is nearest to it, also after rounding: the authors' trainer
casts the drawn timestep to bfloat16 before everything else, which leaves 294 of 1000 levels and makes ids 0
to 9 one level of weight 0. Float32 is the default here, that rounding an option.

How often a level is drawn, and how its error is weighted (`Sampling`):

    bell          every level equally often, weighted as above: the authors' way
    uniform       every level equally often, weight 1
    logit-normal  base points sigmoid(mean + scale·z), z standard normal, weight 1 (Esser et al., arXiv
                  2403.03206); the shift comes on top, and a mean above 0 draws more noise

all within bounds of the timestep: levels outside of them are never drawn, the others share their draws.

Source: the training scheduler of gudaochangsheng/RefAlign@6f91526 (golden `refalign/flow_match.json`).

Shapes: B samples, any further axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

LEVELS = 1000
DEFAULT_SHIFT = 5.0
SamplingKind = Literal["bell", "uniform", "logit-normal"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How noise levels are drawn and weighted; timesteps are drawn in `lowest` … `highest`, on 0..1000."""

    kind: SamplingKind = "bell"
    logit_mean: float = 0.0
    logit_scale: float = 1.0
    lowest: float = 0.0
    highest: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class NoiseLevel:
    """What a batch trains at: timesteps (B,) on 0..1000 as the network sees them, sigmas (B,) in 0..1, and
    weights (B,) of the squared error; float32.
    """

    timesteps_B: torch.Tensor
    sigmas_B: torch.Tensor
    weights_B: torch.Tensor


class FlowSchedule:
    """The tables `timesteps` (0..1000), `sigmas` (0..1) and `weights`: (1000,) each, float32 on the CPU, from
    noise to clean.

    `round_timesteps`: levels are looked up with, and the network sees, timesteps rounded to bfloat16.
    Raises ValueError for bounds of `sampling` that hold no level.
    """

    def __init__(
        self,
        shift: float = DEFAULT_SHIFT,
        *,
        round_timesteps: bool = False,
        sampling: Sampling = Sampling(),
    ) -> None:
        base = torch.linspace(1, 0, LEVELS + 1)[:-1]
        self.sigmas = shift * base / (1 + (shift - 1) * base)
        self.timesteps = self.sigmas * LEVELS
        bell = torch.exp(-2 * ((self.timesteps - LEVELS / 2) / LEVELS) ** 2)
        raised = bell - bell.min()
        self.weights = raised * (LEVELS / raised.sum())
        if sampling.kind != "bell":
            self.weights = torch.ones_like(self.weights)
        self.round_timesteps = round_timesteps
        seen = self.timesteps.to(torch.bfloat16).float() if round_timesteps else self.timesteps
        inside = (seen >= sampling.lowest) & (seen <= sampling.highest)
        if not bool(inside.any()):
            raise ValueError(f"no timestep lies in {sampling.lowest:g}..{sampling.highest:g}")
        self._first = int(inside.nonzero()[0])
        self._count = int(inside.sum())
        self._cumulative: torch.Tensor | None = None
        if sampling.kind == "logit-normal":
            shares = _logit_normal_shares(sampling.logit_mean, sampling.logit_scale)
            shares = shares[self._first : self._first + self._count]
            if not float(shares.sum()) > 0:
                raise ValueError(
                    f"logit-normal draws with mean {sampling.logit_mean:g} and scale "
                    f"{sampling.logit_scale:g} never lie in {sampling.lowest:g}..{sampling.highest:g}"
                )
            self._cumulative = torch.cumsum(shares, 0) / shares.sum()

    def draw(self, generator: torch.Generator) -> int:
        """The id of a level, 0..999, drawn as `sampling` says."""
        if self._cumulative is None:
            return self._first + int(torch.randint(self._count, (), generator=generator))
        number = torch.rand((), dtype=torch.float64, generator=generator)
        place = int(torch.searchsorted(self._cumulative, number, right=True))
        return self._first + min(place, self._count - 1)

    def nearest(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Ids (B,) in 0..999 of the entries nearest to timesteps (B,) on 0..1000.

        Of two that are equally near the noisier one is taken.
        """
        return (self.timesteps - timesteps_B.float().cpu()[:, None]).abs().argmin(dim=1)

    def level(self, timesteps_B: torch.Tensor) -> NoiseLevel:
        """The levels of timesteps (B,) on 0..1000, which need not be in the table."""
        if self.round_timesteps:
            timesteps_B = timesteps_B.to(torch.bfloat16)
        ids_B = self.nearest(timesteps_B)
        return NoiseLevel(
            timesteps_B=timesteps_B.float(), sigmas_B=self.sigmas[ids_B], weights_B=self.weights[ids_B]
        )

    def level_of_ids(self, ids_B: torch.Tensor) -> NoiseLevel:
        """The levels of drawn ids (B,) in 0..999."""
        return self.level(self.timesteps[ids_B])


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigmas_B: torch.Tensor) -> torch.Tensor:
    """(1-sigma)·clean + sigma·noise.

    `clean` and `noise` are (B,…) of one shape, `sigmas_B` (B,) in 0..1; the result has the shape and dtype of
    `clean`.
    """
    sigmas = _per_sample(sigmas_B, clean)
    return (1 - sigmas) * clean + sigmas * noise


def flow_target(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the network is to predict: noise - clean, in their shape (B,…)."""
    return noise - clean


def squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each sample, (B,), of a prediction (B,…) in the target's shape.

    In float32 (float64 for float64 targets).
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(dim=1)


def _per_sample(values_B: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values_B.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


def _logit_normal_shares(mean: float, scale: float) -> torch.Tensor:
    """(1000,) float64: how often each level's base point is the next one above sigmoid(mean + scale·z)."""
    edges = torch.linspace(1, 0, LEVELS + 1, dtype=torch.float64)
    below = torch.special.ndtr((torch.logit(edges) - mean) / scale)
    return below[:-1] - below[1:]
