"""The goldens' tiny mPLUG-Owl2 with its prompt and its three short clips."""

from __future__ import annotations

from typing import Any

import numpy as np
from fill import uint8_image

from kit.goldens import fill_network, read
from refbench.metrics.motion_smoothness import Prompt, normalised_pixels
from refbench.metrics.nets.mplug_owl2.network import MplugOwl2, MplugOwl2Config

BEFORE, AFTER, WORDS = (1, 17, 5, 33, 8), (64, 29, 3, 90, 12), (11, 23, 42, 61, 90)
PROMPT = Prompt(before=BEFORE, after=AFTER, words=WORDS)
CLIPS = {"land": ("aaabbbcb", 45, 80), "port": ("ddeee", 70, 50), "one": ("f", 56, 56)}
STATES = {"atol": 2e-5, "rtol": 1e-5}
SCORES = {"atol": 2e-6, "rtol": 1e-5}


def read_config(config: dict[str, Any]) -> MplugOwl2Config:
    """The configuration of a manifest."""
    visual = {"visual_model": config["vision"], "visual_abstractor": config["abstractor"]}
    return MplugOwl2Config.from_json({**config["llm"], "visual_config": visual}, "golden")


def golden_network() -> MplugOwl2:
    """A new network with the goldens' weights."""
    return fill_network(MplugOwl2(read_config(read("q_align/manifests/tiny.json")["config"])))


def golden_clip(name: str) -> list[np.ndarray]:
    """The frames of a clip, RGB uint8."""
    scenes, height, width = CLIPS[name]
    return [
        np.roll(uint8_image(f"qalign/e2e/{scene}", height, width), shift, axis=1)
        for shift, scene in enumerate(scenes)
    ]


def golden_pixels(name: str) -> list[np.ndarray]:
    """The frames of a clip as the network takes them."""
    return [normalised_pixels(frame, 56) for frame in golden_clip(name)]
