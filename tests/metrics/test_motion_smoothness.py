"""MotionSmoothness: windows, artefacts and prompt as the original's, rating a stream, damaged files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fill import uint8_image

from kit.goldens import read
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.sample import Sample
from refbench.bench.video import Video, write_video
from refbench.metrics import motion_smoothness as subject
from refbench.metrics.motion_smoothness import (
    ONE_ALIGN,
    MotionSmoothness,
    MotionSmoothnessScorer,
    WindowRater,
)
from refbench.metrics.small.motion_smoothness import write_tiny

torch = pytest.importorskip("torch")

from kit.golden_mplug_owl2 import CLIPS, PROMPT, SCORES, golden_network, golden_pixels  # noqa: E402
from refbench.metrics.nets.mplug_owl2.network import MplugOwl2  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread", "no_hub")

SAMPLE = Sample(id="faceobj_1", category="faceobj", prompt="", references=())


# --- frames, windows, artefacts, prompt


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
def test_preprocessing_to_the_byte(name: str) -> None:
    stored = read("q_align/preprocess.npz")
    meta = json.loads(str(stored["meta_json"]))["images"][name]
    image = uint8_image(meta["input_name"], *meta["input_hw"])
    np.testing.assert_array_equal(subject.square(image, 448), stored[f"{name}/uint8_hwc"])
    pixels = subject.normalised_pixels(image, 448)
    np.testing.assert_allclose(pixels[:, ::7, ::7], stored[f"{name}/pixel_values_stride7"], atol=1e-6)
    black = subject.normalised_pixels(np.zeros((448, 448, 3), np.uint8), 448)
    np.testing.assert_allclose(black[:, 5, 5], stored["black_frame_value"], atol=1e-6)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == meta["sha256_float32_chw"]
    assert hashlib.sha256(pixels.astype(np.float16).tobytes()).hexdigest() == meta["sha256_float16_chw"]


def test_windows_are_the_originals() -> None:
    for case in read("q_align/sliding_window.json")["windows"]:
        frames, size = case["n_frames"], case["window_size"]
        windows = [list(subject.window_indices(centre, frames, size)) for centre in range(frames)]
        assert windows == case["windows"], (frames, size)


def test_artifacts_are_the_originals() -> None:
    stored = read("q_align/sliding_window.json")
    by_name = {case["name"]: case for case in stored["artifacts"]}
    assert len(by_name) == 19
    for case in [*stored["artifacts"], *stored["artifacts_other_threshold"]]:
        scores = by_name[case["name"]]["scores"]
        assert subject.artifact_frames(scores, case["threshold"]) == case["artifact_frames"], case["name"]
        assert subject.smoothness(scores, case["threshold"]) == case["smoothness"], case["name"]


def test_prompt_is_the_originals() -> None:
    stored = read("q_align/prompt.json")
    check = stored["cross_check"]
    assert stored["chunks"] == [subject.TEXT_BEFORE, subject.TEXT_AFTER]
    assert list(subject.RATING_WEIGHTS) == stored["rating_words"]
    assert list(subject.RATING_WEIGHTS.values()) == stored["weights"]
    prompt = subject.LLAMA_PROMPT
    assert [*prompt.before, stored["image_token_index"], *prompt.after] == check["input_ids"]
    assert list(prompt.words) == list(check["rating_word_ids"].values())
    assert len(prompt.before) == stored["llm_positions"]["prefix"]
    assert len(prompt.after) == stored["llm_positions"]["suffix"]


class StubPieces:
    """What LLaMA's SentencePiece model returns for our texts; it adds no BOS."""

    change = 0

    def __init__(self, model_proto: bytes) -> None:
        self.ids = {
            subject.TEXT_BEFORE: list(subject.LLAMA_PROMPT.before[1:]),
            subject.TEXT_AFTER: list(subject.LLAMA_PROMPT.after),
            **{
                word: [number, 7]
                for word, number in zip(subject.RATING_WEIGHTS, subject.LLAMA_PROMPT.words, strict=True)
            },
        }

    def bos_id(self) -> int:
        return 1

    def encode(self, text: str) -> list[int]:
        return [number + self.change for number in self.ids[text]]


def test_prompt_is_joined_as_the_original_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(
        sys.modules,
        "sentencepiece",
        SimpleNamespace(SentencePieceProcessor=StubPieces),  # type: ignore[arg-type]
    )
    (tmp_path / "tokenizer.model").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert subject.read_prompt(tmp_path / "tokenizer.model", 32000) == subject.LLAMA_PROMPT
    monkeypatch.setattr(StubPieces, "change", 1)
    with pytest.warns(UserWarning, match="other ids"):
        subject.read_prompt(tmp_path / "tokenizer.model", 32000)
    with pytest.raises(UserError, match="does not fit"):
        subject.read_prompt(tmp_path / "tokenizer.model", 15000)


# --- the rating of a stream of frames


@pytest.fixture(scope="module")
def network() -> MplugOwl2:
    return golden_network()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return read("q_align/mplug_owl2_tiny.npz")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_rating_end_to_end(
    network: MplugOwl2, golden: dict[str, np.ndarray], name: str, size: int, batch_size: int
) -> None:
    rater = WindowRater(network, PROMPT, window_size=size, batch_size=batch_size)
    scores = rater.frame_scores(iter(golden_pixels(name)))
    key = f"e2e_{name}_w{size}"
    np.testing.assert_allclose(scores, golden[f"{key}/score"], **SCORES)
    assert subject.artifact_frames(scores) == golden[f"{key}/artifact_frames"].tolist()
    assert subject.smoothness(scores) == float(golden[f"{key}/smoothness"])


def test_half_precision_runs_in_half_throughout(golden: dict[str, np.ndarray]) -> None:
    """The dtype path of a GPU, on the CPU; 5e-3 is what the goldens' cost.md suggests between devices."""
    rater = WindowRater(golden_network().half(), PROMPT, batch_size=4)
    scores = rater.frame_scores(golden_pixels("land"))
    assert rater.dtype == torch.float16
    np.testing.assert_allclose(scores, golden["half_e2e_land_w3/score"], atol=5e-3)
    assert [float(np.float16(score)) for score in scores] == scores


class WatchingRater(WindowRater):
    """Remembers how many windows were rated, and how many frames' vectors were held, each time."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.rated: list[int] = []
        self.held: list[int] = []

    def rate(self, windows: Sequence[tuple[int, ...]], vectors: Mapping[int, Any]) -> Any:
        self.rated.append(len(windows))
        self.held.append(len(vectors))
        return super().rate(windows, vectors)


def test_nothing_is_computed_twice_or_kept(network: MplugOwl2, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes, encoded = [], []
    plain_prefix = network.prefix

    def prefix(before: Any) -> Any:
        prefixes.append(before)
        return plain_prefix(before)

    monkeypatch.setattr(network, "prefix", prefix)
    rater = WatchingRater(network, PROMPT, window_size=5, batch_size=4)
    handle = network.model.vision_model.register_forward_hook(
        lambda module, given, output: encoded.append(len(output))
    )
    frames = (golden_pixels("land") * 3)[:21]
    try:
        scores = rater.frame_scores(frames)
        assert len(scores) == 21
        assert sum(encoded) == 21
        # Centres 0 and 1 are both five times frame 0.
        assert sum(rater.rated) == 20
        assert max(rater.held) <= 4 + 5
        rater.frame_scores(frames)
    finally:
        handle.remove()
    assert len(prefixes) == 1


# --- the metric on files


def moving_clip(path: Path, frames: int, height: int = 48, width: int = 64) -> Path:
    images = [np.roll(uint8_image("clip", height, width), 5 * shift, axis=1) for shift in range(frames)]
    write_video(path, images, 24)
    return path


def load(folder: Path) -> MotionSmoothnessScorer:
    return MotionSmoothness().load(Environment(threads=1, weights=folder))


def copied(weights: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the small weights that a test may damage: the folder, and the checkpoint in it."""
    folder = tmp_path / "copy"
    shutil.copytree(weights / ONE_ALIGN.repository, folder / ONE_ALIGN.repository)
    return folder, folder / ONE_ALIGN.repository


def test_small_checkpoint_scores_a_clip(small_weights: Path, tmp_path: Path) -> None:
    scorer = load(small_weights)
    video = Video(moving_clip(tmp_path / "faceobj_1.mp4", 9))
    score = scorer.score(SAMPLE, video)
    again = load(small_weights).score(SAMPLE, video)
    assert score == again
    assert 0 <= score.value <= 1
    assert score.details["frames"] == len(score.details["frame_scores"]) == 9
    assert score.value == 1 - len(score.details["artifact_frames"]) / 9
    assert np.ptp(score.details["frame_scores"]) > 1e-3
    json.dumps(score.details, allow_nan=False)
    provenance = scorer.provenance()
    assert (provenance["dtype"], provenance["batch_size"]) == ("float32", 4)
    shard = "pytorch_model-00001-of-00002.bin"
    digest = hashlib.sha256((small_weights / "q-future/one-align" / shard).read_bytes()).hexdigest()
    assert provenance["weights"][f"one-align/{shard}"] == f"tiny:{digest}"
    assert len(provenance["weights"]) == 4
    scorer.close()


def test_the_real_videos_score(small_weights: Path, opens2v: Path) -> None:
    scorer = load(small_weights)
    videos = sorted((opens2v / "videos").glob("*.mp4"))
    assert videos
    scores = [scorer.score(SAMPLE, Video(path)) for path in videos]
    assert all(score.details["frames"] > 3 for score in scores)
    assert any(0 < score.value < 1 for score in scores)


def test_small_checkpoint_is_the_same_each_time(small_weights: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert Path("q-future/one-align/REFBENCH_TINY") in files
    assert all((tmp_path / file).read_bytes() == (small_weights / file).read_bytes() for file in files)


def test_shards_single_file_and_safetensors_are_one(small_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, place = copied(small_weights, tmp_path)
    (place / "REFBENCH_TINY").unlink()
    tensors: dict[str, Any] = {}
    for shard in sorted(place.glob("*.bin")):
        tensors.update(torch.load(shard, weights_only=True))
        shard.unlink()
    (place / "pytorch_model.bin.index.json").unlink()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    torch.save(tensors, place / "pytorch_model.bin")
    video = Video(moving_clip(tmp_path / "clip.mp4", 4))
    expected = load(small_weights).score(SAMPLE, video)
    single = load(folder)
    assert single.score(SAMPLE, video) == expected
    assert not any(digest.startswith("tiny:") for digest in single.provenance()["weights"].values())
    keys = sorted(tensors)
    for number, part in enumerate((keys[:40], keys[40:])):
        save_file({key: tensors[key] for key in part}, place / f"model-{number}.safetensors")
    places = {key: f"model-{int(key in keys[40:])}.safetensors" for key in keys}
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    sharded = load(folder)
    assert sharded.score(SAMPLE, video) == expected
    assert "one-align/model-1.safetensors" in sharded.provenance()["weights"]


@pytest.mark.parametrize(("frames", "value"), [(1, 1.0), (2, None)])
def test_a_video_shorter_than_a_window_is_scored(
    small_weights: Path, tmp_path: Path, frames: int, value: float | None
) -> None:
    score = load(small_weights).score(SAMPLE, Video(moving_clip(tmp_path / "short.mp4", frames)))
    assert score.details["frames"] == frames
    assert score.value in (0.0, 1.0) if value is None else score.value == value
    assert (score.details["smallest_margin"] is None) == (frames == 1)


def test_an_undecodable_video_is_a_reason(small_weights: Path, tmp_path: Path) -> None:
    scorer = load(small_weights)
    (tmp_path / "prose.mp4").write_text("this is no video")
    whole = moving_clip(tmp_path / "whole.mp4", 30).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    for name in ("prose", "cut", "empty", "absent"):
        with pytest.raises(SampleError):
            scorer.score(SAMPLE, Video(tmp_path / f"{name}.mp4"))


def test_a_frame_too_long_to_be_padded_is_a_reason() -> None:
    with pytest.raises(SampleError, match="too long"):
        subject.square(np.zeros((1, 8193, 3), np.uint8), 56)


def test_scores_that_are_not_finite_are_a_reason(small_weights: Path, tmp_path: Path) -> None:
    """The original compares NaN with the threshold and calls the video smooth."""
    folder, place = copied(small_weights, tmp_path)
    shard = place / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(shard, weights_only=True)
    tensors["lm_head.weight"].fill_(float("nan"))
    torch.save(tensors, shard)
    with pytest.raises(SampleError, match="not finite"):
        load(folder).score(SAMPLE, Video(moving_clip(tmp_path / "clip.mp4", 3)))


def test_missing_files_are_named(small_weights: Path, tmp_path: Path) -> None:
    nowhere = Environment(weights=tmp_path / "nowhere")
    assert "q-future/one-align is not on disk" in str(MotionSmoothness().unavailable(nowhere))
    with pytest.raises(MissingWeights, match="refbench weights pull one-align"):
        MotionSmoothness().load(nowhere)
    for name in ("config.json", "tokenizer.model", "pytorch_model-00002-of-00002.bin"):
        folder, place = copied(small_weights, tmp_path / name)
        environment = Environment(weights=folder)
        assert MotionSmoothness().unavailable(environment) is None
        (place / name).unlink()
        assert name in str(MotionSmoothness().unavailable(environment))
        with pytest.raises(MissingWeights, match=name):
            MotionSmoothness().load(environment)


def test_a_missing_package_is_named(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "refbench.bench.environment.find_spec", lambda name: None if name == "sentencepiece" else find(name)
    )
    assert "sentencepiece" in str(MotionSmoothness().unavailable(Environment(weights=small_weights)))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


SHARD = "pytorch_model-00001-of-00002.bin"
INDEX = "pytorch_model.bin.index.json"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated shard": (lambda place: shorten(place / SHARD), "damaged"),
    "a shard without tensors": (lambda place: torch.save({}, place / SHARD), "missing"),
    "other sizes": (lambda place: edit(place / "config.json", intermediate_size=80), "of a wrong shape"),
    "no epsilon": (lambda place: edit(place / "config.json", rms_norm_eps=...), "lacks rms_norm_eps"),
    "a size of text": (lambda place: edit(place / "config.json", hidden_size="48"), "hidden_size cannot be"),
    "a size of nothing": (lambda place: edit(place / "config.json", num_hidden_layers=0), "cannot be 0"),
    "absurd size": (lambda place: edit(place / "config.json", vocab_size=10**9), "vocab_size cannot be"),
    "grouped heads": (lambda place: edit(place / "config.json", num_key_value_heads=2), "must equal"),
    "uneven heads": (
        lambda place: edit(place / "config.json", num_attention_heads=5, num_key_value_heads=5),
        "multiple",
    ),
    "scaled positions": (lambda place: edit(place / "config.json", rope_scaling={"type": "x"}), "rotary"),
    "no vision": (lambda place: edit(place / "config.json", visual_config=[]), "not a JSON object"),
    "another grid": (
        lambda place: edit(place / "config.json", visual_config={"visual_model": {"image_size": 56}}),
        "does not fit the vision tower",
    ),
    "config no JSON": (lambda place: (place / "config.json").write_text("{") and None, "broken JSON"),
    "index leaves folder": (
        lambda place: edit(place / INDEX, weight_map={"lm_head.weight": "../../evil.bin"}),
        "outside of its folder",
    ),
    "index empty": (lambda place: edit(place / INDEX, weight_map={}), "no weight_map"),
    "tokenizer no model": (
        lambda place: (place / "tokenizer.model").write_text("prose") and None,
        "no SentencePiece model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_give_one_clear_line(small_weights: Path, tmp_path: Path, damage: str) -> None:
    folder, place = copied(small_weights, tmp_path)
    apply, words = DAMAGES[damage]
    apply(place)
    with pytest.raises(UserError, match=words) as caught:
        MotionSmoothness().load(Environment(weights=folder))
    assert "\n" not in str(caught.value)


def test_importing_the_metric_is_light() -> None:
    code = (
        "import sys, refbench.metrics.motion_smoothness, refbench.metrics.small.motion_smoothness; "
        "heavy = ('torch', 'PIL', 'cv2', 'sentencepiece', 'transformers'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
