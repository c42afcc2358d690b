"""Tracks: sets of samples that are scored together, read from OpenS2V-Eval's files or a user's suite.

Other packages declare further tracks in the same format through the entry-point group `refbench.tracks`,
whose values are `DeclaredTrack` objects.

Sources: the sample lists `Open-Domain_Eval.json`, `Human-Domain_Eval.json` and `Single-Domain_Eval.json` of
the hub data set BestWishYsh/OpenS2V-Eval (id → `img_paths`, `prompt`, `class_label`), and JSONL suites of
this project. Everything read here is untrusted: a path may not leave its folder and every fault is one line.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import leaves_its_folder, parse_json, read_json, read_text, shortlist
from refbench.bench.sample import Kind, Reference, Sample, category_of, kind_of, kind_of_label
from refbench.bench.scores import DEFAULT_PROTOCOL
from refbench.bench.weights.kind import WeightsKind

HUB_DATASET = "BestWishYsh/OpenS2V-Eval"
DATASET_VARIABLE = "REFBENCH_DATASET"
TRACKS_GROUP = "refbench.tracks"
# Of samples of a suite that would each be alone in a category of their own.
OTHER_CATEGORY = "other"
SAMPLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class DeclaredTrack:
    """A track in OpenS2V-Eval's format: its file (older releases' names after it) and how many samples each
    category has. `dataset_hint` says how to get the data set, where it is not OpenS2V-Eval itself;
    `accepted_weights` are the kinds of weights that may generate its videos; `protocol` names the one by
    which its records become scores unless another is asked for.

    The ids of a category are `<category>_1` to `<category>_<count>`.
    """

    name: str
    summary: str
    files: tuple[str, ...]
    category_counts: dict[str, int]
    dataset_hint: str = ""
    accepted_weights: frozenset[WeightsKind] = frozenset({"real", "tiny"})
    protocol: str = DEFAULT_PROTOCOL

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """All ids of the track."""
        return tuple(
            f"{category}_{number}"
            for category, count in self.category_counts.items()
            for number in range(1, count + 1)
        )


OFFICIAL_TRACKS = {
    track.name: track
    for track in (
        DeclaredTrack(
            name="open-domain",
            summary="all eight categories, one to three references per sample",
            files=("Open-Domain_Eval.json",),
            category_counts={
                "singleobj": 30,
                "singlehuman": 30,
                "humanobj": 15,
                "faceobj": 15,
                "multiface": 15,
                "multihuman": 15,
                "singleface": 30,
                "multiobject": 30,
            },
        ),
        DeclaredTrack(
            name="human-domain",
            summary="one person or face per sample, no NexusScore in the total",
            files=("Human-Domain_Eval.json",),
            category_counts={"singlehuman": 30, "singleface": 30},
        ),
        DeclaredTrack(
            name="single-domain",
            summary="one reference per sample: a person, a face or an object",
            files=("Single-Domain_Eval.json", "SingleObject_Eval.json", "Single-Object_Eval.json"),
            category_counts={"singlehuman": 30, "singleface": 30, "singleobj": 30},
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Track:
    """A named set of samples. `domain` is the official track whose weights apply.

    `notes` say what was taken for granted where a suite does not say it.
    """

    name: str
    samples: tuple[Sample, ...]
    domain: str
    notes: tuple[str, ...] = ()

    def sample(self, sample_id: str) -> Sample | None:
        """The sample of that id, or None."""
        return next((sample for sample in self.samples if sample.id == sample_id), None)


def domain_of(track_name: str) -> str:
    """The official track whose weights a track uses: its own name, or open-domain for a suite."""
    return track_name if track_name in OFFICIAL_TRACKS else "open-domain"


class _OfficialRow(BaseModel):
    """One entry of an official sample list; unknown fields (`synthesis_flag`) are ignored as officially."""

    model_config = ConfigDict(strict=True)

    prompt: str
    img_paths: list[str] = Field(default_factory=list)
    class_label: list[str] = Field(default_factory=list)


class _SuiteReference(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    path: str
    label: str = ""
    kind: Kind | None = None


class _SuiteRow(BaseModel):
    """One line of a suite: `references` are paths, or objects with `path`, `label` and `kind`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    prompt: str
    references: list[str | _SuiteReference] = Field(default_factory=list)
    labels: list[str] | None = None
    kinds: list[Kind] | None = None
    category: str | None = None

    @model_validator(mode="after")
    def _lists_agree(self) -> _SuiteRow:
        for name in ("labels", "kinds"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.references):
                raise ValueError(f"{name}: {len(given)} for {len(self.references)} references")
        return self

    def entries(self) -> list[_SuiteReference]:
        """The references with the labels and kinds that the row gives as lists."""
        entries = []
        for index, given in enumerate(self.references):
            entry = _SuiteReference(path=given) if isinstance(given, str) else given
            label = self.labels[index] if self.labels is not None else entry.label
            kind = self.kinds[index] if self.kinds is not None else entry.kind
            entries.append(_SuiteReference(path=entry.path, label=label, kind=kind))
        return entries


@lru_cache(maxsize=1)
def declared_tracks() -> Mapping[str, DeclaredTrack]:
    """All tracks by name: the official ones first, then those of other packages.

    An entry point that does not load, or that names something else, costs itself alone.
    """
    declared = dict(OFFICIAL_TRACKS)
    for point in entry_points(group=TRACKS_GROUP):
        try:
            loaded = point.load()
        except Exception:  # noqa: BLE001 - somebody else's package may fail in any way
            continue
        if isinstance(loaded, DeclaredTrack):
            declared.setdefault(loaded.name, loaded)
    return declared


def tracks_in(folder: Path) -> list[str]:
    """The declared tracks whose list of samples is in a folder."""
    return [
        name
        for name, track in declared_tracks().items()
        if any((folder / file).is_file() for file in track.files)
    ]


def load_track(name: str, dataset: str | Path | None) -> Track:
    """The declared track `name` from a local folder, the hub (`hub` or `hub@REVISION`), or
    `REFBENCH_DATASET`.

    Raises UserError for an unknown track, a missing folder or file, and anything wrong inside it.
    """
    declared = declared_tracks()
    chosen = declared.get(name)
    if chosen is None:
        raise UserError(f"unknown track {name!r}; known: {', '.join(declared)} (or --suite FILE.jsonl)")
    folder = dataset_folder(dataset)
    for file_name in chosen.files:
        path = folder / file_name
        if path.is_file():
            samples = tuple(_official_samples(path))
            return Track(name=name, samples=samples, domain=domain_of(name))
    hint = chosen.dataset_hint or f"is it a copy of {HUB_DATASET}?"
    raise UserError(f"{folder} has no {chosen.files[0]}: {hint}")


def dataset_folder(dataset: str | Path | None) -> Path:
    """The data set's folder; `hub` downloads it (asked for by that word) into the hub cache."""
    chosen = str(dataset) if dataset is not None else os.environ.get(DATASET_VARIABLE, "")
    if not chosen:
        raise UserError(
            f"no data set: give --dataset DIR (a copy of {HUB_DATASET}), set {DATASET_VARIABLE}, "
            "or say --dataset hub to download it"
        )
    if chosen == "hub" or chosen.startswith("hub@"):
        return _download(chosen.removeprefix("hub").removeprefix("@") or None)
    try:
        folder = Path(chosen).expanduser()
    except RuntimeError:
        raise UserError(f"the data set folder {one_line(chosen, 80)}: there is no such home folder") from None
    if not folder.is_dir():
        raise UserError(f"the data set folder {folder} does not exist")
    return folder


def _download(revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                HUB_DATASET,
                repo_type="dataset",
                revision=revision,
                allow_patterns=["*.json", "Images/**"],
            )
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all mean one thing here
        raise UserError(
            f"{HUB_DATASET} could not be downloaded ({one_line(error, 160)}); give --dataset DIR instead"
        ) from None


def _official_samples(path: Path) -> Iterator[Sample]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object of samples keyed by id")
    for sample_id, entry in content.items():
        where = f"{path}, sample {one_line(sample_id, 60)!r}"
        row = _validated(_OfficialRow, entry, where)
        if len(row.class_label) not in (0, len(row.img_paths)):
            raise UserError(f"{where}: {len(row.class_label)} class labels for {len(row.img_paths)} images")
        labels = row.class_label or [""] * len(row.img_paths)
        yield Sample(
            id=checked_id(sample_id, where),
            category=category_of(sample_id),
            prompt=row.prompt,
            references=tuple(
                Reference(path=_inside(image, where), root=path.parent, label=label, kind=kind_of(image))
                for image, label in zip(row.img_paths, labels, strict=True)
            ),
        )


def as_track(track: Track | str, dataset: str | Path | None = None) -> Track:
    """A track as it is, or an official one by name from `dataset` (see `load_track`)."""
    return track if isinstance(track, Track) else load_track(track, dataset)


def load_suite(path: Path) -> Track:
    """A user's suite (JSONL) as a track of its own, named `suite-<file stem>-<first 8 hex digits of its
    digest>`.

    Each line has `id`, `prompt`, `references` (paths relative to the file, or objects with `path`, `label`,
    `kind`), and optionally `labels`, `kinds` (one per reference: person, object or scene) and `category`.

    Without a kind a reference is a person where its folder (as in the official data) or a word of its label
    says so, and the track's notes name it. Without a category a sample has that of its id (`cup_3`: `cup`);
    samples that would be alone in theirs share the category `other`. Raises UserError with the line number.
    """
    rows: list[_SuiteRow] = []
    seen: set[str] = set()
    # Not splitlines(): a prompt may hold other line separators of Unicode.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _validated(_SuiteRow, parse_json(line, where), where)
        if row.id in seen:
            raise UserError(f"{where}: the id {one_line(row.id, 60)!r} appears twice")
        seen.add(checked_id(row.id, where))
        for reference in row.entries():
            _inside(reference.path, where)
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: the suite is empty")
    by_label = {label: None for row in rows for entry in row.entries() if (label := _person_label(entry))}
    categories = _suite_categories(rows)
    # The name follows what the file says: how a missing kind is read must not make another track of it.
    as_said = [_suite_sample(row, path.parent, row.id, as_said=True) for row in rows]
    content = "\n".join(sample.digest(("prompt", "references")) for sample in as_said)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-").lower() or "unnamed"
    return Track(
        name=f"suite-{stem}-{digest}",
        samples=tuple(_suite_sample(row, path.parent, categories[row.id]) for row in rows),
        domain="open-domain",
        notes=_suite_notes(list(by_label), categories, rows),
    )


def _suite_sample(row: _SuiteRow, root: Path, category: str, *, as_said: bool = False) -> Sample:
    references = []
    for entry in row.entries():
        kind = (entry.kind or kind_of(entry.path)) if as_said else _suite_kind(entry)
        references.append(Reference(path=entry.path, root=root, label=entry.label, kind=kind))
    return Sample(id=row.id, category=category, prompt=row.prompt, references=tuple(references))


def _suite_kind(reference: _SuiteReference) -> Kind:
    """What is said, else what the folder says (`man/1.png` too), else what the label says."""
    if reference.kind is not None:
        return reference.kind
    return "person" if _person_label(reference) else kind_of(f"/{reference.path}")


def _person_label(reference: _SuiteReference) -> str:
    """The label of a reference of which it alone says that a person is shown; else an empty text."""
    if reference.kind is not None or kind_of(f"/{reference.path}") != "object":
        return ""
    return reference.label if kind_of_label(reference.label) == "person" else ""


def _suite_categories(rows: Sequence[_SuiteRow]) -> dict[str, str]:
    """Id → category: what the row says, else that of its id; those alone in theirs share one."""
    derived = {row.id: row.category or category_of(row.id) for row in rows}
    sizes = Counter(derived.values())
    lone = {row.id for row in rows if row.category is None and sizes[derived[row.id]] == 1}
    # A single sample would be alone in `other` too.
    return derived | (dict.fromkeys(lone, OTHER_CATEGORY) if len(lone) > 1 else {})


def _suite_notes(
    labels: Sequence[str], categories: Mapping[str, str], rows: Sequence[_SuiteRow]
) -> tuple[str, ...]:
    notes = []
    if labels:
        named = shortlist(one_line(label, 40) for label in labels)
        notes.append(f"suite: taken as people because of their labels: {named} ('kinds' says it yourself)")
    pooled = sum(row.category is None and categories[row.id] == OTHER_CATEGORY for row in rows)
    if pooled:
        notes.append(
            f"suite: {pooled} samples without a category of several are together in {OTHER_CATEGORY!r} "
            "('category' groups them)"
        )
    return tuple(notes)


Row = TypeVar("Row", bound=BaseModel)


def _validated(model: type[Row], entry: object, where: str) -> Row:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}") from None


def checked_id(sample_id: str, where: str) -> str:
    """`sample_id` if it can be a file name (letters, digits, `.`, `_`, `-`; at most 128), else a
    UserError.
    """
    if not SAMPLE_ID.fullmatch(sample_id):
        raise UserError(f"{where}: an id may hold letters, digits, '.', '_' and '-' only")
    return sample_id


def _inside(path: str, where: str) -> str:
    """`path` if it stays inside its folder. Links are not followed: the hub cache itself consists of
    links.
    """
    if leaves_its_folder(path):
        raise UserError(f"{where}: the reference path {one_line(path, 80)!r} leaves the data set's folder")
    return path
