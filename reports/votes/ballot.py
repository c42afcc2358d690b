"""The ballot: which pairs of videos are voted on, and whose they are.

It is drawn from a seed and kept in a file of its own (`<votes>.ballot.json`) that voters do not see: pages
and vote files name pairs and videos by random ids only. Its digest stands in every vote file, so that votes
are never read with another ballot. Besides the pairs of two methods it holds attention checks: a video beside
itself, beside noise, and beside a black one.

The ballot also holds the arrangements: orders of all pairs with a side for each. A voter is shown one of
them. They come in twos, of which the second mirrors the first, so that each pair is shown either way equally
often.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from refbench.bench.errors import UserError, first_fault
from refbench.bench.files import read_json, write_json
from refbench.bench.provenance import digest_of
from refbench.bench.scores.record import PLAIN, Name, RunKey

# The criteria of the user study of OpenS2V-Eval (arXiv 2505.20292), with the question that a voter answers.
CRITERIA: Mapping[str, str] = {
    "subject": "Whose subjects look more like the references?",
    "text": "Which video fits the prompt better?",
    "naturalness": "Which video looks and moves more naturally?",
    "overall": "Which video is better overall?",
}
OVERALL = "overall"
ARRANGEMENTS = 16

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Content = Literal["method", "noise", "black"]
Kind = Literal["methods", "same", "noise", "black"]
# What a check shows beside a method's video.
CHECK_CONTENT: Mapping[Kind, Content] = {"same": "method", "noise": "noise", "black": "black"}
CHECK_KINDS = tuple(CHECK_CONTENT)
# A method's video: sample id and seed.
Place = tuple[str, int]


class BallotVideo(BaseModel):
    """What is shown under an id: a method's video, or noise or black frames made for a check.

    `method`, `variant` and `seed` say which video it is, for noise and black the one whose size it has;
    `digest` is the SHA-256 of that file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id
    content: Content = "method"
    method: Name
    variant: Name = PLAIN
    sample: str
    seed: int
    digest: str


class BallotPair(BaseModel):
    """Two videos of one sample; `first` and `second` say nothing of sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Id
    kind: Kind
    sample: str
    first: Id
    second: Id


class Ballot(BaseModel):
    """All pairs of one vote. An arrangement is a row of numbers: `n` shows `pairs[n - 1]` with its first
    video left, `-n` with its second.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    track: Name
    seed: int
    videos: tuple[BallotVideo, ...]
    pairs: tuple[BallotPair, ...]
    arrangements: tuple[tuple[int, ...], ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        known = {video.id for video in self.videos}
        ids = {pair.id for pair in self.pairs}
        if len(known) < len(self.videos) or len(ids) < len(self.pairs):
            raise ValueError("an id stands for two things")
        if not all({pair.first, pair.second} <= known for pair in self.pairs):
            raise ValueError("a pair names a video that is not there")
        numbers = list(range(1, len(self.pairs) + 1))
        if not self.arrangements or any(sorted(map(abs, row)) != numbers for row in self.arrangements):
            raise ValueError("an arrangement does not show every pair once")
        return self

    @property
    def digest(self) -> str:
        """What vote files name: SHA-256 of everything the ballot holds."""
        return digest_of(self.model_dump(mode="json"))

    def sides(self, arrangement: int) -> dict[str, tuple[str, str]]:
        """Pair id → (left, right) in an arrangement, in the order in which they are shown."""
        shown = {}
        for number in self.arrangements[arrangement]:
            pair = self.pairs[abs(number) - 1]
            shown[pair.id] = (pair.first, pair.second) if number > 0 else (pair.second, pair.first)
        return shown


def draw_ballot(
    track: str,
    found: Mapping[RunKey, Collection[Place]],
    digest_of_video: Callable[[RunKey, Place], str],
    *,
    seed: int,
    pairs: int,
    checks: int,
) -> Ballot:
    """Draw `pairs` pairs of two methods and `checks` attention checks from the videos that are there.

    Every two methods get the same number of pairs, as far as they have samples in common, and samples are
    used evenly. `digest_of_video` gives the SHA-256 of a
    chosen video's file. Raises UserError where no two methods have a
    video of the same sample and seed.
    """
    generator = random.Random(seed)
    chosen = _choose(found, pairs, generator)
    if not chosen:
        raise UserError(
            f"no two methods have a video of the same sample of {track}: there is nothing to compare"
        )
    ids = _ids(generator)
    videos: dict[tuple[RunKey, Place], BallotVideo] = {}

    def video(key: RunKey, place: Place, content: Content = "method") -> BallotVideo:
        return BallotVideo(
            id=next(ids),
            content=content,
            method=key.method,
            variant=key.variant,
            sample=place[0],
            seed=place[1],
            digest=digest_of_video(key, place),
        )

    made: list[BallotPair] = []
    for one, other, place in chosen:
        both = []
        for key in (one, other):
            if (key, place) not in videos:
                videos[key, place] = video(key, place)
            both.append(videos[key, place].id)
        generator.shuffle(both)
        made.append(BallotPair(id=next(ids), kind="methods", sample=place[0], first=both[0], second=both[1]))
    extra: list[BallotVideo] = []
    for number in range(checks):
        kind = CHECK_KINDS[number % len(CHECK_KINDS)]
        key, place = generator.choice(list(videos))
        beside = video(key, place, CHECK_CONTENT[kind])
        extra.append(beside)
        both = [videos[key, place].id, beside.id]
        generator.shuffle(both)
        made.append(BallotPair(id=next(ids), kind=kind, sample=place[0], first=both[0], second=both[1]))
    everything = [*videos.values(), *extra]
    generator.shuffle(everything)
    generator.shuffle(made)
    return Ballot(
        track=track,
        seed=seed,
        videos=tuple(everything),
        pairs=tuple(made),
        arrangements=_arrangements(len(made), generator),
    )


def _choose(
    found: Mapping[RunKey, Collection[Place]], pairs: int, generator: random.Random
) -> list[tuple[RunKey, RunKey, Place]]:
    """Two methods and a sample each, in turns over all twos, the least used sample first."""
    twos = list(combinations(sorted(found), 2))
    generator.shuffle(twos)
    left = {two: sorted(set(found[two[0]]) & set(found[two[1]])) for two in twos}
    for places in left.values():
        generator.shuffle(places)
    used: Counter[str] = Counter()
    chosen: list[tuple[RunKey, RunKey, Place]] = []
    while any(left.values()):
        for one, other in twos:
            places = left[one, other]
            if not places:
                continue
            if len(chosen) == pairs:
                return chosen
            best = min(range(len(places)), key=lambda index: used[places[index][0]])
            place = places.pop(best)
            used[place[0]] += 1
            chosen.append((one, other, place))
    return chosen


def _ids(generator: random.Random) -> Iterator[str]:
    taken: set[str] = set()
    while True:
        made = f"{generator.getrandbits(64):016x}"
        if made not in taken:
            taken.add(made)
            yield made


def _arrangements(pairs: int, generator: random.Random) -> tuple[tuple[int, ...], ...]:
    made: list[tuple[int, ...]] = []
    for _ in range(ARRANGEMENTS // 2):
        numbers = [generator.choice((-1, 1)) * number for number in range(1, pairs + 1)]
        generator.shuffle(numbers)
        mirrored = [-number for number in numbers]
        generator.shuffle(mirrored)
        made += [tuple(numbers), tuple(mirrored)]
    return tuple(made)


def ballot_path(votes: Path) -> Path:
    """Where the ballot of a vote file is kept: `votes.ballot.json` beside `votes.jsonl`."""
    return votes.with_suffix(".ballot.json")


def write_ballot(path: Path, ballot: Ballot) -> None:
    """Write a ballot whole or not at all."""
    write_json(path, ballot.model_dump(mode="json"))


def read_ballot(path: Path) -> Ballot:
    """The ballot of a file; anything wrong with it is a UserError."""
    try:
        return Ballot.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is no ballot: {first_fault(error)}") from None


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest, for a person to compare."""
    return digest[:12]


def run_keys(ballot: Ballot) -> Sequence[RunKey]:
    """The runs whose videos are compared, sorted."""
    return sorted({RunKey(video.method, ballot.track, video.variant) for video in ballot.videos})
