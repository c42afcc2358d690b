"""The flow schedulers of the Wan family, on the grids of the original code.

diffusers' own classes do the stepping; only the grid is ours, because diffusers' grids moved away from the
original ones (0.42.1: UniPC's sigmas by up to 0.0094 at shift 16, Euler's by up to 0.068 at shift 5, which it
shifts twice). Both follow s·u/(1 + (s - 1)·u) for base points u, with a final sigma of 0.

VideoX-Fun alone uses diffusers' own Euler, its second shift included (`euler-diffusers`).

Source: `wan/utils/fm_solvers_unipc.py` of Wan-Video/Wan2.1@9737cba; the schedulers of RefAlign@6f91526 and
Kaleido@4c6c757 (goldens `baselines/schedules.json`, `refalign/flow_match.json`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from refbench.baselines.wan.spec import Solver

TRAINING_STEPS = 1000


class WanUniPC(UniPCMultistepScheduler):
    """UniPC (order 2, bh2) on base points linspace(0.999, 0, n + 1) without the last; integer timesteps.

    A timestep is 1000·sigma truncated, so the first is 999.
    """

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Set `num_inference_steps` steps; other `sigmas` are base points before the shift."""
        base = (
            np.linspace(1 - 1 / TRAINING_STEPS, 0, num_inference_steps + 1)[:-1] if sigmas is None else sigmas
        )
        super().set_timesteps(num_inference_steps, device=device, sigmas=base, mu=mu)


class WanEuler(FlowMatchEulerDiscreteScheduler):
    """Euler on base points linspace(1, 0, n + 1); timesteps are 1000·sigma as floats, the first is 1000."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        """Set `num_inference_steps` steps; other `sigmas` are base points before the shift."""
        if sigmas is None and timesteps is None and num_inference_steps is not None:
            sigmas = np.linspace(1, 0, num_inference_steps + 1)[:-1]
        super().set_timesteps(num_inference_steps, device=device, sigmas=sigmas, mu=mu, timesteps=timesteps)


def make_scheduler(solver: Solver, shift: float) -> UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler of a method: its solver and flow shift."""
    if solver == "euler-diffusers":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAINING_STEPS, shift=shift)
    if solver == "euler":
        return WanEuler(num_train_timesteps=TRAINING_STEPS, shift=shift)
    return WanUniPC(
        num_train_timesteps=TRAINING_STEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=2,
        solver_type="bh2",
    )
