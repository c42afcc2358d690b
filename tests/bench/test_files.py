"""Files are read and written in one way."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import (
    contained_file,
    is_disk_error,
    leaves_its_folder,
    read_bytes,
    read_json,
    read_json_object,
    read_text,
    remove_leftovers,
    replacing,
    scratch_folder,
    shortlist,
    visible,
    write_json,
    write_text,
)
from refbench.bench.weights.store import sha256_of


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/file.txt"
    write_text(path, "first")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "C:\\x", "a\0b", "\\\\host\\share"])
def test_paths_that_leave_their_folder(tmp_path: Path, path: str) -> None:
    assert leaves_its_folder(path)
    with pytest.raises(SampleError, match="leaves the data set's folder"):
        contained_file(tmp_path, path)


def test_a_link_may_not_lead_out_of_the_folder_but_the_folder_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert contained_file(tmp_path / "link", "a.txt") == tmp_path / "real/a.txt"
    assert contained_file(tmp_path / "link", "b.txt") is None
    (tmp_path / "secret.txt").touch()
    (tmp_path / "real/out").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(SampleError, match="leaves the data set's folder"):
        contained_file(tmp_path / "real", "out")


def test_json_objects(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": 1})
    assert read_json_object(tmp_path / "a.json") == {"ä": 1}
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        read_json_object(tmp_path / "list.json")
    (tmp_path / "twice.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(UserError, match="appears twice"):
        read_json_object(tmp_path / "twice.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json_object(tmp_path / "none.json")


def test_shortlists() -> None:
    assert shortlist(["a", "b"]) == "a, b"
    assert shortlist("abcdefg", 3) == "a, b, c and 4 more"


@pytest.fixture(params=["pipe", "device", "folder", "sparse file", "socket"])
def no_text(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """What stands where a text file should be, and how it is called."""
    path = tmp_path / "thing"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "socket":
        listening = socket.socket(socket.AF_UNIX)
        # The name of a socket may be short alone.
        short = tempfile.mkdtemp()
        listening.bind(f"{short}/s")
        listening.close()
        path.symlink_to(f"{short}/s")
        request.addfinalizer(lambda: shutil.rmtree(short))
    else:
        with path.open("wb") as file:
            file.truncate(200 * 2**30)
    named = {"pipe": "is a named pipe, not a file", "device": "is a device, not a file"}
    named |= {"folder": "is a folder, not a file", "socket": "is a socket, not a file"}
    return path, named.get(request.param, "is larger than 24 MiB: not a file of this kind")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("read", [read_text, read_json, read_json_object, read_bytes])
def test_only_regular_files_of_a_bounded_size_are_opened(
    no_text: tuple[Path, str], read: Callable[[Path], object]
) -> None:
    path, said = no_text
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == f"{path} {said}"


def test_weights_are_hashed_under_the_same_rule(no_text: tuple[Path, str]) -> None:
    path, said = no_text
    with pytest.raises(UserError, match=r"128 GiB" if "larger" in said else said):
        sha256_of(path)


def test_a_byte_order_mark_and_foreign_line_ends_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a":\r\n"b"}')
    assert read_json_object(tmp_path / "a.json") == {"a": "b"}
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(tmp_path / "a.txt") == "one\ntwo\nthree\n"


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from refbench.bench.files import replacing, scratch_folder
scratch = scratch_folder("test")
(Path(scratch.name) / "large.bin").write_bytes(b"half")
with replacing(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    print(partial, scratch.name, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def writer(path: Path, end: str, temporary: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing a file, and (`killed`) its end there."""
    return subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(path), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=temporary,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def left_by(process: subprocess.Popen[str]) -> list[Path]:
    assert process.stdout is not None
    return [Path(name) for name in process.stdout.readline().split()]


def test_what_killed_processes_left_goes_with_the_next_write_and_what_living_ones_write_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    folder = tmp_path / "run"
    with writer(folder / "b.mp4", "lives", temporary) as living:
        alive = left_by(living)
        with writer(folder / "a.mp4", "killed", temporary) as killed:
            dead = left_by(killed)
        # Another machine's process ids say nothing here.
        machine, _ = dead[0].name.split(".")[-2].split("-")
        foreign = folder / dead[0].name.replace(machine, "0" * 8 if machine != "0" * 8 else "1" * 8)
        foreign.write_bytes(b"half")
        others = [foreign, folder / ".a.mp4.partial", folder / ".notes"]
        for path in others[1:]:
            path.touch()
        assert all(path.exists() for path in (*dead, *alive))
        write_text(folder / "c.txt", "c")
        scratch_folder("test").cleanup()
        assert [path.exists() for path in (*dead, *alive, *others)] == [False] * 2 + [True] * 5
        living.communicate("")
    assert (folder / "b.mp4").read_bytes() == b"half"


def test_leftovers_of_a_folder_that_is_not_there_are_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "nowhere")


def test_errors_of_a_disk_are_told_from_those_of_a_file() -> None:
    assert is_disk_error(OSError(errno.ENOSPC, "No space left on device"))
    assert is_disk_error(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not is_disk_error(FileNotFoundError(errno.ENOENT, "No such file"))
    assert not is_disk_error(RuntimeError("No space left on device"))


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "._a.safetensors", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in visible(tmp_path, "*.safetensors")] == ["a.safetensors", "b.safetensors"]
    assert visible(tmp_path / "nowhere") == []
