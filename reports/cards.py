"""Method cards as flat text: shown in a report, and compared when two runs are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bench.record import Record
from bench.run_folder import RunInfo

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
    for record in records:
        if record.value is None:
            continue
        made_from = record.provenance
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
