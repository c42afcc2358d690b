"""How subjects move: what each motion does at a moment of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from refbench.mini.world.people import STANDING, Pose

Motion = Literal["stand", "walk", "jump", "spin", "wave", "grow", "dance", "slide", "swing"]
PEOPLES_MOTIONS: tuple[Motion, ...] = ("stand", "walk", "jump", "spin", "wave", "grow", "dance")
THINGS_MOTIONS: tuple[Motion, ...] = ("stand", "slide", "jump", "spin", "grow", "swing")
# Motions that lead to the left or to the right.
DIRECTED: tuple[Motion, ...] = ("walk", "slide")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A subject at a moment: moved by a share of its height, scaled, tilted (degrees about its foot; `roll`
    about its middle), in a pose.
    """

    across: float = 0.0
    up: float = 0.0
    scale: float = 1.0
    tilt: float = 0.0
    roll: float = 0.0
    pose: Pose = STANDING


def moment(motion: Motion, progress: float, direction: int, *, thing: bool) -> Moment:
    """Where a subject is at `progress` (0 to 1) of a clip; `direction` is -1 (left) or 1 (right)."""
    wave = math.sin(2 * math.pi * 2 * progress)
    match motion:
        case "walk":
            swing = 30 * wave
            arms = 0.6 * swing
            pose = Pose(left_leg=swing, right_leg=-swing, left_arm=20 - arms, right_arm=20 + arms)
            return Moment(across=direction * (progress - 0.5) * 0.42, up=0.03 * abs(wave), pose=pose)
        case "slide":
            return Moment(across=direction * (progress - 0.5) * 0.9)
        case "jump":
            height = abs(wave)
            pose = Pose(
                left_arm=20 + 110 * height,
                right_arm=20 + 110 * height,
                left_leg=-14 * height,
                right_leg=14 * height,
            )
            return Moment(up=(0.6 if thing else 0.24) * height, pose=pose)
        case "spin" if thing:
            return Moment(roll=direction * 360 * progress)
        case "spin":
            return Moment(pose=Pose(turn=direction * 360 * progress, left_arm=40, right_arm=40))
        case "wave":
            raised = 140 + 28 * wave
            return Moment(pose=Pose(left_arm=raised) if direction < 0 else Pose(right_arm=raised))
        case "grow":
            return Moment(scale=0.6 + 0.5 * progress)
        case "dance":
            pose = Pose(left_arm=75 + 55 * wave, right_arm=75 - 55 * wave)
            return Moment(across=0.05 * wave, tilt=11 * wave, pose=pose)
        case "swing":
            return Moment(tilt=22 * wave)
        case _:
            return Moment()
