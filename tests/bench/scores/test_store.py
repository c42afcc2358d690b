"""Records and their store: one writer, a last line that is cut off, merging."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.records import record
from refbench.bench.errors import UserError
from refbench.bench.scores.record import Record, latest
from refbench.bench.scores.store import (
    StoreWriter,
    load_records,
    merge_stores,
    read_records,
    store_files,
    store_path,
)


def write(path: Path, *records: Record) -> None:
    with StoreWriter(path) as writer:
        writer.append(records)


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=50))
def test_a_record_survives_its_line(value: float, text: str) -> None:
    original = record("facesim", "faceobj_1", value, details={"text": text, "list": [1, None, {"a": 0.1}]})
    assert Record.model_validate_json(original.model_dump_json()) == original


@pytest.mark.parametrize(
    "fields",
    [
        {"value": None, "reason": None},
        {"value": 1.0, "reason": "failed: both"},
        {"value": float("nan"), "reason": None},
        {"value": float("inf"), "reason": None},
        {"value": None, "reason": "because"},
    ],
)
def test_a_record_holds_a_value_or_a_known_reason(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        record("facesim", "a_1", **fields)  # type: ignore[arg-type]


def test_the_last_record_of_a_key_wins(tmp_path: Path) -> None:
    path = store_path(tmp_path, "m", "open-domain")
    write(path, record("x", "a_1", 1.0), record("x", "a_2", 2.0))
    write(path, record("x", "a_1", 3.0))
    assert [one.value for one in read_records(path)] == [1.0, 2.0, 3.0]
    assert [one.value for one in load_records([tmp_path])] == [3.0, 2.0]
    assert len(latest(read_records(path))) == 2


@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("store") / "m" / "t.jsonl"
    write(path, record("x", "a_1", 1.0), record("x", "a_2", 2.0))
    whole = path.read_bytes()
    line = whole.splitlines(keepends=True)[1]
    path.write_bytes(whole[: len(whole) - min(cut, len(line))])
    assert [one.value for one in read_records(path)] == [1.0]
    write(path, record("x", "a_3", 3.0))
    assert [one.value for one in read_records(path)] == [1.0, 3.0]


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m" / "t.jsonl"
    write(path, record("x", "a_1", 1.0), record("x", "a_2", 2.0))
    path.write_bytes(path.read_bytes().replace(b'"a_1"', b'"a_1', 1))
    with pytest.raises(UserError, match="line 1 is no score record"):
        read_records(path)
    with pytest.raises(UserError, match="line 1"), StoreWriter(path):
        pass
    newer = record("x", "a_1", 1.0).model_dump_json().replace('"schema_version":1', '"schema_version":2')
    path.write_text(newer + "\n")
    with pytest.raises(UserError, match="schema_version"):
        read_records(path)


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    path = store_path(tmp_path, "m", "t")
    code = (
        "import sys, pathlib\n"
        "from refbench.bench.errors import UserError\n"
        "from refbench.bench.scores.store import StoreWriter\n"
        "try:\n"
        "    StoreWriter(pathlib.Path(sys.argv[1])).__enter__()\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    with StoreWriter(path):
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "is being written by another run" in done.stdout
    # Nothing is left behind that would refuse the next run.
    write(path, record("x", "a_1", 1.0))


def test_names_that_are_no_folder_names_are_refused(tmp_path: Path) -> None:
    for name in ("", "../up", "a/b", "a b", ".hidden", "x" * 200):
        with pytest.raises(UserError, match="may hold"):
            store_path(tmp_path, name, "open-domain")


def test_merging_shards_keeps_what_was_scored(tmp_path: Path) -> None:
    missing = {"value": None, "reason": "missing_video"}
    write(store_path(tmp_path / "1", "m", "t"), record("x", "a_1", 1.0), record("x", "a_2", **missing))
    write(store_path(tmp_path / "2", "m", "t"), record("x", "a_1", **missing), record("x", "a_2", 2.0))
    counts = merge_stores([tmp_path / "1", tmp_path / "2"], tmp_path / "all")
    assert list(counts.values()) == [2]
    assert {one.sample: one.value for one in load_records([tmp_path / "all"])} == {"a_1": 1.0, "a_2": 2.0}
    # Merging again changes nothing.
    before = (tmp_path / "all/m/open-domain.jsonl").read_bytes()
    assert list(merge_stores([tmp_path / "2"], tmp_path / "all").values()) == [0]
    assert (tmp_path / "all/m/open-domain.jsonl").read_bytes() == before


def test_stores_are_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        store_files([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no score records"):
        store_files([tmp_path])
    path = store_path(tmp_path, "m", "t")
    write(path, record("x", "a_1", 1.0))
    assert store_files([tmp_path, path]) == [path]


def test_a_lock_that_is_held_names_its_owner_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    with StoreWriter(path), pytest.raises(UserError) as caught, StoreWriter(path):
        pass
    told = str(caught.value)
    assert f"being written by another run (process {os.getpid()} on " in told
    assert f"remove {path.with_suffix('.lock')}" in told


def test_hidden_files_are_nobodys_and_a_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    with StoreWriter(path) as writer:
        writer.append([record("gmescore", "singleobj_1", 0.5)])
    (tmp_path / "m/._open-domain.jsonl").write_bytes(b"\x00\x05\x16\x07\n")
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash/old.jsonl").write_text("{}\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert store_files(tmp_path) == [path]
    assert [one.value for one in load_records(tmp_path)] == [0.5]


def unreadable(tmp_path: Path, kind: str) -> Path:
    """What no store is: opening it would wait for ever, or take more memory than there is."""
    path = tmp_path / "m" / "t.jsonl"
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(200 * 2**30)
    return path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "is a named pipe, not a file"),
        ("device", "is a device, not a file"),
        ("sparse", "is larger than 16 GiB: not a file of this kind"),
    ],
)
def test_a_store_is_a_regular_file_of_bounded_size(tmp_path: Path, kind: str, why: str) -> None:
    path = unreadable(tmp_path, kind)
    for act in (
        lambda: write(path, record("facesim", "faceobj_1", 0.5)),
        lambda: read_records(path),
        lambda: load_records(path),
        lambda: load_records(tmp_path),
        lambda: merge_stores([tmp_path], tmp_path / "merged"),
    ):
        with pytest.raises(UserError) as caught:
            act()
        assert str(caught.value) == f"{path} {why}"
