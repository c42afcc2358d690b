"""The weight catalogue: search order, pulls and their manifests, damaged files, tiny weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from refbench.bench.cli import main as cli
from refbench.bench.dataset import load_track
from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.files import replacing, write_json
from refbench.bench.registry import methods, metrics
from refbench.bench.runs.official_videos import pull_results
from refbench.bench.weights.catalogue import Declared, catalogue, get_entry, joined
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.kind import TINY_MARKER
from refbench.bench.weights.store import (
    LARGEST_HASHED_BYTES,
    MANIFEST_FILE,
    SAMPLED_BYTES,
    file_digests,
    how_to_get,
    is_tiny,
    locate,
    missing_files,
    read_manifest,
    require,
    require_file,
    require_model_folder,
    verify,
    weights_fingerprint,
)
from refbench.bench.weights.tiny import marked_folder

GME = get_entry("gme-qwen2-vl-7b")


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


def test_the_catalogue_is_the_union_of_what_is_declared_and_knows_the_users() -> None:
    rows = catalogue()
    for name in metrics.names():
        declaration = metrics.get(name).declaration
        for entry in (*declaration.weights, *declaration.optional_weights):
            assert rows[entry.name].entry == entry
            assert name in rows[entry.name].used_by
    for name in methods.names():
        for entry in methods.get(name).weights:
            assert rows[entry.name].entry == entry
            assert name in rows[entry.name].used_by
    assert "refalign teacher" in rows["dinov3-vitl16"].used_by
    assert len(rows) == 36
    kinds = [row.entry.kind for row in rows.values()]
    assert kinds == sorted(kinds, key=["metric", "generator", "teacher"].index)


def test_one_name_for_two_weights_is_refused() -> None:
    ours = WeightEntry(name="same", repository="a/b", holds="one")
    theirs = WeightEntry(name="same", repository="c/d", holds="another")
    assert joined([Declared(user="x", entries=(ours,)), Declared(user="y", entries=(ours,))])[
        "same"
    ].used_by == ("x", "y")
    with pytest.raises(UserError, match="two different weights are called same: one of x, one of y"):
        joined([Declared(user="x", entries=(ours,)), Declared(user="y", entries=(theirs,))])


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
    assert require(GME, None) == tmp_path / "given" / GME.repository


def cached(tmp_path: Path, revision: str, *names: str, main: str | None = None) -> Path:
    """A snapshot of GME in the hub cache, and what `refs/main` names."""
    repository = tmp_path / f"cache/models--{GME.repository.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name in names:
        blob = repository / "blobs" / f"{revision}-{name}"
        blob.parent.mkdir(exist_ok=True)
        blob.write_text("{}")
        (snapshot / name).symlink_to(blob)
    if main is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs/main").write_text(main)
    return snapshot


def test_of_a_repositorys_snapshots_the_one_is_taken_that_main_names(tmp_path: Path) -> None:
    named = cached(tmp_path, "aaa", "config.json", "model.safetensors", main="aaa")
    later = cached(tmp_path, "bbb", "config.json")
    os.utime(named, (1, 1))
    assert locate(GME, None) == require(GME, None) == named
    # A revision that the entry itself declares comes first.
    assert locate(replace(GME, revision="bbb"), None) == later
    assert locate(replace(GME, revision="ccc"), None) == named


def test_a_snapshot_that_is_not_whole_is_one_line(tmp_path: Path) -> None:
    snapshot = cached(tmp_path, "aaa", "config.json", "one-00001-of-00002.safetensors", main="aaa")
    shards = {"a": "one-00001-of-00002.safetensors", "b": "one-00002-of-00002.safetensors"}
    (snapshot / "one.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    # Weights of which nothing was downloaded were left out on purpose.
    (snapshot / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    with pytest.raises(
        MissingWeights, match=r"aaa is not whole: it lacks one-00002-of-00002\.safetensors; ref"
    ):
        require(GME, None)
    (snapshot / "one-00002-of-00002.safetensors").write_text("x")
    assert require(GME, None) == snapshot
    (snapshot / "config.json").resolve().unlink()
    with pytest.raises(MissingWeights, match=r"is not whole: it lacks config\.json; refbench weights pull"):
        require(GME, None)


def test_a_snapshot_that_main_names_in_vain_is_one_line(tmp_path: Path) -> None:
    cached(tmp_path, "aaa", "config.json", main="bbb")
    assert locate(GME, None) is None
    with pytest.raises(MissingWeights, match="the hub cache's refs/main names bbb, which is not there"):
        require(GME, None)
    cached(tmp_path, "ccc", main="../../../etc")
    with pytest.raises(UserError, match=r"refs/main names no revision: '\.\./"):
        require(GME, None)
    # Without a main branch, one of several cannot be chosen.
    (tmp_path / f"cache/models--{GME.repository.replace('/', '--')}/refs/main").unlink()
    assert locate(GME, None) is None


def test_hidden_files_and_pipes_are_no_weights(tmp_path: Path) -> None:
    place = tmp_path / GME.repository
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "._model.safetensors").touch()
    with pytest.raises(MissingWeights, match=r"lacks model\.safetensors or pytorch_model\.bin"):
        require_model_folder(GME, tmp_path)
    os.mkfifo(place / "net.pth")
    with pytest.raises(MissingWeights, match=r"lacks net\.pth"):
        require_file(GME, ["net.pth"], tmp_path)


def test_what_is_missing_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="refbench weights pull gme-qwen2-vl-7b"):
        require(GME, tmp_path)
    (tmp_path / GME.repository).mkdir(parents=True)
    with pytest.raises(MissingWeights, match=r"lacks a\.bin or b\.bin"):
        require_file(GME, ("a.bin", "b.bin"), tmp_path)
    with pytest.raises(MissingWeights, match=r"lacks config\.json"):
        require_model_folder(GME.repository, tmp_path)
    with pytest.raises(MissingWeights, match="hf download owner/other"):
        require_model_folder("owner/other", tmp_path)
    with pytest.raises(UserError, match="no weights are called 'gpt'"):
        get_entry("gpt")


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
    assert require(GME, tmp_path) == place
    (place / "model.safetensors").write_text("x" * 60)
    with pytest.raises(
        UserError, match=r"model\.safetensors has 60 bytes instead of 100; refbench weights pull"
    ):
        require(GME, tmp_path)
    (place / "model.safetensors").unlink()
    assert verify(get_entry("one-align"), place)[0].endswith("lacks tokenizer.model")
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


KILLED_AT_THE_MARK = """
import os, signal, sys
from pathlib import Path
from refbench.bench.weights.kind import TINY_MARKER
from refbench.bench.weights.tiny import marked_folder

def hook(event, arguments):
    if event == sys.argv[2] and TINY_MARKER in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
marked_folder(Path(sys.argv[1]), "owner/name")
"""


@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_make_tiny_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """Killed between a repository's folder and its mark, it said for ever that other weights lie there."""
    words = [sys.executable, "-c", KILLED_AT_THE_MARK, str(tmp_path / "tiny"), event]
    assert subprocess.run(words, cwd=tmp_path).returncode == -signal.SIGKILL
    # The hub's own folder of downloads is no weights either.
    (tmp_path / "tiny/.cache/huggingface").mkdir(parents=True)
    writer = SimpleNamespace(write_tiny=lambda folder: marked_folder(folder, "owner/name"))
    monkeypatch.setattr("refbench.bench.weights.tiny._writers", lambda: [writer])
    invoke("make-tiny", tmp_path / "tiny")
    assert [path.name for path in (tmp_path / "tiny/owner").iterdir()] == ["name"]
    assert is_tiny(tmp_path / "tiny/owner/name")


def test_the_mark_of_tiny_weights_comes_first_and_whole(tmp_path: Path) -> None:
    place = marked_folder(tmp_path, "owner/name")
    assert [path.name for path in place.iterdir()] == [TINY_MARKER]
    assert (place / TINY_MARKER).read_text().endswith("scores mean nothing\n")


def test_what_a_killed_pull_left_is_not_recorded(tmp_path: Path, hub: dict[str, Any]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    place = tmp_path / GME.repository
    write_json(place / "other.json", {})
    with replacing(place / MANIFEST_FILE) as partial:
        partial.write_text("{}")
    left = partial.with_name(partial.name.replace(f"-{os.getpid()}.", f"-{gone.pid}."))
    left.write_text("half")
    invoke("pull", GME.name, "--weights", tmp_path)
    assert not left.exists()
    manifest = read_manifest(place)
    assert manifest is not None and sorted(manifest.files) == [
        "config.json",
        "model.safetensors",
        "other.json",
    ]


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


PHANTOM = get_entry("phantom")


def test_what_a_method_needs_is_pulled(
    tmp_path: Path, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine:
        weights: tuple[WeightEntry, ...] = (PHANTOM, get_entry("wan2.1-i2v-14b-480p"))

    monkeypatch.setattr(methods, "get", lambda name: Mine)
    text = invoke("pull", "--method", "mine", "--weights", tmp_path)
    assert "bytedance-research/Phantom@abc123def456" in text
    phantom, base = (arguments["allow_patterns"] for _, arguments in hub["asked"])
    # MAGREF brings its own transformer: the base's 14B are not fetched.
    assert phantom is None
    assert any(fnmatch("text_encoder/model-00001-of-00005.safetensors", pattern) for pattern in base)
    assert not any(fnmatch("transformer/diffusion_pytorch_model.safetensors", pattern) for pattern in base)
    Mine.weights = ()
    with pytest.raises(UserError, match="the method mine needs no weights"):
        invoke("pull", "--method", "mine", "--weights", tmp_path)


def test_required_files_may_lie_deeper_and_have_any_name(tmp_path: Path) -> None:
    entry = get_entry("wan2.1-t2v-1.3b")
    for name in ("transformer/config.json", "vae/config.json", "vae/x.safetensors", "tokenizer/spiece.model"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert missing_files(entry, tmp_path) == [
        "transformer/*.safetensors",
        "text_encoder/config.json",
        "text_encoder/*.safetensors",
    ]
    assert missing_files(PHANTOM, tmp_path) == list(PHANTOM.required)
    (tmp_path / "Phantom_Wan_14B-00001-of-00006.safetensors").touch()
    assert missing_files(PHANTOM, tmp_path) == []


def test_the_list_is_grouped_and_says_what_a_row_is(tmp_path: Path) -> None:
    text = invoke("list", "--weights", tmp_path)
    order = [text.index(title) for title in ("Weights of metrics", "Weights of generators", "Teachers of")]
    assert order == sorted(order)
    assert text.index("one-align") < order[1] < text.index("phantom-1.3b, phantom-14b") < order[2]
    listed = json.loads(invoke("list", "--weights", tmp_path, "--json"))
    assert {row["kind"] for row in listed.values()} == {"metric", "generator", "teacher"}
    assert listed["phantom"]["kind"] == "generator"


def test_a_fingerprint_of_a_pull_is_the_manifests(tmp_path: Path, hub: dict[str, Any]) -> None:
    hub["files"] = {"transformer/net.safetensors": "x" * 100, "vae/net.safetensors": "y"}
    invoke("pull", "phantom", "--weights", tmp_path)
    place = tmp_path / PHANTOM.repository
    files = [place / name for name in hub["files"]]
    whole = weights_fingerprint(place, files)
    assert whole.startswith("abc123def456 sha256:") and len(whole) == len("abc123def456 sha256:") + 64
    # Neither the order nor the folder that is named matters, and no file is read.
    assert weights_fingerprint(place, files[::-1]) == whole
    network = weights_fingerprint(place / "transformer", files[:1])
    assert network.startswith("abc123def456 ") and network != whole
    files[0].write_text("z" * 100)
    assert weights_fingerprint(place, files) == whole
    # A file that the pull did not bring is read, and the revision no longer says what was loaded.
    (place / "more.safetensors").write_text("m")
    assert weights_fingerprint(place, [*files, place / "more.safetensors"]).startswith("sha256:")


def test_a_fingerprint_without_a_pull_reads_small_files_whole_and_the_ends_of_large_ones(
    tmp_path: Path,
) -> None:
    small, large = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    small.write_bytes(b"small")
    before = weights_fingerprint(tmp_path, [small])
    assert before.startswith("sha256:")
    small.write_bytes(b"smell")
    assert weights_fingerprint(tmp_path, [small]) != before
    with large.open("wb") as file:
        file.truncate(LARGEST_HASHED_BYTES + 1)

    def changed(offset: int, text: bytes) -> str:
        with large.open("r+b") as file:
            file.seek(offset)
            file.write(text)
        return weights_fingerprint(tmp_path, [large])

    start = weights_fingerprint(tmp_path, [large])
    assert start.startswith("sampled-sha256:")
    assert changed(SAMPLED_BYTES - 1, b"x") != start
    assert changed(SAMPLED_BYTES - 1, b"\0") == start
    assert changed(LARGEST_HASHED_BYTES, b"x") != start
    assert changed(LARGEST_HASHED_BYTES, b"\0") == start
    # The middle of a large file is not read; its size is.
    assert changed(LARGEST_HASHED_BYTES // 2, b"x") == start
    assert changed(LARGEST_HASHED_BYTES + 1, b"\0") != start


def test_a_fingerprint_names_tiny_weights_and_refuses_none(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    net = tmp_path / "transformer/net.safetensors"
    net.write_text("x")
    plain = weights_fingerprint(tmp_path, [net])
    (tmp_path / TINY_MARKER).touch()
    assert weights_fingerprint(tmp_path, [net]) == f"tiny:{plain}"
    assert weights_fingerprint(tmp_path / "transformer", [net]).startswith("tiny:sha256:")
    for files in ([], [tmp_path / "gone"]):
        with pytest.raises(MissingWeights):
            weights_fingerprint(tmp_path, files)


@pytest.fixture
def results_hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the data set's hub: folders of published videos, and hostile names among them."""
    state: dict[str, Any] = {
        "revision": "rev1",
        "asked": [],
        "tree": [
            "Results/VACE-14B",
            "Results/Kling1.6(20250503)",
            "Results/..",
            "Results/.git",
            "Results/a\\b",
        ],
        "videos": ("singleobj_1.mp4", "Open-Domain/faceobj_1.mp4"),
    }

    class Api:
        def dataset_info(self, repository: str) -> Any:
            if state.get("down"):
                raise OSError("no network")
            return SimpleNamespace(sha=state["revision"])

        def list_repo_tree(self, repository: str, path_in_repo: str, repo_type: str, revision: str) -> Any:
            assert (repository, path_in_repo, repo_type) == ("BestWishYsh/OpenS2V-Eval", "Results", "dataset")
            yield from (SimpleNamespace(path=path, tree_id="t") for path in state["tree"])
            yield SimpleNamespace(path="Results/README.md", size=3)

    def snapshot_download(repository: str, **arguments: Any) -> str:
        state["asked"].append(arguments)
        for model in ("VACE-14B", "Kling1.6(20250503)"):
            for video in state["videos"]:
                path = f"Results/{model}/{video}"
                if any(fnmatch(path, pattern) for pattern in arguments["allow_patterns"]):
                    place = Path(arguments["local_dir"]) / path
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(f"{state['revision']} {video}")
        return str(arguments["local_dir"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return state


def test_official_videos_are_pulled_and_the_next_command_is_said(
    tmp_path: Path, results_hub: dict[str, Any]
) -> None:
    text = invoke("pull", "results/vace_14b", "--weights", tmp_path)
    place = tmp_path / "results/VACE-14B"
    assert f"{place}@rev1: 2 files" in text
    assert f"now: refbench import-videos {place} --method VACE-14B --track open-domain" in text
    assert (place / "Open-Domain/faceobj_1.mp4").read_text() == "rev1 Open-Domain/faceobj_1.mp4"
    (asked,) = results_hub["asked"]
    assert asked["repo_type"] == "dataset" and asked["allow_patterns"] == ["Results/VACE-14B/*"]
    # What is whole is not fetched again; what is not, or has a newer revision, is.
    invoke("pull", "results/VACE-14B", "--weights", tmp_path)
    assert len(results_hub["asked"]) == 1
    (place / "singleobj_1.mp4").write_text("cut")
    pull_results("VACE-14B", tmp_path)
    results_hub["revision"] = "rev2"
    results_hub["videos"] = ("singleobj_2.mp4",)
    pull_results("VACE-14B", tmp_path)
    assert len(results_hub["asked"]) == 3
    assert sorted(path.name for path in place.rglob("*.mp4")) == ["singleobj_2.mp4"]


def test_a_models_name_is_no_pattern(tmp_path: Path, results_hub: dict[str, Any]) -> None:
    text = invoke("pull", "results/Kling1.6(20250503)", "--weights", tmp_path)
    assert "import-videos '" in text and "--method 'Kling1.6(20250503)'" in text
    results_hub["tree"] = ["Results/*"]
    with pytest.raises(UserError, match=r"the hub sent nothing for Results/\*"):
        pull_results("*", tmp_path)
    assert results_hub["asked"][-1]["allow_patterns"] == ["Results/[*]/*"]


@pytest.mark.parametrize(
    "model", ["VACE-99B", "", "..", "../..", ".git", "a\\b", "VACE-14B/../..", "README.md"]
)
def test_an_unknown_model_lists_what_the_hub_has(
    tmp_path: Path, results_hub: dict[str, Any], model: str
) -> None:
    with pytest.raises(UserError) as caught:
        pull_results(model, tmp_path)
    told = "the hub has Kling1.6(20250503), VACE-14B (and the files README.md)"
    assert str(caught.value).endswith(told)
    assert results_hub["asked"] == []
    assert not list(tmp_path.iterdir())


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path, results_hub: dict[str, Any]) -> None:
    results_hub["down"] = True
    with pytest.raises(UserError, match="could not be asked: no network"):
        pull_results("VACE-14B", tmp_path)


def test_what_one_installation_lacks_is_named_and_the_rest_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the metrics' packages alone the metrics' tiny weights are made, and the others named."""
    from types import SimpleNamespace

    import refbench.baselines.small as generators

    def fails(folder: Path) -> None:
        raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")

    def writes(folder: Path) -> None:
        folder.mkdir(exist_ok=True)

    point = SimpleNamespace(value="refbench.baselines.small", load=lambda: generators)
    monkeypatch.setattr("refbench.bench.weights.tiny.entry_points", lambda group: [point])
    for module in (
        "kaleido",
        "magref",
        "phantom",
        "refalign",
        "skyreels_a2",
        "skyreels_v3",
        "vace",
        "vace_fun",
        "bernini",
        "bindweave",
        "consisid",
    ):
        monkeypatch.setattr(f"refbench.baselines.small.{module}.write_tiny", fails)
    monkeypatch.setattr("refbench.baselines.small.wan_base.write_tiny", writes)
    done = CliRunner().invoke(cli.app, ["weights", "make-tiny", str(tmp_path / "tiny")])
    assert "not written, diffusers not installed: bernini, bindweave, consisid, kaleido" in done.stderr
    assert "tiny random weights, 1 sets" in done.stdout
    monkeypatch.setattr("refbench.baselines.small.wan_base.write_tiny", fails)
    with pytest.raises(UserError, match="nothing was written; pip install"):
        invoke("make-tiny", tmp_path / "tiny")
