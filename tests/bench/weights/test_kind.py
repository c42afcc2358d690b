"""Three kinds of weights: their marks, and that mini ones are mixed with no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kit.cli import complaint, printed
from kit.records import full_records, record
from kit.stored_runs import store
from refbench.bench.dataset import Track
from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.runner.generate import Generation, run_generation
from refbench.bench.runs.folder import RUN_FILE, read_run
from refbench.bench.sample import Sample
from refbench.bench.scores.aggregate import scoreboard
from refbench.bench.scores.protocol import OPENS2V_1_1
from refbench.bench.scores.record import Provenance, generated_with, joined_variant, weights_variant
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.kind import (
    MARKERS,
    PREFIXES,
    WeightsKind,
    check_one_kind,
    joined_kind,
    kind_of_digest,
    kind_of_folder,
)
from refbench.bench.weights.store import file_digests, is_small, is_tiny, kind_on_disk, weights_fingerprint
from refbench.bench.weights.tiny import marked_folder

KINDS: tuple[WeightsKind, ...] = ("real", "mini", "tiny")
ENTRY = WeightEntry(name="net", repository="owner/net", holds="a network", required=("net.bin",))
SAMPLE = Sample(id="singleobj_1", category="singleobj", prompt="A cup.", references=())


def marked(root: Path, kind: WeightsKind) -> Path:
    folder = root / ENTRY.repository
    folder.mkdir(parents=True)
    (folder / "net.bin").write_bytes(b"weights")
    if kind in MARKERS:
        (folder / MARKERS[kind]).touch()
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_marker_of_a_folder_stands_before_its_digests(tmp_path: Path, kind: WeightsKind) -> None:
    folder = marked(tmp_path, kind)
    assert kind_of_folder(folder) == kind and kind_on_disk([ENTRY], tmp_path) == kind
    assert (is_tiny(folder), is_small(folder)) == (kind == "tiny", kind != "real")
    digest = file_digests(folder, {"net": folder / "net.bin"})["net"]
    fingerprint = weights_fingerprint(folder, [Path("net.bin")])
    for text in (digest, fingerprint):
        assert kind_of_digest(text) == kind and text.startswith(PREFIXES[kind])
    provenance = Provenance(metric_version="1", weights={"net": digest})
    assert provenance.weights_kinds == {kind} and provenance.weights_kind == kind


@pytest.mark.parametrize("kind", ["mini", "tiny"])
def test_a_folder_is_made_with_its_mark(tmp_path: Path, kind: WeightsKind) -> None:
    (tmp_path / "owner/older").mkdir(parents=True)
    for repository in ("owner/new", "owner/older", "owner/new"):
        place = marked_folder(tmp_path, repository, kind)
        assert place == tmp_path / repository and kind_of_folder(place) == kind
        assert [path.name for path in place.iterdir()] == [MARKERS[kind]]


def test_the_variant_of_a_run_names_the_kind() -> None:
    for kind in KINDS:
        variant = joined_variant(["shuffled-references", weights_variant(kind)])
        assert generated_with(variant) == (None if kind == "real" else kind)
    assert weights_variant("tiny") == "tiny-weights" and weights_variant("mini") == "mini-weights"
    assert joined_kind(["real", "mini"]) == "mini" and joined_kind([]) == "real"


def test_mini_weights_go_with_no_others() -> None:
    check_one_kind("it", {"a": "mini:1", "b": "mini:2"})
    check_one_kind("it", {"a": "tiny:1", "b": "2"})
    with pytest.raises(UserError, match=r"it would mix mini weights \(b\) with others \(a\)"):
        check_one_kind("it", {"a": "1", "b": "mini:2"})


class Painter(Method):
    """A method whose weights are of the kind that a test says."""

    name = "painter"
    summary = "paints grey"
    digests: dict[str, str] = {}  # noqa: RUF012 - set by tests

    def card(self) -> MethodCard:
        return MethodCard(name=self.name, summary=self.summary)

    def find_weights(self, environment: Environment) -> dict[str, str]:
        return self.digests

    def load(self, environment: Environment) -> Generator:
        return GreyPainter()


class GreyPainter(Generator):
    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        return Frames(images=[np.full((16, 16, 3), 90, np.uint8)] * 2, fps=8)


@pytest.mark.parametrize(
    ("track", "digests", "expected"),
    [
        ("mini", {"net": "mini:1"}, "mini-weights"),
        ("mini", {"net": "tiny:1"}, "tiny-weights"),
        ("mini", {}, "plain"),
        ("suite-own-1", {"net": "mini:1"}, "mini-weights"),
        ("open-domain", {"net": "1"}, "plain"),
        (
            "open-domain",
            {"net": "mini:1"},
            "painter has mini weights; the track open-domain takes real",
        ),
        ("mini", {"net": "1"}, "painter has real weights; the track mini takes mini or tiny ones"),
        ("mini", {"net": "1", "vae": "mini:1"}, "painter would mix mini weights (vae) with others (net)"),
    ],
)
def test_a_method_and_a_track_must_be_of_one_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track: str, digests: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(methods, "get", lambda name: Painter)
    monkeypatch.setattr(Painter, "digests", digests)
    asked = Generation(
        method="painter", track=Track(name=track, samples=(SAMPLE,), domain="open-domain"), out=tmp_path
    )
    if " " in expected:
        with pytest.raises(UserError) as caught:
            run_generation(asked)
        assert str(caught.value).startswith(expected)
    else:
        assert read_run(run_generation(asked).folder / RUN_FILE).variant == expected


def test_scores_of_mini_weights_have_no_official_total() -> None:
    mini = Provenance(metric_version="1", weights={"w": "mini:00"})
    records = [one.model_copy(update={"provenance": mini}) for one in full_records()]
    refused = scoreboard(records, OPENS2V_1_1)
    assert refused.total is None
    assert any("mini weights of the drawn world in" in text for text in refused.unofficial)
    own = replace(OPENS2V_1_1, name="own", accepted_weights=frozenset({"mini"}))
    assert scoreboard(records, own).total == refused.unofficial_total
    generated = [one.model_copy(update={"variant": "mini-weights"}) for one in full_records()]
    assert "generated with mini weights" in scoreboard(generated, OPENS2V_1_1).unofficial


def test_a_column_may_have_a_range_of_its_own() -> None:
    own = tuple(
        replace(column, range=(0.2, 0.6)) if column.component.name == "gmescore" else column
        for column in OPENS2V_1_1.columns
    )
    records = [record("gmescore", f"singleobj_{number}", 0.4) for number in range(1, 5)]
    boards = [
        scoreboard(records, replace(OPENS2V_1_1, columns=columns)) for columns in (OPENS2V_1_1.columns, own)
    ]
    values = [next(one for one in board.components if one.component == "gmescore") for board in boards]
    assert values[0].value == pytest.approx(0.4) and values[1].value == pytest.approx(0.5)
    assert values[1].interval == pytest.approx((0.5, 0.5))


def test_a_mini_store_and_an_official_one_are_not_merged(tmp_path: Path) -> None:
    def of(kind: str, name: str) -> Path:
        weights = {"w": f"{kind}00"}
        provenance = Provenance(metric_version="1", weights=weights)
        records = [
            one.model_copy(update={"provenance": provenance, "method": name}) for one in full_records(2)
        ]
        return store(tmp_path / name, records)

    mini, real, tiny = of("mini:", "a"), of("", "b"), of("tiny:", "c")
    line = complaint("merge", mini, real, "-o", tmp_path / "joined")
    assert "has scores of mini weights" in line and "merge them into stores of their own" in line
    assert not (tmp_path / "joined").exists()
    for pair in ((real, tiny), (mini, mini)):
        assert "records added or changed" in printed("merge", *pair, "-o", tmp_path / "both")
