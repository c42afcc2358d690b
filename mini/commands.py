"""The commands of the embedded benchmark: `demo` shows the whole flow without data or weights, `mini …` makes
its parts.

Found by the command line through the entry-point group `refbench.commands`, as those of the other wings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

DEMO_MARK = ".refbench-demo"
# What the recipes' steps take on two CPU cores, and the share of them that shows that everything runs.
BUILD_HOURS = 4.0
SMOKE_SCALE = 1e-4
# Of each of the eight categories.
DEMO_SAMPLES = 3
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="DIR", help="Weights of refbench mini build. Default: those of the package."
    ),
]

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
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the list and its pictures.")
    ],
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
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for videos and annotations.")
    ],
    count: Annotated[int, typer.Option("--clips", min=2, help="How many clips.")] = 6000,
    seed: Annotated[int, typer.Option("--seed", help="Which clips.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that draw them; 0: this one.")
    ] = 0,
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
        write_training_clips(out, count, seed, on_clip=progress.part, workers=workers)
        progress.step()
    print_text(f"training clips of the drawn world: {out}")


@mini.command()
def build(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Weights, training states and the log.")
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
    batch: Annotated[
        int,
        typer.Option(
            "--batch", min=1, help="Times the samples of a step, and its root the clips; 64 for a GPU."
        ),
    ] = 1,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that draw training examples; 0: a thread.")
    ] = 0,
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
    made = Build(
        root=out,
        seed=seed,
        device=device,
        scale=SMOKE_SCALE if smoke else budget / BUILD_HOURS,
        batch=batch,
        workers=workers,
    )
    rows = []
    with Progress("building", len(chosen)) as progress:
        for part in chosen:
            progress.now(part.name)
            progress.begin(f"{part.name} ({part.summary})")
            needed_only = bool(parts) and part.name not in (parts or [])
            done = make_part(made, part, progress.part, any_settings=needed_only)
            progress.step(part.name)
            measured = ", ".join(
                f"{name} {'–' if value is None else format(value, 'g')}"
                for name, value in done["measured"].items()
            )
            rows.append([part.name, f"{done['seconds']:.0f}", measured])
    print_table(f"Built: {out / 'weights'}", ["part", "seconds", "measured"], rows, texts=["measured"])


@mini.command()
def pack(
    built: Annotated[
        Path, typer.Option("--build", metavar="DIR", help="A finished refbench mini build.")
    ] = Path("mini-build"),
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it is replaced.")
    ] = (Path("mini-weights")),
) -> None:
    """Collect built weights in one folder, with a log of what built them.

    What comes with the package was collected so. Example:

    refbench mini pack --build mini-build --out mini-weights
    """
    from refbench.bench.console import print_text
    from refbench.bench.files import is_there
    from refbench.mini.training.pack import LOG, log_table
    from refbench.mini.training.pack import pack as collect

    if is_there(out) and not (out / LOG).is_file():
        raise UserError(f"{out} exists and holds no {LOG}: choose another --out")
    log = collect(built, out)
    print_text(log_table(log))
    print_text(f"{log['mebibytes']} MiB: {out}")


@mini.command()
def directions(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Data set, videos and scores.")
    ] = Path("mini-directions"),
    per_category: Annotated[
        int, typer.Option("--per-category", min=1, max=6, help="Samples of each of the eight categories.")
    ] = 6,
    weights: WeightsOption = None,
    device: o.DeviceOption = "auto",
    json: o.JsonOption = False,
) -> None:
    """Print the table of directions: what must come out if metrics, generators and ranking work.

    Generates and scores all methods and controls of the drawn world, unless that is done, and says for each
    expected difference whether its paired 95 % interval leaves 0 out. Example:

    refbench mini directions --per-category 2
    """
    from refbench.bench.cli.work import exit_on_failure
    from refbench.bench.console import print_json, print_table, print_text
    from refbench.mini.contest import Contest
    from refbench.mini.directions import HEADINGS, measured_directions, outcome_json, outcome_row, summary
    from refbench.mini.protocol import MINI_1_0
    from refbench.mini.weights import TRAINED

    contest = Contest(out=out, per_category=per_category, weights=weights or TRAINED, device=device)
    done = contest.run()
    evaluated = [*done.evaluated, contest.score_against_others(done)]
    outcomes = measured_directions((record for one in evaluated for record in one.records), MINI_1_0)
    if json:
        print_json([outcome_json(outcome) for outcome in outcomes])
    else:
        title = f"directions, {MINI_1_0.name}, {contest.limit} samples, points"
        print_table(title, HEADINGS, [outcome_row(outcome) for outcome in outcomes])
        print_text(summary(outcomes))
    exit_on_failure(evaluated, failed=done.generation_failed)


@mini.command()
def experiment(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Trainings, videos, scores, tables.")
    ] = (Path("mini-experiment")),
    built: Annotated[
        Path, typer.Option("--build", metavar="DIR", help="A finished refbench mini build.")
    ] = Path("mini-build"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many trainings of each variant.")] = 3,
    per_category: Annotated[
        int, typer.Option("--per-category", min=1, max=6, help="Samples of each of the eight categories.")
    ] = 6,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="Only this one of the three (the first is compared); repeatable."),
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", metavar="HOURS", help="The budget that the build had.")
    ] = BUILD_HOURS,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
) -> None:
    """Does the alignment loss do what the paper says? RefAlign with and without it, budgets and seeds equal.

    Trains each variant from each seed, generates and scores the track, and writes every component with its
    interval over seeds and samples beside the directions of the paper's Table 2, the reference tokens before
    and after alignment, and the loss curves. Resumable. Example:

    refbench mini experiment --seeds 3 --build mini-build
    """
    from refbench.bench.console import print_text
    from refbench.bench.files import read_text
    from refbench.bench.runner.progress import Progress
    from refbench.mini.experiment import Experiment
    from refbench.mini.experiment_report import run_experiment
    from refbench.mini.training.build import Build
    from refbench.mini.training.finetune import VARIANTS

    made = Build(root=built, device=device, scale=budget / BUILD_HOURS)
    known = {one.entry.name: one for one in VARIANTS}
    if unknown := set(variant or ()) - set(known):
        raise UserError(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(variant or known)]
    setting = Experiment(build=made, out=out, seeds=seeds, per_category=per_category, variants=chosen)
    with Progress("experiment", seeds * (len(chosen) + 1)) as progress:

        def begin(text: str) -> None:
            progress.now(text)
            progress.step(text)

        run_experiment(setting, begin)
    print_text(read_text(out / "experiment.md"))
    print_text(f"figures: {out / 'experiment.json'}; pictures: {out / 'features.png'}, {out / 'curves.png'}")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")] = Path(
        "demo-output"
    ),
    full: Annotated[bool, typer.Option("--full", help="All 48 samples instead of 24.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="The core alone, without torch: three controls, one component."),
    ] = False,
    weights: WeightsOption = None,
    device: o.DeviceOption = "auto",
) -> None:
    """See the whole benchmark at work, without data or downloads: generate, score, rank, compare, look.

    Everything happens in a small drawn world, with small networks trained in it: RefAlign with and without
    its alignment loss, the text-to-video base, and controls make videos from prompts and references; all
    seven components score them; TotalScore ranks them with intervals; a page shows the videos. The same
    command goes on after an interruption. Examples:

    refbench demo

    refbench demo --quick --out tour
    """
    from refbench.bench.files import is_there

    if full and quick:
        raise UserError("--full and --quick exclude each other")
    if is_there(out / "dataset") and not (out / DEMO_MARK).exists():
        raise UserError(f"{out / 'dataset'} exists and is not the demo's: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / DEMO_MARK).touch()
    if quick:
        from refbench.mini.tour import show_tour

        show_tour(out / "quick")
        return
    from refbench.mini.contest import Contest
    from refbench.mini.show import show_contest
    from refbench.mini.track import SAMPLES_PER_CATEGORY
    from refbench.mini.weights import TRAINED

    per_category = SAMPLES_PER_CATEGORY if full else DEMO_SAMPLES
    show_contest(Contest(out=out, per_category=per_category, weights=weights or TRAINED, device=device))
