"""The short tour of the core: what can be shown in half a minute without torch and without weights.

A drawn data set in OpenS2V-Eval's format, three control methods, the one component that needs no weights, a
report and the published leaderboards.
"""

from __future__ import annotations

from pathlib import Path

from refbench.bench import DEFAULT_TRACK
from refbench.bench.cli.work import exit_on_failure, other_command

# Needs no weights and asks nobody: a demonstration must not spend anyone's money.
TOUR_METRIC = "motion-amplitude"
TOUR_METHODS = ("static-reference", "pan-reference", "noise")


def show_tour(out: Path) -> None:
    """Write and print the tour below `out`. Raises typer.Exit(1) where a sample failed."""
    from refbench.bench.console import print_text
    from refbench.bench.dataset import load_track
    from refbench.bench.runner.run import MethodsRun, run_methods
    from refbench.mini.demo import write_demo_dataset

    dataset = out / "dataset"
    write_demo_dataset(dataset)
    demo_track = load_track(DEFAULT_TRACK, dataset)
    print_text(f"Demo benchmark: {len(demo_track.samples)} drawn samples in {dataset}\n")
    small = [
        f"{method}.{key}={value}"
        for method in TOUR_METHODS
        for key, value in {"width": 416, "height": 240, "num_frames": 25}.items()
    ]
    done = run_methods(
        MethodsRun(
            methods=list(TOUR_METHODS),
            track=demo_track,
            assignments=small,
            metrics=TOUR_METRIC,
            runs=out / "runs",
            out=out / "results",
        )
    )
    other_command("report")(stores=done.stores, out=out / "report", runs=out / "runs", dataset=str(dataset))
    recompute_leaderboards(out / "leaderboards")
    _print_unscored()
    print_text(f"Report: {out / 'report' / 'report.html'}")
    exit_on_failure(done.evaluated, failed=done.generation_failed)


def recompute_leaderboards(folder: Path) -> None:
    """All published leaderboards as text files; the one that most papers show also on the screen."""
    from contextlib import redirect_stdout

    from refbench.bench.console import print_text
    from refbench.bench.dataset import OFFICIAL_TRACKS
    from refbench.bench.scores.protocol import OFFICIAL_PROTOCOLS
    from refbench.reports.commands import leaderboard

    folder.mkdir(parents=True, exist_ok=True)
    for track in OFFICIAL_TRACKS:
        for protocol in OFFICIAL_PROTOCOLS:
            file = folder / f"{track}_{protocol.name}.txt"
            with file.open("w", encoding="utf-8") as text, redirect_stdout(text):
                leaderboard(track=track, protocol=protocol.name)
    print_text("")
    leaderboard(track=DEFAULT_TRACK)
    print_text(f"all published leaderboards, recomputed: {folder}")


def _print_unscored() -> None:
    """Which components of TotalScore the tour leaves out, and what each would need."""
    from refbench.bench.console import print_text
    from refbench.bench.environment import Environment
    from refbench.bench.registry import metrics
    from refbench.bench.runner.scoring import make_metric
    from refbench.bench.scores.columns import COMPONENTS
    from refbench.bench.weights.store import weights_folder

    print_text(f"\nScored: {TOUR_METRIC}. Not scored, so there is no TotalScore:")
    environment = Environment(weights=weights_folder(None))
    for component in COMPONENTS.values():
        if component.metric == TOUR_METRIC:
            continue
        reason = "no metric of that name is installed"
        if component.metric in metrics.names():
            metric = make_metric(component.metric, {})
            reason = metric.unavailable(environment) or "could be scored here; this tour leaves it out"
        print_text(f"  {component.label}: {reason}")
