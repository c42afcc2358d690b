"""RefAlign's ablations: what is known of the published figures, the commands that make each row, own runs.

The figures and findings were read in another text's report of the paper (arXiv 2603.25743), not in the paper,
and every output says so. Public are 1,800 iterations for each ablation, the depth of 9 blocks and the
teachers' families. Ours are the stage and its data, the other depths, and what each run is called.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.console import percent, scoreboard_json
from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name
from refbench.bench.scores.aggregate import Scoreboard, scoreboards
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.record import plain_name
from refbench.bench.scores.store import Store, store_paths
from refbench.reports.files import write_files
from refbench.reports.published import ablation_figures
from refbench.reports.stored_runs import StoredRuns, read_stored_runs
from refbench.reports.table1 import (
    REPORTED_ONLY,
    compares,
    coverage_gaps,
    differences_of,
    left_out,
    measured,
    table1_source,
)
from refbench.reports.table_formats import csv_text, to_latex, to_markdown
from refbench.reports.tables import NONE, Cell, Table

TABLE2_FILE = "refalign_table2.csv"
ITERATIONS = 1800
RECIPE, METHOD = "stage1_1_3b", "refalign-1.3b"
DEPTHS = (1, 3, 5, 7, 9, 11, 13)
SECONDARY = "read in secondary text (notes on arXiv 2603.25743), not in the paper"
OURS = (
    f"Ours: stage 1 alone and its data; the paper says {ITERATIONS} iterations, and not of which stage. "
    "One seed is one draw: gaps of a point need several."
)
CSV_COLUMNS = (
    "row",
    "summary",
    "run",
    "component",
    "published_percent",
    "measured_percent",
    "difference_points",
)


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A row of an ablation: `published` figures in percent by name, what else is `said` of it, and the
    settings that make it.

    `overrides` change the recipe; where they are None, `no_recipe` says why the row cannot be made here. Own
    runs are found under the name `run`.
    """

    name: str
    summary: str
    run: str
    overrides: tuple[str, ...] | None
    no_recipe: str = ""
    published: Mapping[str, float]
    said: str = ""

    @property
    def command(self) -> str | None:
        """The training that makes the row; None where there is none."""
        if self.overrides is None:
            return None
        words = ("refbench", "train", RECIPE, f"run.max_steps={ITERATIONS}", *self.overrides)
        place = ("--data", "OpenS2V-5M", "--weights", "weights", "-o", f"training/{self.run}")
        return shlex.join((*words, *place))


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One ablation of the paper: rows, and what is `said` of all of them."""

    name: str
    title: str
    rows: tuple[AblationRow, ...]
    said: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[str, ...]:
        """What makes all rows: the trainings, then videos and scores of each, then this table."""
        trained = [row for row in self.rows if row.overrides is not None]
        network = f"training/$name/checkpoints/step-{ITERATIONS:08d}/transformer"
        data = "--dataset OpenS2V-Eval --weights weights"
        return (
            *(row.command for row in trained if row.command is not None),
            f"for name in {' '.join(row.run for row in trained)}; do",
            f"  refbench generate {METHOD} --name $name --set transformer={network} {data}",
            f"  refbench evaluate runs/$name/open-domain {data}",
            "done",
            f"refbench reproduce {self.name} results/",
        )


@dataclass(frozen=True, kw_only=True)
class AblationReproduction:
    """An ablation beside own runs, which are given row by row; see `table1.Reproduction`."""

    ablation: Ablation
    measured: tuple[tuple[Scoreboard, ...], ...]
    table: Table
    left_out: Mapping[str, str]

    def write(self, out: str | os.PathLike[str]) -> list[Path]:
        """Write the table as Markdown, CSV and LaTeX below `out`; returns the files.

        Raises UserError when `out` cannot be written.
        """
        name = self.ablation.name
        contents = {
            f"{name}.md": to_markdown(f"{self.ablation.title}, reproduced", [self.table]),
            f"{name}.csv": _csv(self.ablation, self.measured),
            f"{name}.tex": to_latex([self.table]),
        }
        return write_files(out, contents)


def table2() -> Ablation:
    """Table 2: the loss, its negatives, and features as input instead."""
    overrides = {"A": (), "B": ("alignment.negative_weight=0",), "C": ("alignment.enabled=false",)}
    why = "no recipe here feeds a teacher's features into the network"
    said = {"C": "highest FaceSim of all: it copies"}
    return Ablation(
        name="table2",
        title="RefAlign Table 2",
        rows=tuple(
            AblationRow(
                name=name,
                summary=summary,
                run=f"refalign-table2-{name.lower()}",
                overrides=overrides.get(name),
                no_recipe="" if name in overrides else why,
                published=figures,
                said=said.get(name, ""),
            )
            for name, (summary, figures) in ablation_figures(TABLE2_FILE).items()
        ),
    )


def depth() -> Ablation:
    """After how many of the first blocks the loss is taken; the depths but 9 and 11 are ours."""
    said = {9: "the best TotalScore", 11: "FaceSim below 25 from here on"}
    return Ablation(
        name="depth",
        title="RefAlign, depth K of the alignment",
        said=("TotalScore rises with K, then falls; figures are not known.",),
        rows=tuple(
            AblationRow(
                name=f"K={blocks}",
                summary=f"first {blocks} blocks" if blocks > 1 else "first block",
                run=f"refalign-depth-{blocks}",
                overrides=(f"alignment.blocks={','.join(map(str, range(blocks)))}",),
                published={},
                said=said.get(blocks, ""),
            )
            for blocks in DEPTHS
        ),
    )


def teachers() -> Ablation:
    """Whose features the references are aligned with."""
    absent = "it is not among the teachers here"
    rows: tuple[tuple[str, str | None, str], ...] = (
        ("DINOv3-B", "dinov3-vitb16", "DINOv3: best in FaceSim and NexusScore"),
        ("DINOv3-L", "dinov3-vitl16", ""),
        ("DINOv3-H+", None, ""),
        ("SigLIP2", "siglip2-base", "best in Aesthetics and MotionSmoothness"),
        ("Qwen2.5-VL", None, "best in MotionAmplitude"),
    )
    return Ablation(
        name="teachers",
        title="RefAlign, teachers",
        said=("DINOv3-B, -L and -H+ differ by 0.33 to 0.43 points of TotalScore; figures are not known.",),
        rows=tuple(
            AblationRow(
                name=name,
                summary="",
                run=f"refalign-teacher-{teacher or plain_name(name)}",
                overrides=None if teacher is None else (f"alignment.teachers={teacher}",),
                no_recipe=absent if teacher is None else "",
                published={},
                said=said,
            )
            for name, teacher, said in rows
        ),
    )


ABLATIONS = {"table2": table2, "depth": depth, "teachers": teachers}


def reproduce_ablation(
    name: str, stores: Store | Iterable[Store] = (), *, out: str | os.PathLike[str] | None = None
) -> AblationReproduction:
    """What is published of an ablation beside own runs in the stores; written below `out` where it is given.

    Raises UserError for an unknown name, when a store does not exist or holds no record, and when `out`
    cannot be written.

    >>> made = reproduce_ablation("table2")
    >>> made.ablation.rows[1].command
    'refbench train stage1_1_3b run.max_steps=1800 alignment.negative_weight=0 --data OpenS2V-5M --weights \
weights -o training/refalign-table2-b'
    """
    if name not in ABLATIONS:
        raise UserError(unknown_name("table", name, ABLATIONS))
    ablation = ABLATIONS[name]()
    source = table1_source()
    paths = store_paths(stores)
    stored = read_stored_runs(paths) if paths else StoredRuns(records=(), run_infos={})
    boards = scoreboards(
        (record for record in stored.records if record.track == source.track), source.protocol
    )
    of_rows = tuple(
        tuple(
            board for board in boards if plain_name(board.method) == plain_name(row.run) and compares(board)
        )
        for row in ablation.rows
    )
    found = {board.label for group in of_rows for board in group}
    made = AblationReproduction(
        ablation=ablation,
        measured=of_rows,
        table=_table(ablation, of_rows),
        left_out=left_out(boards, found, f"no row of {name} is run under this name")
        | {text.partition(",")[0]: text for text in stored.left_out},
    )
    if out is not None:
        made.write(out)
    return made


def _table(ablation: Ablation, of_rows: Sequence[Sequence[Scoreboard]]) -> Table:
    names = ("total", *COMPONENTS)
    lines: list[tuple[Cell, ...]] = []
    notes = [f"{row.name}: {row.said}." for row in ablation.rows if row.said]
    for row, boards in zip(ablation.rows, of_rows, strict=True):
        if row.overrides is None:
            what = "has its published row only" if row.published else "cannot be trained here"
            notes.append(f"{row.name} {what}: {row.no_recipe}.")
        if row.published or not boards:
            name = ", ".join(filter(None, (row.name, row.summary)))
            remark = "" if boards else REPORTED_ONLY if row.published else "no run"
            lines.append((Cell(text=name), Cell(text="published"), *_published_cells(row), Cell(text=remark)))
        for board in boards:
            gaps = coverage_gaps(board)
            if gaps:
                notes.append(f"incomplete, {board.label}: {', '.join(gaps)}.")
            values, differences = measured(board), differences_of(row.published, board)
            shown = [Cell(text=percent(values.get(name))) for name in names]
            remark = "incomplete" if gaps else ""
            lines.append((Cell(text=board.label), Cell(text="measured"), *shown, Cell(text=remark)))
            if row.published:
                gap_cells = [
                    Cell(text=NONE if (gap := differences.get(name)) is None else f"{gap:+.2f}")
                    for name in names
                ]
                lines.append((Cell(text=board.label), Cell(text="difference"), *gap_cells, Cell(text="")))
    labels = [component.label for component in COMPONENTS.values()]
    source = table1_source()
    return Table(
        title=f"{ablation.title}: published and measured, {source.track}, {source.protocol}, %",
        headings=("Method", "Row", "TotalScore", *labels, "Remark"),
        rows=tuple(lines),
        notes=(*ablation.said, *notes, f"Published: {SECONDARY}.", OURS),
    )


def _published_cells(row: AblationRow) -> list[Cell]:
    figures = [row.published.get(name) for name in ("total", *COMPONENTS)]
    return [Cell(text=NONE if figure is None else f"{figure:.2f}", number=figure) for figure in figures]


def _csv(ablation: Ablation, of_rows: Sequence[Sequence[Scoreboard]]) -> str:
    """One line per row, run and figure (`total` first), unrounded; rows without a run have none."""
    lines: list[list[object]] = []
    for row, boards in zip(ablation.rows, of_rows, strict=True):
        for name in ("total", *COMPONENTS):
            figure = row.published.get(name)
            if not boards:
                lines.append([row.name, row.summary, "", name, figure, "", ""])
            for board in boards:
                value = measured(board).get(name)
                lines.append(
                    [
                        row.name,
                        row.summary,
                        board.label,
                        name,
                        figure,
                        None if value is None else 100 * value,
                        differences_of(row.published, board).get(name),
                    ]
                )
    return csv_text(CSV_COLUMNS, lines)


def ablation_json(made: AblationReproduction) -> dict[str, Any]:
    """JSON-serialisable: published in percent, scoreboards on the scale 0..1, differences in points."""
    return {
        "published_source": SECONDARY,
        "said": list(made.ablation.said),
        "rows": [
            {
                "row": row.name,
                "summary": row.summary,
                "published_percent": dict(row.published),
                "said": row.said or None,
                "overrides": None if row.overrides is None else list(row.overrides),
                "command": row.command,
                "no_command_because": row.no_recipe or None,
                "measured": [
                    {
                        "scoreboard": scoreboard_json(board),
                        "difference_points": differences_of(row.published, board),
                        "incomplete": coverage_gaps(board),
                    }
                    for board in boards
                ],
            }
            for row, boards in zip(made.ablation.rows, made.measured, strict=True)
        ],
        "commands": list(made.ablation.commands),
    }
