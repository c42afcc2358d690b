"""The commands of the embedded benchmark: `demo` shows the whole flow without data or weights, `mini …` makes
its parts.

Found by the command line through the entry-point group `refbench.commands`, as those of the other wings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench import DEFAULT_TRACK
from refbench.bench.cli.work import exit_on_failure, other_command
from refbench.bench.errors import UserError

DEMO_MARK = ".refbench-demo"
# Needs no weights and asks nobody: a demonstration must not spend anyone's money.
DEMO_METRIC = "motion-amplitude"
# What the recipes' steps take on two CPU cores, and the share of them that shows that everything runs.
BUILD_HOURS = 4.0
SMOKE_SCALE = 1e-4
DEMO_METHODS = ["static-reference", "pan-reference", "noise"]


mini = typer.Typer(
    name="mini",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="The embedded benchmark: a small drawn world in which everything runs for real.",
)


@mini.callback()
def _mini() -> None:
    """The group's own options: none."""


@mini.command()
def dataset(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the list and its pictures.")],
) -> None:
    """Write the track `mini` as a data set in OpenS2V-Eval's format: 48 samples, six a category.

    The same bytes each time. Example:

    refbench mini dataset --out mini-dataset

    refbench run world-truth --track mini --dataset mini-dataset
    """
    from refbench.bench.console import print_text
    from refbench.mini.benchmark import mini_samples, write_mini_dataset

    write_mini_dataset(out)
    print_text(f"{len(mini_samples())} samples of the track mini: {out}")


@mini.command()
def clips(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for videos and annotations.")],
    count: Annotated[int, typer.Option("--clips", min=2, help="How many clips.")] = 6000,
    seed: Annotated[int, typer.Option("--seed", help="Which clips.")] = 0,
) -> None:
    """Write training clips of the drawn world in OpenS2V-5M's layout.

    With masks, boxes, captions, scores and cross-frame pairs, for refbench train and refbench prepare. Nobody
    in them is in the track mini. Resumable. Example:

    refbench mini clips --out mini-clips --clips 2000
    """
    from refbench.bench.console import print_text
    from refbench.bench.runner.progress import Progress
    from refbench.mini.clips import write_training_clips

    with Progress("clips", total=1) as progress:
        progress.begin("clips")
        write_training_clips(out, count, seed, on_clip=progress.part)
        progress.step()
    print_text(f"training clips of the drawn world: {out}")


@mini.command()
def build(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Weights, training states and the log.")
    ] = Path("mini-build"),
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Only this part, and what it needs; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    budget: Annotated[
        float,
        typer.Option("--budget", metavar="HOURS", help="Steps are chosen for these hours of two CPU cores."),
    ] = BUILD_HOURS,
    smoke: Annotated[bool, typer.Option("--smoke", help="Two steps of everything: does it run?")] = False,
) -> None:
    """Train all networks of the mini benchmark from nothing.

    Each part goes on where an earlier call stopped, and is measured on held-out identities when it is done.
    On one CPU machine the same seed and budget give the same bits. Example:

    refbench mini build --out mini-build --budget 4
    """
    from refbench.bench.console import print_table
    from refbench.bench.environment import missing_packages
    from refbench.bench.runner.progress import Progress

    absent = missing_packages(("torch", "diffusers", "accelerate"), "refalign")
    if absent is not None:
        raise UserError(absent)
    if not 0 < budget <= 1000:
        raise UserError(f"--budget must lie above 0 and be at most 1000 hours, {budget} does not")
    from refbench.mini.training.build import Build, make_part
    from refbench.mini.training.parts import chosen_parts

    chosen = chosen_parts(parts or [])
    made = Build(root=out, seed=seed, device=device, scale=SMOKE_SCALE if smoke else budget / BUILD_HOURS)
    rows = []
    with Progress("building", len(chosen)) as progress:
        for part in chosen:
            progress.now(part.name)
            progress.begin(f"{part.name} ({part.summary})")
            done = make_part(made, part, progress.part)
            progress.step(part.name)
            measured = ", ".join(
                f"{name} {'–' if value is None else format(value, 'g')}"
                for name, value in done["measured"].items()
            )
            rows.append([part.name, f"{done['seconds']:.0f}", measured])
    print_table(f"Built: {out / 'weights'}", ["part", "seconds", "measured"], rows, texts=["measured"])


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = Path(
        "demo-output"
    ),
) -> None:
    """See the whole flow in a minute, without data or weights.

    Draws a small benchmark in OpenS2V-Eval's format, generates it with the control methods, scores what needs
    no weights, recomputes the published leaderboards and writes a report.
    """
    from refbench.bench.console import print_text
    from refbench.bench.dataset import load_track
    from refbench.bench.runner.run import MethodsRun, run_methods
    from refbench.mini.demo import write_demo_dataset

    dataset, mark = out / "dataset", out / DEMO_MARK
    if dataset.exists() and not mark.exists():
        raise UserError(f"{dataset} exists and is not the demo's: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()
    write_demo_dataset(dataset)
    demo_track = load_track(DEFAULT_TRACK, dataset)
    print_text(f"Demo benchmark: {len(demo_track.samples)} drawn samples in {dataset}\n")
    small = [
        f"{method}.{key}={value}"
        for method in DEMO_METHODS
        for key, value in {"width": 416, "height": 240, "num_frames": 25}.items()
    ]
    done = run_methods(
        MethodsRun(
            methods=DEMO_METHODS,
            track=demo_track,
            assignments=small,
            metrics=DEMO_METRIC,
            runs=out / "runs",
            out=out / "results",
        )
    )
    other_command("report")(stores=done.stores, out=out / "report", runs=out / "runs", dataset=str(dataset))
    _recompute_leaderboards(out / "leaderboards")
    _print_unscored()
    print_text(f"Report: {out / 'report' / 'report.html'}")
    exit_on_failure(done.evaluated, failed=done.generation_failed)


def _recompute_leaderboards(folder: Path) -> None:
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
    """Which components of TotalScore the demonstration leaves out, and what each would need."""
    from refbench.bench.console import print_text
    from refbench.bench.environment import Environment
    from refbench.bench.registry import metrics
    from refbench.bench.runner.scoring import make_metric
    from refbench.bench.scores.columns import COMPONENTS
    from refbench.bench.weights.store import weights_folder

    print_text(f"\nScored: {DEMO_METRIC}. Not scored, so there is no TotalScore:")
    environment = Environment(weights=weights_folder(None))
    for component in COMPONENTS.values():
        if component.metric == DEMO_METRIC:
            continue
        reason = "no metric of that name is installed"
        if component.metric in metrics.names():
            metric = make_metric(component.metric, {})
            reason = metric.unavailable(environment) or "could be scored here; the demo leaves it out"
        print_text(f"  {component.label}: {reason}")
