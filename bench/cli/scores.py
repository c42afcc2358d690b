"""The commands on score stores: import-scores, export, merge, compact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from refbench.bench.scores.record import Record

EXPORT_FORMATS = ("official", "hf-eval", "every-eval-ever", "parquet")


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("import-scores")(import_scores)
    app.command()(export)
    app.command()(merge)
    app.command()(compact)


def import_scores(
    folder: Annotated[Path, typer.Argument(help="Folder of official files (aesthetic_score.json, …).")],
    name: Annotated[str, typer.Option("--name", help="The method's name in records and tables.")],
    track: Annotated[str, typer.Option("--track", help="Whose scores these are.")] = o.DEFAULT_TRACK,
    dataset: o.DatasetOption = None,
    out: o.ResultsOption = Path("results"),
    protocol: o.ProtocolOption = None,
    json: o.JsonOption = False,
) -> None:
    """Read the official scripts' score files into a store.

    With --dataset the samples themselves say where a component does not apply; without, their ids do.
    Example:

    refbench import-scores official_scores/ --name their-method --track open-domain
    """
    from dataclasses import replace

    from refbench.bench.console import inform, print_json, print_scoreboards, scoreboard_json
    from refbench.bench.dataset import OFFICIAL_TRACKS, load_track
    from refbench.bench.registry import unknown_name
    from refbench.bench.scores.aggregate import scoreboards
    from refbench.bench.scores.official_files import import_scores as read_scores
    from refbench.bench.scores.protocol import protocol_of
    from refbench.bench.scores.record import PLAIN
    from refbench.bench.scores.store import StoreWriter, checked_name, store_path

    protocol_of(track, protocol)
    if track not in OFFICIAL_TRACKS:
        raise UserError(unknown_name("track", track, OFFICIAL_TRACKS))
    samples = load_track(track, dataset) if dataset is not None else None
    imported = read_scores(folder, checked_name(name, "--name"), track, samples)
    path = store_path(out, name, track)
    with StoreWriter(path) as writer:
        writer.append([record for record in imported.records if writer.records.get(record.key) != record])
        records = [record for record in writer.records.values() if record.variant == PLAIN]
    boards = scoreboards(records, protocol)
    beside = [text for text in (imported.unknown_text(track), _earlier(records, imported.records)) if text]
    boards = [replace(board, notes=(*board.notes, *beside)) for board in boards]
    if json:
        print_json([scoreboard_json(board) for board in boards])
    else:
        print_scoreboards(boards)
        inform(f"read {', '.join(imported.files)}; records: {path}")


def _earlier(held: Sequence[Record], imported: Sequence[Record]) -> str:
    """A line on the values of the store that are not of this import, or an empty text."""
    keys = {record.key for record in imported}
    earlier = Counter(record.metric for record in held if record.value is not None and record.key not in keys)
    listed = ", ".join(f"{count} of {metric}" for metric, count in sorted(earlier.items()))
    return f"the store held these scores before, they count too: {listed}" if listed else ""


def export(
    stores: o.StoresArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the files go.")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="official: score files and the merged one; hf-eval: .eval_results of a model's repository "
            "on Hugging Face; every-eval-ever: records of that database; parquet: all records as one table.",
        ),
    ] = "official",
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="Of aggregated figures: opens2v-1.1 (default) or opens2v-1.0."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="OWNER/NAME", help="Of every-eval-ever: the model on the hub."),
    ] = None,
) -> None:
    """Write scores in the formats of others.

    official: the per-metric files, and the merged file that the public leaderboard accepts, in
    DIR/<method>/<track>. hf-eval: DIR/<method>/.eval_results, to be put into the model's repository.
    every-eval-ever: DIR/data/opens2v-eval/<owner>/<model>/<uuid>.json. parquet: DIR/records.parquet. Figures
    of tiny or mini weights and of a local judge say so in all but the first; the official format has no place
    for that, and gets no merged file then. Examples:

    refbench export results/ -o official/

    refbench export results/ --format hf-eval -o shared/
    """
    from refbench.bench.console import note, print_text
    from refbench.bench.registry import unknown_name
    from refbench.bench.scores.every_eval_ever import export_every_eval_ever
    from refbench.bench.scores.exports import export_eval_results, export_parquet
    from refbench.bench.scores.official_files import export_records
    from refbench.bench.scores.results import latest_records

    if form not in EXPORT_FORMATS:
        raise UserError(unknown_name("format", form, EXPORT_FORMATS))
    if protocol is not None and form not in ("hf-eval", "every-eval-ever"):
        raise UserError(f"--protocol is for hf-eval and every-eval-ever: {form} holds raw scores")
    if model is not None and form != "every-eval-ever":
        raise UserError(f"--model is for --format every-eval-ever, not for {form}")
    records = latest_records(stores)
    if form == "hf-eval":
        written = export_eval_results(records, out, protocol)
    elif form == "every-eval-ever":
        written = export_every_eval_ever(records, out, protocol, model)
    elif form == "parquet":
        written = export_parquet(records, out)
    else:
        written = export_records(records, out)
    for folder, exported in written:
        for file in exported.files:
            print_text(str(file))
        for text in exported.notes:
            note(f"{folder}: {text}")


def merge(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Stores of several machines.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The joined store.")],
) -> None:
    """Join score stores, of shards for example.

    Of two values for one score the later store's wins; a missing video never replaces a value. Example:
    refbench merge machine-1/results machine-2/results -o results
    """
    from refbench.bench.console import print_text
    from refbench.bench.scores.store import merge_stores

    for path, count in merge_stores(stores, out).items():
        print_text(f"{path}: {count} records added or changed")


def compact(stores: o.StoresArgument) -> None:
    """Rewrite score stores without superseded lines.

    A store keeps each line that was ever written; of those of one score the last counts. Tables and reports
    stay the same. A file that a run is writing is refused; killed at any moment, this leaves the former file
    or the new one.

    Example: refbench compact results/
    """
    from refbench.bench.console import count_text, print_text
    from refbench.bench.scores.store import compact_store, store_files

    for file in store_files(stores):
        done = compact_store(file)
        print_text(
            f"{file}: {done.removed_lines} of {count_text(done.lines, 'line')} removed, "
            f"{done.removed_bytes} of {done.size_bytes} bytes"
        )
