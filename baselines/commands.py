"""Commands about generators: import-videos. Plain functions with typer annotations; the CLI finds them
through the entry-point group `refbench.commands`, and everything heavy is imported when one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.errors import UserError

# As in the command line's own commands.
DEFAULT_TRACK = "open-domain"
EXIT_SAMPLE_FAILED = 1
NAMED_FILES = 5

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="DIR|hub",
        help="Copy of BestWishYsh/OpenS2V-Eval, or 'hub' to download it. Default: $REFBENCH_DATASET.",
    ),
]
TrackOption = Annotated[
    str | None, typer.Option("--track", help="open-domain (default), human-domain or single-domain.")
]
SuiteOption = Annotated[
    Path | None,
    typer.Option("--suite", metavar="FILE.jsonl", help="Your own samples instead of an official track."),
]


def import_videos(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of <sample id>.mp4, or of seed-<n> folders of them.")
    ],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Who made the videos: Vidu-2.0, VINO, any name.")
    ],
    track: TrackOption = None,
    dataset: DatasetOption = None,
    suite: SuiteOption = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", metavar="FILE.json", help="Fields of a method card: how the videos were made."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Videos go to DIR/<method>/<track>/seed-<n>/.")
    ] = Path("runs"),
) -> None:
    """Make a run of finished videos, of a closed model or of anybody's.

    The files are copied byte for byte. The run's card names what is known of the model; size, length and rate
    are measured. The same command goes on after an interruption, and when more videos have come. Example:

    refbench import-videos weights/results/Vidu-2.0 --method Vidu-2.0 --dataset OpenS2V-Eval
    """
    from refbench.baselines.external.imported import imported_card, method_name
    from refbench.bench.console import note, print_text
    from refbench.bench.dataset import load_suite, load_track
    from refbench.bench.runs.import_videos import import_run

    if suite is not None and (track is not None or dataset is not None):
        raise UserError("--suite is a track of its own: leave --track and --dataset out")
    samples = load_suite(suite) if suite is not None else load_track(track or DEFAULT_TRACK, dataset)
    name = method_name(method)
    done = import_run(folder, samples, name, out, lambda measured: imported_card(name, measured, card))
    if done.unknown:
        note(f"left out, no sample of {samples.name} has this name: {_named(list(done.unknown))}")
    if done.damaged:
        note(f"left out, damaged: {_named([f'{key[0]} ({reason})' for key, reason in done.damaged.items()])}")
    made = done.card
    print_text(
        f"{done.folder}: {done.copied} copied, {done.kept} there already, {len(done.damaged)} damaged, "
        f"{done.without_video} of {len(samples.samples)} samples without a video\n"
        f"measured: {made.width}×{made.height}, {made.num_frames} frames, {made.fps:g} fps"
    )
    for text in made.deviations:
        print_text(f"card: {text}")
    if done.damaged:
        raise typer.Exit(EXIT_SAMPLE_FAILED)


def _named(names: list[str]) -> str:
    more = len(names) - NAMED_FILES
    return ", ".join(names[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")
