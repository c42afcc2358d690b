"""Results in an experiment tracker, Weights & Biases or trackio: a tracker's run for each method of a track.

Both have one interface. A run's configuration is the method's card and what the figures rest on; its values
are TotalScore and the components on the scale 0 to 1, with interval and coverage; a table holds the raw score
of every video. Names are those of the report, so figures of tiny or mini weights say so. Where and whether
the tracker sends anything is its own setting (`WANDB_MODE=offline`, trackio's local store); no key passes
through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line
from refbench.bench.registry import unknown_name
from refbench.bench.scores.aggregate import Scoreboard
from refbench.bench.scores.record import Record
from refbench.reports.cards import card_fields
from refbench.reports.report import Report
from refbench.reports.shown_videos import run_key

TRACKERS = ("wandb", "trackio")


def log_results(
    made: Report,
    tracker: str,
    project: str,
    *,
    videos: int = 0,
    on_run: Callable[[str], None] = lambda label: None,
) -> list[str]:
    """Log every method of a report, each to a run of its own in `project`; returns the runs' names.

    `videos` of each method's are logged too, where the report was made with its folder of runs.

    Raises UserError for an unknown tracker, one that is not installed, and one that refuses.
    """
    module = load_tracker(tracker)
    gallery = {section.track: section for section in made.gallery}
    names = []
    for one in made.tracks:
        for board in one.boards:
            name = f"{board.label} on {one.track}"
            files: list[tuple[str, Path]] = []
            if one.track in gallery:
                files = [
                    (f"{block.id}, seed {cell.seed}: {block.prompt}", cell.file)
                    for block in gallery[one.track].samples
                    for cell in block.cells
                    if cell.label == board.label and cell.file is not None
                ][:videos]
            records = [record for record in one.records if record.run == run_key(board)]
            try:
                _log_run(module, project, name, _config(made, board), board, records, files)
            except UserError:
                raise
            except Exception as error:  # noqa: BLE001 - trackers raise kinds of their own
                raise UserError(f"{tracker} refused {one_line(name, 120)}: {one_line(error, 200)}") from None
            names.append(name)
            on_run(name)
    return names


def load_tracker(name: str) -> Any:
    """The tracker's module. Raises UserError for an unknown one and for one that is not installed."""
    if name not in TRACKERS:
        raise UserError(unknown_name("tracker", name, TRACKERS))
    if find_spec(name) is None:
        raise UserError(f"{name} is not installed: pip install {name}")
    return import_module(name)


def _config(made: Report, board: Scoreboard) -> dict[str, Any]:
    info = made.run_infos.get(run_key(board))
    return {
        "method": board.method,
        "variant": board.variant,
        "track": board.track,
        "protocol": board.protocol,
        "samples": board.samples,
        "seeds": list(board.seeds),
        "notes": list(board.notes),
        "no_total_because": board.no_total_because,
        **({"card": card_fields(info)} if info is not None else {}),
    }


def _log_run(
    module: Any,
    project: str,
    name: str,
    config: dict[str, Any],
    board: Scoreboard,
    records: Iterable[Record],
    files: Iterable[tuple[str, Path]],
) -> None:
    module.init(project=project, name=name, config=config)
    try:
        module.log(values_of(board))
        columns, rows = table_of(records)
        if module.__name__ == "wandb":
            table = module.Table(columns=columns, data=rows)
        else:
            import pandas as pd

            table = module.Table(dataframe=pd.DataFrame(rows, columns=columns))
        module.log({"videos scored": table})
        for caption, file in files:
            module.log({f"videos/{file.stem}": module.Video(str(file), caption=caption, format="mp4")})
    finally:
        module.finish()


def values_of(board: Scoreboard) -> dict[str, float]:
    """The figures of a scoreboard by name; what is not there is left out.

    A total that is no TotalScore is called `unofficial_total`.
    """
    low, high = board.total_interval or (None, None)
    values: dict[str, float | None] = {
        "total": board.total,
        "total/low": low,
        "total/high": high,
        "total/strict": board.strict_total,
        "unofficial_total": board.unofficial_total if board.total is None else None,
    }
    for result in board.components:
        low, high = result.interval or (None, None)
        values |= {
            result.component: result.value,
            f"{result.component}/low": low,
            f"{result.component}/high": high,
            f"{result.component}/coverage": result.counted / result.expected if result.expected else None,
        }
    return {name: value for name, value in values.items() if value is not None}


def table_of(records: Iterable[Record]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of raw scores: a row for each video, a column for each metric."""
    by_video: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        by_video.setdefault((record.sample, record.seed), {})[record.metric] = record
    metrics = sorted({metric for scored in by_video.values() for metric in scored})
    rows = []
    for (sample, seed), scored in sorted(by_video.items()):
        category = next(iter(scored.values())).category
        values = [scored[metric].value if metric in scored else None for metric in metrics]
        rows.append([sample, seed, category, *values])
    return ["sample", "seed", "category", *metrics], rows
