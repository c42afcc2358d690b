"""Score one video with its prompt and references: no data set, no store, no folder of a certain form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from refbench.bench.environment import Environment, available_gib
from refbench.bench.errors import UserError
from refbench.bench.metric import Metric
from refbench.bench.registry import load_plugins
from refbench.bench.runner.plan import abilities, as_selection, require_named, selected_metrics
from refbench.bench.runner.scoring import (
    ScoringJob,
    ScoringOutcome,
    ScoringWorker,
    scoring_environment,
)
from refbench.bench.runner.turns import turns
from refbench.bench.sample import Reference, Sample, kind_of_label
from refbench.bench.scores.record import MISSING_WEIGHTS, NOT_APPLICABLE

SAMPLE_ID = "video"

References = Mapping[str, Path | str] | Iterable[tuple[str, Path | str]]


def score(
    video: Path | str,
    *,
    prompt: str,
    references: References = (),
    metrics: str | Iterable[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    plugins: Iterable[Path | str] = (),
) -> dict[str, ScoringOutcome]:
    """The raw scores of one video by metric: each a value with details, or the reason why there is none.

    `references` are pictures by class label (`{"woman": "a.png"}`), or pairs where a label appears twice; the
    label says whether a person is shown. `metrics` is `components` (the default: the seven of TotalScore),
    `all`, or names, as a list or separated by commas; `options` are values by metric and key. Values are on
    the official raw scales (`refbench metrics show NAME`); a TotalScore of one video does not exist. Raises
    UserError for a file that is not there, for unknown names, and for a metric asked for by name whose
    weights are missing.
    """
    path = Path(video)
    if not path.is_file():
        raise UserError(f"the video {path} does not exist")
    sample = _sample(prompt, references)
    load_plugins(map(Path, plugins))
    given = options or {}
    selection = as_selection(metrics)
    chosen = selected_metrics(selection, given)
    environment = scoring_environment(chosen, device, Path(weights) if weights is not None else None)
    applicable = {m.declaration.name: 1 for m in chosen if m.not_applicable(sample) is None}
    require_named(selection, chosen, abilities(chosen, environment), applicable)
    outcomes: dict[str, ScoringOutcome] = {}
    ready = []
    for metric in chosen:
        reason = _reason(metric, sample, environment)
        if reason is None:
            ready.append(metric)
        else:
            outcomes[metric.declaration.name] = ScoringOutcome(reason=reason)
    worker = ScoringWorker(given, environment)
    try:
        for number, turn in enumerate(turns(ready, available_gib(environment.device)), start=1):
            for metric in turn:
                name = metric.declaration.name
                job = ScoringJob(turn=number, metric=name, sample=sample, seed=0, video=path)
                outcomes[name] = worker.work(job)
    finally:
        worker.close()
    return {metric.declaration.name: outcomes[metric.declaration.name] for metric in chosen}


def _sample(prompt: str, references: References) -> Sample:
    pairs = references.items() if isinstance(references, Mapping) else references
    made = []
    for label, picture in pairs:
        file = Path(picture)
        if not file.is_file():
            raise UserError(f"the reference {file} ({label}) does not exist")
        made.append(Reference(path=file.name, root=file.parent, label=label, kind=kind_of_label(label)))
    return Sample(id=SAMPLE_ID, category=SAMPLE_ID, prompt=prompt, references=tuple(made))


def _reason(metric: Metric, sample: Sample, environment: Environment) -> str | None:
    """Why a metric gives no value, as far as that is known without loading it; or None."""
    inapplicable = metric.not_applicable(sample)
    if inapplicable is not None:
        return f"{NOT_APPLICABLE}: {inapplicable}"
    cannot = metric.unavailable(environment)
    return f"{MISSING_WEIGHTS}: {cannot}" if cannot is not None else None
