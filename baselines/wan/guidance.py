"""Guidance rules: which passes a step makes, and how their predictions are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call of the network in a step: with the positive or the negative prompt, and with the references or
    zero latents in their place. Zero latents are embedded and attended to, which differs from no references.
    """

    name: str
    text: Literal["prompt", "negative"]
    references: Literal["own", "zero"]


@dataclass(frozen=True, kw_only=True)
class GuidanceRule:
    """The passes of a step and how their predictions are combined.

    `scales` are the names of the rule's scales; `combine(predictions by pass, scales)` is the guided
    prediction. Where the scale `alone_at_one` is 1 (with `alone_below_one`: at most 1), only the first pass
    is made.
    """

    name: str
    passes: tuple[Pass, ...]
    scales: tuple[str, ...]
    combine: Callable[[Mapping[str, torch.Tensor], Mapping[str, float]], torch.Tensor]
    alone_at_one: str
    alone_below_one: bool = False

    def active_passes(self, scales: Mapping[str, float]) -> tuple[Pass, ...]:
        """The passes that these scales need."""
        scale = scales[self.alone_at_one]
        alone = scale <= 1 if self.alone_below_one else scale == 1
        return self.passes[:1] if alone else self.passes

    def guided(self, predictions: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> torch.Tensor:
        """The prediction (B,16,F,h,w) that the solver steps with, from those of the passes."""
        if len(predictions) == 1:
            return predictions[self.passes[0].name]
        return self.combine(predictions, scales)


def _image_and_text(v: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> torch.Tensor:
    return (
        v["null"]
        + scales["image"] * (v["image"] - v["null"])
        + scales["text"] * (v["image_text"] - v["image"])
    )


def _text(v: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> torch.Tensor:
    return v["negative"] + scales["text"] * (v["prompt"] - v["negative"])


# Phantom (`phantom_wan/subject2video.py`) and RefAlign (`pipelines/wan_video_new6.py`): v = null +
# 5.0·(image - null) + 7.5·(image_text - image). RefAlign's user sets the image scale only; at 1 the text's
# vanishes as well.
IMAGE_AND_TEXT = GuidanceRule(
    name="image-and-text",
    passes=(
        Pass(name="image_text", text="prompt", references="own"),
        Pass(name="image", text="negative", references="own"),
        Pass(name="null", text="negative", references="zero"),
    ),
    scales=("image", "text"),
    combine=_image_and_text,
    alone_at_one="image",
)
# SkyReels-V3 (`reference_to_video_pipeline.py`): the same formula, but a text scale of at most 1 makes one
# pass of a step, whatever the image scale is.
IMAGE_AND_TEXT_UNLESS_TEXT_IS_ONE = replace(
    IMAGE_AND_TEXT, name="image-and-text-unless-text-is-one", alone_at_one="text", alone_below_one=True
)
# VACE, MAGREF, SkyReels-A2, Kaleido and Wan itself: references in both passes.
TEXT = GuidanceRule(
    name="text",
    passes=(
        Pass(name="prompt", text="prompt", references="own"),
        Pass(name="negative", text="negative", references="own"),
    ),
    scales=("text",),
    combine=_text,
    alone_at_one="text",
)
RULES = {rule.name: rule for rule in (IMAGE_AND_TEXT, IMAGE_AND_TEXT_UNLESS_TEXT_IS_ONE, TEXT)}
