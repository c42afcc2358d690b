"""The command import-videos, a plain function with typer annotations.

The CLI finds it through the entry-point group `refbench.commands`; what is slow to import is imported when it
runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refbench.bench.cli import options as o

EXIT_SAMPLE_FAILED = 1


def import_videos(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of <sample id>.mp4, or of seed-<n> folders of them.")
    ],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Who made the videos: Vidu-2.0, VINO, any name.")
    ],
    pattern: o.PatternOption = None,
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", metavar="FILE.json", help="Fields of a method card: how the videos were made."
        ),
    ] = None,
    out: o.VideosOutOption = Path("runs"),
) -> None:
    """Make a run of finished videos that another program or service made.

    The files are copied byte for byte. The run's card names what is known of the model; size, length and rate
    are measured. The same command goes on after an interruption, and when more videos have come. Example:

    refbench import-videos weights/results/Vidu-2.0 --method Vidu-2.0 --dataset OpenS2V-Eval
    """
    from refbench.baselines.external.imported import imported_card, method_name
    from refbench.bench.console import note, print_text
    from refbench.bench.files import shortlist
    from refbench.bench.runs.import_videos import import_run

    samples = o.chosen_track(track, suite, dataset)
    name = method_name(method)
    done = import_run(
        folder, samples, name, out, lambda measured: imported_card(name, measured, card), pattern=pattern
    )
    for text in done.remarks:
        note(text)
    if done.unknown:
        note(f"left out, no sample of {samples.name} has this name: {shortlist(done.unknown)}")
    if done.damaged:
        damaged = (f"{sample_id} ({reason})" for (sample_id, _), reason in done.damaged.items())
        note(f"left out, damaged: {shortlist(damaged)}")
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
