"""Training data, the index of big annotation files: places of entries, broken files, cache, paths."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import contained_file
from refbench.refalign.data.shards import AnnotationShard, line_entries, object_entries

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def shard(path: Path, text: str | bytes, cache: Path | None = None) -> AnnotationShard:
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return AnnotationShard(path, object_entries if path.suffix == ".json" else line_entries, cache)


def members(read: AnnotationShard) -> list[Any]:
    """Each entry's key and value, or the reason why it has none."""
    found: list[Any] = []
    for number in range(len(read)):
        try:
            found.append(read.member(number))
        except SampleError as error:
            found.append(str(error).split(":")[0])
    return found


@settings(max_examples=150, deadline=None)
@given(
    content=st.dictionaries(st.text(max_size=8), VALUES, max_size=6),
    indent=st.sampled_from([None, 1, 4]),
    escaped=st.booleans(),
)
def test_entries_are_those_that_the_json_parser_finds(
    content: dict[str, Any], indent: int | None, escaped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.json"
    text = json.dumps(content, indent=indent, ensure_ascii=escaped)
    read = shard(path, f" \n{text}\n")
    assert members(read) == list(content.items())
    assert [read.find(key) for key in content] == list(range(len(content)))
    assert read.find("not a key of this file") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"x": 1}, "b": {"y": [1,', [("a", {"x": 1}), "broken JSON"]),
        ('{"a": {"x": 1}, "b": "never ends', [("a", {"x": 1}), "broken JSON"]),
        ('{"a": {"x": 1}', [("a", {"x": 1}), "broken JSON"]),
        ('{"a": {"x": nul}, "b": {"y": 2}}', ["broken JSON", ("b", {"y": 2})]),
        ('{"a": {"x": 1]}, "b": {"y": 2}}', ["broken JSON", "broken JSON"]),
        ('{"a": {}, {"b": 1}, "c": {}}', [("a", {}), "broken JSON", ("c", {})]),
        ('{"a": 5, "b": {"y": 2}}', [("a", 5), ("b", {"y": 2})]),
        ('{"a": {}} {"b": {}}', [("a", {}), "broken JSON"]),
        ('[{"a": 1}]', ["broken JSON"]),
        ("no json at all", ["broken JSON"]),
        ('{"a": {"deep": ' + "[" * 100_000 + "]" * 100_000 + '}, "b": {}}', ["broken JSON", ("b", {})]),
        ("{}", []),
        ("", []),
        ("  \n", ["broken JSON"]),
        (
            '{"a": {"x": 1}, "a": {"x": 2}}',
            [("a", {"x": 1}), "the id appears twice in its file; the first one is used"],
        ),
    ],
)
def test_broken_files_cost_the_entries_that_are_broken(
    text: str, expected: list[Any], tmp_path: Path
) -> None:
    assert members(shard(tmp_path / "shard.json", text)) == expected


def test_lines_are_counted_with_blank_ones_and_found_by_id(tmp_path: Path) -> None:
    read = shard(tmp_path / "a.jsonl", b'\n{"id": "x"}\r\n\n  \nbroken\n{"id": 5}\n{"id": "x"}')
    assert [read.line(number) for number in range(len(read))] == [2, 5, 6, 7]
    assert json.loads(read.read(0)) == {"id": "x"} and read.read(1) == b"broken"
    assert read.find("x") == 0
    with pytest.raises(SampleError, match="appears twice"):
        read.read(3)


def test_an_entry_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refbench.refalign.data.shards.LARGEST_ENTRY_BYTES", 40)
    for name, text in (("a.json", '{"a": {"x": "%s"}, "b": {}}'), ("a.jsonl", '"%s"\n{}\n')):
        read = shard(tmp_path / name, text % ("x" * 50))
        with pytest.raises(SampleError, match="too large"):
            read.read(0)
        assert read.read(1)


def test_the_index_is_kept_and_made_anew_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    path = tmp_path / "data" / "shard.json"
    path.parent.mkdir()
    assert members(shard(path, '{"a": {"x": 1}}', cache)) == [("a", {"x": 1})]
    assert [file.name for file in path.parent.iterdir()] == ["shard.json"]
    (before,) = cache.glob("*.npy")

    def never(content: object) -> Any:
        raise AssertionError("the index is there already")

    assert members(AnnotationShard(path, never, cache)) == [("a", {"x": 1})]
    changed = shard(path, '{"b": {"x": 1}}', cache)
    assert members(changed) == [("b", {"x": 1})] and changed.find("a") is None
    (after,) = cache.glob("*.npy")
    assert after != before

    os.utime(path, ns=(1, 1))
    assert members(AnnotationShard(path, object_entries, cache)) == [("b", {"x": 1})]
    assert len(list(cache.glob("*.npy"))) == 1


def test_shards_of_one_name_keep_apart_in_the_cache(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = shard(tmp_path / "a" / "s.json", '{"a": {}}', tmp_path / "cache")
    second = shard(tmp_path / "b" / "s.json", '{"b": {}}', tmp_path / "cache")
    assert members(first) == [("a", {})] and members(second) == [("b", {})]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_shard_goes_to_workers_without_its_mapped_index(tmp_path: Path) -> None:
    text = json.dumps({f"clip {number}": {} for number in range(500)})
    for cache, most in ((tmp_path / "cache", 2_000), (None, 30_000)):
        read = shard(tmp_path / "shard.json", text, cache)
        assert read.find("clip 77") == 77
        sent = pickle.dumps(read)
        assert len(sent) < most
        copy = pickle.loads(sent)  # noqa: S301 - written one line above
        assert copy.find("clip 77") == 77 and len(copy) == 500


def test_faults_of_the_user_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        AnnotationShard(tmp_path / "none.json", object_entries, None)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"the cache folder .* cannot be used"):
        shard(tmp_path / "shard.json", "{}", blocked / "cache")
    cache = tmp_path / "cache"
    read = shard(tmp_path / "shard.json", '{"a": {}}', cache)
    for file in cache.glob("*.npy"):
        file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"the index .* cannot be read"):
        len(read)


def test_numpy_rows_are_small() -> None:
    from refbench.refalign.data.shards import ENTRY

    assert np.dtype(ENTRY).itemsize == 40


def test_paths_stay_in_their_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a.mp4").write_text("")
    (root / "link.mp4").symlink_to(outside / "a.mp4")
    (root / "out").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "inner.mp4").symlink_to(root / "sub" / "a.mp4")
    (tmp_path / "elsewhere").symlink_to(root)
    assert contained_file(root, "sub/a.mp4") == (root / "sub" / "a.mp4").resolve()
    assert contained_file(root, "inner.mp4") == (root / "sub" / "a.mp4").resolve()
    assert contained_file(tmp_path / "elsewhere", "sub/a.mp4") is not None
    assert contained_file(root, "sub/none.mp4") is None
    assert contained_file(root, "sub") is None
    escapes = [
        "/etc/passwd",
        "../outside/a.mp4",
        "sub/../../outside/a.mp4",
        "link.mp4",
        "out/a.mp4",
        "",
        "a\0b",
    ]
    for path in [*escapes, "C:\\a.mp4", "\\\\host\\a.mp4", "..\\a.mp4"]:
        with pytest.raises(SampleError, match="leaves the data set's folder"):
            contained_file(root, path)
    for path in ("loop", "x" * 5000, "\ud800.mp4"):
        try:
            assert contained_file(root, path) is None
        except SampleError as error:
            assert "cannot be followed" in str(error)
