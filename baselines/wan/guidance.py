"""Guidance rules: which passes a step makes, and how their predictions are combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

PassReferences = Literal["own", "zero", "none"]
# Over channels, rows and columns of (B,16,F,h,w): one value for each latent frame.
FRAME_AXES = (1, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call of the network in a step: with the positive or the negative prompt, and with the references,
    zero latents in their place, or none. Zero latents are embedded and attended to, which differs from no
    references.
    """

    name: str
    text: Literal["prompt", "negative"]
    references: PassReferences


@dataclass(frozen=True, kw_only=True)
class StepState:
    """What a rule may need beside the predictions of a step: the solver's state before it, its noise level
    (1 is noise alone), and the rule's own memory, which lives as long as the video's run.
    """

    latents: torch.Tensor
    sigma: float
    memory: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GuidanceRule:
    """The passes of a step and how their predictions are combined.

    `scales` are the names of the rule's numbers; `combine(predictions by pass, scales, state)` is the guided
    prediction. Where the scale `alone_at_one` is 1 (with `alone_below_one`: at most 1), only the first pass
    is made; None is a rule that always makes all.
    """

    name: str
    passes: tuple[Pass, ...]
    scales: tuple[str, ...]
    combine: Callable[[Mapping[str, torch.Tensor], Mapping[str, float], StepState], torch.Tensor]
    alone_at_one: str | None = None
    alone_below_one: bool = False

    def active_passes(self, scales: Mapping[str, float]) -> tuple[Pass, ...]:
        """The passes that these scales need."""
        if self.alone_at_one is None:
            return self.passes
        scale = scales[self.alone_at_one]
        alone = scale <= 1 if self.alone_below_one else scale == 1
        return self.passes[:1] if alone else self.passes

    def guided(
        self, predictions: Mapping[str, torch.Tensor], scales: Mapping[str, float], state: StepState
    ) -> torch.Tensor:
        """The prediction (B,C,F,h,w) that the solver steps with, from those of the passes."""
        if len(predictions) == 1:
            return predictions[self.passes[0].name]
        return self.combine(predictions, scales, state)


def _image_and_text(
    v: Mapping[str, torch.Tensor], scales: Mapping[str, float], state: StepState
) -> torch.Tensor:
    return (
        v["null"]
        + scales["image"] * (v["image"] - v["null"])
        + scales["text"] * (v["image_text"] - v["image"])
    )


def _text(v: Mapping[str, torch.Tensor], scales: Mapping[str, float], state: StepState) -> torch.Tensor:
    return v["negative"] + scales["text"] * (v["prompt"] - v["negative"])


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What one pass adds to another, weighed by the scale of this name."""

    scale: str
    to: str
    by: str


def _projected(
    chain: tuple[Addition, ...],
    v: Mapping[str, torch.Tensor],
    scales: Mapping[str, float],
    state: StepState,
) -> torch.Tensor:
    """Adaptive projected guidance (arXiv 2410.02416) on the clean latents that each pass predicts, X = x -
    sigma·v.

    Of each difference a running average is taken, each latent frame of it is shortened to the limit, and the
    part that is parallel to the prediction it leads to counts `eta` times.
    """
    clean = {name: state.latents - state.sigma * value for name, value in v.items()}
    guided = clean[chain[0].to]
    for one in chain:
        difference = clean[one.by] - clean[one.to]
        if one.scale in state.memory:
            difference = difference + scales["momentum"] * state.memory[one.scale]
        state.memory[one.scale] = difference
        limited = _limited(difference, scales[f"{one.scale}_limit"])
        guided = guided + scales[one.scale] * _less_parallel(limited, clean[one.by], scales["eta"])
    return (state.latents - guided) / state.sigma


def _limited(difference: torch.Tensor, limit: float) -> torch.Tensor:
    """Each latent frame shortened to the norm `limit`; 0 is none, as in the authors' code."""
    if limit <= 0:
        return difference
    norms = difference.norm(p=2, dim=FRAME_AXES, keepdim=True)
    return difference * (limit / norms).clamp(max=1)


def _less_parallel(difference: torch.Tensor, base: torch.Tensor, eta: float) -> torch.Tensor:
    """The difference with its part along `base` times `eta`, for each latent frame; projected in float64."""
    wide, direction = difference.double(), base.double()
    direction = direction / direction.norm(p=2, dim=FRAME_AXES, keepdim=True).clamp(min=1e-12)
    parallel = (wide * direction).sum(dim=FRAME_AXES, keepdim=True) * direction
    return (wide - parallel).to(difference.dtype) + eta * parallel.to(difference.dtype)


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
# Bernini-R (`bernini/models/wan_diffusion.py`, `r2v_apg`): the first pass has no reference tokens at all.
# With all scales at 1 this is not the prompted pass, since limits and eta remain: no pass is ever left out.
PROJECTED = GuidanceRule(
    name="projected-image-and-text",
    passes=(
        Pass(name="none", text="negative", references="none"),
        Pass(name="image", text="negative", references="own"),
        Pass(name="image_text", text="prompt", references="own"),
    ),
    scales=("image", "text", "eta", "image_limit", "text_limit", "momentum"),
    combine=partial(
        _projected,
        (
            Addition(scale="image", to="none", by="image"),
            Addition(scale="text", to="image", by="image_text"),
        ),
    ),
)
# The same authors' `t2v_apg`, for a prompt without references.
PROJECTED_TEXT = GuidanceRule(
    name="projected-text",
    passes=(
        Pass(name="none", text="negative", references="none"),
        Pass(name="prompt", text="prompt", references="none"),
    ),
    scales=("text", "eta", "text_limit", "momentum"),
    combine=partial(_projected, (Addition(scale="text", to="none", by="prompt"),)),
)
RULES = {
    rule.name: rule
    for rule in (IMAGE_AND_TEXT, IMAGE_AND_TEXT_UNLESS_TEXT_IS_ONE, TEXT, PROJECTED, PROJECTED_TEXT)
}
