"""Publishing: what would go, that nothing goes unasked, and that no key is ever shown or sent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit.cli import complaint, invoke, printed

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """The calls that a stand-in for the hub's client took."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repository: str, **arguments: Any) -> None:
            calls.append(("create_repo", repository, arguments))

        def create_commit(self, repository: str, operations: Any, **arguments: Any) -> Any:
            sent = {one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations}
            calls.append(("create_commit", repository, {"sent": sent, **arguments}))
            return SimpleNamespace(
                commit_url=f"https://hub/{repository}/commit/1",
                pr_url=f"https://hub/{repository}/discussions/1" if arguments["create_pr"] else None,
            )

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return calls


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for name, content in {
        "report.html": b"<p>",
        "tables/table [1]*.md": b"x" * 2048,
        ".eval_results/opens2v-eval-open-domain.yaml": b"- {}",
        ".env": b"secret",
        ".git/config": b"c",
        "tables/.DS_Store": b"d",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "out.txt").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    return folder


SENT = {
    ".eval_results/opens2v-eval-open-domain.yaml": b"- {}",
    "report.html": b"<p>",
    "tables/table [1]*.md": b"x" * 2048,
}


def test_without_yes_files_and_sizes_are_listed_and_nobody_is_spoken_to(
    hub: list[Any], results: Path
) -> None:
    done = invoke("publish", results, "--repo", "me/mine")
    assert not hub
    assert "To me/mine (dataset): 3 files, 2.0 KiB" in done.stdout
    lines = {line.rpartition("  ")[0].strip(): line.split()[-2:] for line in done.stdout.splitlines()[2:]}
    assert lines["tables/table [1]*.md"] == ["2.0", "KiB"] and lines["report.html"] == ["3", "B"]
    assert "nothing was sent: --yes sends these files" in done.stdout
    for name in (".env: hidden", ".git: hidden", "out.txt: a link", "pipe: no regular file"):
        assert name in done.stderr
    plan = json.loads(printed("publish", results, "--repo", "me/mine", "--into", "a/b", "--json"))
    assert [one["path"] for one in plan["files"]] == [f"a/b/{name}" for name in sorted(SENT)]
    assert plan["sent_to"] is None and not hub


def test_with_yes_exactly_the_listed_files_go_as_one_commit(hub: list[Any], results: Path) -> None:
    done = invoke("publish", results, "--repo", "me/mine", "--yes")
    (made, committed) = hub
    assert made == ("create_repo", "me/mine", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert committed[2]["sent"] == SENT and committed[2]["create_pr"] is False
    assert "3 files" in done.stdout and "sent: https://hub/me/mine/commit/1" in done.stdout
    assert TOKEN not in done.output


def test_a_pull_request_makes_no_repository_and_a_new_one_is_public_when_asked(
    hub: list[Any], results: Path
) -> None:
    words = ("publish", results, "--repo", "you/yours", "--kind", "model", "--yes")
    assert "discussions/1" in printed(*words, "--pull-request")
    assert [call[0] for call in hub] == ["create_commit"] and hub[0][2]["repo_type"] == "model"
    hub.clear()
    printed("publish", results, "--repo", "me/site", "--kind", "space", "--public", "--yes")
    assert hub[0][2]["private"] is False and hub[0][2]["space_sdk"] == "static"


def test_no_token_stands_in_what_the_hub_says(
    hub: list[Any], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses:
        def create_repo(self, repository: str, **arguments: Any) -> None:
            raise RuntimeError(f"401\nBearer {TOKEN} is not hf_ABCDEFGH12345678 nor\n{TOKEN}")

    monkeypatch.setattr("huggingface_hub.HfApi", Refuses)
    line = complaint("publish", results, "--repo", "me/mine", "--yes")
    assert line.startswith("me/mine: the hub took nothing: 401")
    assert "hf_" not in line


@pytest.mark.parametrize("secret", [TOKEN, "sk-0123456789"])
def test_a_file_that_holds_a_key_is_refused(
    hub: list[Any], results: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    (results / "tables/log.txt").write_text(f"key: {secret}\n")
    for more in ([], ["--yes"]):
        line = complaint("publish", results, "--repo", "me/mine", *more)
        assert "log.txt holds your hub token or the judge's key" in line and secret not in line
    assert not hub


def test_what_cannot_be_published_is_one_line(hub: list[Any], results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((tmp_path / "none", "--repo", "me/mine"), "does not exist"),
        ((tmp_path / "empty", "--repo", "me/mine"), "holds no file that could be published"),
        ((results, "--repo", "mine"), "--repo takes owner/name"),
        ((results, "--repo", "me/../mine"), "--repo takes owner/name"),
        ((results, "--repo", "https://hub/me/mine"), "--repo takes owner/name"),
        ((results, "--repo", "me/mine", "--kind", "bucket"), "--kind is dataset, model, space"),
        ((results, "--repo", "me/mine", "--into", "../up"), "leads out of the repository"),
    ):
        assert said in complaint("publish", *words, "--yes")
    assert not hub
