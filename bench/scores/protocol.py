"""The official aggregation: from raw per-video scores to component means and TotalScore.

Source: `eval/merge_result.py` of PKU-YuanGroup/OpenS2V-Nexus, v1.1 (commit 210eb08) and v1.0; described in
the goldens' `opens2v_eval/README.md`, section 7. Per component: clip each video, average over the videos that
have it, map the mean to (mean - low) / (high - low); TotalScore is the weighted sum. Quirks copied on
purpose:

* a component that no video has counts as mean 0 before the mapping (aesthetics then contributes -4/3);
* FaceSim, GmeScore and NexusScore have no lower clip; negative motion counts as positive;
* a NexusScore of exactly 0 is dropped from the mean, so a subject that is never found costs nothing;
* NaturalScore averages the runs present, then clips; text that float() refuses raises ValueError, null runs
  are skipped;
* a record of a wrong shape vanishes, but in the two motion files of v1.1, where it raises TypeError;
* every file is read and clipped whatever the domain, so a malformed NexusScore raises in Human-Domain too;
* any evaluation type but exactly `Human-Domain` has the open-domain weights; NaN passes every clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name

NATURAL_RUN_FILES = ("naturalscore_1.json", "naturalscore_2.json", "naturalscore_3.json")
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
    """One component within a protocol.

    `field` is its name in the official result, `file` and `key` where the official scripts keep it, `clip`
    the per-video rule (None: the video is dropped), `low` and `high` the raw values that become 0 and 1.
    """

    component: str
    field: str
    file: str
    key: str
    clip: Callable[[float], float | None]
    low: float = 0.0
    high: float = 1.0
    takes_bare_numbers: bool = False

    def normalised(self, mean: float) -> float:
        """A mean of clipped raw scores on the scale 0..1."""
        return (mean - self.low) / (self.high - self.low)

    def mean(self, clipped: list[float]) -> float:
        """The normalised mean of clipped scores; none at all count as a raw mean of 0, as officially."""
        return self.normalised(sum(clipped) / len(clipped) if clipped else 0)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A version of the official aggregation. `weights` maps the human-domain and all other domains to
    weights.
    """

    name: str
    summary: str
    columns: tuple[Column, ...]
    open_weights: Mapping[str, float]
    human_weights: Mapping[str, float]

    def weights(self, domain: str) -> Mapping[str, float]:
        """Component → weight for a domain (`human-domain` has its own, every other the open ones)."""
        return self.human_weights if domain == "human-domain" else self.open_weights

    def weighted_columns(self, domain: str) -> tuple[Column, ...]:
        """The columns that enter a domain's TotalScore."""
        return tuple(column for column in self.columns if column.component in self.weights(domain))

    def total(self, values: Mapping[str, float], domain: str) -> float:
        """The weighted sum of normalised component values, which must all be there."""
        return sum(weight * values[component] for component, weight in self.weights(domain).items())


_AESTHETICS = Column(
    component="aesthetics",
    field="aes_score",
    file="aesthetic_score.json",
    key="aes_score",
    clip=clip_aesthetics,
    low=4.0,
    high=7.0,
)
_FACESIM = Column(
    component="facesim", field="facesim_cur", file="facesim.json", key="cur_score", clip=clip_similarity
)
_GMESCORE = Column(
    component="gmescore", field="gme_score", file="gmescore.json", key="gme_score", clip=clip_similarity
)
_NEXUSSCORE = Column(
    component="nexusscore",
    field="nexus_score",
    file="nexusscore.json",
    key="nexus_score",
    clip=clip_nexus,
    high=0.05,
)
_NATURALSCORE = Column(
    component="naturalscore",
    field="natural_score",
    file="naturalscore_{run}.json",
    key="",
    clip=clip_natural,
    low=1.0,
    high=5.0,
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="opens2v-1.1",
            summary="seven components; motion is MotionSmoothness and MotionAmplitude",
            columns=(
                _AESTHETICS,
                Column(
                    component="motion_smoothness",
                    field="motion_smoothness",
                    file="motion_smoothness.json",
                    key="motion_smoothness",
                    clip=clip_motion,
                    takes_bare_numbers=True,
                ),
                Column(
                    component="motion_amplitude",
                    field="motion_amplitude",
                    file="motion_amplitude.json",
                    key="motion_fb",
                    clip=clip_motion,
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
        ),
        Protocol(
            name="opens2v-1.0",
            summary="six components; motion is MotionAmplitude's value alone",
            columns=(
                _AESTHETICS,
                Column(
                    component="motion_amplitude",
                    field="motion_score",
                    file="motionscore.json",
                    key="motion_fb",
                    clip=clip_motion,
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
        ),
    )
}
DEFAULT_PROTOCOL = "opens2v-1.1"


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; an unknown one is a UserError."""
    if name not in PROTOCOLS:
        raise UserError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def raw_scores(files: Mapping[str, Any], column: Column) -> dict[str, Any]:
    """Video → raw score of one component, from the official files (name → {video: record}).

    Raises what the official code raises: ValueError for a NaturalScore that is no number, TypeError for a
    nested one.
    """
    if column.component == "naturalscore":
        return natural_scores(files)
    scores = {}
    for video, entry in files.get(column.file, {}).items():
        if isinstance(entry, Mapping) and column.key in entry:
            scores[video] = entry[column.key]
        elif column.takes_bare_numbers:
            scores[video] = entry
    return scores


def natural_scores(files: Mapping[str, Any]) -> dict[str, float]:
    """Video → mean of its judge runs; a null run is skipped, and a video with null runs only has no score."""
    runs: dict[str, list[float]] = {}
    for name in NATURAL_RUN_FILES:
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
        values[column.component] = column.mean([score for score in clipped if score is not None])
    domain = "human-domain" if evaluation_type == "Human-Domain" else "open-domain"
    result = {"total_score": protocol.total(values, domain)}
    for column in protocol.weighted_columns(domain):
        result[column.field] = values[column.component]
    return result
