"""Pictures of the experiment: reference tokens before and after alignment, and the losses of the trainings.

The tokens are the states of RefAlign's reference tokens after its aligned blocks, for clips with several
references, at half noise. `separability` is how often two tokens of one reference are nearer to each other
(by cosine) than to a token of another reference of the same clip.

Shapes: N references, T tokens of one, C channels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint
from refbench.mini.training.finetune import STAGES
from refbench.mini.training.loop import fixed_threads
from refbench.mini.training.measures import auc
from refbench.refalign.flow_matching import FlowSchedule
from refbench.refalign.training.batch import Example, collate
from refbench.refalign.training.prepared import PreparedSource
from refbench.refalign.training.recipes import build_config
from refbench.refalign.transformer import RefAlignTransformer3DModel
from refbench.reports.plot_figure import COLOURS, COLUMN_WIDTH_IN, PAGE_WIDTH_IN, PNG_DPI, STYLE

LEAST_REFERENCES = 2
EXAMPLES = 60
# The middle of the noise levels, where the alignment loss and the denoising both have something to say.
TIMESTEP, SIGMA = 500.0, 0.5
SMOOTHED_STEPS = 25
FONT_PT = 7
Tokens = list[np.ndarray]


def examples_with_several(features: Path, weights: Path, count: int = EXAMPLES) -> list[Example]:
    """The first prepared examples with at least two references. Raises UserError for other features."""
    source = PreparedSource(features, build_config(STAGES[0]), weights=weights)
    found = []
    for number, example in enumerate(source.examples(start=0, rank=0, world_size=1)):
        if example.features.references_CNhw.shape[1] >= LEAST_REFERENCES:
            found.append(example)
        if len(found) == count or number + 1 == source.length:
            break
    return found


@torch.no_grad()
def reference_tokens(network: Path, examples: Sequence[Example]) -> Tokens:
    """Of each example the states (N,T,C) of its references' tokens after the last aligned block."""
    model = load_transformer(RefAlignTransformer3DModel, read_checkpoint(network, dtype=torch.float32))
    config = build_config(STAGES[0])
    schedule = FlowSchedule(config.flow.shift)
    result = []
    with fixed_threads():
        for example in examples:
            batch = collate([example], schedule, seed=0, text_rows=config.model.text_rows)
            noisy = (1 - SIGMA) * batch.latents_BCFhw + SIGMA * batch.noise_BCFhw
            states = model(
                noisy,
                torch.tensor([TIMESTEP]),
                batch.text_BLD,
                batch.references_BCNhw,
                batch.counts_B,
                state_blocks=config.alignment.blocks,
            ).reference_states
            references = batch.references_BCNhw.shape[2]
            result.append(states[-1][0].unflatten(0, (references, -1)).float().numpy())
    return result


def separability(tokens: Tokens) -> float:
    """The area under the curve of cosines within references against those between them, 0.5 to 1, over all
    examples.
    """
    within: list[float] = []
    between: list[float] = []
    for states_NTC in tokens:
        count, each, _ = states_NTC.shape
        unit = functional.normalize(torch.from_numpy(states_NTC).flatten(0, 1), dim=1)
        cosines = (unit @ unit.T).numpy()
        owner = np.arange(count).repeat(each)
        same = owner[:, None] == owner[None]
        upper = np.triu(np.ones_like(same), 1).astype(bool)
        within += cosines[same & upper].tolist()
        between += cosines[~same & upper].tolist()
    return auc(within, between)


def draw_tokens(panels: Mapping[str, np.ndarray]) -> bytes:
    """A PNG: for each panel the tokens (N,T,C) of one example on their first two principal axes, a colour for
    each reference.
    """
    figure, axes = _figure(len(panels), COLUMN_WIDTH_IN / 1.7)
    for axis, (title, states_NTC) in zip(axes, panels.items(), strict=True):
        flat = states_NTC.reshape(-1, states_NTC.shape[-1])
        centred = flat - flat.mean(axis=0)
        _, _, main = np.linalg.svd(centred, full_matrices=False)
        flat_2 = (centred @ main[:2].T).reshape(*states_NTC.shape[:2], 2)
        for number, points in enumerate(flat_2):
            axis.scatter(
                *points.T, s=9, color=COLOURS[number % len(COLOURS)], label=f"reference {number + 1}", lw=0
            )
        axis.set_title(title, fontsize=FONT_PT)
        axis.set_xticks([])
        axis.set_yticks([])
    _legend_below(figure, axes[0])
    return _png(figure)


def draw_losses(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A PNG: for each loss a panel, for each training a line, as moving means over 25 steps."""
    names = list(dict.fromkeys(name for losses in curves.values() for name in losses))
    figure, axes = _figure(len(names), 1.9)
    for axis, name in zip(axes, names, strict=True):
        for number, (training, losses) in enumerate(curves.items()):
            values = np.asarray(losses.get(name, ()), float)
            if len(values) >= SMOOTHED_STEPS:
                smooth = np.convolve(values, np.full(SMOOTHED_STEPS, 1 / SMOOTHED_STEPS), "valid")
                axis.plot(
                    np.arange(len(smooth)) + SMOOTHED_STEPS,
                    smooth,
                    color=COLOURS[number % len(COLOURS)],
                    lw=0.9,
                    label=training,
                )
        axis.set_title(name, fontsize=FONT_PT)
        axis.set_xlabel("step of stage 1", fontsize=FONT_PT)
        axis.tick_params(labelsize=FONT_PT)
        axis.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, axes[0])
    return _png(figure)


def read_losses(log: Path) -> dict[str, list[float]]:
    """The losses of each step of a training's log: the squared error and both alignment terms."""
    names = {"squared_error": "squared error", "ra_positive": "RA, positive", "ra_negative": "RA, negative"}
    losses: dict[str, list[float]] = {text: [] for text in names.values()}
    for values in _steps(log):
        for name, text in names.items():
            if isinstance(values.get(name), int | float):
                losses[text].append(float(values[name]))
    return {text: values for text, values in losses.items() if values}


def _steps(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if "step" in values:
            yield values


def _figure(panels: int, panel_width_in: float) -> tuple[Any, list[Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(min(panels * panel_width_in, PAGE_WIDTH_IN), 1.9), layout="constrained")
        return figure, [figure.add_subplot(1, panels, number + 1) for number in range(panels)]


def _legend_below(figure: Any, axis: Any) -> None:
    """The lines and points of one panel stand for all."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=FONT_PT, frameon=False
    )


def _png(figure: Any) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()
