"""How the rows of the OpenS2V leaderboard were generated: size, frames and rate of each, and the seed.

Source: arXiv 2505.20292, section 5.1 and appendix D. One video for each sample; what is not named here
(steps, guidance, solver) was each model's official setting of that time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refbench.bench.scores.record import plain_name

LEADERBOARD = "leaderboard"
LEADERBOARD_SEED = 42
PAPER = "arXiv 2505.20292, section 5.1 and appendix D"


@dataclass(frozen=True, kw_only=True)
class LeaderboardSettings:
    """Of one row: size in pixels, frames of the video, frames per second; `doubt`: what is not certain."""

    row: str
    width: int
    height: int
    num_frames: int
    fps: float
    doubt: str = ""

    @property
    def text(self) -> str:
        """`832×480, 81 frames, 16 fps`."""
        return f"{self.width}×{self.height}, {self.num_frames} frames, {self.fps:g} fps"


def _wan(row: str, width: int = 832, height: int = 480, doubt: str = "") -> LeaderboardSettings:
    return LeaderboardSettings(row=row, width=width, height=height, num_frames=81, fps=16.0, doubt=doubt)


def _row(row: str, width: int, height: int, num_frames: int, fps: float) -> LeaderboardSettings:
    return LeaderboardSettings(row=row, width=width, height=height, num_frames=num_frames, fps=fps)


SETTINGS_OF_ROWS = (
    _wan("VACE-P1.3B"),
    _wan("VACE-1.3B"),
    _wan("VACE-14B", 1280, 720),
    _wan("Phantom-1.3B"),
    _wan("Phantom-14B"),
    _wan(
        "SkyReels-A2-P14B",
        doubt="the paper says 81 frames at 16 fps, the authors' script keeps 69 of 81 at 15 fps (its first "
        "12 show the references); which of them made the row is not known",
    ),
    _row("HunyuanCustom", 1280, 720, 129, 25.0),
    _row("ConsisID", 720, 480, 49, 8.0),
    _row("Concat-ID-CogVideoX", 720, 480, 49, 8.0),
    _row("FantasyID", 720, 480, 49, 8.0),
    _wan("Concat-ID-Wan-AdaLN"),
    _row("EchoVideo", 848, 480, 49, 16.0),
    _row("VideoMaker", 512, 512, 16, 8.0),
    _row("ID-Animator", 512, 512, 16, 8.0),
    _row("Vidu2.0", 704, 396, 65, 16.0),
    _row("Pika2.1", 1920, 1080, 121, 24.0),
    _row("Kling1.6", 1280, 720, 153, 30.0),
    _row("Hailuo", 1280, 720, 141, 25.0),
)
_BY_NAME = {plain_name(settings.row): settings for settings in SETTINGS_OF_ROWS}


def leaderboard_settings(method: str) -> LeaderboardSettings | None:
    """The settings of a method's row, by its name without case, punctuation and brackets; or None."""
    return _BY_NAME.get(plain_name(re.sub(r"\([^()]*\)", "", method)))


def required_leaderboard_settings(method: str) -> LeaderboardSettings:
    """As `leaderboard_settings`. Raises ValueError for a method that the paper does not name."""
    settings = leaderboard_settings(method)
    if settings is None:
        raise ValueError(
            f"there are no leaderboard settings of {method}: the leaderboard's paper ({PAPER}) does not "
            "name it"
        )
    return settings


def default_seeds(settings: str | None, options: Mapping[str, Any]) -> tuple[int, ...]:
    """The seeds of a run that names none: the leaderboard's under its settings, otherwise 0.

    `settings` is what `--settings` says, `options` are the method's, whose option `settings` is the same.
    """
    return (LEADERBOARD_SEED,) if LEADERBOARD in (settings, options.get("settings")) else (0,)
