"""Every Wan generator through the command line: references → latents → loop → mp4 → score, with tiny weights.

The two samples are OpenS2V-Eval's own where its files are at hand, else drawn ones with as many references.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from kit.cli import invoke
from kit.tiny_runs import started
from refbench.bench.dataset import load_track
from refbench.bench.registry import methods
from refbench.bench.runs.folder import read_run
from refbench.bench.video import Video
from refbench.mini.demo import write_demo_dataset

SAMPLES = ("faceobj_14", "singleface_3")
SMALL = {"width": 96, "height": 64, "num_frames": 17, "steps": 2}
# References that keep their size are made as small as the video.
FURTHER = {name: {"reference_limit_px": 96} for name in ("bernini-r-1.3b", "bernini-r-14b")}
# The least that leaves frames after those that a method drops.
FEWEST_FRAMES = {0: 5, 4: 9, 12: 17}
# Those of which `make-tiny` writes networks: the drawn world's are trained.
WAN_METHODS = sorted(
    name
    for name in methods.names()
    if hasattr(methods.get(name), "spec") and not any(entry.made_by for entry in methods.get(name).weights)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-weights")
    invoke("weights", "make-tiny", folder)
    return folder


def suite_of(entries: dict[str, Any], folder: Path) -> Path:
    lines = [
        {"id": key, "prompt": e["prompt"], "references": e["img_paths"], "labels": e["class_label"]}
        for key, e in entries.items()
    ]
    (folder / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "two.jsonl"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real prompts with their stand-in images, or two drawn samples."""
    folder = tmp_path_factory.mktemp("two-samples")
    shared = os.environ.get("REFBENCH_SHARED")
    if shared:
        data = Path(shared) / "data/opens2v_eval"
        entries = json.loads((data / "Open-Domain_Eval.json").read_text())
        for name in SAMPLES:
            for path in entries[name]["img_paths"]:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(data / path, folder / path)
        return suite_of({name: entries[name] for name in SAMPLES}, folder)
    write_demo_dataset(folder)
    entries = json.loads((folder / "Open-Domain_Eval.json").read_text())
    chosen = [next(key for key, e in entries.items() if len(e["img_paths"]) == count) for count in (3, 1)]
    return suite_of(dict(zip(SAMPLES, (entries[key] for key in chosen), strict=True)), folder)


def small(**changes: object) -> list[str]:
    return [f"--set={key}={value}" for key, value in {**SMALL, **changes}.items()]


@pytest.mark.parametrize("name", WAN_METHODS)
def test_generated_and_scored(name: str, suite: Path, tiny: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    spec = methods.get(name).spec
    num_frames = FEWEST_FRAMES[spec.native.dropped_frames]
    options = small(num_frames=num_frames, **FURTHER.get(name, {}))
    base = ("generate", name, "--suite", suite, "--weights", tiny, *options, "--out", runs)
    invoke(*base)
    (folder,) = (runs / name).iterdir()
    info = read_run(folder / "run.json")
    assert info.card is not None
    assert info.card.generated_frames == num_frames
    # Made-up weights are another variant of the run, whose scores stand beside no real one's.
    assert info.variant == "tiny-weights"
    assert all(digest.startswith("tiny:") for digest in info.card.weights.values())
    for sample in SAMPLES:
        probe = Video(folder / f"seed-0/{sample}.mp4").probe
        assert (probe.width, probe.height) == (SMALL["width"], SMALL["height"])
        assert probe.frames == info.card.num_frames == num_frames - spec.native.dropped_frames
        assert probe.fps == pytest.approx(spec.native.fps, rel=1e-3)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    invoke(*base)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before
    scored = invoke(
        "evaluate",
        folder,
        "--suite",
        suite,
        "--metrics",
        "motion-amplitude",
        "--out",
        tmp_path / "r",
        "--json",
    )
    (board,) = json.loads(scored.stdout)
    assert board["components"]["motion_amplitude"]["scored"] == 2
    assert board["total_score"] is None


def test_native_and_matched_are_two_runs(suite: Path, tiny: Path, tmp_path: Path) -> None:
    card = json.loads(invoke("methods", "show", "phantom-14b", "--json").stdout)["card"]
    matched = json.loads(
        invoke("methods", "show", "phantom-14b", "--set", "settings=matched", "--json").stdout
    )["card"]
    assert (card["num_frames"], matched["num_frames"]) == (121, 81)
    assert card["weights"] == {
        "phantom": "bytedance-research/Phantom",
        "wan2.1-t2v-14b (base)": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    }
    base = ("generate", "phantom-1.3b", "--suite", suite, "--weights", tiny, *small(), "--out", tmp_path)
    invoke(*base, "--limit", 1)
    done = invoke(*base, "--settings", "matched", expect=2)
    assert "was generated with another card" in done.stderr


def test_what_is_missing_is_said_before_any_work(suite: Path, tiny: Path, tmp_path: Path) -> None:
    def complaint(*words: object) -> str:
        return invoke("generate", *words, "--suite", suite, expect=2).stderr

    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers is not on disk" in complaint(
        "phantom-1.3b", "--weights", tmp_path, "--out", tmp_path / "runs"
    )
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    base = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    shutil.rmtree(broken / base / "text_encoder")
    assert "has no text encoder" in complaint("phantom-1.3b", "--weights", broken)
    magref = tiny / "MAGREF-Video/MAGREF"
    words = ("refalign-1.3b", "--weights", tiny, *small(), "--out", tmp_path / "runs")
    assert "checkpoint of another method" in complaint(*words, "--set", f"transformer={magref}")
    assert "does not exist" in complaint(*words, "--set", f"transformer={tmp_path / 'nowhere'}")


def test_a_bad_reference_fails_its_sample_alone(suite: Path, tmp_path: Path) -> None:
    shutil.copytree(suite.parent, tmp_path / "data")
    track = load_track_of(tmp_path / "data" / suite.name)
    track[1].references[0].file.write_bytes(b"not an image")
    done = invoke(
        "generate", "refalign-tiny", "--suite", tmp_path / "data" / suite.name, *small(),
        "--out", tmp_path / "runs", expect=1,
    )  # fmt: skip
    assert "cannot be read" in done.output
    assert len(list((tmp_path / "runs").rglob("*.mp4"))) == 1


def load_track_of(suite: Path) -> Any:
    from refbench.bench.dataset import load_suite

    return load_suite(suite).samples


def test_killed_generation_resumes_without_damaged_or_doubled_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes are not to find a checkout where they start.
    monkeypatch.chdir(tmp_path)
    write_demo_dataset(tmp_path / "dataset")
    expected = [sample.id for sample in load_track("open-domain", tmp_path / "dataset").samples[:6]]
    words = (
        *("generate", "refalign-tiny", "--dataset", "dataset", "--limit", 6, "--out", "runs"),
        *small(steps=6, overflow="first"),
    )

    def finished() -> list[Path]:
        return sorted((tmp_path / "runs").rglob("*.mp4"))

    generator = random.Random(5)
    kills = 0
    while kills < 3:
        before = len(finished())
        process = started(words, tmp_path)
        while process.is_alive() and len(finished()) == before:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
        for file in finished():
            if not file.name.startswith("."):
                assert Video(file).probe.frames == SMALL["num_frames"]
    assert kills
    last = started(words, tmp_path)
    last.join()
    assert last.exitcode == 0
    assert [file.name for file in finished()] == sorted(f"{name}.mp4" for name in expected)


def test_refalign_from_references_to_all_seven_components(suite: Path, tiny: Path, tmp_path: Path) -> None:
    from refbench.bench.scores.columns import COMPONENTS

    invoke("generate", "refalign-tiny", "--suite", suite, "--limit", 1, "--out", tmp_path / "runs")
    (folder,) = (tmp_path / "runs/refalign-tiny").iterdir()
    scored = invoke(
        "evaluate", folder, "--suite", suite, "--limit", 1, "--weights", tiny, "--out", tmp_path / "results",
        "--set", "naturalscore.backend=local", "--json",
    )  # fmt: skip
    (board,) = json.loads(scored.stdout)
    assert board["variant"] == "tiny-weights"
    assert all(board["components"][name]["scored"] == 1 for name in COMPONENTS)
    assert board["total_score"] is None
    assert "generated with tiny weights" in board["unofficial"]
