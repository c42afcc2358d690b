"""The flow schedulers against the original Wan, RefAlign and Kaleido code (goldens
`baselines/schedules.json`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import normal  # noqa: E402

from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402

SHAPE = (1, 4, 2, 3, 3)
CASES = [
    *(("unipc", f"shift{shift}_steps{steps}") for shift in (3, 5, 8, 16) for steps in (50, 6)),
    ("unipc", "shift3_steps40"),
    *(("euler", f"shift{shift}_steps{steps}") for shift in (5, 7) for steps in (50, 6)),
]


@pytest.mark.parametrize(("solver", "name"), CASES)
def test_grid_and_trajectory(solver: str, name: str, golden: Callable[[str], Any]) -> None:
    expected = golden("baselines/schedules.json")[solver][name]
    shift, steps = (int(part.lstrip("shiftep")) for part in name.split("_"))
    scheduler = make_scheduler(solver, float(shift))
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), expected["sigmas"], atol=1e-6, rtol=0)
    if solver == "unipc":
        assert scheduler.timesteps.tolist() == expected["timesteps"]
    else:
        np.testing.assert_allclose(scheduler.timesteps.numpy(), expected["timesteps"], atol=1e-3, rtol=0)
    x = torch.from_numpy(normal("baselines.schedule.sample", SHAPE))
    field = torch.from_numpy(normal("baselines.schedule.field", SHAPE))
    trajectory = []
    for t in scheduler.timesteps:
        x = scheduler.step(0.3 * x + (0.5 + t / 1000) * field, t, x).prev_sample
        trajectory.append(x.flatten().numpy())
    if "final" in expected:
        np.testing.assert_allclose(trajectory[-1], expected["final"], atol=1e-5, rtol=0)
    else:
        wanted = np.array(expected["trajectory"]).reshape(len(trajectory), -1)
        np.testing.assert_allclose(np.array(trajectory), wanted, atol=1e-5, rtol=0)


def test_the_library_s_own_grids_would_not_do() -> None:
    """The reason for these classes: it fails on the day that diffusers returns to the original grids."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    ours, theirs = make_scheduler("euler", 5.0), FlowMatchEulerDiscreteScheduler(shift=5.0)
    ours.set_timesteps(50)
    theirs.set_timesteps(50)
    assert (ours.sigmas - theirs.sigmas).abs().max() > 0.05
    ours = make_scheduler("unipc", 16.0)
    theirs = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=16.0)
    ours.set_timesteps(50)
    theirs.set_timesteps(50)
    assert (ours.sigmas - theirs.sigmas).abs().max() > 0.005
