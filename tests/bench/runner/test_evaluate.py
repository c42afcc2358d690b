"""Evaluation end to end: plans, resume, workers, faults, variants, shards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.cli import Run
from kit.clips import SMALL_IDS
from refbench.bench.scores.record import Record
from refbench.bench.scores.store import read_records


def records_of(store: Path) -> list[Record]:
    """The records of the two metrics that run everywhere; the others say that their weights are missing."""
    return [one for one in read_records(store) if one.metric in ("motion-amplitude", "dummy-brightness")]


def values(records: list[Record], metric: str = "motion-amplitude") -> dict[str, float | str | None]:
    return {r.sample: r.value if r.value is not None else r.reason for r in records if r.metric == metric}


def test_the_real_videos_score_as_officially(refbench: Run, shared: Path, tmp_path: Path) -> None:
    data = shared / "data/opens2v_eval"
    done = refbench(
        "evaluate", data / "videos", "--name", "demo", "--track", "open-domain", "--dataset", data, "--json"
    )
    board = json.loads(done.stdout)[0]
    motion = board["components"]["motion_amplitude"]
    assert motion["score"] == pytest.approx((0.35025984048843384 + 0.038793787360191345) / 2, abs=1e-15)
    assert (motion["scored"], motion["expected"]) == (2, 180)
    assert board["total_score"] is None
    scored = values(records_of(refbench.folder / "results/demo/open-domain.jsonl"))
    assert scored["faceobj_14"] == 0.35025984048843384
    assert scored["singleface_3"] == 0.038793787360191345
    assert scored["singleobj_1"] == "missing_video"


def test_a_small_folder_from_start_to_table(refbench: Run, videos: Path, dataset: Path) -> None:
    (videos / "surprise.mp4").write_bytes(b"x")
    (videos / "faceobj_10.mp4").unlink()
    (videos / "faceobj_2.mp4").write_bytes(b"not a video")
    command = ("evaluate", videos, "--name", "mine", "--dataset", dataset)
    plan = refbench(*command, "--dry-run")
    assert "surprise.mp4" in plan.stderr
    assert not (refbench.folder / "results").exists()
    done = refbench(*command, expect=1)
    assert "MotionAmplitude" in done.stdout
    assert "TotalScore: not available" in done.stdout
    assert "faceobj_2 seed 0: failed: the video cannot be decoded" in done.stderr
    store = refbench.folder / "results/mine/open-domain.jsonl"
    by_sample = values(records_of(store))
    assert by_sample["faceobj_10"] == "missing_video"
    assert str(by_sample["faceobj_2"]).startswith("failed: ")
    assert sum(isinstance(value, float) for value in by_sample.values()) == 4
    # The same command again scores nothing anew and writes nothing.
    before = store.read_bytes()
    plan_again = json.loads(refbench(*command, "--dry-run", "--json").stdout)
    assert plan_again["metrics"]["motion-amplitude"]["cached"] == 4
    assert plan_again["unknown_videos"] == ["surprise.mp4"]
    assert refbench(*command, expect=1).stdout == done.stdout
    assert store.read_bytes() == before


def test_only_what_the_folder_holds_is_counted(
    refbench: Run, videos: Path, dataset: Path, tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    """Seeds, videos and samples that went away leave the table, and are named; the store keeps them."""
    run = tmp_path / "run"
    shutil.copytree(videos, run / "seed-0")
    shutil.copytree(videos, run / "seed-1")
    command = ("evaluate", run, "--name", "mine", "--dataset", dataset, "--json")

    def motion(*more: object) -> tuple[tuple[int, int, float], str]:
        done = refbench(*command, *more)
        board = json.loads(done.stdout)[0]["components"]["motion_amplitude"]
        return (board["scored"], board["expected"], board["score"]), done.stderr

    both, said = motion()
    assert both[:2] == (12, 12)
    assert "also holds" not in said
    shutil.rmtree(run / "seed-1")
    one, said = motion()
    assert one[:2] == (6, 6)
    assert "not counted, the store also holds scores: 6 of seed 1, which is not in the folder" in said
    # Another folder of the same name, without a seed folder: its videos alone count.
    shutil.rmtree(run / "seed-0")
    make_clip("run/seed-3/faceobj_2.mp4", speed=5)
    alone, said = motion()
    assert alone[:2] == (1, 6)
    assert "6 of seed 0, which is not in the folder; 6 of seed 1" in said
    assert len([r for r in records_of(refbench.folder / "results/mine/open-domain.jsonl") if r.value]) >= 12


def test_scores_of_a_metric_that_is_not_run_count_while_their_videos_are_there(
    refbench: Run, videos: Path, dataset: Path, plugin: Path, make_clip: Callable[..., Path]
) -> None:
    command = ("evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin, "--json")
    refbench(*command, "--metrics", "all")
    again = ("--metrics", "motion-amplitude")
    same = json.loads(refbench(*command, *again).stdout)[0]
    assert same["supplementary"]["dummy-brightness"]["videos"] == 6
    make_clip("videos/faceobj_2.mp4", seed=77, speed=5, frames=7)
    (videos / "faceobj_10.mp4").unlink()
    done = refbench(*command, *again)
    assert json.loads(done.stdout)[0]["supplementary"]["dummy-brightness"]["videos"] == 4
    assert "2 of dummy-brightness for videos or samples that are gone or have changed" in done.stderr


def test_a_changed_video_is_scored_again(
    refbench: Run, videos: Path, dataset: Path, make_clip: Callable[..., Path]
) -> None:
    command = ("evaluate", videos, "--name", "mine", "--dataset", dataset)
    refbench(*command)
    store = refbench.folder / "results/mine/open-domain.jsonl"
    first = values(records_of(store))
    make_clip("videos/faceobj_2.mp4", seed=77, speed=5, frames=7)
    plan = json.loads(refbench(*command, "--dry-run", "--json").stdout)["metrics"]["motion-amplitude"]
    assert (plan["to_score"], plan["cached"]) == (1, 5)
    refbench(*command)
    second = values(records_of(store))
    assert second["faceobj_2"] != first["faceobj_2"]
    assert {k: v for k, v in second.items() if k != "faceobj_2"} == {
        k: v for k, v in first.items() if k != "faceobj_2"
    }


def test_one_worker_and_four_give_identical_tables(refbench: Run, videos: Path, dataset: Path) -> None:
    tables = []
    for workers in (1, 4):
        out = refbench.folder / f"results-{workers}"
        command = ("evaluate", videos, "--name", "mine", "--dataset", dataset, "--out", out)
        text = refbench(*command, "--workers", workers).stdout
        tables.append((text, refbench(*command, "--json").stdout))
        assert len(records_of(out / "mine/open-domain.jsonl")) == 6
    assert tables[0] == tables[1]


def test_kill_minus_nine_at_random_points_loses_nothing(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    """Killed again and again, the command goes on; its tables are those of a run that was left alone."""
    arguments = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "all", "--set", "dummy-brightness.sleep_s=0.5",
    )  # fmt: skip
    peaceful = refbench(*arguments, "--out", "peaceful", "--json").stdout
    generator = random.Random(20)
    killed = 0
    for attempt in range(8):
        process = subprocess.Popen(
            refbench.command(*arguments, "--out", "killed", "--workers", 1 + attempt % 2),
            cwd=refbench.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(generator.uniform(0.4, 0.9))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 3
    final = refbench(*arguments, "--out", "killed", "--json").stdout
    assert final == peaceful


def test_interrupting_stops_cleanly_and_resumes(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    arguments = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "dummy-brightness", "--set", "sleep_s=1",
    )  # fmt: skip
    for workers, stop in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        process = subprocess.Popen(
            refbench.command(*arguments, "--workers", workers, "--out", f"out{workers}"),
            cwd=refbench.folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        store = refbench.folder / f"out{workers}/mine/open-domain.jsonl"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (store.exists() and store.stat().st_size):
            time.sleep(0.02)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
        assert 1 <= len(records_of(store)) < 6
        refbench(*arguments, "--workers", workers, "--out", f"out{workers}")
        assert len(records_of(store)) == 6


def test_a_worker_that_dies_costs_its_sample_only(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    done = refbench(
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin, "--workers", 2,
        "--metrics", "dummy-brightness", "--set", "dummy-brightness.die_on=faceobj_2", expect=1,
    )  # fmt: skip
    assert "the worker process died (signal SIGKILL)" in done.stderr
    scored = values(records_of(refbench.folder / "results/mine/open-domain.jsonl"), "dummy-brightness")
    assert sum(isinstance(value, float) for value in scored.values()) == 5


def test_a_job_that_takes_too_long_is_ended_and_the_plan_says_how_long_it_may_take(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    base = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "dummy-brightness",
    )  # fmt: skip
    limits = {
        words: json.loads(refbench(*base, "--dry-run", "--json", *words).stdout)["job_limits_s"]
        for words in ((), ("--job-timeout", 7), ("--job-timeout", 0))
    }
    assert [one["dummy-brightness"] for one in limits.values()] == [3600, 7, None]
    assert "no time limit in this process" in refbench(*base, "--dry-run").stdout
    said = "2 workers on cpu, 1 thread each; a job may take: dummy-brightness 3,600 s (--job-timeout)"
    assert said in refbench(*base, "--dry-run", "--workers", 2).stdout
    hangs = ("--set", "sleep_s=1000", "--samples", "faceobj_2", "--job-timeout", 0.2)
    done = refbench(*base, *hangs, expect=1)
    reason = "failed: it took longer than 0.2 s (--job-timeout) and was ended"
    assert reason in done.stderr
    store = refbench.folder / "results/mine/open-domain.jsonl"
    assert values(records_of(store), "dummy-brightness") == {"faceobj_2": reason}
    refbench(*base, "--workers", 2)
    assert {one.provenance.threads for one in records_of(store) if one.value is not None} == {1}


def test_failures_weights_and_options_of_a_metric(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    base = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "dummy-brightness",
    )  # fmt: skip
    store = refbench.folder / "results/mine/open-domain.jsonl"
    refbench(*base, "--set", "without_weights=true")
    assert set(values(records_of(store), "dummy-brightness").values()) == {
        "missing_weights: no weights at all"
    }
    refbench(*base, "--set", "without_weights=true", "--strict", expect=1)
    refbench(*base, "--set", "fail_on=faceobj_2", expect=1)
    assert values(records_of(store), "dummy-brightness")["faceobj_2"] == "failed: asked to fail"
    # Other settings are another score; the last record of a key wins.
    refbench(*base, "--set", "offset=1000")
    last = {r.sample: r.value for r in records_of(store)}
    assert min(value for value in last.values() if value is not None) > 1000
    for wrong, message in (
        ("offzet=1", "has no option 'offzet'"),
        ("offset=much", "offset: "),
        ("other.offset=1", "not among the metrics"),
    ):
        assert message in refbench(*base, "--set", wrong, expect=2).stderr


def test_a_metric_asked_for_by_name_must_have_its_weights(refbench: Run, videos: Path, dataset: Path) -> None:
    base = ("evaluate", videos, "--name", "mine", "--dataset", dataset)
    told = "aesthetics was asked for and cannot run: openai/clip-vit-large-patch14 is not on disk"
    done = refbench(*base, "--metrics", "motion-amplitude,aesthetics", expect=2)
    assert told in done.stderr
    assert "refbench weights pull" in done.stderr
    # Nothing was written; without the name it is a reason like any other.
    assert not (refbench.folder / "results/mine/open-domain.jsonl").read_bytes()
    refbench(*base)
    video = videos / "faceobj_2.mp4"
    assert told in refbench("score", video, "--prompt", "p", "--metrics", "aesthetics", expect=2).stderr
    words = ("run", "noise", "--dataset", dataset, "--metrics", "aesthetics")
    assert told in refbench(*words, expect=2).stderr
    assert not (refbench.folder / "runs").exists()


def test_stored_scores_take_the_suites_new_categories(refbench: Run, videos: Path, tmp_path: Path) -> None:
    """Of a store written when each id was a category of its own."""
    suite = tmp_path / "mine.jsonl"
    rows = [{"id": one, "prompt": "p", "category": one} for one in SMALL_IDS[:3]]
    suite.write_text("\n".join(map(json.dumps, rows)))
    command = ("evaluate", videos, "--name", "x", "--suite", suite, "--json", "--metrics", "motion-amplitude")
    assert len(json.loads(refbench(*command).stdout)[0]["categories"]) == 3
    suite.write_text("\n".join(json.dumps(row | {"category": "all"}) for row in rows))
    plan = json.loads(refbench(*command, "--dry-run").stdout)["metrics"]["motion-amplitude"]
    assert (plan["cached"], plan["to_score"]) == (3, 0)
    assert list(json.loads(refbench(*command).stdout)[0]["categories"]) == ["all"]


def test_shuffled_scoring_is_a_variant_and_reuses_what_it_can(
    refbench: Run, videos: Path, dataset: Path, plugin: Path
) -> None:
    base = (
        "evaluate",
        videos,
        "--name",
        "mine",
        "--dataset",
        dataset,
        "--plugin",
        plugin,
        "--metrics",
        "all",
    )
    refbench(*base)
    plan = json.loads(refbench(*base, "--references", "shuffled", "--dry-run", "--json").stdout)
    assert plan["variant"] == "scored-shuffled"
    # Motion does not look at references: its values are taken over; the other metric's are made anew.
    assert plan["metrics"]["motion-amplitude"]["reused"] == 6
    assert plan["metrics"]["dummy-brightness"]["to_score"] == 6
    refbench(*base, "--references", "shuffled")
    records = records_of(refbench.folder / "results/mine/open-domain.jsonl")
    own = {r.sample: r for r in records if r.variant == "plain" and r.metric == "dummy-brightness"}
    wrong = {
        r.sample: r for r in records if r.variant == "scored-shuffled" and r.metric == "dummy-brightness"
    }
    assert len(own) == len(wrong) == 6
    assert all(own[s].details["references"] != wrong[s].details["references"] for s in own)


def test_shards_on_two_machines_merge_to_the_whole(
    refbench: Run, videos: Path, dataset: Path, tmp_path: Path
) -> None:
    base = ("evaluate", videos, "--name", "mine", "--dataset", dataset)
    whole = json.loads(refbench(*base, "--out", "whole", "--json").stdout)
    for part in (1, 2):
        refbench(*base, "--out", f"part{part}", "--shard", f"{part}/2")
        assert len(records_of(refbench.folder / f"part{part}/mine/open-domain.jsonl")) == 3
    refbench("merge", "part1", "part2", "-o", "joined")
    assert json.loads(refbench(*base, "--out", "joined", "--json").stdout) == whole


def test_two_runs_on_one_store_are_refused(refbench: Run, videos: Path, dataset: Path, plugin: Path) -> None:
    arguments = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "dummy-brightness", "--set", "dummy-brightness.sleep_s=1",
    )  # fmt: skip
    first = subprocess.Popen(
        refbench.command(*arguments),
        cwd=refbench.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lock = refbench.folder / "results/mine/open-domain.lock"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not lock.exists():
        time.sleep(0.02)
    time.sleep(0.3)
    assert "being written by another run" in refbench(*arguments, expect=2).stderr
    first.kill()
    first.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--name", "x"], "does not exist"),
        (["."], "holds no mp4"),
        (["VIDEOS"], "has no run.json: give the method's name"),
        (["VIDEOS", "--name", "a/b"], "may hold letters"),
        (["VIDEOS", "--name", "x", "--track", "closed-domain"], "unknown track"),
        (["VIDEOS", "--name", "x", "--metrics", "motion-amplitud"], "did you mean motion-amplitude"),
        (["VIDEOS", "--name", "x", "--shard", "3/2"], "--shard takes I/N"),
        (["VIDEOS", "--name", "x", "--protocol", "opens2v-2"], "unknown protocol"),
        (["VIDEOS", "--name", "x", "--references", "wrong"], "own or shuffled"),
        (["VIDEOS", "--name", "x", "--suite", "no.jsonl", "--track", "open-domain"], "track of its own"),
        (["VIDEOS", "--name", "x", "--plugin", "no.py"], "is not a Python file"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_two(
    refbench: Run, videos: Path, dataset: Path, arguments: list[str], message: str
) -> None:
    words = [str(videos) if word == "VIDEOS" else word for word in arguments]
    extra = [] if "--suite" in words else ["--dataset", str(dataset)]
    done = refbench("evaluate", *words, *extra, expect=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_suite_is_scored_as_its_own_track(refbench: Run, videos: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mine.jsonl"
    suite.write_text("\n".join(json.dumps({"id": i, "prompt": "p"}) for i in SMALL_IDS[:2]))
    board: Any = json.loads(refbench("evaluate", videos, "--name", "x", "--suite", suite, "--json").stdout)[0]
    assert board["track"].startswith("suite-mine-")
    assert board["components"]["motion_amplitude"]["scored"] == 2


def test_a_run_for_another_track_is_refused(refbench: Run, dataset: Path) -> None:
    refbench("generate", "noise", "--track", "human-domain", "--dataset", dataset, "--set", "num_frames=3")
    run = "runs/noise/human-domain"
    done = refbench("evaluate", run, "--track", "open-domain", "--dataset", dataset, expect=2)
    assert "are for human-domain, not open-domain" in done.stderr
    refbench("evaluate", run, "--track", "human-domain", "--dataset", dataset)
    refbench("evaluate", f"{run}/seed-0", "--track", "human-domain", "--dataset", dataset)


def test_what_a_killed_run_of_several_workers_shared_goes_with_the_next(
    refbench: Run, videos: Path, dataset: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = refbench.folder / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    arguments = (
        "evaluate", videos, "--name", "mine", "--dataset", dataset, "--plugin", plugin,
        "--metrics", "dummy-brightness", "--workers", 2,
    )  # fmt: skip
    process = subprocess.Popen(
        refbench.command(*arguments, "--set", "sleep_s=5"),
        cwd=refbench.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(temporary.glob("refbench-*")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert list(temporary.glob("refbench-*"))
    refbench(*arguments)
    assert not list(temporary.glob("refbench-*"))
