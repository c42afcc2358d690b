"""Two experts in place of one network, as Wan2.2's 14B models have them: one denoises while there is much
noise, the other from a timestep on. No torch here.

The high-noise expert makes the steps whose timestep is at least boundary·1000, the low-noise expert the
others; each works in one block of steps. They are *named in opposite ways*: diffusers calls the high-noise
expert `transformer` and the low-noise one `transformer_2`, VideoX-Fun's pipeline the other way round; Wan's
own folders are `high_noise_model` and `low_noise_model`. Both have equal keys and shapes, so that one loads
in the other's place without any error. Here `transformer` is the high-noise expert, as in diffusers, and
files that say the opposite are refused: this project's trainer notes in each file which expert it is, of
others the names are looked at.

Source: `wan/text2video.py` of Wan-Video/Wan2.2; `videox_fun/pipeline/pipeline_wan2_2_vace_fun.py` of
aigc-apps/VideoX-Fun@804a425; `scripts/convert_wan_to_diffusers.py` of diffusers@58eb52c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from refbench.bench.errors import UserError
from refbench.bench.weights.checkpoint import read_metadata

Expert = Literal["high-noise", "low-noise"]
EXPERTS: tuple[Expert, Expert] = ("high-noise", "low-noise")
# The options (and diffusers' folders) of the two, in this order.
PARTS = ("transformer", "transformer_2")
ADAPTERS = ("adapter", "adapter_2")
TRAINING_TIMESTEPS = 1000
# In the metadata of a file: which expert's network, or adapter, it is.
EXPERT_NOTE = "noise_expert"
# Behind a guidance scale's name: its value in the low-noise expert's steps.
LOW_NOISE_SCALE = "_low_noise"
# Or one factor of the two scales in those steps (Bernini-R's `omega_scale`).
LOW_NOISE_FACTOR = "low_noise_factor"
SCALED = ("image", "text")
# `high_noise_model`, `HighNoise`; else the word alone, as in `…_A14B_low.safetensors`.
NOISE_WORDS = (
    re.compile(r"(?<![a-z])(high|low)[\W_]*noise", re.IGNORECASE),
    re.compile(r"(?<![a-z])(high|low)(?![a-z])", re.IGNORECASE),
)
# How far up a path the names are looked at: file, folder and the folder above.
NAMED_PARTS = 3


def is_high_noise(timestep: float, boundary: float) -> bool:
    """Whether the high-noise expert makes the step at this timestep (0 to 1000)."""
    return timestep >= boundary * TRAINING_TIMESTEPS


def low_noise_scales(scales: Mapping[str, float]) -> dict[str, float]:
    """The guidance scales of the low-noise expert's steps: those of `<name>_low_noise` where given, else the
    same as before, the image's and the text's times `low_noise_factor`.
    """
    factor = scales.get(LOW_NOISE_FACTOR, 1.0)
    kept = {name: value * factor if name in SCALED else value for name, value in scales.items()}
    return {name: scales.get(f"{name}{LOW_NOISE_SCALE}", value) for name, value in kept.items()}


def expert_by_name(path: Path) -> Expert | None:
    """Which expert a file or folder is by its own name, else by those of the folders it lies in; None where
    they do not say.
    """
    place = path
    for _ in range(min(NAMED_PARTS, len(path.parts))):
        for pattern in NOISE_WORDS:
            found = {word.lower() for word in pattern.findall(place.name)}
            if len(found) == 1:
                return "high-noise" if found == {"high"} else "low-noise"
        if place.name in PARTS and place.with_name(PARTS[1]).is_dir():
            return EXPERTS[PARTS.index(place.name)]
        place = place.parent
    return None


def recorded_expert(files: Iterable[Path]) -> Expert | None:
    """Which expert files say that they are; None where they do not say, or cannot be read, which whoever
    reads them says.
    """
    for file in files:
        try:
            found = read_metadata(file).get(EXPERT_NOTE)
        except UserError:
            continue
        for expert in EXPERTS:
            if found == expert:
                return expert
    return None


def swapped_fault(path: Path, number: int, parts: tuple[str, str] = PARTS) -> str | None:
    """What is wrong with this file in the place of expert `number` (0 high noise, 1 low noise), in one line;
    None where neither it nor its name says that it is the other's. `parts` are what the two places are
    called.
    """
    recorded = recorded_expert([path]) if path.is_file() else None
    found, wanted = recorded or expert_by_name(path), EXPERTS[number]
    if found in (None, wanted):
        return None
    how = "by its name" if recorded is None else "as it says itself"
    return (
        f"{path} is the {found} expert's {how}, but stands in the {wanted} one's place "
        f"({parts[number]}): the experts are swapped; {parts[0]} is the high-noise one's, {parts[1]} the "
        "low-noise one's"
    )


def check_experts(files: Sequence[Sequence[Path]]) -> None:
    """See that the files of the two experts, high noise first, are not those of the other.

    Raises UserError for a file that is the other expert's, by what it or its name says, and for the same
    files given twice.
    """
    for number, paths in enumerate(files):
        for path in paths:
            fault = swapped_fault(path, number)
            if fault is not None:
                raise UserError(fault)
    high, low = ([path.resolve() for path in paths] for paths in files)
    if high == low:
        raise UserError(
            f"{files[0][0]} is given for both experts; {PARTS[0]} and {PARTS[1]} are two networks"
        )
