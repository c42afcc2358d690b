"""What `refbench demo` prints and writes of a contest: the ranking, who is better, and the pages."""

from __future__ import annotations

from collections.abc import Sequence

from refbench.bench.cli.work import exit_on_failure, other_command
from refbench.bench.runner.evaluate import Evaluated
from refbench.bench.scores.columns import NOTHING_FOUND
from refbench.bench.scores.record import FAILED, Record
from refbench.mini.contest import DATASET, OURS, RUNS, Contest

PAGES, SHEET = "report", "videos.png"
# Samples and methods on the contact sheet.
SHEET_ROWS = 16
SHEET_METHODS = ("world-truth", "refalign-mini", "refalign-mini-no-ra", "mini-text-only")


def show_contest(contest: Contest) -> None:
    """Run the contest, print and write what came of it. Raises typer.Exit(1) where a video or a
    score failed, other than a NexusScore for want of a detection."""
    from refbench.bench.console import print_lines, print_text
    from refbench.mini.tour import recompute_leaderboards

    print_text(
        f"The drawn world: {contest.limit} of its samples, {len(contest.methods)} methods, all components. "
        "Everything here is `mini`: small networks, nothing official.\n"
    )
    done = contest.run()
    other_command("report")(
        stores=done.stores,
        out=contest.out / PAGES,
        runs=contest.out / RUNS,
        dataset=str(contest.out / DATASET),
    )
    print_text(f"\nIs {OURS} better?")
    print_lines(verdicts(done.evaluated))
    print_lines(still_missing(done.evaluated))
    recompute_leaderboards(contest.out / "leaderboards")
    write_sheet(contest, done.evaluated)
    print_text(f"Contact sheet: {contest.out / SHEET}")
    pages = contest.out / PAGES
    print_text(f"Page: {pages / 'report.html'}, with videos: {pages / 'videos.html'}")
    if done.generation_failed or unexpected_failures(done.evaluated):
        exit_on_failure(done.evaluated, failed=done.generation_failed)


def write_sheet(contest: Contest, done: Sequence[Evaluated]) -> None:
    """Write the contact sheet of the first samples: the plain runs of the world and the generators."""
    from refbench.mini.sheet import contact_sheet

    videos = {
        one.run_key.method: {sample: file for (sample, _), file in one.folder.videos.items()}
        for one in reversed(done)
        if one.run_key.method in SHEET_METHODS
    }
    shown = {method: videos[method] for method in SHEET_METHODS if method in videos}
    samples = contest.track.samples[: min(contest.limit, SHEET_ROWS)]
    contact_sheet(samples, shown).save(contest.out / SHEET)


def verdicts(done: Sequence[Evaluated]) -> list[str]:
    """A line for each other run: its TotalScore against that of the first plain run of our method."""
    from refbench.bench.scores.comparison import compare_records
    from refbench.bench.scores.protocol import protocol_of
    from refbench.reports.compared import verdict

    ours = next(one for one in done if one.run_key.method == OURS)
    protocol = protocol_of(ours.run_key.track)
    lines = []
    for other in done:
        if other is not ours:
            labels = (ours.run_key.label, other.run_key.label)
            compared = compare_records(ours.records, other.records, protocol, labels)
            lines.append(f"A {labels[0]}, B {labels[1]}. {verdict(compared.total)}")
    return lines


def unexpected_failures(done: Sequence[Evaluated]) -> list[Record]:
    """Failures but those of NexusScore where its detector finds nothing, which black frames are there for."""
    return [record for one in done for record in one.failures if not _found_nothing(record)]


def _found_nothing(record: Record) -> bool:
    return record.reason == f"{FAILED}: {NOTHING_FOUND['nexusscore']}"


def still_missing(done: Sequence[Evaluated]) -> list[str]:
    """What the demonstration cannot say, in plain words."""
    unscored = [record for one in done for record in one.unscored]
    without = sum(map(_found_nothing, unscored))
    lines = []
    if without:
        lines.append(
            f"{without} NexusScores are missing: {NOTHING_FOUND['nexusscore']}, and the official script "
            "fails there."
        )
    if len(unscored) > without:
        lines.append(f"{len(unscored) - without} more scores are missing; the report says which and why.")
    return [
        *(lines or ["Every expected score is there."]),
        "Not shown: released weights, real videos, the official judge. A mini figure says how methods and "
        "metrics behave in the drawn world, and nothing about real ones.",
    ]
