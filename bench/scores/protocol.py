"""The official aggregation: from raw per-video scores to component means and TotalScore.

Source: `eval/merge_result.py` of PKU-YuanGroup/OpenS2V-Nexus, v1.1 (commit 210eb08) and v1.0; described in
the goldens' `opens2v_eval/README.md`, section 7. Per component: clip each video, average over the videos that
have it, map the mean to (mean - worst) / (best - worst); TotalScore is the weighted sum. Quirks copied on
purpose:

* a component that no video has counts as mean 0 before the mapping (aesthetics then contributes -4/3);
* FaceSim, GmeScore and NexusScore have no lower clip; negative motion counts as positive;
* a NexusScore of exactly 0 is dropped from the mean, so a subject that is never found costs nothing;
* NaturalScore averages the runs present, then clips; text that float() refuses raises ValueError, null runs
  are skipped;
* a record of a wrong shape vanishes, but in the two motion files of v1.1, where it raises TypeError;
* every file is read and clipped whatever the domain, so a malformed NexusScore raises in Human-Domain too;
* any evaluation type but exactly `Human-Domain` has the open-domain weights; NaN passes every clip.

Protocols are found by name (`get_protocol`). Others than the official two are made known by
`register_protocol`, in a plugin file or in a module that the entry-point group `refbench.protocols` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from refbench.bench.dataset import declared_tracks
from refbench.bench.errors import UserError, one_line
from refbench.bench.registry import unknown_name
from refbench.bench.scores import DEFAULT_PROTOCOL
from refbench.bench.scores.columns import COMPONENTS, Component
from refbench.bench.scores.record import JudgeKind
from refbench.bench.weights.kind import WeightsKind

PROTOCOLS_GROUP = "refbench.protocols"
EVALUATION_TYPES = {
    "open-domain": "Open-Domain",
    "human-domain": "Human-Domain",
    "single-domain": "Single-Domain",
}


# The clips put the score first: Python's min and max then let NaN through, as the official code does.
def clip_aesthetics(score: float) -> float:
    """To 4..7."""
    return max(min(score, 7), 4)


def clip_motion(score: float) -> float:
    """The absolute value, at most 1."""
    return min(abs(score), 1)


def clip_similarity(score: float) -> float:
    """At most 1; no lower bound."""
    return min(score, 1)


def clip_nexus(score: float) -> float | None:
    """Dropped (None) if exactly 0, else at most 0.05; no lower bound."""
    return None if score == 0 else min(score, 0.05)


def clip_natural(score: float) -> float:
    """To 1..5."""
    return max(min(score, 5), 1)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One component within a protocol: what the protocol decides about it.

    `clip` is the per-video rule (None: the video is left out of the mean), `field` the component's name in
    the official result. `file` is where this version's scripts keep the scores if that is not the component's
    own file. `takes_bare_numbers`: an entry that is no object is taken as the score itself. `range` is worst
    and best where they are not the component's own.
    """

    component: Component
    clip: Callable[[float], float | None]
    field: str
    file: str = ""
    takes_bare_numbers: bool = False
    range: tuple[float, float] | None = None

    @property
    def worst(self) -> float:
        """The raw score that becomes 0."""
        return self.component.worst if self.range is None else self.range[0]

    @property
    def best(self) -> float:
        """The raw score that becomes 1."""
        return self.component.best if self.range is None else self.range[1]

    @property
    def files(self) -> tuple[str, ...]:
        """The official score files of the component in this version."""
        return (self.file,) if self.file else self.component.official_files

    def normalised(self, mean: float) -> float:
        """A mean of clipped raw scores on the scale 0..1."""
        return (mean - self.worst) / (self.best - self.worst)

    def mean(self, clipped: list[float]) -> float:
        """The normalised mean of clipped scores; none at all count as a raw mean of 0, as officially."""
        return self.normalised(sum(clipped) / len(clipped) if clipped else 0)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A version of the aggregation: its columns, their weights in TotalScore, and what it lets count.

    `human_weights` are those of the human domain, `open_weights` those of every other one. Scores of weights
    or judges of a kind that is not in `accepted_weights` or `accepted_judges` give no TotalScore.
    """

    name: str
    summary: str
    columns: tuple[Column, ...]
    open_weights: Mapping[str, float]
    human_weights: Mapping[str, float]
    accepted_weights: frozenset[WeightsKind] = frozenset({"real"})
    accepted_judges: frozenset[JudgeKind] = frozenset({"endpoint"})

    def weights(self, domain: str) -> Mapping[str, float]:
        """Component → weight for a domain (`human-domain` has its own, every other the open ones)."""
        return self.human_weights if domain == "human-domain" else self.open_weights

    def weighted_columns(self, domain: str) -> tuple[Column, ...]:
        """The columns that enter a domain's TotalScore."""
        return tuple(column for column in self.columns if column.component.name in self.weights(domain))

    def total(self, values: Mapping[str, float], domain: str) -> float:
        """The weighted sum of normalised component values, which must all be there."""
        return sum(weight * values[component] for component, weight in self.weights(domain).items())


_AESTHETICS = Column(component=COMPONENTS["aesthetics"], clip=clip_aesthetics, field="aes_score")
_FACESIM = Column(component=COMPONENTS["facesim"], clip=clip_similarity, field="facesim_cur")
_GMESCORE = Column(component=COMPONENTS["gmescore"], clip=clip_similarity, field="gme_score")
_NEXUSSCORE = Column(component=COMPONENTS["nexusscore"], clip=clip_nexus, field="nexus_score")
_NATURALSCORE = Column(component=COMPONENTS["naturalscore"], clip=clip_natural, field="natural_score")

OPENS2V_1_1 = Protocol(
    name="opens2v-1.1",
    summary="seven components; motion is MotionSmoothness and MotionAmplitude",
    columns=(
        _AESTHETICS,
        Column(
            component=COMPONENTS["motion_smoothness"],
            clip=clip_motion,
            field="motion_smoothness",
            takes_bare_numbers=True,
        ),
        Column(
            component=COMPONENTS["motion_amplitude"],
            clip=clip_motion,
            field="motion_amplitude",
            takes_bare_numbers=True,
        ),
        _FACESIM,
        _GMESCORE,
        _NEXUSSCORE,
        _NATURALSCORE,
    ),
    open_weights={
        "aesthetics": 0.16,
        "motion_smoothness": 0.06,
        "motion_amplitude": 0.02,
        "facesim": 0.20,
        "gmescore": 0.12,
        "nexusscore": 0.20,
        "naturalscore": 0.24,
    },
    human_weights={
        "aesthetics": 0.18,
        "motion_smoothness": 0.09,
        "motion_amplitude": 0.03,
        "facesim": 0.25,
        "gmescore": 0.15,
        "naturalscore": 0.30,
    },
)
OPENS2V_1_0 = Protocol(
    name="opens2v-1.0",
    summary="six components; motion is MotionAmplitude's value alone",
    columns=(
        _AESTHETICS,
        Column(
            component=COMPONENTS["motion_amplitude"],
            clip=clip_motion,
            field="motion_score",
            file="motionscore.json",
        ),
        _FACESIM,
        _GMESCORE,
        _NEXUSSCORE,
        _NATURALSCORE,
    ),
    open_weights={
        "aesthetics": 0.12,
        "motion_amplitude": 0.12,
        "facesim": 0.20,
        "gmescore": 0.12,
        "nexusscore": 0.20,
        "naturalscore": 0.24,
    },
    human_weights={
        "aesthetics": 0.15,
        "motion_amplitude": 0.15,
        "facesim": 0.25,
        "gmescore": 0.15,
        "naturalscore": 0.30,
    },
)
# The published leaderboards and the official score files follow these.
OFFICIAL_PROTOCOLS = (OPENS2V_1_1, OPENS2V_1_0)

_protocols: dict[str, Protocol] = {protocol.name: protocol for protocol in OFFICIAL_PROTOCOLS}


def register_protocol(protocol: Protocol) -> Protocol:
    """Make a protocol known by its name, and return it. Raises UserError when another one has the name."""
    if _protocols.setdefault(protocol.name, protocol) is not protocol:
        raise UserError(f"two protocols are called {protocol.name!r}")
    return protocol


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises UserError for an unknown one, with the nearest known names."""
    problems = [] if name in _protocols else _load_entry_points()
    if name not in _protocols:
        raise UserError(unknown_name("protocol", name, _protocols, problems))
    return _protocols[name]


def protocol_of(track: str, name: str | None = None) -> Protocol:
    """The protocol of that name, or, without a name, the one that the track declares.

    Suites and unknown tracks have the default. Raises UserError for an unknown name.
    """
    if name is None:
        declared = declared_tracks().get(track)
        name = DEFAULT_PROTOCOL if declared is None else declared.protocol
    return get_protocol(name)


def protocol_names() -> tuple[str, ...]:
    """The names of all known protocols, the official ones first."""
    _load_entry_points()
    return tuple(_protocols)


def _load_entry_points() -> list[str]:
    """Register what other packages bring; the result says, a line each, what failed to load."""
    problems = []
    for point in entry_points(group=PROTOCOLS_GROUP):
        try:
            loaded = point.load()
            if isinstance(loaded, Protocol):
                register_protocol(loaded)
        except Exception as error:  # noqa: BLE001 - somebody else's package may fail in any way
            problems.append(f"{point.value}: {type(error).__name__}: {one_line(error)}")
    return problems


def raw_scores(files: Mapping[str, Any], column: Column) -> dict[str, Any]:
    """Video → raw score of one component, from the official files (name → {video: record}).

    Raises what the official code raises: ValueError for a NaturalScore that is no number, TypeError for a
    nested one.
    """
    if column.component.name == "naturalscore":
        return natural_scores(files)
    (file,), key = column.files, column.component.official_key
    scores = {}
    for video, entry in files.get(file, {}).items():
        if isinstance(entry, Mapping) and key in entry:
            scores[video] = entry[key]
        elif column.takes_bare_numbers:
            scores[video] = entry
    return scores


def natural_scores(files: Mapping[str, Any]) -> dict[str, float]:
    """Video → mean of its judge runs; a null run is skipped, and a video with null runs only has no score."""
    runs: dict[str, list[float]] = {}
    for name in COMPONENTS["naturalscore"].official_files:
        for video, answer in files.get(name, {}).items():
            if answer is not None:
                runs.setdefault(video, []).append(float(answer))
    return {video: sum(values) / len(values) for video, values in runs.items()}


def official_result(files: Mapping[str, Any], protocol: Protocol, evaluation_type: str) -> dict[str, float]:
    """What the official merge returns for a folder of score files (name → {video: record}).

    `evaluation_type` is `Open-Domain`, `Human-Domain` or `Single-Domain`. The result has `total_score` and
    one field per weighted component, all on the scale 0..1. No video is left out for not being in the track.
    Raises the official exceptions (TypeError, ValueError); see the module's text.
    """
    values = {}
    for column in protocol.columns:
        clipped = [column.clip(score) for score in raw_scores(files, column).values()]
        values[column.component.name] = column.mean([score for score in clipped if score is not None])
    domain = "human-domain" if evaluation_type == "Human-Domain" else "open-domain"
    result = {"total_score": protocol.total(values, domain)}
    for column in protocol.weighted_columns(domain):
        result[column.field] = values[column.component.name]
    return result
