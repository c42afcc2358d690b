"""`refbench plan --evaluate`: its sums, what they rest on, limits, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kit.cli import invoke
from refbench.baselines.scoring_plan import DECODING_S, video_s
from refbench.bench.dataset import load_track
from refbench.bench.environment import MOST_THREADS_PER_JOB
from refbench.bench.gpus import AssumedGpu, get_gpu
from refbench.bench.registry import methods, metrics
from refbench.bench.runner.scoring import make_metric
from refbench.bench.runner.turns import WORKING_GIB, needed_gib


def planned(*words: object) -> Any:
    return json.loads(invoke("plan", *words, "--evaluate", "--json").stdout)


def printed(*words: object) -> str:
    return " ".join(invoke("plan", *words).output.split())


def by_metric(plan: Any) -> dict[str, Any]:
    return {one["metric"]: one for one in plan["metrics"]}


def test_sums_of_videos_metrics_and_hours() -> None:
    plan = planned("vace-1.3b", "phantom-1.3b", "--seeds", 3, "--devices", 4)
    found = by_metric(plan)
    components = [name for name in metrics.names() if metrics.get(name).declaration.component]
    assert sorted(found) == sorted(components)
    assert {one["videos"] for one in found.values()} == {2 * 180 * 3}
    for one in found.values():
        assert one["gpu_hours"] == pytest.approx(one["gpu_s"] * one["videos"] / 3600)
        assert one["cpu_hours"] == pytest.approx(one["cpu_s"] * one["videos"] / 3600)
    total = plan["total"]
    assert total["scores"] == 7 * 1080
    assert total["gpu_hours"] == pytest.approx(sum(one["gpu_hours"] for one in found.values()))
    assert total["elapsed_hours"] == pytest.approx(total["gpu_hours"] / 4)


def test_the_measured_card_gives_the_measured_seconds() -> None:
    found = by_metric(planned("vace-1.3b", "--gpu", "h200"))
    smooth = found["motion-smoothness"]
    # docs/measured-gpu.md: 0.725 s, and 1.71 s of one thread for the frames of 81.
    assert smooth["gpu_s"] == pytest.approx(0.725 + 1.71 / MOST_THREADS_PER_JOB + DECODING_S)
    assert (smooth["peak_gib"], smooth["peak_is_measured"], smooth["basis"]) == (19.5, True, "measured")
    assert found["gmescore"]["gpu_s"] == pytest.approx(1.524 + DECODING_S)
    assert (found["nexusscore"]["basis"], found["nexusscore"]["peak_is_measured"]) == ("part assumed", False)
    assert found["motion-amplitude"]["basis"] == found["naturalscore"]["basis"] == "no GPU used"
    other = by_metric(planned("vace-1.3b", "--gpu", "l40s"))
    slower = (other["gmescore"]["gpu_s"] - 0.57 - DECODING_S) / 0.954
    assert slower == pytest.approx(989 / 362)
    assert other["gmescore"]["basis"] == "scaled"
    assert other["motion-amplitude"]["gpu_s"] == found["motion-amplitude"]["gpu_s"]
    # Half of an H200's sustained throughput is twice the seconds of its networks, and nobody's measurement.
    halved = by_metric(planned("vace-1.3b", "--gpu", "h200", "--tflops", 0.455 * 989 / 2))
    assert halved["gmescore"]["gpu_s"] - 0.57 - DECODING_S == pytest.approx(2 * 0.954)
    assert halved["gmescore"]["basis"] == "scaled"


def test_more_frames_and_more_references_cost_more() -> None:
    words = ("phantom-1.3b", "--gpu", "h200")
    short = by_metric(planned(*words, "--set", "phantom-1.3b.num_frames=41"))
    long = by_metric(planned(*words, "--set", "phantom-1.3b.num_frames=81"))
    for name in ("motion-smoothness", "motion-amplitude"):
        assert (long[name]["gpu_s"] - DECODING_S) / (short[name]["gpu_s"] - DECODING_S) == pytest.approx(
            81 / 41
        )
    assert long["gmescore"] == short["gmescore"]
    one, several = (by_metric(planned(*words, "--track", name)) for name in ("single-domain", "open-domain"))
    # One reference against 90 × 1, 40 × 2 and 50 × 3.
    growth = (several["nexusscore"]["gpu_s"] - DECODING_S) / (one["nexusscore"]["gpu_s"] - DECODING_S)
    assert growth == pytest.approx((90 + 80 + 150) / 180)


def test_with_a_data_set_metrics_are_counted_where_they_apply(dataset: Path) -> None:
    found = by_metric(planned("vace-1.3b", "--dataset", dataset, "--metrics", "facesim,nexusscore"))
    samples = load_track("open-domain", dataset).samples
    for name, one in found.items():
        metric = make_metric(name)
        applies = sum(metric.not_applicable(sample) is None for sample in samples)
        assert (one["videos"], one["not_applicable"]) == (applies, len(samples) - applies)
    assert "where it applies" not in printed("vace-1.3b", "--evaluate", "--dataset", dataset)
    assert "where it applies" in printed("vace-1.3b", "--evaluate")


def test_what_was_not_measured_is_in_no_sum() -> None:
    plan = planned("vace-1.3b", "--metrics", "clip-t,aesthetics")
    found = by_metric(plan)
    assert (found["clip-t"]["gpu_hours"], found["clip-t"]["basis"]) == (None, "not measured")
    assert found["clip-t"]["peak_gib"] == needed_gib([make_metric("clip-t")]) + WORKING_GIB
    assert plan["total"]["gpu_hours"] == found["aesthetics"]["gpu_hours"]
    text = printed("vace-1.3b", "--evaluate", "--metrics", "clip-t,aesthetics")
    assert "not measured, and in no sum: clip-t" in text


def test_judges() -> None:
    words = ("vace-1.3b", "--metrics", "naturalscore")
    assert "up to 540 requests" in planned(*words)["outside"][0]
    local = planned(*words, "--set", "naturalscore.backend=local")
    assert local["outside"] == [] and local["metrics"][0]["gpu_s"] is None


def test_turns_are_those_of_an_evaluation_in_that_memory() -> None:
    large, small = planned("vace-1.3b"), planned("vace-1.3b", "--gpu-memory", 24)
    assert [len(turn["metrics"]) for turn in large["turns"]] == [7]
    assert len(small["turns"]) > 1
    assert sorted(name for turn in small["turns"] for name in turn["metrics"]) == sorted(by_metric(large))
    assert all(turn["weights_gib"] + WORKING_GIB <= 24 for turn in small["turns"])
    tiny = printed("vace-1.3b", "--evaluate", "--gpu-memory", 8)
    assert "GiB of weights, about 20.5 with what they work in: more than 8.0" in tiny


def test_limits_of_scoring_and_generating_are_printed() -> None:
    found = by_metric(planned("vace-1.3b"))
    for name, one in found.items():
        assert one["job_limit_s"] == metrics.get(name).declaration.job_limit_s
    limits = {
        kind: methods.get("vace-1.3b")().job_limit_s(device)
        for kind, device in (("GPU", "cuda"), ("CPU", "cpu"))
    }
    line = f"generating one video may take {limits['GPU']:,.0f} s on a GPU, {limits['CPU']:,.0f} s on a CPU"
    assert f"vace-1.3b: {line} (--job-timeout)" in printed("vace-1.3b", "--evaluate")
    text = printed("vace-1.3b", "noise", "black")
    assert f"vace-1.3b: {line}" in text
    assert "noise, black: generating one video may take 3,600 s on a GPU, 3,600 s on a CPU" in text
    plain = json.loads(invoke("plan", "vace-1.3b", "videos", "--json").stdout)["methods"]
    assert plain[0]["job_limits_s"] == limits
    # It has a required option, which says where the videos are.
    assert plain[1]["job_limits_s"] == {}


def test_it_says_what_is_measured_and_what_is_assumed() -> None:
    text = printed("vace-1.3b", "--evaluate")
    for words in (
        "measured: seconds and peak memory of the networks at full size with random weights on an NVIDIA",
        "assumed: another card is slower",
        "left out: starting workers, and reading the weights",
        "facesim: the search for faces (ONNX Runtime) was not measured and is left out",
        "workers: one on one GPU (--devices N plans for more)",
        "GPU: H100 SXM (assumed; --gpu names another)",
    ):
        assert words in text
    assert "in all: 1,260 scores" in text


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_of_a_narrow_plan_is_too_long(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from refbench.bench import console

    monkeypatch.setattr(console, "screen_width", lambda: width)
    text = invoke("plan", "vace-1.3b", "noise", "--evaluate", "--metrics", "all").output
    assert max(map(len, text.splitlines())) <= width
    assert "motion-smoothness" in text and "19.5" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "gmescore"], "--metrics and --devices go with --evaluate"),
        (["--devices", "2"], "--metrics and --devices go with --evaluate"),
        (["--evaluate", "--metrics", "gmescor"], "did you mean gmescore"),
        (["--evaluate", "--set", "naturalscore.volume=3"], "has no option 'volume'"),
        (["--evaluate", "--metrics", "gmescore", "--set", "facesim.pack=x"], "not among the metrics"),
        (["--set", "facesim.pack=x"], "unknown method 'facesim'"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], words: str) -> None:
    assert words in invoke("plan", "vace-1.3b", *arguments, expect=2).stderr


def test_planning_the_scoring_loads_no_network_library(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom kit.cli import invoke\ninvoke('plan', 'noise', '--evaluate', '--metrics', 'all')\n"
        "print([name for name in ('torch', 'diffusers', 'transformers', 'cv2') if name in sys.modules])"
    )
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_what_is_shared_within_a_turn_is_counted_once(shared: Path) -> None:
    opens2v = shared / "data/opens2v_eval"
    words = ("vace-1.3b", "--gpu", "h200", "--dataset", opens2v)
    names = ("nexusscore", "facesim", "subject-confusion")
    together = by_metric(planned(*words, "--metrics", ",".join(names)))
    alone = by_metric(planned(*words, "--metrics", "subject-confusion"))["subject-confusion"]
    confusion = together["subject-confusion"]
    assert confusion["videos"] == alone["videos"] > 0 and confusion["not_applicable"] > 0
    assert confusion["gpu_hours"] <= 0.05 * (
        together["nexusscore"]["gpu_hours"] + together["facesim"]["gpu_hours"]
    )
    # Alone it does the work of both, of the samples that it applies to.
    track = load_track("open-domain", opens2v)
    hours = confusion["gpu_hours"]
    for name in names[:2]:
        metric = make_metric(name)
        cost = metric.cost()
        assert cost is not None
        hours += sum(
            video_s(cost, sample, 81, AssumedGpu(gpu=get_gpu("h200"))) / 3600
            for sample in track.samples
            if make_metric("subject-confusion").not_applicable(sample) is None
            and metric.not_applicable(sample) is None
        )
    assert alone["gpu_hours"] == pytest.approx(hours)
    # In turns of their own it looks at everything again.
    apart = by_metric(planned(*words, "--metrics", "facesim,subject-confusion"))["subject-confusion"]
    assert confusion["gpu_hours"] < apart["gpu_hours"] < alone["gpu_hours"]


def test_copies_of_references_take_no_gpu() -> None:
    copies = by_metric(planned("vace-1.3b", "--metrics", "copy-paste"))["copy-paste"]
    assert (copies["basis"], copies["peak_gib"]) == ("no GPU used", 0.0)
    assert copies["cpu_s"] == pytest.approx(0.94 / MOST_THREADS_PER_JOB + DECODING_S)
