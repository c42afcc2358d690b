"""The written result of the experiment: tables in Markdown, figures as JSON, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from refbench.bench.console import interval_text, percent
from refbench.bench.files import write_bytes, write_json, write_text
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import Record
from refbench.mini.experiment import TOTAL, Estimate, Experiment, agrees, estimates, paper_says
from refbench.mini.experiment_pictures import (
    draw_losses,
    draw_tokens,
    examples_with_several,
    read_losses,
    reference_tokens,
    separability,
)
from refbench.mini.protocol import MINI_1_0
from refbench.mini.track import MINI
from refbench.mini.training.finetune import FEATURES, STAGES, training_folder
from refbench.mini.training.vae import REPOSITORY

LOG = "log.jsonl"
LABELS = {TOTAL: "TotalScore", **{name: component.label for name, component in COMPONENTS.items()}}
# The pictures show one seed; the figures are of all.
SHOWN_SEED = 0


def run_experiment(
    experiment: Experiment, begin: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train, generate, score and write everything that is not there yet; returns the figures.

    `begin` is told what begins, one word for each (seed, variant) and each seed's scoring. Raises UserError.
    """
    records: list[list[Record]] = []
    for seed in range(experiment.seeds):
        for variant in experiment.variants:
            begin(f"seed {seed}: {variant.entry.name}")
            experiment.train(seed, variant)
        begin(f"seed {seed}: videos and scores")
        records.append(experiment.score(seed))
    found = estimates(records, MINI_1_0, experiment.methods)
    separable = write_pictures(experiment)
    figures = {
        "protocol": MINI_1_0.name,
        "seeds": experiment.seeds,
        "samples": experiment.per_category * len(MINI.category_counts),
        "estimates": {
            row: {name: asdict(one) for name, one in parts.items()} for row, parts in found.items()
        },
        "separability": separable,
    }
    write_text(experiment.out / "experiment.md", tables(found, separable))
    write_json(experiment.out / "experiment.json", figures)
    return figures


def write_pictures(experiment: Experiment) -> dict[str, float]:
    """Write features.png and curves.png of one seed; returns the separability of each network's tokens."""
    made = experiment.seed_build(SHOWN_SEED)
    trained = made if made.run_folder(f"{experiment.methods[0]}-{STAGES[0]}").is_dir() else experiment.build
    examples = examples_with_several(experiment.build.run_folder(FEATURES), experiment.build.weights)
    networks = {"before training": made.weights / REPOSITORY / "transformer"} | {
        variant.entry.name: made.weights / variant.entry.repository for variant in experiment.variants
    }
    tokens = {name: reference_tokens(network, examples) for name, network in networks.items()}
    most = max(range(len(examples)), key=lambda index: tokens["before training"][index].shape[0])
    shown = draw_tokens({name: states[most] for name, states in tokens.items()})
    write_bytes(experiment.out / "features.png", shown)
    curves = {
        variant.entry.name: read_losses(training_folder(trained, variant, STAGES[0]) / LOG)
        for variant in experiment.variants
    }
    write_bytes(experiment.out / "curves.png", draw_losses(curves))
    return {name: separability(states) for name, states in tokens.items()}


def tables(found: Mapping[str, Mapping[str, Estimate]], separable: Mapping[str, float]) -> str:
    """The tables in Markdown: every component of every method, and the differences beside the paper's."""
    names = list(next(iter(found.values())))
    lines = [f"| method | {' | '.join(LABELS[name] for name in names)} |", f"|---|{'---|' * len(names)}"]
    for row, parts in found.items():
        if " - " not in row:
            cells = [f"{percent(parts[name].value)} {interval_text(parts[name].interval)}" for name in names]
            lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", "| difference, points | component | measured | by seed | the paper's | as in the paper |"]
    lines.append("|---|---|---|---|---|---|")
    for row, parts in found.items():
        if " - " in row:
            for name, one in parts.items():
                says = paper_says(row, name)
                measured = f"{percent(one.value)} {interval_text(one.interval)}"
                seeds = ", ".join(map(percent, one.by_seed))
                lines.append(
                    f"| {row} | {LABELS[name]} | {measured} | {seeds} | {says or '–'} | {agrees(one, says)} |"
                )
    lines += ["", "| network | separability of reference tokens |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in separable.items()]
    return "\n".join(lines) + "\n"
