"""Score records: what was scored, the value or the reason why there is none, and where it came from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from refbench.bench.errors import one_line
from refbench.bench.weights.kind import MARKERS, WeightsKind, joined_kind, kind_of_digest

PLAIN = "plain"
# After the kind, the variant (or a part of one) of videos that a generator with other weights than released
# ones made: `tiny-weights`, `mini-weights`.
WEIGHTS_VARIANT_END = "-weights"
# Between the parts of a variant that differs in several ways.
VARIANT_JOINT = "+"
# Who judges naturalness: a model behind an endpoint, or one that runs locally.
JudgeKind = Literal["endpoint", "local"]
# How the note of a score by a local judge begins; see `Record.unofficial`.
LOCAL_JUDGE = "local judge"

NOT_APPLICABLE = "not_applicable"
MISSING_VIDEO = "missing_video"
MISSING_WEIGHTS = "missing_weights"
FAILED = "failed"

# The detail that says what was unusual about the files that were scored.
READING = "reading"


# Names become folders and files: none may name a place outside the store's folder.
Name = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}$")]


class RunKey(NamedTuple):
    """A method's videos of one track in one variant: what a scoreboard is about."""

    method: str
    track: str
    variant: str = PLAIN

    @property
    def label(self) -> str:
        """The method's name, with the variant in brackets where it is not the plain run."""
        return self.method if self.variant == PLAIN else f"{self.method} ({self.variant})"


class RecordKey(NamedTuple):
    """What a record is about; of several records with one key the last wins."""

    method: str
    track: str
    variant: str
    sample: str
    seed: int
    metric: str


# Of a record, its key as a plain tuple: equal to the key and sorted like it, made in a third of the time.
key_values: Callable[[Record], tuple[str | int, ...]] = attrgetter(*RecordKey._fields)


class Provenance(BaseModel):
    """What a score was made from: SHA-256 digests of its inputs, and how it was computed.

    An input that the metric does not use has no digest. `threads` are the processor threads of the job,
    `source` names the file of an imported score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric_version: str
    video: str | None = None
    sample: str | None = None
    references: str | None = None
    settings: str | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    packages: dict[str, str] = Field(default_factory=dict)
    source: str | None = None

    @property
    def weights_kinds(self) -> frozenset[WeightsKind]:
        """The kinds of all weights that were used; empty for a metric without weights."""
        return frozenset(map(kind_of_digest, self.weights.values()))

    @property
    def weights_kind(self) -> WeightsKind:
        """What all weights together count as; `real` for a metric without weights."""
        return joined_kind(self.weights_kinds)

    @property
    def is_tiny(self) -> bool:
        """Whether any weights were made-up tiny ones: such a score means nothing."""
        return self.weights_kind == "tiny"

    def inputs(self) -> tuple[str | None, ...]:
        """What must be unchanged for a record to stay current."""
        return (self.metric_version, self.video, self.sample, self.references, self.settings, self.source)


class Record(BaseModel):
    """One scored (method, track, variant, sample, seed, metric): a finite `value` or a `reason`, never both.

    `reason` is `not_applicable`, `missing_video`, `missing_weights` or `failed`, followed by `: ` and a text
    where there is more to say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    method: Name
    track: Name
    variant: Name = PLAIN
    sample: str
    category: str
    seed: int = 0
    metric: str
    value: float | None = None
    reason: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance

    @model_validator(mode="after")
    def _value_or_reason(self) -> Record:
        if (self.value is None) == (self.reason is None):
            raise ValueError("a record holds a value or a reason, and not both")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a value must be finite, not {self.value}")
        if self.reason is not None and self.reason_kind not in (
            NOT_APPLICABLE,
            MISSING_VIDEO,
            MISSING_WEIGHTS,
            FAILED,
        ):
            raise ValueError(f"unknown reason {self.reason!r}")
        return self

    @property
    def key(self) -> RecordKey:
        """What the record is about."""
        return RecordKey(self.method, self.track, self.variant, self.sample, self.seed, self.metric)

    @property
    def run(self) -> RunKey:
        """The run that was scored."""
        return RunKey(self.method, self.track, self.variant)

    @property
    def reason_kind(self) -> str | None:
        """The reason's first word (`failed` of `failed: no face`), or None for a value."""
        return None if self.reason is None else self.reason.partition(":")[0]

    @property
    def unofficial(self) -> str:
        """What the metric says keeps its score out of a TotalScore (`local judge …`), or an empty text."""
        said = self.details.get("unofficial")
        return one_line(said) if said else ""

    @property
    def reading(self) -> tuple[str, ...]:
        """What was unusual about the files, in sentences (`Video.remarks`); empty for ordinary ones."""
        said = self.details.get(READING)
        return tuple(map(str, said)) if isinstance(said, list) else ()

    @property
    def judge_kind(self) -> JudgeKind | None:
        """What kind of judge was asked; None for a metric that asks none."""
        if self.unofficial.startswith(LOCAL_JUDGE):
            return "local"
        return "endpoint" if "judge" in self.details else None


for _model in (Provenance, Record):
    # Python keeps the names of attributes once for all instances of a class, but only those that one of the
    # first thirty got one by one, as pydantic's never do: compact records take 0.4 KiB less with this one.
    _first = _model.__new__(_model)
    for _name in _model.model_fields:
        object.__setattr__(_first, _name, None)


def joined_variant(parts: Iterable[str]) -> str:
    """The variant that differs from the plain run in all these ways; `plain` for none."""
    return VARIANT_JOINT.join(part for part in parts if part != PLAIN) or PLAIN


def weights_variant(kind: WeightsKind) -> str:
    """The part of a variant that says which weights generated the videos; `plain` for released ones."""
    return PLAIN if kind == "real" else f"{kind}{WEIGHTS_VARIANT_END}"


def generated_with(variant: str) -> WeightsKind | None:
    """The kind of weights that generated the videos of this variant; None for released ones or none."""
    parts = variant.split(VARIANT_JOINT)
    return next((kind for kind in MARKERS if weights_variant(kind) in parts), None)


def plain_name(method: str) -> str:
    """A method's name without case and punctuation: `VACE-1.3B` as `vace13b`."""
    return re.sub(r"[^a-z0-9]", "", method.lower())


def latest(records: Iterable[Record]) -> dict[RecordKey, Record]:
    """The last record of every key, in order of first appearance."""
    return {record.key: record for record in records}
