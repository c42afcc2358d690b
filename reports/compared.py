"""Two runs of one track compared: scores, method cards and scoring; in words, as a table and as JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from refbench.bench.console import count_text, interval_text, percent
from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.errors import UserError, one_line
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.compact_records import collecting_nothing
from refbench.bench.scores.comparison import Comparison, Difference, compare_records, figure_differences
from refbench.bench.scores.identity import FIGURES, GAIN_FIGURES
from refbench.bench.scores.protocol import Protocol, protocol_of
from refbench.bench.scores.record import PLAIN, Record
from refbench.bench.scores.results import only_run
from refbench.bench.scores.store import Store
from refbench.reports.cards import (
    FieldDifference,
    GenerationDifferences,
    card_differences,
    generation_differences,
    other_than_published,
    scoring_differences,
)
from refbench.reports.noise_floors import FoundFloor, HeldAgainst, floors_of, held_against
from refbench.reports.stored_runs import read_stored_runs

COMPARISON_HEADINGS = ("component", "A %", "B %", "A - B", "95 % interval", "n", "smallest detectable gap")
LONGEST_FIELD = 80


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One side of a comparison: its name, the records of one (method, track, variant), and its run.json."""

    label: str
    records: Sequence[Record]
    info: RunInfo | None


@dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """The differences of the scores, and of what the two runs and their scoring say about themselves.

    `supplementary` are those of subject-confusion and copy-paste where both have them, raw; `gains` what each
    run has over the text-only control that was named. `noise_floors` are the floors that were found or named,
    each held against the gaps.

    `cards` and `generation` are None where `cardless` names a run without a run.json. `published` says, a
    sentence for a run, which was made otherwise than its row of the OpenS2V leaderboard.
    """

    scores: Comparison
    cards: tuple[FieldDifference, ...] | None
    generation: GenerationDifferences | None
    cardless: tuple[str, ...]
    scoring: tuple[FieldDifference, ...]
    published: tuple[str, ...] = ()
    supplementary: tuple[Difference, ...] = ()
    gains: tuple[IdentityGain, ...] = ()
    noise_floors: tuple[HeldAgainst, ...] = ()


@dataclass(frozen=True, kw_only=True)
class IdentityGain:
    """What a run's likeness to the references has over a text-only control's (`bench/scores/identity.py`).

    `differences` are run minus control, raw; without a sample that has a value in both it is empty. `scoring`
    says where the two were not scored alike.
    """

    run: str
    control: str
    differences: tuple[Difference, ...]
    scoring: tuple[FieldDifference, ...] = ()


def compare(
    a: Store,
    b: Store,
    *,
    track: str | None = None,
    variant: str | None = None,
    protocol: str | None = None,
    text_only: Store | None = None,
    noise_floor: Path | str | None = None,
) -> ComparisonReport:
    """Say whether run A is better than run B: a paired bootstrap over the samples that both have.

    `a` and `b` are stores (a method's folder or a `.jsonl` file), or `PATH@VARIANT`; where one holds several
    runs, `track` and `variant` say which. All scores of the result are on the scale 0..1. `text_only` is the
    store of a control without references: the result then holds what A and B gain over it. `noise_floor` is
    a file of `refbench noise-floor` (None: those that lie beside the stores). Raises UserError when a store
    holds no such run or several, when the two runs have no scored sample in common, and for a named floor of
    another protocol or track.

    >>> result = compare("results/static-reference", "results/refalign-tiny")
    >>> (result.scores.a, result.scores.b, result.scores.samples)
    ('static-reference', 'refalign-tiny (tiny-weights)', 3)
    >>> amplitude = result.scores.components[2]
    >>> print(f"{amplitude.label}: {amplitude.difference:.2f}, n = {amplitude.n}")
    MotionAmplitude: -0.51, n = 3
    """
    with collecting_nothing():
        run_a, run_b = stored_run(a, track, variant), stored_run(b, track, variant)
        if run_a.label == run_b.label:
            run_a = replace(run_a, label=f"{run_a.label} of {os.fspath(a)}")
            run_b = replace(run_b, label=f"{run_b.label} of {os.fspath(b)}")
        control = None
        if text_only is not None:
            control = stored_run(text_only, run_a.records[0].track, None)
        floors = floors_of(map(_without_variant, (a, b)), None if noise_floor is None else Path(noise_floor))
        return compare_runs(
            run_a,
            run_b,
            protocol_of(run_a.records[0].track, protocol),
            control,
            floors,
            floor_required=noise_floor is not None,
        )


def _without_variant(store: Store) -> Path:
    """The path of `PATH@VARIANT`."""
    path = os.fspath(store)
    before, marker, _ = path.rpartition("@")
    return Path(before if marker and before and not Path(path).exists() else path)


def stored_run(store: Store, track: str | None, variant: str | None) -> ComparedRun:
    """The one run of a store, or of `PATH@VARIANT`, of that track and variant where they are given.

    Raises UserError when there are several or none.
    """
    path = os.fspath(store)
    plain = os.fspath(_without_variant(store))
    if plain != path:
        path, variant = plain, path.removeprefix(f"{plain}@")
    stored = read_stored_runs(path)
    if stored.left_out:
        # A verdict must not rest on a part of what was named.
        raise UserError(stored.left_out[0])
    groups = stored.groups()
    run = only_run(groups, path, track=track, variant=variant)
    return ComparedRun(label=run.label, records=groups[run], info=stored.run_infos.get(run))


def compare_runs(
    a: ComparedRun,
    b: ComparedRun,
    protocol: Protocol,
    text_only: ComparedRun | None = None,
    floors: Sequence[FoundFloor] = (),
    *,
    floor_required: bool = False,
) -> ComparisonReport:
    """Compare two runs of one track, both with a text-only control of it, and the gaps with noise floors.

    Raises UserError when they have nothing in common, and for a required floor of another protocol or track.
    """
    scores = compare_records(list(a.records), list(b.records), protocol, (a.label, b.label))
    cards = generation = None
    if a.info is not None and b.info is not None:
        cards, generation = card_differences(a.info, b.info), generation_differences(a.info, b.info)
    return ComparisonReport(
        scores=scores,
        cards=tuple(cards) if cards is not None else None,
        generation=generation,
        cardless=tuple(run.label for run in (a, b) if run.info is None),
        scoring=tuple(scoring_differences(a.records, b.records)),
        published=tuple(said for run in (a, b) if (said := _other_than_published(run)) is not None),
        supplementary=figure_differences(a.records, b.records, FIGURES),
        gains=() if text_only is None else identity_gains((a, b), text_only),
        noise_floors=tuple(
            held_against(floor, scores, (a.records, b.records), protocol, required=floor_required)
            for floor in floors
        ),
    )


def identity_gains(runs: Sequence[ComparedRun], control: ComparedRun) -> tuple[IdentityGain, ...]:
    """What each run gains over the control; the control itself is left out."""
    metrics = {figure.metric for figure in GAIN_FIGURES}
    scored = [record for record in control.records if record.metric in metrics]
    return tuple(
        IdentityGain(
            run=run.label,
            control=control.label,
            differences=figure_differences(run.records, control.records, GAIN_FIGURES),
            scoring=tuple(scoring_differences(run.records, scored)),
        )
        for run in runs
        if run.records[0].run != control.records[0].run
    )


def _other_than_published(run: ComparedRun) -> str | None:
    first = run.records[0]
    if first.variant != PLAIN or first.track not in OFFICIAL_TRACKS or run.info is None:
        return None
    seeds = sorted({record.seed for record in run.records})
    return other_than_published(first.method, run.label, run.info, seeds)


def verdict(difference: Difference) -> str:
    """One sentence on a component or TotalScore: who is higher, and whether this many samples can tell."""
    gap, label = difference.difference, difference.label
    samples = count_text(difference.n, "sample")
    if gap is None:
        missing = [name for name, value in (("A", difference.a), ("B", difference.b)) if value is None]
        have = "have" if len(missing) > 1 else "has"
        return f"{label}: not compared, {' and '.join(missing)} {have} no score."
    if gap == 0 and difference.detectable == 0:
        return f"{label}: A and B are equal in every resample of {samples}."
    higher = "A is higher" if gap > 0 else "B is higher" if gap < 0 else "neither is higher"
    start = f"{label}: {higher}{f' by {100 * abs(gap):.2f} points' if gap else ''}"
    if difference.interval is None or difference.detectable is None:
        return f"{start}; so few samples (n = {difference.n}) give no interval."
    around = f"the 95 % interval of A - B {interval_text(difference.interval)}"
    if difference.distinguishable:
        return f"{start}; {around} excludes 0: {samples} tell them apart."
    return (
        f"{start}; {around} includes 0: {samples} cannot tell them apart; "
        f"a gap of at least {100 * difference.detectable:.2f} points would have shown."
    )


def gain_lines(gain: IdentityGain) -> list[str]:
    """A sentence on each figure of an identity-gain, in points."""
    start = f"identity-gain of {gain.run} over {gain.control}"
    if not gain.differences:
        return [f"{start}: none, no sample has a FaceSim or a kept subject in both"]
    lines = [
        f"{start}, {one.label}: {100 * (one.difference or 0):+.2f} points, "
        f"95 % interval {interval_text(one.interval)}, {count_text(one.n, 'sample')}"
        for one in gain.differences
    ]
    return lines + [f"  not scored alike: {one.field}" for one in gain.scoring]


def comparison_rows(report: ComparisonReport) -> list[list[str]]:
    """The cells under `COMPARISON_HEADINGS`: TotalScore, the components, then what is outside of them."""
    comparison = report.scores
    return [
        [
            difference.label,
            percent(difference.a),
            percent(difference.b),
            "–" if difference.difference is None else f"{100 * difference.difference:+.2f}",
            interval_text(difference.interval),
            str(difference.n),
            percent(difference.detectable),
        ]
        for difference in (comparison.total, *comparison.components, *report.supplementary)
    ]


def comparison_lines(report: ComparisonReport) -> list[str]:
    """What is said below the table: verdicts, what was left out, and where cards and scoring differ."""
    scores = report.scores
    compared = (scores.total, *scores.components, *report.supplementary)
    lines = [verdict(difference) for difference in compared]
    lines += [line for floor in report.noise_floors for line in floor.lines]
    lines += [line for gain in report.gains for line in gain_lines(gain)]
    lines += [f"note: {text}" for text in scores.notes]
    if report.generation is not None and report.generation.sentence:
        lines.append(report.generation.sentence)
    lines += [f"{text}." for text in report.published]
    if report.cards is None:
        lines.append(
            f"method cards: not compared, no run.json beside the records of {' and '.join(report.cardless)}"
        )
    elif report.cards:
        lines += ["method cards differ:", *map(_field_line, report.cards)]
    else:
        lines.append("method cards: no difference")
    if report.scoring:
        lines.append("A and B were not scored alike, so part of a difference may be the metrics':")
        lines += map(_field_line, report.scoring)
    return lines


def comparison_json(report: ComparisonReport) -> dict[str, Any]:
    """Everything in JSON-serialisable form, scores on the scale 0..1, unrounded."""
    scores = report.scores
    return {
        "scale": "0..1",
        "a": scores.a,
        "b": scores.b,
        "track": scores.track,
        "protocol": scores.protocol,
        "samples": scores.samples,
        "differences": [_difference_json(one) for one in (scores.total, *scores.components)],
        "supplementary": [_difference_json(one) for one in report.supplementary],
        "identity_gains": [asdict(gain) for gain in report.gains],
        "noise_floors": [asdict(floor) for floor in report.noise_floors],
        "notes": list(scores.notes),
        "cards_missing": list(report.cardless),
        "card_differences": None if report.cards is None else [asdict(field) for field in report.cards],
        "generation_differences": None if report.generation is None else asdict(report.generation),
        "other_than_published": list(report.published),
        "scoring_differences": [asdict(field) for field in report.scoring],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        **asdict(difference),
        "distinguishable": difference.distinguishable,
        "verdict": verdict(difference),
    }


def _field_line(difference: FieldDifference) -> str:
    a, b = ("–" if text is None else one_line(text, LONGEST_FIELD) for text in (difference.a, difference.b))
    return f"  {difference.field}: A {a} | B {b}"
