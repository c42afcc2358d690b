"""The weight catalogue: search order, pulls and their manifests, damaged files, tiny weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import main as cli
from bench.dataset import load_track
from bench.errors import MissingWeights, UserError
from bench.registry import metrics
from bench.weights import (
    CATALOGUE,
    MANIFEST_FILE,
    TINY_MARKER,
    file_digests,
    get_entry,
    how_to_get,
    locate,
    missing_packages,
    read_manifest,
    require,
    require_file,
    require_model_folder,
    verify,
)

GME = CATALOGUE["gme-qwen2-vl-7b"]


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFBENCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the hub: what it would send, and what it was asked."""
    state: dict[str, Any] = {"files": {"config.json": "{}", "model.safetensors": "x" * 100}, "asked": []}

    def snapshot_download(repository: str, **arguments: Any) -> str:
        state["asked"].append((repository, arguments))
        place = Path(arguments["local_dir"])
        for name, text in state["files"].items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        return str(place)

    class Api:
        def model_info(self, repository: str, revision: str | None) -> Any:
            if state.get("down"):
                raise OSError("no network")
            return SimpleNamespace(sha="abc123def456", card_data={"license": "apache-2.0"})

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return state


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, ["weights", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def test_every_metrics_weights_are_in_the_catalogue() -> None:
    for name in metrics.names():
        for weights in metrics.get(name).declaration.weights:
            assert name in CATALOGUE[weights].used_by, (name, weights)


def test_the_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {
        "short": tmp_path / "given" / GME.repository.partition("/")[2],
        "cache": tmp_path / f"cache/models--{GME.repository.replace('/', '--')}/snapshots/abc",
    }
    assert locate(GME, tmp_path / "given") is None
    for place in reversed(places.values()):
        place.mkdir(parents=True)
        assert locate(GME, tmp_path / "given") == place
    (tmp_path / "given" / GME.repository).mkdir(parents=True)
    assert locate(GME, tmp_path / "given") == tmp_path / "given" / GME.repository
    monkeypatch.setenv("REFBENCH_WEIGHTS", str(tmp_path / "given"))
    assert require(GME.name, None) == tmp_path / "given" / GME.repository


def test_what_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="refbench weights pull gme-qwen2-vl-7b"):
        require(GME.name, tmp_path)
    (tmp_path / GME.repository).mkdir(parents=True)
    with pytest.raises(MissingWeights, match=r"lacks a\.bin or b\.bin"):
        require_file(GME.name, ("a.bin", "b.bin"), tmp_path)
    with pytest.raises(MissingWeights, match=r"lacks config\.json"):
        require_model_folder(GME.repository, tmp_path)
    with pytest.raises(MissingWeights, match="hf download owner/other"):
        require_model_folder("owner/other", tmp_path)
    with pytest.raises(UserError, match="no weights are called 'gpt'"):
        get_entry("gpt")
    assert missing_packages(("json",)) is None
    assert "needs no_such_module" in str(missing_packages(("json", "no_such_module")))


def test_a_pull_records_what_came(tmp_path: Path, hub: dict[str, Any]) -> None:
    text = invoke("pull", "--metric", "gmescore", "--weights", tmp_path / "w")
    assert "abc123def456: 2 files" in text and "licence apache-2.0" in text
    (asked,) = hub["asked"]
    assert asked[0] == GME.repository and asked[1]["revision"] == "abc123def456"
    manifest = read_manifest(tmp_path / "w" / GME.repository)
    assert manifest is not None and manifest.files["model.safetensors"].bytes == 100
    assert "2 files as pulled" in invoke("verify", GME.name, "--weights", tmp_path / "w")
    assert f"{GME.repository}: apache-2.0" in invoke("licences", "--weights", tmp_path / "w")
    listed = json.loads(invoke("list", "--weights", tmp_path / "w", "--json"))
    assert listed[GME.name]["revision"] == "abc123def456"
    assert listed["one-align"]["place"] is None
    assert listed["one-align"]["revision"] == "unverified"
    assert "non-commercial" in invoke("licences")


def test_nothing_is_pulled_unasked(tmp_path: Path, hub: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="say where weights are kept"):
        invoke("pull", GME.name)
    with pytest.raises(UserError, match="name what to pull"):
        invoke("pull", "--weights", tmp_path)
    with pytest.raises(UserError, match="needs no weights"):
        invoke("pull", "--metric", "motion-amplitude", "--weights", tmp_path)
    assert hub["asked"] == []
    hub["down"] = True
    with pytest.raises(UserError, match="could not be downloaded: no network"):
        invoke("pull", GME.name, "--weights", tmp_path)


def test_truncated_and_changed_files_are_one_line_with_the_expected_size(
    tmp_path: Path, hub: dict[str, Any]
) -> None:
    invoke("pull", GME.name, "--weights", tmp_path)
    place = tmp_path / GME.repository
    (place / "model.safetensors").write_text("y" * 100)
    assert "SHA-256 differs" in verify(GME, place)[0]
    assert require(GME.name, tmp_path) == place
    (place / "model.safetensors").write_text("x" * 60)
    with pytest.raises(
        UserError, match=r"model\.safetensors has 60 bytes instead of 100; refbench weights pull"
    ):
        require(GME.name, tmp_path)
    (place / "model.safetensors").unlink()
    assert verify(CATALOGUE["one-align"], place)[0].endswith("lacks tokenizer.model")
    with pytest.raises(UserError, match="1 file missing or not as pulled"):
        invoke("verify", GME.name, "--weights", tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"repository": "x"}', '{"files": {"../../etc/passwd": {}}}'])
def test_hostile_manifests_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_manifest(tmp_path)
    files = {"../secret": {"bytes": 1, "sha256": "0"}}
    (tmp_path / "config.json").touch()
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({"repository": "r", "revision": "1", "files": files}))
    with pytest.raises(UserError, match="outside of its folder"):
        verify(GME, tmp_path)


def test_digests_of_tiny_weights_are_marked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    plain = file_digests(tmp_path, {"a": tmp_path / "a"})["a"]
    (tmp_path / TINY_MARKER).touch()
    assert file_digests(tmp_path, {"a": tmp_path / "a"})["a"] == f"tiny:{plain}"


def test_tiny_weights_are_never_written_among_others(tmp_path: Path) -> None:
    (tmp_path / "openai/clip-vit-large-patch14").mkdir(parents=True)
    with pytest.raises(UserError, match="holds other weights"):
        invoke("make-tiny", tmp_path)


def test_the_data_set_is_downloaded_only_by_its_word(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repository: str, **arguments: Any) -> str:
        asked.append((repository, arguments["repo_type"], arguments["revision"]))
        if arguments["revision"] == "gone":
            raise OSError("no such revision")
        return str(dataset)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_track("open-domain", "hub").samples
    assert load_track("open-domain", "hub@v1").samples
    assert asked == [
        ("BestWishYsh/OpenS2V-Eval", "dataset", None),
        ("BestWishYsh/OpenS2V-Eval", "dataset", "v1"),
    ]
    with pytest.raises(UserError, match="could not be downloaded"):
        load_track("open-domain", "hub@gone")


def test_how_to_get_names_the_catalogue() -> None:
    assert how_to_get(GME).startswith("refbench weights pull gme-qwen2-vl-7b")
