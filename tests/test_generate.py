"""Generation: resumable run folders, failures that stay with their sample, settings that never mix."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.run_folder import read_run
from bench.video import Video
from tests.conftest import SMALL_IDS
from tests.test_evaluate import Run


@pytest.fixture
def refbench(tmp_path: Path) -> Run:
    (tmp_path / "cwd").mkdir()
    return Run(tmp_path / "cwd")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.mp4"))}


def test_a_run_folder_holds_finished_videos_and_its_card(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    refbench(*base, "--seed", 0, "--seed", 3)
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert sorted(contents(folder)) == sorted(f"seed-{s}/{i}.mp4" for s in (0, 3) for i in SMALL_IDS)
    info = read_run(folder / "run.json")
    assert info.card is not None
    assert (info.method, info.track, info.variant) == ("dummy-grey", "open-domain", "plain")
    assert info.card.options["level"] == 100
    assert "refalign-bench" in info.versions
    # Nothing is made twice, and nothing temporary stays.
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")}
    again = refbench(*base, "--seed", 3)
    assert "0 made, 6 there already" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")} == times
    assert not list(folder.rglob(".*"))


def test_one_folder_never_mixes_settings(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    refbench(*base)
    done = refbench(*base, "--set", "level=3", expect=2)
    assert "was generated with another card" in done.stderr
    refbench(*base, "--set", "level=3", "--name", "darker")
    assert (refbench.folder / "runs/darker/open-domain/seed-0").is_dir()


def test_a_failing_sample_is_named_kept_and_tried_again(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    done = refbench(*base, "--set", "fail_on=faceobj_2", expect=1)
    assert "faceobj_2, seed 0: asked to fail" in done.stderr
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert (folder / "seed-0/faceobj_2.error.txt").read_text() == "asked to fail\n"
    assert len(contents(folder)) == 5
    # The reason travels into the record.
    refbench("evaluate", folder, "--dataset", dataset)
    store = (refbench.folder / "results/dummy-grey/open-domain.jsonl").read_text()
    assert "missing_video: generation failed: asked to fail" in store


def test_killed_generation_leaves_no_damaged_video(refbench: Run, dataset: Path) -> None:
    arguments = (
        "generate",
        "noise",
        "--dataset",
        dataset,
        "--set",
        "num_frames=40",
        "--set",
        "width=208",
        "--set",
        "height=120",
    )
    refbench(*arguments, "--out", "peaceful")
    generator = random.Random(3)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            refbench.command(*arguments, "--out", "killed"), cwd=refbench.folder, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.4, 0.9))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        for file in (refbench.folder / "killed").rglob("*.mp4"):
            assert Video(file).probe.frames == 40
    assert killed
    refbench(*arguments, "--out", "killed")
    track = "noise/open-domain"
    assert contents(refbench.folder / "killed" / track) == contents(refbench.folder / "peaceful" / track)


def test_shuffled_references_are_a_run_of_their_own(refbench: Run, dataset: Path) -> None:
    base = (
        "static-reference",
        "--dataset",
        dataset,
        "--set",
        "num_frames=2",
        "--set",
        "width=64",
        "--set",
        "height=64",
    )
    refbench("generate", *base)
    refbench("generate", *base, "--references", "shuffled", "--shuffle-seed", 4)
    runs = refbench.folder / "runs/static-reference"
    info = read_run(runs / "open-domain.generated-shuffled/run.json")
    assert (info.references, info.reference_seed, info.variant) == ("shuffled", 4, "generated-shuffled")
    own = contents(runs / "open-domain")
    shuffled = contents(runs / "open-domain.generated-shuffled")
    assert own.keys() == shuffled.keys()
    assert own != shuffled
    refbench("evaluate", runs / "open-domain.generated-shuffled", "--dataset", dataset)
    records = (refbench.folder / "results/static-reference/open-domain.jsonl").read_text()
    assert '"variant":"generated-shuffled"' in records


def test_finished_videos_are_copied_byte_for_byte(refbench: Run, dataset: Path, videos: Path) -> None:
    refbench("generate", "videos", "--dataset", dataset, "--set", f"folder={videos}", "--name", "imported")
    copied = contents(refbench.folder / "runs/imported/open-domain/seed-0")
    assert copied == contents(videos)


def test_run_does_everything(refbench: Run, dataset: Path) -> None:
    small = [
        f"--set={method}.{option}"
        for method in ("static-reference", "noise")
        for option in ("num_frames=3", "width=64", "height=48")
    ]
    arguments = ("run", "static-reference", "noise", "--dataset", dataset, "--limit", 3, *small)
    done = refbench(*arguments)
    assert "static-reference · open-domain" in done.stdout
    assert (refbench.folder / "report/report.html").is_file()
    boards = json.loads(refbench(*arguments, "--json").stdout)["scoreboards"]
    assert [board["method"] for board in boards] == ["noise", "static-reference"]
    assert all(board["components"]["motion_amplitude"]["scored"] == 3 for board in boards)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["static-referense"], "did you mean static-reference"),
        (["noise", "--set", "widht=3"], "has no option 'widht'"),
        (["noise", "--seed", "-1"], "must not be negative"),
        (["videos"], "needs --set folder="),
        (["videos", "--set", "folder=nowhere"], "nowhere"),
        (["command", "--set", "template=prog --out x"], "{output}"),
        (["command", "--set", "template=no-such-program-at-all {output}"], "no-such-program-at-all"),
        (["noise", "--name", "a/b"], "may hold letters"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    refbench: Run, dataset: Path, arguments: list[str], message: str
) -> None:
    done = refbench("generate", *arguments, "--dataset", dataset, expect=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
