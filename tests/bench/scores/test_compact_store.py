"""A compacted store: the latest lines alone, and whole at any moment."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kit.cli import complaint, printed
from kit.records import record
from refbench.bench import files
from refbench.bench.errors import UserError
from refbench.bench.scores.record import Record
from refbench.bench.scores.store import (
    StoreWriter,
    compact_store,
    load_records,
    read_latest,
    read_records,
)

LATEST = [record("x", "a_1", 3.0), record("x", "a_2", 2.0), record("y", "a_1", reason="missing_video")]
TORN = b'{"schema_version":1,"meth'


def line(one: Record) -> bytes:
    return one.model_dump_json().encode() + b"\n"


def write_store(path: Path, end: bytes = b"") -> tuple[bytes, bytes]:
    """A store with superseded lines; its content now, and as compacting should leave it."""
    first, second, third = LATEST
    lines = [record("x", "a_1", 1.0), second, record("y", "a_1", 0.5), record("x", "a_1", 2.0), third, first]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(line, lines)) + end)
    return path.read_bytes(), b"".join(map(line, LATEST))


def digest(store: Path) -> str:
    return hashlib.sha256(b"".join(map(line, load_records(store)))).hexdigest()


def folder_of(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()} - {path.with_suffix(".lock").name}


@pytest.mark.parametrize("end", [b"", TORN, b"\0\0\0"])
def test_the_latest_lines_stay_and_their_digest(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    before, after = write_store(path, end)
    path.chmod(0o640)
    records, latest_digest = list(read_latest([path]).values()), digest(tmp_path)
    done = compact_store(path)
    assert path.read_bytes() == after
    assert (done.lines, done.removed_lines) == (6, 3)
    assert (done.size_bytes, done.removed_bytes) == (len(before), len(before) - len(after))
    assert (read_records(path), digest(tmp_path)) == (records, latest_digest)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert folder_of(path) == {path.name}


def test_lines_stay_byte_for_byte_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    path.parent.mkdir()
    # By another hand: spaces, another order, a number without a point, a Windows line end.
    odd = line(LATEST[1]).replace(b'"value":2.0', b'"value": 2').replace(b"}}\n", b"}}\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + line(record("x", "a_1", 1.0)) + odd + line(LATEST[0]))
    compact_store(path)
    assert path.read_bytes() == line(LATEST[0]) + odd


def test_where_nothing_is_superseded_the_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    write_store(path)
    compact_store(path)
    before = path.stat()
    done = compact_store(path)
    assert (done.lines, done.removed_lines, done.removed_bytes) == (3, 0, 0)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "m/open-domain.jsonl", tmp_path / "disk/scores.jsonl"
    _, after = write_store(elsewhere)
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    compact_store(path)
    assert path.is_symlink()
    assert elsewhere.read_bytes() == after


def test_a_store_that_is_written_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    before, after = write_store(path)
    with StoreWriter(path), pytest.raises(UserError, match="is being written by another run"):
        compact_store(path)
    assert path.read_bytes() == before
    for damaged in (before.replace(b'"a_2"', b'"a_2', 1), before + b"no record"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is no score record"):
            compact_store(path)
        assert path.read_bytes() == damaged
    # Neither refusal holds the lock on.
    path.write_bytes(before)
    compact_store(path)
    with StoreWriter(path) as writer:
        writer.append([record("x", "a_9", 1.0)])
    assert path.read_bytes() == after + line(record("x", "a_9", 1.0))


@pytest.mark.parametrize("step", ["fsync", "replace", "interrupted"])
def test_a_fault_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    before, after = write_store(path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "replace":
            patch.setattr(Path, "replace", full)
        else:
            patch.setattr(os, "fsync", full if step == "fsync" else interrupted)
        with pytest.raises((OSError, KeyboardInterrupt)):
            compact_store(path)
    assert path.read_bytes() == before
    assert folder_of(path) == {path.name}
    compact_store(path)
    assert path.read_bytes() == after


# Forks for each line that compacting runs through, and kills the child before it; but for those that read.
KILLED_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
from refbench.bench.scores.store import compact_store

path, before, after = Path(sys.argv[1]), *(Path(name).read_bytes() for name in sys.argv[2:])

def killed_at(step):
    path.write_bytes(before)
    child = os.fork()
    if child:
        return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = step
    def count(frame, event, argument):
        nonlocal left
        code = frame.f_code
        if not code.co_filename.endswith(("scores/store.py", "bench/files.py")):
            return None
        if code.co_name in ("_stored", "_whole_lines", "regular_size"):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    compact_store(path)
    os._exit(0)

found, step = set(), 0
while killed_at(step):
    content = path.read_bytes()
    assert content in (before, after), (step, content)
    found.add(content)
    step += 1
assert path.read_bytes() == after
assert found == {before, after}, step
print(step, *sorted(file.name for file in path.parent.iterdir()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_line_the_file_is_the_former_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    contents = [tmp_path / "before", tmp_path / "after"]
    for file, content in zip(contents, write_store(path, TORN), strict=True):
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(path), *map(str, contents)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps, *names = done.stdout.split()
    assert int(steps) > 50
    # What the killed ones were writing went with the last one.
    assert set(names) == {path.name, path.with_suffix(".lock").name}


def test_the_command_says_how_many_lines_and_bytes_went(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    before, after = write_store(path)
    went = len(before) - len(after)
    assert printed("compact", tmp_path) == f"{path}: 3 of 6 lines removed, {went} of {len(before)} bytes\n"
    assert printed("compact", path) == f"{path}: 0 of 3 lines removed, 0 of {len(after)} bytes\n"
    assert "does not exist" in complaint("compact", tmp_path / "nowhere")


def test_what_a_killed_one_was_writing_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    write_store(path)
    with files.replacing(path) as partial:
        partial.write_bytes(b"half of it")
        assert load_records(tmp_path) == LATEST
        partial.write_bytes(path.read_bytes())
