"""Packing built weights: what is copied, what is refused, and what the log says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the extra 'refalign'")

from kit.cli import complaint, printed
from refbench.bench.files import read_json_object
from refbench.mini.training.build import Build, OnStep, Part, make_part


def a_build(root: Path, size: int = 10) -> Build:
    """A build with one finished part, and a leftover of one that is not."""
    build = Build(root=root)

    def make(build: Build, on_step: OnStep) -> None:
        (build.place("owner/net") / "model.safetensors").write_bytes(b"0" * size)

    part = Part(
        name="net",
        summary="",
        make=make,
        measure=lambda build: {"auc": 0.9},
        files=("owner/net/*.safetensors",),
    )
    make_part(build, part, lambda done, total: None)
    (build.place("owner/half") / "model.safetensors").write_bytes(b"1")
    return build


def test_finished_parts_are_collected_with_their_log(tmp_path: Path) -> None:
    a_build(tmp_path / "build")
    out = tmp_path / "packed"
    text = printed("mini", "pack", "--build", tmp_path / "build", "--out", out)
    assert "| `net` |" in text and "auc 0.9" in text
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {"owner/net/model.safetensors", "owner/net/REFBENCH_MINI", "build.json"}
    log = read_json_object(out / "build.json")
    assert log["parts"][0]["part"] == "net" and log["parts"][0]["machine"]["device"]
    # Packing again replaces what is there; a folder of something else is left alone.
    printed("mini", "pack", "--build", tmp_path / "build", "--out", out)
    (tmp_path / "mine").mkdir()
    told = complaint("mini", "pack", "--build", tmp_path / "build", "--out", tmp_path / "mine")
    assert "holds no build.json" in told


def test_other_files_and_large_ones_are_refused(tmp_path: Path) -> None:
    build = a_build(tmp_path / "build")
    (build.weights / "owner/net/model.safetensors").write_bytes(b"other")
    told = complaint("mini", "pack", "--build", tmp_path / "build", "--out", tmp_path / "packed")
    assert "is not the file that its part wrote" in told
    a_build(tmp_path / "large", size=13 * 2**20)
    told = complaint("mini", "pack", "--build", tmp_path / "large", "--out", tmp_path / "packed")
    assert "at most 48 and 12 come with the package" in told
    assert "no finished part" in complaint("mini", "pack", "--build", tmp_path, "--out", tmp_path / "packed")
