"""The official score files: read them into records, and write records as the official scripts would have.

Per metric one file `{video: {key: score}}` (`motion_amplitude.json`, …), NaturalScore as three files `{video:
"4"}`, and the merged file with `total_score` that the public leaderboard accepts. Source: `eval/` of
OpenS2V-Nexus v1.1.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refbench.bench.console import count_text
from refbench.bench.dataset import OFFICIAL_TRACKS, Track, domain_of
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import is_there, read_json, shortlist, write_text
from refbench.bench.runs.folder import variant_name
from refbench.bench.sample import category_of
from refbench.bench.scores.aggregate import group_records, natural_order, unofficial_reasons
from refbench.bench.scores.columns import COMPONENTS, Component, category_not_applicable
from refbench.bench.scores.protocol import (
    EVALUATION_TYPES,
    OFFICIAL_PROTOCOLS,
    OPENS2V_1_1,
    Column,
    Protocol,
    natural_scores,
    official_result,
    raw_scores,
)
from refbench.bench.scores.record import FAILED, MISSING_VIDEO, NOT_APPLICABLE, PLAIN, Provenance, Record

IMPORTED = "imported"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Records made from score files, ids that the track does not have, and the files that were found."""

    records: list[Record]
    unknown_ids: tuple[str, ...]
    files: tuple[str, ...]

    def unknown_text(self, track_name: str) -> str:
        """A line on the ids that were left out, to stand beside every figure; empty where there are none."""
        if not self.unknown_ids:
            return ""
        count = len(self.unknown_ids)
        named = shortlist(one_line(video, 60) for video in self.unknown_ids)
        return (
            f"{count_text(count, 'id')} of the score files left out, not of {track_name} "
            f"(the official merge counts every id): {named}"
        )


def import_scores(folder: Path, method: str, track_name: str, track: Track | None = None) -> Imported:
    """Read the official per-metric files of a folder.

    Without `track` (the samples themselves) the official ids of `track_name` are used. A sample of the track
    that no file names gets `missing_video`; one that a component's file leaves out gets `not_applicable` or
    `failed`. What makes the official merge fail (a judge's "error", a null score) is a UserError here.
    """
    contents, digests = _read_files(folder)
    raw = {name: _component_scores(contents, component) for name, component in COMPONENTS.items()}
    present = {name: scores for name, scores in raw.items() if scores is not None}
    if track is not None:
        ids = [sample.id for sample in track.samples]
    else:
        ids = list(OFFICIAL_TRACKS[track_name].sample_ids)
    named = {video for entries in contents.values() for video in entries}
    records = []
    for sample_id in ids:
        for name, scores in present.items():
            component = COMPONENTS[name]
            value, reason = scores.get(sample_id), None
            if value is None:
                reason = _absence(component, sample_id, sample_id in named, track)
            records.append(
                Record(
                    method=method,
                    track=track_name,
                    sample=sample_id,
                    category=_category(sample_id, track),
                    metric=component.metric,
                    value=value,
                    reason=reason,
                    details=_natural_details(contents, sample_id) if name == "naturalscore" else {},
                    provenance=Provenance(metric_version=IMPORTED, source=digests[name]),
                )
            )
    return Imported(
        records=records,
        unknown_ids=tuple(sorted(named - set(ids))),
        files=tuple(contents),
    )


def _read_files(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """File name → content, and component → `file@digest` of where its scores come from."""
    if not folder.is_dir():
        raise UserError(f"the score folder {folder} does not exist")
    contents: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for name, component in COMPONENTS.items():
        # v1.0 kept MotionAmplitude's value in a file of another name; the newer file wins.
        by_version = [
            [file for file in column.files if is_there(folder / file)] for column in _columns(component)
        ]
        found = next((files for files in by_version if files), [])
        for file in found:
            content = read_json(folder / file)
            if not isinstance(content, dict):
                raise UserError(
                    f"{folder / file}: expected an object of videos, not a {type(content).__name__}"
                )
            contents[file] = content
        joined = b"".join((folder / file).read_bytes() for file in found)
        sources[name] = f"{'+'.join(found)}@{hashlib.sha256(joined).hexdigest()[:12]}"
    if not contents:
        raise UserError(f"{folder} holds none of the official score files (aesthetic_score.json, …)")
    return contents, sources


def _component_scores(contents: Mapping[str, Any], component: Component) -> dict[str, float] | None:
    """Video → checked raw score, or None where the component has no file."""
    if component.name == "naturalscore":
        if not any(file in contents for file in component.official_files):
            return None
        try:
            scores: Mapping[str, Any] = natural_scores(contents)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"naturalscore: {one_line(error)}; the official merge stops here too: judge that video again"
            ) from None
    else:
        column = next((one for one in _columns(component) if one.files[0] in contents), None)
        if column is None:
            return None
        scores = raw_scores(contents, column)
    for video, score in scores.items():
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(
                f"{component.name}: {one_line(video, 60)!r} has {one_line(json.dumps(score), 60)}, "
                "no finite number; the official merge has no total with it"
            )
    return {video: float(score) for video, score in scores.items()}


def _columns(component: Component) -> list[Column]:
    """The component's columns in the official protocols, the newest version first."""
    columns = [column for protocol in OFFICIAL_PROTOCOLS for column in protocol.columns]
    return [column for column in columns if column.component.name == component.name]


def _absence(component: Component, sample_id: str, has_other_scores: bool, track: Track | None) -> str:
    """Why a sample has no score in a component's file."""
    if track is not None:
        sample = track.sample(sample_id)
        inapplicable = component.not_applicable(sample) if sample is not None else None
    else:
        inapplicable = category_not_applicable(component, category_of(sample_id))
    if inapplicable is not None:
        return f"{NOT_APPLICABLE}: {inapplicable}"
    return f"{FAILED}: absent from the official file" if has_other_scores else MISSING_VIDEO


def _category(sample_id: str, track: Track | None) -> str:
    sample = track.sample(sample_id) if track is not None else None
    return sample.category if sample is not None else category_of(sample_id)


def _natural_details(contents: Mapping[str, Any], sample_id: str) -> dict[str, Any]:
    files = COMPONENTS["naturalscore"].official_files
    runs = {
        str(number): contents[file][sample_id]
        for number, file in enumerate(files, start=1)
        if contents.get(file, {}).get(sample_id) is not None
    }
    return {"runs": runs} if runs else {}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Files written, and why a merged file was not."""

    files: list[Path]
    notes: list[str]


def export_scores(records: Iterable[Record], folder: Path) -> Exported:
    """Write the records of one (method, track, variant, seed) as official files, and the merged v1.1 result.

    Samples stand in natural order of their ids, so that the files (and the last digits of the merged means)
    do not depend on the order of the records. Values without a score are left out, as the official scripts
    leave them out. The merged file, which the public leaderboard accepts, is written only for a plain run in
    which every component has a score: the official merge would count a missing one as zero, and a control is
    no entry.
    """
    contents: dict[str, dict[str, Any]] = {}
    track = ""
    records = sorted(records, key=lambda record: (natural_order(record.sample), record.key))
    for record in records:
        track = record.track
        component = next((one for one in COMPONENTS.values() if one.metric == record.metric), None)
        if component is None or record.value is None:
            continue
        if component.name == "naturalscore":
            for number, file in enumerate(component.official_files, start=1):
                answer = record.details.get("runs", {str(number): record.value}).get(str(number))
                if answer is not None:
                    contents.setdefault(file, {})[record.sample] = answer
        else:
            entry = {component.official_key: record.value}
            contents.setdefault(component.official_files[0], {})[record.sample] = entry
    files = []
    for name, content in sorted(contents.items()):
        write_text(folder / name, json.dumps(content, indent=4) + "\n")
        files.append(folder / name)
    domain = domain_of(track)
    unofficial = unofficial_reasons(records, OPENS2V_1_1, domain)
    if unofficial:
        return Exported(files=files, notes=[f"no merged file: {'; '.join(unofficial)}"])
    variants = sorted({record.variant for record in records} - {PLAIN})
    if variants:
        return Exported(files=files, notes=[f"no merged file: the run is the variant {variants[0]}"])
    missing = _missing_components(contents, OPENS2V_1_1, domain)
    if missing:
        return Exported(files=files, notes=[f"no merged file: nothing scored for {', '.join(missing)}"])
    evaluation_type = EVALUATION_TYPES[domain]
    merged = folder / f"{evaluation_type}.json"
    result = official_result(contents, OPENS2V_1_1, evaluation_type)
    write_text(merged, json.dumps(result, indent=4) + "\n")
    return Exported(files=[*files, merged], notes=[])


def _missing_components(
    contents: Mapping[str, Mapping[str, Any]], protocol: Protocol, domain: str
) -> list[str]:
    return [
        column.component.label
        for column in protocol.weighted_columns(domain)
        if not raw_scores(contents, column)
    ]


def export_records(records: Iterable[Record], root: Path) -> Iterator[tuple[Path, Exported]]:
    """Write every run and seed into its folder, `<root>/<method>/<track>`, with a folder per seed where there
    are several; yields each folder with what `export_scores` wrote there.
    """
    for run, of_run in sorted(group_records(records).items()):
        seeds = sorted({record.seed for record in of_run})
        for seed in seeds:
            folder = root / run.method / variant_name(run.track, run.variant)
            if len(seeds) > 1:
                folder /= f"seed-{seed}"
            yield folder, export_scores([record for record in of_run if record.seed == seed], folder)
