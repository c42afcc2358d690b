"""The commands that read records and published figures: report, view, leaderboard, compare, reproduce, audit.

Plain functions with typer annotations; the CLI finds them through the entry-point group `refbench.commands`.
Everything heavy is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError, one_line
from refbench.bench.scores import DEFAULT_PROTOCOL

NoiseFloorOption = Annotated[
    Path | None,
    typer.Option(
        "--noise-floor",
        metavar="FILE",
        help="What refbench noise-floor measured. Default: noise-floor.json beside the stores.",
    ),
]


def report(
    stores: o.StoresArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("report"),
    protocol: o.ProtocolOption = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            "--runs", metavar="DIR", help="Folder of runs: adds videos.html, the videos beside their scores."
        ),
    ] = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    noise_floor: NoiseFloorOption = None,
    json: o.JsonOption = False,
) -> None:
    """Write tables, plots and one HTML page from score records.

    Tables in Markdown, CSV and LaTeX, plots in PNG and PDF. Records of several methods, tracks and stores are
    put together; nothing is scored again. The terminal shows one row for each method; --wide adds a table of
    each method's components. With --runs a second page shows the videos, and with a data set or suite their
    prompts and references. A noise floor of the stores' track and protocol stands in a table of its own.

    Example: refbench report scores/ --runs runs/ -o report
    """
    from refbench.bench.console import (
        VIEW,
        licence_notes,
        note,
        print_json,
        print_scoreboards,
        print_text,
        scoreboard_json,
    )
    from refbench.reports.report import PLOT_FOLDER, TABLE_FOLDER, VIDEOS_FILE
    from refbench.reports.report import report as make_report
    from refbench.reports.terminal import print_noise, print_score_table

    made = make_report(
        stores, protocol=protocol, runs=runs, dataset=dataset, suite=suite, noise_floor=noise_floor
    )
    files = made.write(out)
    for text in made.left_out:
        note(f"left out of the report: {text}")
    if json:
        print_json(
            {
                "scoreboards": [scoreboard_json(board) for board in made.boards],
                "files": [str(file) for file in files],
            }
        )
        return
    for one in made.tracks:
        print_score_table(one.boards)
        print_noise(one.noise)
    if VIEW.get().wide:
        print_scoreboards(made.boards)
    else:
        for text in licence_notes(made.boards):
            note(text)
    print_text(f"page:   {files[0]}")
    if made.gallery:
        print_text(f"videos: {out / VIDEOS_FILE}")
    print_text(f"tables: {out / TABLE_FOLDER} (Markdown, CSV, LaTeX)")
    print_text(f"plots:  {out / PLOT_FOLDER} (PNG, PDF)")


def log(
    stores: o.StoresArgument,
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="wandb or trackio.")],
    project: Annotated[str, typer.Option("--project", metavar="NAME", help="The tracker's project.")],
    protocol: o.ProtocolOption = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="Folder of runs, for --videos.")
    ] = None,
    videos: Annotated[
        int, typer.Option("--videos", min=0, max=64, help="Log so many videos of each method; needs --runs.")
    ] = 0,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
) -> None:
    """Log results to W&B or trackio: TotalScore, components, coverage, a table of all videos.

    A run of the tracker for each method and track, named as in the report. Whether the tracker sends it is
    its own setting: WANDB_MODE=offline keeps it here. Examples:

    refbench log results/ --to wandb --project r2v

    refbench log results/ --to trackio --project r2v --runs runs/ --videos 8
    """
    from refbench.bench.console import note, print_text
    from refbench.reports.report import report as make_report
    from refbench.reports.tracking import load_tracker, log_results

    load_tracker(to)
    if videos and runs is None:
        raise UserError("--videos needs --runs DIR, the folder that generate and run write")
    made = make_report(stores, protocol=protocol, runs=runs, dataset=dataset, suite=suite)
    for text in made.left_out:
        note(f"not logged: {text}")
    names = log_results(made, to, project, videos=videos, on_run=lambda name: note(f"logged: {name}"))
    print_text(f"{len(names)} runs in the project {project} of {to}")


def view(
    stores: o.StoresArgument,
    runs: Annotated[
        Path | None,
        typer.Option("--runs", metavar="DIR", help="Folder of runs: the videos beside their scores."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the site.")] = Path("view"),
    protocol: o.ProtocolOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the site on 127.0.0.1 until Ctrl-C, to nobody else.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of --serve; 0: any free one.")
    ] = 8765,
    bundle: Annotated[
        bool,
        typer.Option(
            "--bundle", help="Copy small previews and posters into the site, to publish one folder."
        ),
    ] = False,
    preview_size: Annotated[
        int,
        typer.Option("--preview-size", min=64, max=1920, metavar="PX", help="Longer side of a preview."),
    ] = 320,
    bundle_limit: Annotated[
        float, typer.Option("--bundle-limit", min=0, metavar="MB", help="The most that previews may take.")
    ] = 1000.0,
    anonymous: Annotated[
        bool,
        typer.Option("--anonymous", help="Letters for methods' names everywhere; videos need --bundle."),
    ] = False,
    json: o.JsonOption = False,
) -> None:
    """Write a site that shows prompts, references, videos, scores and reasons in one view.

    It opens from disk, from any web server and on a phone, and asks no other host for anything. Four views:
    the ranking with the gaps that mean something, a grid of all videos to filter and sort, one sample with
    all methods in step, and two methods side by side. An address holds the whole view, to be shared.

    Example: refbench view results/ --runs runs/ --dataset OpenS2V-Eval --serve
    """
    from refbench.bench.console import count_text, inform, note, print_json, print_text
    from refbench.bench.runner.progress import Progress
    from refbench.reports.viewer.serve import SiteServer
    from refbench.reports.viewer.view import view as make_site

    if serve:
        # Before the work: a port in use is known at once.
        SiteServer(out / "index.html", [], port).server_close()
    with Progress("site", total=1) as progress:
        progress.begin("previews")
        made = make_site(
            stores,
            runs=runs,
            out=out,
            protocol=protocol,
            dataset=dataset,
            suite=suite,
            bundle=bundle,
            anonymous=anonymous,
            preview_size_px=preview_size,
            limit_mb=bundle_limit,
            on_estimate=lambda estimate: inform(f"bundle: {estimate.sentence}"),
            on_preview=progress.part,
        )
    for text in made.left_out:
        note(f"left out of the site: {text}")
    if made.missing and runs is not None:
        everything = count_text(made.videos + made.missing, "video")
        note(f"{made.missing} of {everything} cannot be shown; the site says why")
    if json:
        print_json({"page": str(made.page), "videos": made.videos, "missing_videos": made.missing})
    else:
        print_text(f"page: {made.page}")
    if serve:
        with SiteServer(made.page, made.files, port) as server:
            print_text(f"serving {server.address} (Ctrl-C ends it)")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print_text("stopped")


def leaderboard(
    track: Annotated[
        str, typer.Option("--track", help="open-domain, human-domain or single-domain.")
    ] = o.DEFAULT_TRACK,
    protocol: Annotated[str, typer.Option("--protocol", help="opens2v-1.1 or opens2v-1.0.")] = (
        DEFAULT_PROTOCOL
    ),
    source: Annotated[
        str | None, typer.Option("--source", help="Only sources whose title holds these words.")
    ] = None,
    json: o.JsonOption = False,
) -> None:
    """Show published scores, with TotalScore recomputed.

    The total is recomputed from the published components; rows that are off by more than 0.02 points are
    marked with !. A method stands once for each source that has it.

    Example: refbench leaderboard --track human-domain --protocol opens2v-1.0
    """
    from refbench.bench.console import print_json, print_lines, print_table, print_text
    from refbench.bench.scores.columns import COMPONENTS
    from refbench.reports.published import (
        LARGEST_ROUNDING_POINTS,
        disagrees,
        leaderboard_rows,
        published_json,
        recomputed_total,
        total_difference,
    )
    from refbench.reports.terminal import DROPPED_FIRST, SHORT_HEADINGS

    rows = leaderboard_rows(track, protocol, source)
    if json:
        print_json({"scale": "percent", "rows": [published_json(row) for row in rows]})
        return
    components = [component for component in COMPONENTS.values() if component.name in rows[0].components]
    cells = [
        [
            f"{row.method}{' !' if disagrees(row) else ''}",
            f"{row.total:.2f}",
            f"{recomputed_total(row):.2f}",
            f"{total_difference(row):+.3f}",
            *(f"{row.components[component.name]:.2f}" for component in components),
            row.openness,
            row.source.title,
        ]
        for row in rows
    ]
    labels = [component.label for component in components]
    headings = ["method", "total %", "recomputed %", "difference points", *labels, "openness", "source"]
    dropped_first = ["difference points", "recomputed %", "openness", "source", *DROPPED_FIRST]
    print_table(
        f"published, {track}, {protocol}",
        headings,
        cells,
        short={**SHORT_HEADINGS, "total %": "total"},
        drop=dropped_first,
    )
    marked = [row for row in rows if disagrees(row)]
    print_lines(
        [
            f"{len(rows)} rows, {len(marked)} of them more than {LARGEST_ROUNDING_POINTS} points off "
            "their own components"
        ]
    )
    for row in marked:
        print_text(f"! {row.method}, {row.source.title}: {total_difference(row):+.3f} points")
    for cited in dict.fromkeys(row.source for row in rows):
        print_lines([cited.reference])


def compare(
    a: Annotated[
        str, typer.Argument(help="Store of A: a method's folder or a .jsonl file, or PATH@VARIANT.")
    ],
    b: Annotated[str, typer.Argument(help="Store of B, likewise.")],
    track: Annotated[str | None, typer.Option("--track", help="Needed where a store has several.")] = None,
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Needed where a store has several; PATH@VARIANT for one side."),
    ] = None,
    protocol: o.ProtocolOption = None,
    text_only: Annotated[
        str | None,
        typer.Option(
            "--text-only",
            metavar="STORE",
            help="Store of a text-only control: says what A and B gain in likeness over it (identity-gain).",
        ),
    ] = None,
    noise_floor: NoiseFloorOption = None,
    json: o.JsonOption = False,
) -> None:
    """Say whether A is better than B, or that the samples cannot tell.

    A paired bootstrap over the samples that both have gives difference, 95 % interval, and the smallest gap
    that so many samples could have shown (two-sided 5 %, power 80 %). Differences of the two method cards are
    listed, and runs that were made otherwise than their rows of the OpenS2V leaderboard are named. Where both
    have scores of subject-confusion, they stand below the components, outside TotalScore. Where a noise floor
    was measured (refbench noise-floor), a gap below it is called by what makes as much, such as re-encoding.

    Example: refbench compare scores/vace-14b scores/phantom-14b --track open-domain
    """
    from refbench.bench.console import print_json, print_lines, print_table, print_text
    from refbench.reports.compared import (
        COMPARISON_HEADINGS,
        comparison_json,
        comparison_lines,
        comparison_rows,
    )
    from refbench.reports.compared import compare as compare_stores

    result = compare_stores(
        a,
        b,
        track=track,
        variant=variant,
        protocol=protocol,
        text_only=text_only,
        noise_floor=noise_floor,
    )
    if json:
        print_json(comparison_json(result))
        return
    scores = result.scores
    print_text(f"A: {scores.a}\nB: {scores.b}")
    title = f"{scores.track} · {scores.protocol} · {scores.samples} samples"
    print_table(title, COMPARISON_HEADINGS, comparison_rows(result), drop=["n"])
    print_lines(comparison_lines(result))


def reproduce(
    what: Annotated[
        str,
        typer.Argument(
            help="table1: the sixteen rows of RefAlign's Table 1; table2, depth or teachers: its ablations."
        ),
    ],
    stores: Annotated[
        list[Path] | None, typer.Argument(help="Score stores with measured runs: folders or .jsonl files.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the table (Markdown, CSV, LaTeX).")
    ] = None,
    json: o.JsonOption = False,
) -> None:
    """Put a published table and measured runs side by side.

    Runs are matched by the method's name, without case and punctuation; rows without a run are marked
    "reported only", runs in which something expected was not scored "incomplete". Differences are in points.
    Runs that were made otherwise than the published row (size, frames, rate, seed) are named.
    For an ablation the commands that train, generate and score each row are printed as well; its published
    figures were read in secondary text.

    Example: refbench reproduce table1 scores/ -o reproduction
    """
    from refbench.bench.console import note, print_json, print_lines, print_text
    from refbench.bench.registry import unknown_name
    from refbench.reports.ablations import ABLATIONS, ablation_json, reproduce_ablation
    from refbench.reports.table1 import Reproduction, reproduce_table1, reproduction_json
    from refbench.reports.terminal import print_reproduction

    if what not in ("table1", *ABLATIONS):
        raise UserError(unknown_name("table", what, ["table1", *ABLATIONS]))
    made = reproduce_table1(stores or []) if what == "table1" else reproduce_ablation(what, stores or [])
    for label, why in made.left_out.items():
        note(f"{label} is left out: {why}")
    files = [] if out is None else made.write(out)
    if json:
        content = (
            {"rows": reproduction_json(made.rows), "settings": list(made.settings)}
            if isinstance(made, Reproduction)
            else ablation_json(made)
        )
        print_json({**content, "files": [str(file) for file in files]})
        return
    print_reproduction(made.table)
    print_lines([*made.table.notes, *(f"wrote {file}" for file in files)])
    if not isinstance(made, Reproduction):
        print_text("\nThe commands that make the rows:")
        for command in made.ablation.commands:
            print_text(command)


def audit(
    table: Annotated[Path, typer.Argument(help="A printed table: .csv, .tsv, .tex or .md.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="HEADING=NAME",
            help="What a column is, where its heading does not say it: a component's name, total, method or "
            "ignore; repeatable.",
        ),
    ] = None,
    scale: Annotated[
        str, typer.Option("--scale", help="percent or fraction; auto looks at the numbers.")
    ] = "auto",
    json: o.JsonOption = False,
) -> None:
    """Check a printed table of OpenS2V-Eval scores.

    Says for each row which version of the formula, and which track's weights, give its total from its
    components, how far the others are off, and which published row it equals, also under another name or
    another protocol. Open-domain and single-domain have the same weights: only an equal published row tells
    them apart. Nothing in the file is run or opened.

    Example: refbench audit table3.tex --column 'Motion-S=motion_smoothness'
    """
    from refbench.bench.console import print_json, print_lines, print_table
    from refbench.reports.audit import audit as audit_file
    from refbench.reports.audit import audit_json, audit_lines, points, shown_total, verdict

    meanings = {}
    for given in column or []:
        heading, equals, name = given.rpartition("=")
        if not equals or not heading.strip():
            raise UserError(f"--column takes HEADING=NAME, not {one_line(given, 60)!r}")
        meanings[heading] = name.strip()
    tables = audit_file(table, columns=meanings, scale=scale)
    if json:
        print_json({"scale": "percent", "tables": audit_json(tables)})
        return
    for one in tables:
        cells = []
        for row in one.rows:
            shown = shown_total(row, one.formula)
            cells.append(
                [
                    f"{row.method}{' !' if row.recomputed and not row.fitting else ''}",
                    "–" if row.total is None else f"{row.total:.2f}",
                    "–" if shown is None else f"{shown.total:.2f}",
                    "–" if shown is None else points(shown.difference),
                    verdict(row, one.formula),
                ]
            )
        title = f"{table.name}, table {one.number}" if len(tables) > 1 else table.name
        print_table(
            title,
            ["row", "total %", "recomputed %", "difference points", "formula"],
            cells,
            short={"total %": "total", "recomputed %": "recomp.", "difference points": "diff"},
            texts=["formula"],
        )
        print_lines(audit_lines(one), indent=2)
