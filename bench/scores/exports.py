"""Scores in the formats of others: Hugging Face's `.eval_results` files, and one Parquet table of records.

A figure that rests on tiny or mini weights or on a local judge says so in the file itself, since files are
passed on alone. The official score files, which have no place for that, are written by `official_files.py`.

Source of `.eval_results`: `huggingface_hub.EvalResultEntry` (tried with huggingface_hub 2.4; old ones lack
it), whose own functions write and read it. A benchmark's page shows entries of tasks that the data set
declares; those of OpenS2V-Eval's tracks are named here after the tracks and components.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench import __version__
from refbench.bench.dataset import HUB_DATASET, OFFICIAL_TRACKS
from refbench.bench.errors import UserError
from refbench.bench.files import replacing, write_text
from refbench.bench.scores.aggregate import (
    WEIGHTS_TEXT,
    ComponentResult,
    Scoreboard,
    group_records,
    scoreboard,
)
from refbench.bench.scores.bootstrap import Interval
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.official_files import Exported
from refbench.bench.scores.protocol import protocol_of
from refbench.bench.scores.record import LOCAL_JUDGE, PLAIN, Record, generated_with
from refbench.bench.yaml_files import yaml_text

EVAL_RESULTS_FOLDER = ".eval_results"
PARQUET_FILE = "records.parquet"
MARKS_COLUMN = "marks"


def marks(records: Iterable[Record]) -> tuple[str, ...]:
    """The words without which a figure of these records must not be shown: `tiny random weights`, `mini
    weights of the drawn world`, `local judge`, `generated with mini weights`; sorted, empty for none.

    Whether a protocol accepts such weights does not matter here. Records without a value count for nothing.
    """
    found: set[str] = set()
    for record in records:
        if record.value is None:
            continue
        found |= {WEIGHTS_TEXT[kind] for kind in record.provenance.weights_kinds - {"real"}}
        generator = generated_with(record.variant)
        if generator is not None:
            found.add(f"generated with {generator} weights")
        if record.judge_kind == "local":
            found.add(LOCAL_JUDGE)
        elif record.unofficial:
            found.add(f"unofficial: {record.unofficial}")
    return tuple(sorted(found))


def export_eval_results(
    records: Iterable[Record], root: Path, protocol: str | None = None
) -> Iterator[tuple[Path, Exported]]:
    """Write `<root>/<method>/.eval_results/opens2v-eval-<track>.yaml` for every plain run of an official
    track; yields each method's folder with what was written or why nothing was.

    A file holds an entry for TotalScore (task `<track>`), where there is one, and for each component that has
    a value (task `<track>/<component>`); values are in percent, as the papers print them. Raises UserError
    where the installed huggingface_hub knows no such entries.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        raise UserError(
            "the installed huggingface_hub writes no .eval_results: pip install -U huggingface_hub"
        ) from None
    for run, of_run in sorted(group_records(records).items()):
        folder = root / run.method
        if run.track not in OFFICIAL_TRACKS:
            said = f"{run.track} is no track of {HUB_DATASET}: the hub has no place for it"
            yield folder, Exported(files=[], notes=[f"no .eval_results: {said}"])
            continue
        if run.variant != PLAIN:
            said = f"the run is the variant {run.variant}, which is no entry"
            yield folder, Exported(files=[], notes=[f"no .eval_results: {said}"])
            continue
        board = scoreboard(of_run, protocol_of(run.track, protocol))
        entries = [
            EvalResultEntry(
                dataset_id=HUB_DATASET,
                task_id="/".join(filter(None, (run.track, figure.component))),
                value=in_percent(figure.value),
                notes=joined([figure.label, _interval_words(figure.interval), *figure.words]),
            )
            for figure in figures(board, of_run)
        ]
        if not entries:
            yield folder, Exported(files=[], notes=["no .eval_results: nothing was scored"])
            continue
        file = folder / EVAL_RESULTS_FOLDER / f"opens2v-eval-{run.track}.yaml"
        write_text(file, yaml_text(eval_result_entries_to_yaml(entries)))
        notes = [] if board.total is not None else [f"no entry for TotalScore: {board.no_total_because}"]
        yield folder, Exported(files=[file], notes=notes)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """TotalScore (`component` None) or a component of a run, 0 to 1, as files of others hold it.

    `counted` are the videos behind it, `words` what must be said beside it, its marks first.
    """

    component: str | None
    label: str
    value: float
    interval: Interval | None
    counted: int | None
    words: tuple[str, ...]


def figures(board: Scoreboard, records: list[Record]) -> Iterator[Figure]:
    """TotalScore, where there is one, and each component that has a value."""
    of_metric: dict[str, list[Record]] = {}
    for record in records:
        of_metric.setdefault(record.metric, []).append(record)
    of_component = {
        result.component: of_metric.get(COMPONENTS[result.component].metric, [])
        for result in board.components
    }
    if board.total is not None:
        weighed = [record for held in of_component.values() for record in held]
        strict = "" if board.strict_total is None else f"strict TotalScore {100 * board.strict_total:.2f}"
        yield Figure(
            component=None,
            label="TotalScore",
            value=board.total,
            interval=board.total_interval,
            counted=None,
            words=(*marks(weighed), strict, *_run_words(board)),
        )
    for result in board.components:
        if result.value is not None:
            held = of_component[result.component]
            yield Figure(
                component=result.component,
                label=result.label,
                value=result.value,
                interval=result.interval,
                counted=result.counted,
                words=(*marks(held), *_component_words(result, held), *_run_words(board)),
            )


def in_percent(value: float) -> float:
    """A value of 0 to 1 in percent, to six digits."""
    # More digits than any table prints, and none that only binary fractions have.
    return round(100 * value, 6)


def joined(words: Iterable[str]) -> str:
    """What must be said beside a figure, in one text."""
    return "; ".join(word for word in words if word)


def _interval_words(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"95 % interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f}"


def _component_words(result: ComponentResult, records: Iterable[Record]) -> list[str]:
    versions = sorted({record.provenance.metric_version for record in records if record.value is not None})
    return [
        f"{result.counted} of {result.expected} videos counted",
        f"metric version {', '.join(versions)}",
    ]


def _run_words(board: Scoreboard) -> list[str]:
    seeds = f"{'seed' if len(board.seeds) == 1 else 'seeds'} {', '.join(map(str, board.seeds))}"
    return [seeds, f"protocol {board.protocol}", *board.notes, f"refalign-bench {__version__}"]


def export_parquet(records: Iterable[Record], root: Path) -> Iterator[tuple[Path, Exported]]:
    """Write all records as one table, `<root>/records.parquet`; yields the folder with the file.

    The columns are those of `refbench.records`, with what is nested (`details`, `provenance_weights`,
    `provenance_packages`) as JSON, and `marks`: the words of `marks`, joined with `; `, empty for none.
    Raises UserError where pyarrow is not installed.
    """
    from importlib.util import find_spec

    from refbench.bench.scores.results import records as record_table

    if find_spec("pyarrow") is None:
        raise UserError("parquet needs pyarrow: pip install 'refalign-bench[parquet]'")
    held = sorted(records, key=lambda record: record.key)
    table = record_table(held)
    for column in ("details", "provenance_weights", "provenance_packages"):
        table[column] = table[column].map(_json).astype("string")
    table[MARKS_COLUMN] = ["; ".join(marks([record])) for record in held]
    table[MARKS_COLUMN] = table[MARKS_COLUMN].astype("string")
    file = root / PARQUET_FILE
    with replacing(file) as partial:
        table.to_parquet(partial, engine="pyarrow", index=False)
    yield root, Exported(files=[file], notes=[])


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
