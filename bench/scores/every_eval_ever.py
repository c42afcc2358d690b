"""Scores as records of Every Eval Ever, a common database of evaluation results.

DIR/data/opens2v-eval/<owner>/<model>/<uuid>.json: one file for each plain run of an official track, with
TotalScore and every component in percent, their intervals, and all words without which a figure must not be
shown. The number in a file's name follows from the scores: the same scores give the same name.

Source: the aggregate schema of `every-eval-ever` 0.3.0, whose validator takes these files (it needs Python
3.12). What this project does not know of a model stands as unknown.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from refbench.bench import __version__
from refbench.bench.dataset import HUB_DATASET, OFFICIAL_TRACKS
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import write_json
from refbench.bench.scores.aggregate import Scoreboard, group_records, scoreboard
from refbench.bench.scores.bootstrap import RESAMPLES
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.exports import Figure, figures, in_percent, joined
from refbench.bench.scores.official_files import Exported
from refbench.bench.scores.protocol import protocol_of
from refbench.bench.scores.record import PLAIN, Record, RunKey

SCHEMA_VERSION = "0.3.0"
COLLECTION = "opens2v-eval"
UNKNOWN = "unknown"
LIBRARY = "refalign-bench"


def export_every_eval_ever(
    records: Iterable[Record], root: Path, protocol: str | None = None, model: str | None = None
) -> Iterator[tuple[Path, Exported]]:
    """Write a file for every plain run of an official track; yields each run's folder with what was written
    or why nothing was.

    `model` is the model's OWNER/NAME on the hub, where the records are of one method; without it the owner is
    unknown. Raises UserError for a malformed `model`, and for one with records of several methods.
    """
    groups = sorted(group_records(records).items())
    if model is not None:
        owner, slash, name = model.partition("/")
        if not (owner and slash and name) or "/" in name:
            raise UserError(f"--model is OWNER/NAME, not {one_line(model, 80)!r}")
        methods = sorted({run.method for run, _ in groups})
        if len(methods) > 1:
            raise UserError(f"--model names one model; the records are of {', '.join(methods)}")
    for run, of_run in groups:
        identity = model or f"{UNKNOWN}/{run.method}"
        folder = root / "data" / COLLECTION / identity
        if run.track not in OFFICIAL_TRACKS:
            said = f"{run.track} is no track of {HUB_DATASET}"
        elif run.variant != PLAIN:
            said = f"the run is the variant {run.variant}, which is no entry"
        else:
            board = scoreboard(of_run, protocol_of(run.track, protocol))
            found = list(figures(board, of_run))
            said = "" if found else "nothing was scored"
        if said:
            yield folder, Exported(files=[], notes=[f"no record: {said}"])
            continue
        content = _content(run, identity, board, found, sorted({record.sample for record in of_run}))
        file = folder / f"{_name_of(content)}.json"
        stamp = str(int(time.time()))
        write_json(
            file,
            {
                **content,
                "retrieved_timestamp": stamp,
                "evaluation_id": f"{COLLECTION}-{run.track}/{identity}/{stamp}",
            },
        )
        notes = [] if board.total is not None else [f"no TotalScore: {board.no_total_because}"]
        yield folder, Exported(files=[file], notes=notes)


def _content(
    run: RunKey, identity: str, board: Scoreboard, found: Iterable[Figure], samples: list[str]
) -> dict[str, Any]:
    """All but what names the moment of writing."""
    data = {
        "dataset_name": f"OpenS2V-Eval {run.track}",
        "source_type": "hf_dataset",
        "hf_repo": HUB_DATASET,
        "samples_number": len(samples),
        "sample_ids": samples,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "source_metadata": {
            "source_name": f"{LIBRARY}: runs of one's own",
            "source_type": "evaluation_run",
            "source_organization_name": UNKNOWN,
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": LIBRARY, "version": __version__},
        "model_info": {
            "name": run.method,
            "id": identity,
            "developer": identity.partition("/")[0],
            "additional_details": {"deployment_type": "self_deployed", "model_availability": UNKNOWN},
        },
        "evaluation_results": [_result(run, board, figure, data) for figure in found],
    }


def _result(run: RunKey, board: Scoreboard, figure: Figure, data: dict[str, Any]) -> dict[str, Any]:
    name = figure.component or "total"
    meaning = "weighted sum of the components"
    if figure.component is not None:
        meaning = COMPONENTS[figure.component].meaning
    score: dict[str, Any] = {
        "score": in_percent(figure.value),
        "details": {"protocol": board.protocol, "notes": joined(figure.words)},
    }
    if figure.interval is not None:
        low, high = figure.interval
        score["uncertainty"] = {
            "confidence_interval": {
                "lower": in_percent(low),
                "upper": in_percent(high),
                "confidence_level": 0.95,
                "method": "bootstrap over samples",
            },
            "num_samples": board.samples,
            "num_bootstrap_samples": RESAMPLES,
        }
    return {
        "evaluation_result_id": f"{run.track}/{name}",
        "evaluation_name": f"OpenS2V-Eval {run.track}: {figure.label}",
        "source_data": data,
        "metric_config": {
            "evaluation_description": meaning,
            "metric_id": f"{COLLECTION}.{name}",
            "metric_name": figure.label,
            "metric_unit": "percent",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 100.0,
        },
        "score_details": score,
    }


def _name_of(content: dict[str, Any]) -> uuid.UUID:
    """A number that follows from the content, in the form of a random one, which the validator asks for."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()
    return uuid.UUID(bytes=digest[:16], version=4)
