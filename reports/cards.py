"""Method cards as flat text: shown in a report, and compared when two runs are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from refbench.bench.errors import one_line
from refbench.bench.leaderboard_settings import LEADERBOARD_SEED, leaderboard_settings
from refbench.bench.method import MethodCard
from refbench.bench.runs.folder import RunInfo
from refbench.bench.scores.record import Record

PROMPT_FIELDS = ("prompt_set", "negative_prompt")
FRAME_FIELDS = ("num_frames", "generated_frames", "fps", "width", "height")
LONGEST_QUOTE = 60
# These say who and for what, which stands beside the card anyway; all other fields say how.
NAMING_FIELDS = frozenset({"schema_version", "method", "track", "variant", "card.name", "card.summary"})


@dataclass(frozen=True, kw_only=True)
class FieldDifference:
    """A field of two method cards (or of two scorings) that differs; None where one side does not have it."""

    field: str
    a: str | None
    b: str | None


def card_fields(info: RunInfo) -> dict[str, str]:
    """Field → text of everything that a run description says; nested fields as `guidance.text`.

    Fields without a value are left out.
    """
    fields = _flat(info.model_dump(mode="json"), "")
    return {
        name.removeprefix("card."): text for name, text in fields if name not in NAMING_FIELDS and text != ""
    }


def card_differences(a: RunInfo, b: RunInfo) -> list[FieldDifference]:
    """Where two run descriptions differ, in the order of the card's fields."""
    return _differences(card_fields(a), card_fields(b))


@dataclass(frozen=True, kw_only=True)
class GenerationDifferences:
    """What two runs were generated from and into: prompts, and frames, where they differ.

    `sentence` says it, or is empty where both are alike.
    """

    prompts: tuple[FieldDifference, ...]
    frames: tuple[FieldDifference, ...]
    sentence: str


def generation_differences(a: RunInfo, b: RunInfo) -> GenerationDifferences:
    """Differences of two method cards that scores depend on whatever the method: prompts and frames."""
    if a.card is None or b.card is None:
        return GenerationDifferences(prompts=(), frames=(), sentence="")
    prompts, frames = (
        tuple(
            difference
            for name in names
            if (difference := _card_field(a.card, b.card, name)).a != difference.b
        )
        for names in (PROMPT_FIELDS, FRAME_FIELDS)
    )
    parts = [_prompt_text(difference) for difference in prompts]
    if frames:
        parts.append(
            f"{_frames_text(a.card, frames)} against {_frames_text(b.card, frames)}: "
            "MotionAmplitude and MotionSmoothness depend on it"
        )
    sentence = f"A and B were not generated alike: {'; '.join(parts)}." if parts else ""
    return GenerationDifferences(prompts=prompts, frames=frames, sentence=sentence)


def other_than_published(row: str, label: str, info: RunInfo | None, seeds: Sequence[int]) -> str | None:
    """Where a run differs from how its row of the OpenS2V leaderboard was generated, in a sentence; or None.

    `row` is the method's name, `label` what the run is called. None as well for a method whose settings the
    leaderboard's paper does not name. What a card does not say is no difference, but a run without any card
    is named.
    """
    published = leaderboard_settings(row)
    if published is None:
        return None
    with_what = f"the published row with {published.text}, seed {LEADERBOARD_SEED}"
    card = info.card if info is not None else None
    if card is None:
        return f"{label}: no run.json says how it was made; {with_what}"
    values = {name: getattr(card, name) for name in ("width", "height", "num_frames", "fps")}
    same = all(value in (None, getattr(published, name)) for name, value in values.items())
    if same and list(seeds) == [LEADERBOARD_SEED]:
        return None
    width, height, frames, fps = ("?" if value is None else f"{value:g}" for value in values.values())
    seed_text = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    return f"{label} was made with {width}×{height}, {frames} frames, {fps} fps, {seed_text}; {with_what}"


def _card_field(a: MethodCard, b: MethodCard, name: str) -> FieldDifference:
    # What was not trimmed was generated as it is.
    values = [
        card.num_frames
        if name == "generated_frames" and card.generated_frames is None
        else getattr(card, name)
        for card in (a, b)
    ]
    texts = [
        None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        for value in values
    ]
    return FieldDifference(field=name, a=texts[0], b=texts[1])


def _prompt_text(difference: FieldDifference) -> str:
    def quoted(text: str | None) -> str:
        if text is None:
            return "none"
        return text if difference.field == "prompt_set" else f"“{one_line(text, LONGEST_QUOTE)}”"

    name = difference.field.replace("_", " ")
    return f"{name} {quoted(difference.a)} against {quoted(difference.b)}"


def _frames_text(card: MethodCard, differences: Iterable[FieldDifference]) -> str:
    """`69 of 81 frames at 15 fps, 832×480`: only what differs, `?` for what a card does not say."""
    differ = {difference.field for difference in differences}
    count, fps, width, height = (
        "?" if value is None else f"{value:g}"
        for value in (card.num_frames, card.fps, card.width, card.height)
    )
    parts = []
    if differ & {"num_frames", "generated_frames", "fps"}:
        trimmed = card.generated_frames is not None and card.generated_frames != card.num_frames
        generated = f" of {card.generated_frames}" if trimmed and "generated_frames" in differ else ""
        parts.append(f"{count}{generated} frames at {fps} fps")
    if differ & {"width", "height"}:
        parts.append(f"{width}×{height} pixels")
    return ", ".join(parts)


def scoring_differences(a: Iterable[Record], b: Iterable[Record]) -> list[FieldDifference]:
    """Where the metrics that scored two runs differ: version, settings, weights and dtype."""
    return _differences(_scoring_fields(a), _scoring_fields(b), only_common=True)


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, "; ".join(str(item) for item in value)
    elif value is not None:
        yield name, str(value)


def _scoring_fields(records: Iterable[Record]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    scored_alike: set[tuple[object, ...]] = set()
    for record in records:
        if record.value is None:
            continue
        made_from = record.provenance
        alike = (
            record.metric,
            made_from.metric_version,
            made_from.settings,
            made_from.dtype,
            *made_from.weights.items(),
        )
        if alike in scored_alike:
            continue
        scored_alike.add(alike)
        known = {
            "version": made_from.metric_version,
            "settings": made_from.settings,
            "dtype": made_from.dtype,
            **{f"weights {name}": digest for name, digest in made_from.weights.items()},
        }
        for name, text in known.items():
            if text is not None:
                found.setdefault(f"{record.metric} {name}", set()).add(text)
    return {name: ", ".join(sorted(texts)) for name, texts in found.items()}


def _differences(
    a: Mapping[str, str], b: Mapping[str, str], *, only_common: bool = False
) -> list[FieldDifference]:
    names = [name for name in dict.fromkeys([*a, *b]) if not only_common or (name in a and name in b)]
    return [
        FieldDifference(field=name, a=a.get(name), b=b.get(name))
        for name in names
        if a.get(name) != b.get(name)
    ]
