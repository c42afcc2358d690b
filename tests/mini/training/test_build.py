"""A build's folder: what is finished is not made again, and nothing foreign is taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from refbench.bench.errors import UserError
from refbench.bench.weights.kind import kind_of_folder
from refbench.mini.training.build import Build, Part, make_part

REPOSITORY = "somebody/net"


def part(calls: list[str], writes: bool = True) -> Part:
    def make(build: Build, on_step: object) -> None:
        calls.append("made")
        if writes:
            (build.place(REPOSITORY) / "net.bin").write_bytes(b"net")

    return Part(
        name="net",
        summary="a net",
        make=make,
        measure=lambda build: {"auc": 0.98765},
        files=(f"{REPOSITORY}/*.bin",),
    )


def test_a_part_is_made_once_and_marked(tmp_path: Path) -> None:
    calls: list[str] = []
    build = Build(root=tmp_path)
    first = make_part(build, part(calls), lambda done, total: None)
    assert make_part(build, part(calls), lambda done, total: None) == first
    assert calls == ["made"]
    assert list(first["files"]) == [f"{REPOSITORY}/net.bin"] and first["measured"] == {"auc": 0.9877}
    assert kind_of_folder(build.weights / REPOSITORY) == "mini"
    with pytest.raises(UserError, match="of other settings"):
        make_part(Build(root=tmp_path, seed=1), part(calls), lambda done, total: None)
    # What another part needs may be from a GPU, say.
    other = Build(root=tmp_path, batch=8)
    assert make_part(other, part(calls), lambda done, total: None, any_settings=True) == first
    assert calls == ["made"]


def test_a_part_that_wrote_nothing_is_not_done(tmp_path: Path) -> None:
    build = Build(root=tmp_path)
    with pytest.raises(UserError, match=r"net wrote no .*somebody/net/\*\.bin"):
        make_part(build, part([], writes=False), lambda done, total: None)
    assert not (tmp_path / "parts/net.json").exists()


def test_other_weights_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "weights" / REPOSITORY).mkdir(parents=True)
    with pytest.raises(UserError, match="holds other weights"):
        Build(root=tmp_path).place(REPOSITORY)


def test_the_scale_is_that_of_steps() -> None:
    loop = pytest.importorskip("refbench.mini.training.loop", reason="training needs the extra 'refalign'")
    schedule = loop.Schedule(steps=1000, learning_rate=1.0, warmup_steps=100)
    assert Build(root=Path(), scale=0.01).scaled(schedule).steps == 10
    assert Build(root=Path(), scale=1e-9).scaled(schedule).warmup_steps == 1
    assert [Build(root=Path(), batch=batch).wider for batch in (1, 2, 64)] == [1, 2, 8]
    assert Build(root=Path(), scale=3).count(100) == 100 and Build(root=Path(), scale=0.001).count(100) == 4
