"""The command parity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

EXIT_DIFFERENT = 1


def add_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(parity)


def parity(
    videos: Annotated[
        Path | None,
        typer.Option("--videos", metavar="DIR", help="Folder of <sample id>.mp4: OpenS2V's demonstration."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", metavar="DIR", help="Folder of the official score files of these videos."),
    ] = None,
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="NAMES", help="Comma-separated names of metrics.")
    ] = None,
    set_: o.SetOption = None,
    weights: o.WeightsOption = None,
    device: o.DeviceOption = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The report.")] = Path(
        "parity.json"
    ),
    json: o.JsonOption = False,
) -> None:
    """Hold the metrics here against the official scripts' own figures.

    Videos that have official score files are scored with the released weights on disk, and every raw score is
    compared, with a tolerance for each metric. The report names versions, digests, devices and differences,
    and no path: it can be sent to us as it is. Exit code 1 where a figure differs or was not scored. What to
    pull is said where weights are missing; NaturalScore asks a paid judge, and only by name.

    Example: refbench parity --videos demo/videos --scores demo/scores --dataset OpenS2V-Eval --weights DIR
    """
    from refbench.bench.console import note, print_json, print_lines, print_table
    from refbench.bench.files import write_json
    from refbench.bench.options import assignments_by_owner
    from refbench.bench.runner.parity import DEMO
    from refbench.bench.runner.parity import parity as compare_with_official

    if videos is None or scores is None:
        raise UserError(f"give --videos DIR and --scores DIR: both are in {DEMO}")
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    made = compare_with_official(
        videos,
        scores,
        o.chosen_track(track, None, dataset),
        weights=weights,
        metrics=names,
        options=assignments_by_owner(set_ or []),
        device=device,
    )
    write_json(out, made.content())
    for name in made.not_released:
        note(f"{name}: these weights are no released ones, so its difference means nothing")
    if json:
        print_json(made.content())
    else:
        rows = [
            [
                figure.metric,
                figure.sample,
                *("–" if value is None else f"{value:.6f}" for value in (figure.official, figure.ours)),
                "–" if figure.difference is None else f"{figure.difference:+.2e}",
                f"{figure.tolerance:g}",
                figure.verdict,
            ]
            for figure in made.figures
        ]
        headings = ["metric", "sample", "official", "ours", "difference", "tolerance", "verdict"]
        print_table("raw scores", headings, rows, drop=["tolerance"])
        reasons = dict.fromkeys(
            f"{one.metric}: {one.reason}" for one in made.figures if one.reason is not None
        )
        print_lines(reasons)
        equal = sum(figure.verdict == "equal" for figure in made.compared)
        print_lines([f"{equal} of {len(made.compared)} compared figures are equal within their tolerance"])
        folder = weights if weights is not None else "weights"
        print_lines(f"refbench weights pull --metric {name} --weights {folder}" for name in made.to_pull)
        print_lines([f"report: {out}"])
    if not made.equal:
        raise typer.Exit(EXIT_DIFFERENT)
