"""The commands of votes: vote (collect them) and votes (read them).

Plain functions with typer annotations; the CLI finds them through the entry-point group `refbench.commands`.
Everything heavy is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.cli import options as o


def vote(
    stores: o.StoresArgument,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of runs with the videos.")],
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    track: Annotated[
        str | None, typer.Option("--track", help="Needed where the stores hold several.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Vote file; answers are appended.")
    ] = Path("votes.jsonl"),
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="DIR", help="Write a page for others instead of serving it here."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=1, max=2000, help="Pairs of two methods. Default: 60.")
    ] = None,
    checks: Annotated[
        int | None, typer.Option("--checks", min=0, max=200, help="Attention checks. Default: 6.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Seed of pairs, order and sides. Default: a random one, kept."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0: a free one.")
    ] = 8765,
) -> None:
    """Let people vote blindly on pairs of videos.

    Serves a page on this machine only and appends every answer to --out; beside it stands the ballot, which
    says whose videos they are. With --export the page becomes a folder for others, who send their answers
    back as files. Read votes with: refbench votes.

    Example: refbench vote scores/ --runs runs/ --dataset OpenS2V-Eval --out votes.jsonl
    """
    from refbench.bench.console import note, print_lines, print_text
    from refbench.reports.votes.collect import export_votes, open_votes
    from refbench.reports.votes.sources import find_sources

    sources = find_sources(stores, runs, track=track, dataset=dataset, suite=suite)
    for text in sources.remarks:
        note(text)
    if export is not None:
        ballot = export_votes(sources, export, pairs=pairs, checks=checks, seed=seed)
        print_lines(
            [
                f"page:   {export} (give this folder to voters)",
                f"ballot: {ballot} (keep it: it says whose videos they are)",
                f"read the answers with: refbench votes ANSWERS.jsonl --ballot {ballot}",
            ]
        )
        return
    with open_votes(sources, out, pairs=pairs, checks=checks, seed=seed, port=port) as server:
        print_text(f"votes: {out}\npage:  {server.address} (Ctrl-C ends it)")
        server.serve_forever()


def votes(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Vote files: of a served page, or sent back by voters."),
    ],
    ballot: Annotated[
        Path | None,
        typer.Option("--ballot", metavar="FILE", help="The ballot. Default: the one beside the first file."),
    ] = None,
    stores: Annotated[
        list[Path] | None,
        typer.Option("--stores", metavar="STORE", help="Score store to hold against the votes; repeatable."),
    ] = None,
    protocol: o.ProtocolOption = None,
    keep_inattentive: Annotated[
        bool,
        typer.Option(
            "--keep-inattentive", help="Count voters who failed more than a third of the checks, too."
        ),
    ] = False,
    json: o.JsonOption = False,
) -> None:
    """Rate methods by votes, and hold components against the votes.

    Bradley-Terry ratings with 95 % intervals for each criterion, agreement between voters, position bias,
    failed attention checks, and how many votes would settle each undecided pair. With --stores the agreement
    of each component and of TotalScore with the votes, and weights fitted to the votes as an opinion.

    Example: refbench votes votes.jsonl --stores scores/
    """
    from refbench.bench.console import print_json
    from refbench.reports.votes.analysis import analyse
    from refbench.reports.votes.printed import print_votes, votes_json

    report = analyse(
        files, ballot=ballot, stores=stores or [], protocol=protocol, keep_inattentive=keep_inattentive
    )
    if json:
        print_json(votes_json(report))
        return
    print_votes(report)
