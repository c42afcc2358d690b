"""NaturalScore: frames and request against the goldens of `opens2v_eval/natural.json`, the judge's rules, the
cache, and the local judge on a tiny checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fill import uint8_image

from kit.goldens import read
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.options import build_options
from refbench.bench.runner.evaluate import Evaluated, evaluate
from refbench.bench.runner.scoring import scoring_environment
from refbench.bench.sample import Sample
from refbench.bench.scores.record import Record
from refbench.bench.video import ALL_FRAMES, Video, stride_frames, write_video
from refbench.bench.weights.common import QWEN25_VL
from refbench.metrics.judges import instruction
from refbench.metrics.judges.cache import AnswerCache
from refbench.metrics.judges.endpoint import EndpointJudge, Fault, request_messages
from refbench.metrics.judges.judge import Answer, Question, Reply
from refbench.metrics.naturalscore import (
    NaturalScore,
    NaturalScoreOptions,
    NaturalScorer,
    jpeg_of,
    judge_frame,
    judge_jpegs,
    judge_size,
)

pytest.importorskip("openai")

GOLDEN = read("opens2v_eval/natural.json")
SAMPLE = Sample(id="faceobj_14", category="faceobj", prompt="", references=())
KEY = "sk-test-secret-0123456789"


def clip(path: Path, frames: int, height: int = 48, width: int = 64) -> Video:
    images = [uint8_image(f"naturalscore/frame_{number}", height, width) for number in range(frames)]
    write_video(path, images, 15)
    return Video(path)


# What the judge sees


@pytest.mark.parametrize("name", ["faceobj_14.mp4", "singleface_3.mp4"])
def test_frames_and_jpeg_bytes_are_the_goldens(name: str, opens2v: Path) -> None:
    expected = GOLDEN[name]
    video = Video(opens2v / "videos" / name)
    jpegs = list(judge_jpegs(video))
    assert [zlib.crc32(jpeg) for jpeg in jpegs] == expected["jpeg_crc32"]
    frames = [judge_frame(frame) for frame in video.frames(stride_frames(16))]
    assert [zlib.crc32(frame) for frame in frames] == expected["bgr_crc32"]
    assert hashlib.sha256(b"".join(frames)).hexdigest() == expected["bgr_all_sha256"]
    assert (
        frames[7][0:201:100, 0:201:100].tolist()
        == (expected["bgr_pixels_of_returned_frame_7_at_rows_0_100_200_by_cols_0_100_200"])
    )


@pytest.mark.parametrize("case", GOLDEN["short_videos"], ids=lambda case: str(case["n_frames_in_the_file"]))
def test_short_videos_send_fewer_pictures(case: dict[str, Any], tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mp4", case["n_frames_in_the_file"])
    jpegs = list(judge_jpegs(video))
    assert len(jpegs) == case["frames_returned"]
    assert len(set(jpegs)) == case["distinct"]


def test_frames_are_every_s_th(tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mp4", 35)
    frames = list(video.frames(ALL_FRAMES))
    assert list(judge_jpegs(video)) == [jpeg_of(judge_frame(frames[index])) for index in range(0, 32, 2)]


@pytest.mark.parametrize("case", GOLDEN["resize_long_side_512"], ids=lambda case: str(case["hw"]))
def test_long_side_is_512(case: dict[str, Any]) -> None:
    assert judge_size(*case["hw"]) == tuple(case["resized_hw"])


def test_frame_is_bgr_by_the_area_filter() -> None:
    frame = uint8_image("naturalscore/area", 100, 1024)
    expected = cv2.resize(frame[..., ::-1].copy(), (512, 50), interpolation=cv2.INTER_AREA)
    assert np.array_equal(judge_frame(frame), expected)


def test_jpeg_is_quality_95_with_halved_chroma() -> None:
    picture = uint8_image("naturalscore/jpeg", 64, 64)
    jpeg = jpeg_of(picture)
    assert GOLDEN["jpeg"] == {
        "quality": 95,
        "chroma": "4:2:0",
        "identical_in_opencv": GOLDEN["jpeg"]["identical_in_opencv"],
    }
    assert jpeg == cv2.imencode(".jpg", picture)[1].tobytes()
    start_of_frame = jpeg.index(b"\xff\xc0")
    assert jpeg[start_of_frame + 11] == 0x22


def test_frame_too_narrow_for_a_judge_is_a_failed_sample() -> None:
    with pytest.raises(SampleError, match="too narrow"):
        judge_frame(np.zeros((1, 2000, 3), dtype=np.uint8))


def test_request_has_the_golden_shape(tmp_path: Path) -> None:
    expected = GOLDEN["message"]
    question = Question(jpegs=tuple(judge_jpegs(clip(tmp_path / "clip.mp4", 16))), instruction="text")
    messages = request_messages(question)
    assert len(messages) == expected["n_messages"]
    assert messages[0]["role"] == expected["role"]
    content = messages[0]["content"]
    assert [part["type"] for part in content] == expected["content_types"]
    assert sorted(content[0]["image_url"]) == expected["image_url_fields"]
    assert content[0]["image_url"]["url"].startswith(expected["image_url_prefix"])
    assert content[-1]["text"] == "text"
    assert NaturalScoreOptions().model == expected["model"]


# The instruction


def test_digests_of_the_official_instruction_are_the_goldens() -> None:
    assert GOLDEN["prompt"]["sha256_utf8"] == instruction.OFFICIAL_SHA256


def test_our_instruction_asks_for_one_number_and_is_not_the_official() -> None:
    ours = instruction.read_instruction(None)
    assert not ours.is_official
    assert ours.digest == hashlib.sha256(ours.text.encode()).hexdigest()
    assert "one number" in ours.text
    for level in "12345":
        assert f"\n{level} - " in ours.text


def test_official_instruction_is_known_by_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\nstands for the official text\n"
    monkeypatch.setattr(instruction, "OFFICIAL_SHA256", hashlib.sha256(text.encode()).hexdigest())
    for number, copy in enumerate((text, text.strip(), text.replace("\n", "\r\n"), "\ufeff" + text)):
        path = tmp_path / f"copy_{number}.txt"
        path.write_bytes(copy.encode())
        found = instruction.read_instruction(path)
        assert found.is_official and found.label == "official instruction" and found.text == text
    path.write_text(text + "changed")
    other = instruction.read_instruction(path)
    assert not other.is_official and other.label == f"instruction from {path.name}"
    metric = NaturalScore(NaturalScoreOptions(instruction=tmp_path / "copy_0.txt"))
    assert metric.differences == ()


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00", b"x" * 200_000])
def test_instruction_file_that_cannot_be_used_is_a_user_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "instruction.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="instruction"):
        NaturalScore(NaturalScoreOptions(instruction=path))


def test_an_instruction_is_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "instruction.txt"
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a named pipe, not a file"):
        instruction.read_instruction(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a device, not a file"):
        instruction.read_instruction(path)


# Options


def test_options_come_from_text_values(tmp_path: Path) -> None:
    options = build_options(
        NaturalScoreOptions,
        {
            "model": "other",
            "url": "http://localhost:8000/v1",
            "budget": "2.5",
            "price_in": "2.5",
            "price_out": "10",
            "runs": "1",
            "cache": str(tmp_path),
            "backend": "endpoint",
        },
        "naturalscore",
    )
    assert (options.budget, options.runs, options.cache) == (2.5, 1, tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"budget": "1"}, "price_in and price_out"),
        ({"price_in": "1"}, "go together"),
        ({"runs": "0"}, "runs"),
        ({"concurrency": "0"}, "concurrency"),
        ({"timeout_s": "nan"}, "timeout_s"),
        ({"budget": "-1", "price_in": "1", "price_out": "1"}, "budget"),
        ({"budget": "nan", "price_in": "1", "price_out": "1"}, "budget"),
        ({"url": f"https://user:{KEY}@host/v1"}, "no key"),
        ({"url": f"https://host/v1?key={KEY}"}, "no key"),
        ({"url": "file:///etc/passwd"}, "http"),
        ({"backend": "magic"}, "backend"),
        ({"key": KEY}, "no option"),
    ],
)
def test_options_that_do_not_fit_are_user_errors(values: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build_options(NaturalScoreOptions, values, "the metric naturalscore")
    assert KEY not in str(caught.value)


def test_settings_hold_what_the_score_depends_on_and_nothing_else(tmp_path: Path) -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        return NaturalScore(NaturalScoreOptions(**changes)).settings()

    plain = settings()
    assert settings(budget=1.0, price_in=1.0, price_out=1.0, concurrency=9, cache=tmp_path) == plain
    assert settings(timeout_s=1.0, attempts=1, use_cache=False, key_variable="OTHER") == plain
    (tmp_path / "text.txt").write_text("Judge it.")
    changed = [
        settings(model="other"),
        settings(url="http://localhost/v1"),
        settings(runs=1),
        settings(instruction=tmp_path / "text.txt"),
        settings(backend="local"),
    ]
    assert all(other != plain for other in changed)
    json.dumps(changed)


def test_estimate_is_known_before_any_call() -> None:
    metric = NaturalScore(NaturalScoreOptions(price_in=2.5, price_out=10.0))
    estimate = metric.estimate_cost(videos=180)
    assert (estimate.requests, estimate.images) == (540, 540 * 16)
    assert estimate.dollars is not None and 5 < estimate.dollars < 10
    assert NaturalScore().estimate_cost(videos=180).dollars is None


# The key


def test_without_a_key_the_metric_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    metric = NaturalScore()
    assert "OPENAI_API_KEY" in (metric.unavailable(Environment()) or "")
    with pytest.raises(MissingWeights, match="OPENAI_API_KEY"):
        metric.load(Environment())
    own = NaturalScore(NaturalScoreOptions(url="http://localhost:1/v1"))
    assert own.unavailable(Environment()) is None
    monkeypatch.setenv("OTHER_KEY", KEY)
    assert NaturalScore(NaturalScoreOptions(key_variable="OTHER_KEY")).unavailable(Environment()) is None


@pytest.mark.parametrize("key", ["sk-ключ-0123456789", "sk-test 0123456789", "sk-test\n0123456789"])
def test_key_that_cannot_be_one_is_refused_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        NaturalScore().load(Environment())
    assert "sk-" not in str(caught.value)


# Scoring, with the endpoint's answers replaced one level above the network

Script = Sequence[str | Fault]
MakeScorer = Callable[..., NaturalScorer]


@pytest.fixture
def asked() -> list[Any]:
    """The requests that were sent, in order."""
    return []


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[Any]) -> Iterator[MakeScorer]:
    """A scorer whose endpoint gives the scripted replies in turn (the runs one after the other)."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    opened: list[NaturalScorer] = []

    def make(replies: Script, **options: Any) -> NaturalScorer:
        waiting = list(replies)
        asked.clear()

        async def ask(judge: EndpointJudge, messages: Any) -> Reply:
            asked.append(messages)
            reply = waiting.pop(0)
            if isinstance(reply, Fault):
                raise reply
            return Reply(text=reply, tokens_in=4000, tokens_out=1)

        monkeypatch.setattr(EndpointJudge, "ask", ask)
        defaults: dict[str, Any] = {
            "concurrency": 1,
            "attempts": 2,
            "first_wait_s": 0.0,
            "cache": tmp_path / "cache",
        }
        opened.append(NaturalScore(NaturalScoreOptions(**(defaults | options))).load(Environment()))
        return opened[-1]

    yield make
    for scorer in opened:
        scorer.close()


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[str | Fault]:
    """What every endpoint answers in turn; what was given is taken away."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    waiting: list[str | Fault] = []

    async def ask(judge: EndpointJudge, messages: Any) -> Reply:
        reply = waiting.pop(0)
        if isinstance(reply, Fault):
            raise reply
        return Reply(text=reply, tokens_in=4000, tokens_out=1)

    monkeypatch.setattr(EndpointJudge, "ask", ask)
    return waiting


@pytest.fixture
def evaluate_one(tmp_path: Path, dataset: Path, videos: Path) -> Callable[..., Evaluated]:
    """Evaluates one video by NaturalScore, each time into the same store."""

    def run(**options: Any) -> Evaluated:
        defaults = {"concurrency": 1, "attempts": 1, "cache": tmp_path / "cache"}
        return evaluate(
            videos,
            dataset=dataset,
            name="mine",
            metrics="naturalscore",
            options={"naturalscore": defaults | options},
            limit=1,
            out=tmp_path / "results",
        )

    return run


def test_score_is_the_mean_of_the_runs(scripted: MakeScorer, tmp_path: Path) -> None:
    scorer = scripted(["4", " 5\n", "4.5"])
    score = scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 20))
    assert score.value == 4.5
    assert score.details["runs"] == {"1": "4", "2": "5", "3": "4.5"}
    assert score.details["replies"] == {"1": ["4"], "2": [" 5\n"], "3": ["4.5"]}
    assert score.details["failed_runs"] == {}
    assert score.details["images"] == 16
    assert score.details["tokens_in"] == 12000
    assert score.details["differs_from_official"] == ["instruction of refbench"]
    assert "unofficial" not in score.details
    json.dumps(score.details)


def test_failed_run_is_named_and_left_out_of_the_mean(scripted: MakeScorer, tmp_path: Path) -> None:
    scorer = scripted(["4", "Score: 5", "I refuse", "2"], price_in=1.0, price_out=1.0)
    score = scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 4))
    assert score.value == 3.0
    assert score.details["runs"] == {"1": "4", "3": "2"}
    assert score.details["runs_present"] == "2 of 3"
    assert list(score.details["failed_runs"]) == ["2"]
    assert score.details["replies"]["2"] == ["Score: 5", "I refuse"]
    assert score.details["dollars"] == pytest.approx(16004e-6)


def test_no_answer_at_all_is_a_failed_sample(scripted: MakeScorer, tmp_path: Path) -> None:
    scorer = scripted(["6"] * 6)
    with pytest.raises(SampleError, match="no number from 1 to 5: 6"):
        scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 4))


def test_answers_are_cached_and_failures_are_not(
    scripted: MakeScorer, asked: list[Any], tmp_path: Path
) -> None:
    video = clip(tmp_path / "clip.mp4", 4)
    first = scripted(["4", "6", "6", "2"])
    assert first.score(SAMPLE, video).value == 3.0
    second = scripted(["5"])
    again = second.score(SAMPLE, video)
    assert len(asked) == 1
    assert again.details["runs"] == {"1": "4", "2": "5", "3": "2"}
    third = scripted([])
    assert third.score(SAMPLE, video) == again
    assert asked == []
    unused = scripted(["1", "1", "1"], use_cache=False)
    assert unused.score(SAMPLE, video).value == 1.0


def test_missing_run_is_asked_again_by_the_same_command(
    replies: list[str | Fault], evaluate_one: Callable[..., Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record() -> Record:
        (one,) = evaluate_one().records
        return one

    replies += ["4", Fault("down", repeat=False), "2"]
    first = record()
    assert first.value == 3.0 and first.details["runs_present"] == "2 of 3"
    # Where nobody can be asked, the value of two runs is not given up.
    monkeypatch.delenv("OPENAI_API_KEY")
    assert record() == first
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # Still down: only the missing run was asked, the others come from the cache.
    replies += [Fault("down", repeat=False)]
    assert record().value == 3.0 and replies == []
    replies += ["3"]
    whole = record()
    assert whole.value == 3.0 and whole.details["runs_present"] == "3 of 3" and replies == []
    # Now it is current, and nobody is asked.
    assert record() == whole


def test_loose_reading_of_another_judge_is_marked_also_from_the_cache(
    scripted: MakeScorer, tmp_path: Path
) -> None:
    video = clip(tmp_path / "clip.mp4", 4)
    loose = ["4", "<think>hm</think>5", "**3**"]
    score = scripted(loose, model="other").score(SAMPLE, video)
    assert score.value == 4.0
    assert score.details["readings"] == {
        "2": "read without its <think>",
        "3": "read without its emphasis",
    }
    assert scripted([], model="other").score(SAMPLE, video) == score
    official = scripted(loose, attempts=1).score(SAMPLE, video)
    assert official.value == 4.0 and list(official.details["failed_runs"]) == ["2", "3"]
    assert official.details["readings"] == {}


def test_answers_of_an_interrupted_video_are_not_paid_for_again(
    scripted: MakeScorer, asked: list[Any], tmp_path: Path
) -> None:
    video = clip(tmp_path / "clip.mp4", 4)
    with pytest.raises(UserError, match="gone"):
        scripted(["4", "5", Fault("gone", repeat=False, unusable=True)]).score(SAMPLE, video)
    assert scripted(["3"]).score(SAMPLE, video).value == 4.0
    assert len(asked) == 1


def test_first_answer_is_on_disk_before_the_second_is_asked(
    scripted: MakeScorer, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    scorer = scripted(["4", "5", "3"])
    ask = EndpointJudge.ask

    async def counting(judge: EndpointJudge, messages: Any) -> Reply:
        kept.append(len(list((tmp_path / "cache").rglob("*.json"))))
        return await ask(judge, messages)

    monkeypatch.setattr(EndpointJudge, "ask", counting)
    scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 4))
    assert kept[0] == 0 and kept[-1] >= 1


def test_cache_that_cannot_be_written_ends_the_run_at_the_first_answer(
    scripted: MakeScorer, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cache"):
        scripted(["4", "5", "3"]).score(SAMPLE, clip(tmp_path / "clip.mp4", 4))


def test_cache_is_by_frames_instruction_model_endpoint_and_run(scripted: MakeScorer, tmp_path: Path) -> None:
    video = clip(tmp_path / "clip.mp4", 4)
    scripted(["4"], runs=1).score(SAMPLE, video)
    (tmp_path / "text.txt").write_text("Judge it.")
    other_video = clip(tmp_path / "other.mp4", 5)
    for changes, shown in (
        ({"model": "other"}, video),
        ({"url": "http://localhost:1/v1"}, video),
        ({"instruction": tmp_path / "text.txt"}, video),
        ({}, other_video),
    ):
        scorer = scripted(["5"], runs=1, **changes)
        assert scorer.score(SAMPLE, shown).value == 5.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: text.replace('"verdict": "4"', '"verdict": "9"'),
        lambda text: text.replace('"run": 1', '"run": 2'),
        lambda text: "x" * 2_000_000,
    ],
)
def test_damaged_cache_file_is_asked_again(
    damage: Callable[[str], str], scripted: MakeScorer, tmp_path: Path
) -> None:
    video = clip(tmp_path / "clip.mp4", 4)
    scripted(["4"], runs=1).score(SAMPLE, video)
    (path,) = (tmp_path / "cache").rglob("*.json")
    path.write_text(damage(path.read_text()))
    scorer = scripted(["5"], runs=1)
    assert scorer.score(SAMPLE, video).value == 5.0
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == [path]


def test_cache_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = AnswerCache(folder=tmp_path / "file", model="m", endpoint="e")
    question = Question(jpegs=(b"1",), instruction="x")
    with pytest.raises(UserError, match="cache"):
        cache.put(question, Answer(run=1, replies=("4",), verdict="4"))


def test_budget_gives_samples_a_reason(scripted: MakeScorer, asked: list[Any], tmp_path: Path) -> None:
    scorer = scripted(["4"] * 6, budget=0.02, price_in=1.0, price_out=1.0)
    assert scorer.score(SAMPLE, clip(tmp_path / "a.mp4", 17)).value == 4.0
    with pytest.raises(SampleError, match=r"over the judge's budget of \$0\.02"):
        scorer.score(SAMPLE, clip(tmp_path / "b.mp4", 36))
    assert len(asked) == 3
    # What is on disk costs nothing and is still scored.
    assert scorer.score(SAMPLE, Video(tmp_path / "a.mp4")).value == 4.0


def test_workers_of_a_run_share_budget_and_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(EndpointJudge, "__init__", lambda judge, **arguments: made.append(arguments))
    metric = NaturalScore(NaturalScoreOptions(budget=0.02, price_in=1.0, price_out=1.0))
    for _ in range(2):
        metric.load(Environment(shared=tmp_path))
    price = metric.estimate_cost(1)
    assert made[0]["account"].reserve(price)
    assert not made[1]["account"].reserve(price)
    assert made[0]["slots"].__self__ == made[1]["slots"].__self__


def test_unreadable_video_fails_and_asks_nobody(
    scripted: MakeScorer, asked: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    scorer = scripted([])
    with pytest.raises(SampleError, match="cannot be decoded"):
        scorer.score(SAMPLE, Video(tmp_path / "bad.mp4"))
    assert asked == []


def test_key_is_in_no_record_and_no_file(scripted: MakeScorer, tmp_path: Path) -> None:
    scorer = scripted([f"my key is {KEY}", "4", Fault("down"), "5", "4"])
    score = scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 4))
    assert score.details["replies"]["1"][0] == "my key is [key]"
    written = "".join(path.read_text() for path in (tmp_path / "cache").rglob("*.json"))
    metric = NaturalScore(NaturalScoreOptions(cache=tmp_path / "cache"))
    everything = written + json.dumps(score.details) + json.dumps(metric.settings()) + repr(metric.options)
    assert "my key is [key]" in written
    assert KEY not in everything


# The local judge


@pytest.fixture(scope="module")
def judge_folder(small_weights: Path) -> Path:
    return small_weights / QWEN25_VL.repository


@pytest.mark.usefixtures("one_thread")
def test_small_local_judge_answers_through_generate(small_weights: Path, tmp_path: Path) -> None:
    metric = NaturalScore(NaturalScoreOptions(backend="local"))
    environment = Environment(weights=small_weights)
    assert metric.unavailable(environment) is None
    scorer = metric.load(environment)
    score = scorer.score(SAMPLE, clip(tmp_path / "clip.mp4", 3))
    assert score.value in (1, 2, 3, 4, 5)
    assert score.details["runs"] == dict.fromkeys("123", str(int(score.value)))
    assert score.details["unofficial"] == "local judge Qwen/Qwen2.5-VL-7B-Instruct"
    assert "gpt-4o" in score.details["differs_from_official"][0]
    assert score.details["tokens_out"] == 2
    provenance = scorer.provenance()
    assert provenance["dtype"] == "float32" and provenance["batch_size"] == 1
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())
    scorer.close()


def test_local_judge_answers_any_question_with_a_digit(judge_folder: Path) -> None:
    from refbench.metrics.judges.local import LocalJudge

    judge = LocalJudge.load(judge_folder, "cpu", "small")
    for number in range(4):
        jpeg = jpeg_of(uint8_image(f"naturalscore/question_{number}", 56, 84))
        (answer,) = judge.judge(Question(jpegs=(jpeg,) * (number + 1), instruction="Judge."), [1])
        assert answer.verdict in set("12345")
    assert judge.judge(Question(jpegs=(), instruction="Judge."), []) == []


def test_local_judge_without_a_number_is_a_failed_run(judge_folder: Path) -> None:
    from refbench.metrics.judges.local import LocalJudge

    class Talker(LocalJudge):
        def reply_to(self, question: Question) -> Reply:
            return Reply(text="four, I think", tokens_in=10, tokens_out=4)

    judge = Talker.load(judge_folder, "cpu", "small")
    answers = judge.judge(Question(jpegs=(), instruction="Judge."), [1, 2])
    assert [answer.verdict for answer in answers] == [None, None]
    assert "four, I think" in (answers[0].failure or "")


def test_local_judge_is_read_loosely_and_marked(judge_folder: Path) -> None:
    from refbench.metrics.judges.local import LocalJudge

    class Shouter(LocalJudge):
        def reply_to(self, question: Question) -> Reply:
            return Reply(text="**4**\n", tokens_in=10, tokens_out=4)

    judge = Shouter.load(judge_folder, "cpu", "small")
    (answer,) = judge.judge(Question(jpegs=(), instruction="Judge."), [1])
    assert (answer.verdict, answer.reading, answer.failure) == ("4", "read without its emphasis", None)


def test_a_local_judge_is_a_metric_of_torch(judge_folder: Path) -> None:
    local = NaturalScore(NaturalScoreOptions(backend="local", model=str(judge_folder)))
    assert local.packages() == ("opencv-python", "numpy", "torch", "transformers")
    assert NaturalScore().packages() == ("opencv-python", "numpy", "openai")
    assert scoring_environment([local], "cpu:0", None).device == "cpu:0"
    with pytest.raises(UserError, match="needs torch and a metric that uses it"):
        scoring_environment([NaturalScore()], "cpu:0", None)


def test_local_model_may_be_a_path_and_a_missing_one_is_named(judge_folder: Path, tmp_path: Path) -> None:
    given = NaturalScore(NaturalScoreOptions(backend="local", model=str(judge_folder)))
    assert given.unavailable(Environment(weights=tmp_path)) is None
    absent = NaturalScore(NaturalScoreOptions(backend="local", model="nobody/nothing"))
    assert "nobody/nothing" in (absent.unavailable(Environment(weights=tmp_path)) or "")
    with pytest.raises(MissingWeights, match="hf download nobody/nothing"):
        absent.load(Environment(weights=tmp_path))
