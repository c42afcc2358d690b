"""The command noise-floor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from refbench.bench.runner.altered_videos import Sources
    from refbench.bench.scores.noise_floor import NoiseFloor


def add_commands(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("noise-floor")(noise_floor)


def noise_floor(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="STORE|VIDEOS",
            help="A folder of videos as evaluate takes it; or a score store, whose records alone tell of "
            "seeds and of the judge.",
        ),
    ],
    sources: Annotated[
        str | None,
        typer.Option(
            "--sources",
            metavar="NAMES",
            help="What is measured, comma-separated: decoder, reencode (CRF 0, 10, 18, 23, 28), resize (90, "
            "75, 50 %), device, judge, seeds; or one strength: reencode:23, resize:0.5, decoder:opencv. "
            "Default: all.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, metavar="N", help="So many samples, of all categories in turn. Default: 24."
        ),
    ] = None,
    sample_seed: Annotated[
        int, typer.Option("--sample-seed", min=0, help="Which samples: the seed of the draw.")
    ] = 0,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores", metavar="STORE", help="A store with several seeds of the same samples, for seeds."
        ),
    ] = None,
    name: o.NameOption = None,
    pattern: o.PatternOption = None,
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Needed where a store has several.")
    ] = None,
    protocol: o.ProtocolOption = None,
    metrics: o.MetricsOption = None,
    set_: o.SetOption = None,
    workers: o.WorkersOption = 1,
    devices: o.DevicesOption = "auto",
    weights: o.WeightsOption = None,
    plugin: o.PluginOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Where the floor goes. Default: noise-floor.json beside the store, else in results, where "
            "compare and report find it.",
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            help="Where copies and their scores are kept. Default: .noise-floor beside the file.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done and what it takes, and stop.")
    ] = False,
    json: o.JsonOption = False,
) -> None:
    """Measure how far each component moves by what nobody means.

    A sample of the videos is read by another decoder, encoded again, resized, scored on another device; each
    copy is scored, and the paired differences give for every component the shift of its mean with a 95 %
    interval, and the floor: the gap between two means below which compare and report say that this cause
    alone could have made it. Seeds and the judge's answers are measured from records. What cannot be measured
    here is named with its reason. Finished scores are kept: the same command goes on where it stopped, and
    another source costs only itself. Examples:

    refbench noise-floor runs/my-method/open-domain --dataset OpenS2V-Eval --weights weights --dry-run

    refbench noise-floor runs/my-method/open-domain --dataset OpenS2V-Eval --sources reencode:23,seeds

    refbench noise-floor results/my-method --track open-domain
    """
    from refbench.bench.console import print_json, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.runner.altered_videos import JUDGE, SEEDS, Sources
    from refbench.bench.runner.noise_floor import (
        DEFAULT_SAMPLES,
        Measurement,
        PreparedMeasurement,
        floor_of_store,
        is_store,
    )
    from refbench.bench.scores.noise_floor import FLOOR_FILE

    chosen = Sources.parse(sources)
    load_plugins(plugin or [])
    if not path.exists():
        raise UserError(f"{path} does not exist")
    store = path if is_store(path) else scores
    if out is None:
        beside = Path("results") if store is None else store if store.is_dir() else store.parent
        out = beside / FLOOR_FILE
    if is_store(path):
        taken = {"--scores": scores, "--samples": samples, "--metrics": metrics, "--dataset": dataset}
        for option, value in taken.items():
            if value is not None:
                raise UserError(f"{path} is a score store: {option} goes with a folder of videos")
        made = floor_of_store(path, chosen, protocol=protocol, track=track, variant=variant)
        measured = [family for family in chosen.families if family in (JUDGE, SEEDS)]
        _see_kept(out, made.protocol, made.track, measured)
    else:
        prepared = PreparedMeasurement(
            Measurement(
                videos=path,
                track=o.chosen_track(track, suite, dataset),
                sources=chosen,
                work=out.parent / f".{out.stem}" if work is None else work,
                protocol=protocol,
                name=name,
                pattern=pattern,
                samples=DEFAULT_SAMPLES if samples is None else samples,
                sample_seed=sample_seed,
                scores=scores,
                metrics=metrics,
                options=_options(set_, metrics),
                workers=workers,
                devices=devices,
                weights=weights,
                plugins=tuple(plugin or ()),
            )
        )
        _see_kept(out, prepared.protocol.name, prepared.measurement.track.name, chosen.families)
        _print_forecast(prepared.forecast(), on_stdout=dry_run)
        if dry_run:
            return
        made = prepared.run()
    if not made.is_measured:
        reasons = dict.fromkeys(
            f"{cause.family}: {cell.reason}" for cause in made.causes for cell in cause.cells.values()
        )
        raise UserError(f"nothing could be measured, and no file is written: {'; '.join(reasons)}")
    made.write(out)
    if json:
        print_json(made.model_dump(mode="json"))
        return
    _print_floor(made, chosen)
    print_text(f"noise floor: {out}")


def _options(set_: list[str] | None, metrics: str | None) -> dict[str, dict[str, str]]:
    from refbench.bench.cli.work import metric_options

    return metric_options(set_, metrics)


def _print_forecast(lines: list[str], *, on_stdout: bool) -> None:
    from refbench.bench.console import inform, print_lines

    if on_stdout:
        print_lines(lines)
        return
    for text in lines:
        inform(text)


def _see_kept(out: Path, protocol: str, track: str, families: object) -> None:
    """Raise UserError where the file holds what this call would not measure anew."""
    from refbench.bench.files import is_there
    from refbench.bench.scores.noise_floor import read_noise_floor

    if not is_there(out):
        return
    there = read_noise_floor(out)
    if (there.protocol, there.track) != (protocol, track):
        raise UserError(f"{out} is a floor of {there.protocol} on {there.track}; choose another --out")
    measured = {
        cause.family for cause in there.causes if any(cell.reason is None for cell in cause.cells.values())
    }
    lost = sorted(measured - set(families))  # type: ignore[call-overload]
    if lost:
        raise UserError(
            f"{out} also holds {', '.join(lost)}, which this call does not measure: add it to --sources "
            "(what is scored is not scored again), or choose another --out"
        )


def _print_floor(made: NoiseFloor, sources: Sources) -> None:
    """The floors of means over as many samples as were measured, with --wide the shifts, and why there is no
    figure.
    """
    from refbench.bench.console import VIEW, interval_text, print_lines, print_table
    from refbench.bench.scores.noise_floor import component_label

    names = list(made.causes[0].cells)
    labels = [component_label(name) for name in names]
    short = _short_headings()
    title = f"noise floor, points · {made.track} · {made.protocol} · {made.measured_on}"
    rows = [
        [cause.name, *("–" if (f := cell.floor(cell.n)) is None else f"{100 * f:.2f}" for cell in cells)]
        for cause in made.causes
        for cells in [[cause.cells[name] for name in names]]
    ]
    print_table(title, ["cause", *labels], rows, short=short)
    print_lines(
        [
            "A gap between two means over so many samples that is smaller than this may come from the cause "
            "alone (95 %). --wide: the shifts of the means with their intervals."
        ]
    )
    shifts = [
        [
            cause.name,
            component_label(name),
            f"{100 * cell.shift:+.2f}",
            interval_text(cell.interval),
            str(cell.n),
            "–" if cell.one_video is None else f"{100 * cell.one_video.p95:.2f}",
        ]
        for cause in made.causes
        for name, cell in cause.cells.items()
        if cell.shift
    ]
    if shifts and VIEW.get().wide:
        headings = ["cause", "component", "shift", "95 % interval", "n", "one video, 95 %"]
        print_table("shift of the mean, points", headings, shifts, drop=["one video, 95 %", "n"])
    reasons: dict[tuple[str, str], list[str]] = {}
    for cause in made.causes:
        for name, cell in cause.cells.items():
            if cell.reason is not None:
                reasons.setdefault((cause.name, cell.reason), []).append(component_label(name))
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (cause_name, reason), components in reasons.items():
        what = "all" if len(components) == len(names) else ", ".join(components)
        by_reason.setdefault((what, reason), []).append(cause_name)
    print_lines(
        f"not measured, {what} of {', '.join(causes)}: {reason}"
        for (what, reason), causes in by_reason.items()
    )


def _short_headings() -> dict[str, str]:
    from refbench.bench.scores.columns import COMPONENTS

    return {**{one.label: one.short for one in COMPONENTS.values()}, "TotalScore": "Total"}
