"""Files are read and written in one way."""

from __future__ import annotations

from pathlib import Path

import pytest

from refbench.bench.errors import SampleError, UserError
from refbench.bench.files import (
    contained_file,
    leaves_its_folder,
    read_json_object,
    replacing,
    shortlist,
    write_json,
    write_text,
)


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
