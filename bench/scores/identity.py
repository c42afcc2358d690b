"""Figures of identity beside the components: mixed-up subjects, and what the references added to likeness.

`FIGURES` are those of the metrics subject-confusion and copy-paste. *identity-gain* is computed from two
stores, of a method and of a text-only control, on the same samples:

    gain = mean over samples of ( min(s(method), cap) - min(s(control), cap) )

for s FaceSim with cap 0.78, and for s the mean likeness of kept subjects (NexusScore's `mean_similarity`)
without a cap. Several seeds: capped per video, averaged within the sample. Range: -0.78 to 0.78 and -2 to 2.
The paired 95 % interval is the bootstrap over the samples. What a prompt alone reaches (any man for "a man")
is no merit of the references, and what passes other photographs of the same person is copying, not likeness.

Beside it stand the *excesses* of likeness in pose and in background, of the metric incidental-likeness, over
the same control: identity needs neither, and what the control has of it is chance (-1 to 1, no cap).

Source: ours. The cap: other photographs of one person reach a FaceSim of 0.77 to 0.80, by expression. Known
failures: for subjects no such ceiling is known, so copying raises their gain; a sample in which one of the
two shows no kept subject has no likeness and is left out, so `n` belongs to the figure; the control must be
the method's own base, or the gain is that of another generator as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from refbench.bench.scores.columns import NOTHING_FOUND
from refbench.bench.scores.record import FAILED, Record

FACE_CEILING = 0.78
SUBJECT_CONFUSION = "subject-confusion"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that is read from the records of `metric`; `of` gives a video's value, or None."""

    name: str
    label: str
    metric: str
    of: Callable[[Record], float | None]

    def per_sample(self, records: Iterable[Record]) -> dict[str, float]:
        """Sample → mean over its seeds; samples without a value are left out."""
        found: dict[str, list[float]] = {}
        for record in records:
            value = self.of(record) if record.metric == self.metric else None
            if value is not None:
                found.setdefault(record.sample, []).append(value)
        return {sample: sum(values) / len(values) for sample, values in found.items()}


def detail(record: Record, name: str) -> float | None:
    """A number of a scored record's details, or None."""
    value = record.details.get(name) if record.value is not None else None
    return float(value) if isinstance(value, int | float) else None


def presence_of(record: Record) -> float | None:
    """The share of references that appear in a video; 0 where nothing of any was found."""
    nothing = f"{FAILED}: {NOTHING_FOUND[SUBJECT_CONFUSION]}"
    return 0.0 if record.reason == nothing else detail(record, "presence")


def capped_face(record: Record) -> float | None:
    """FaceSim, at most what other photographs of the same person reach."""
    return None if record.value is None else min(record.value, FACE_CEILING)


def subject_likeness(record: Record) -> float | None:
    """The mean likeness of a video's kept subjects; None where no subject was kept."""
    return detail(record, "mean_similarity") if record.details.get("kept") else None


FIGURES = (
    Figure(
        name=SUBJECT_CONFUSION,
        label="subject-confusion (lower is better)",
        metric=SUBJECT_CONFUSION,
        of=lambda record: record.value,
    ),
    Figure(name="presence", label="presence of the references", metric=SUBJECT_CONFUSION, of=presence_of),
    Figure(
        name="margin",
        label="own reference minus best other",
        metric=SUBJECT_CONFUSION,
        of=lambda record: detail(record, "margin"),
    ),
    Figure(
        name="copy-paste",
        label="copies of the references (copy-paste)",
        metric="copy-paste",
        of=lambda record: record.value,
    ),
)

GAIN_FIGURES = (
    Figure(
        name="facesim",
        label=f"FaceSim, capped at {FACE_CEILING}",
        metric="facesim",
        of=capped_face,
    ),
    Figure(name="subjects", label="likeness of subjects", metric="nexusscore", of=subject_likeness),
    *(
        Figure(
            name=part,
            label=f"excess of likeness in {part} (lower is better)",
            metric="incidental-likeness",
            of=partial(detail, name=part),
        )
        for part in ("pose", "background")
    ),
)
