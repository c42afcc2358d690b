"""MotionSmoothness against what the original returned (goldens `q_align`), and on damaged files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refbench.bench.errors import MissingWeights, SampleError, UserError  # noqa: E402
from refbench.bench.metric import Environment  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402
from refbench.bench.video import Video, write_video  # noqa: E402
from refbench.metrics import motion_smoothness as subject  # noqa: E402
from refbench.metrics.motion_smoothness import MotionSmoothness, Prompt, WindowScorer  # noqa: E402
from refbench.metrics.nets.mplug_owl2 import scorer as mplug_owl2  # noqa: E402
from refbench.metrics.nets.mplug_owl2.scorer import MplugOwl2, MplugOwl2Config, Span  # noqa: E402
from refbench.metrics.small.motion_smoothness import grid_positions, line_positions, write_tiny  # noqa: E402

GOLDENS = Path(__file__).parents[1] / "goldens"
FOLDER = GOLDENS / "q_align"
STATES = {"atol": 2e-5, "rtol": 1e-5}
SCORES = {"atol": 2e-6, "rtol": 1e-5}

BEFORE, AFTER, WORDS = (1, 17, 5, 33, 8), (64, 29, 3, 90, 12), (11, 23, 42, 61, 90)
PROMPT = Prompt(before=BEFORE, after=AFTER, words=WORDS)
CLIPS = {"land": ("aaabbbcb", 45, 80), "port": ("ddeee", 70, 50), "one": ("f", 56, 56)}
SAMPLE = Sample(id="faceobj_1", category="faceobj", prompt="", references=())


def load_fill() -> ModuleType:
    specification = importlib.util.spec_from_file_location("golden_fill", GOLDENS / "fill.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


fill = load_fill()


def read_config(config: dict[str, Any]) -> MplugOwl2Config:
    visual = {"visual_model": config["vision"], "visual_abstractor": config["abstractor"]}
    return MplugOwl2Config.from_json({**config["llm"], "visual_config": visual}, "golden")


def golden_network() -> MplugOwl2:
    manifest = json.loads((FOLDER / "manifests/tiny.json").read_text())
    network = MplugOwl2(read_config(manifest["config"]))
    fill.fill_state_dict(network)
    network.requires_grad_(False)
    return network.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> MplugOwl2:
    return golden_network()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "mplug_owl2_tiny.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("weights")
    write_tiny(folder)
    return folder


@pytest.fixture(autouse=True)
def no_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REFBENCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-hub"))


def golden_clip(name: str) -> list[np.ndarray]:
    scenes, height, width = CLIPS[name]
    return [
        np.roll(fill.uint8_image(f"qalign/e2e/{scene}", height, width), shift, axis=1)
        for shift, scene in enumerate(scenes)
    ]


def golden_pixels(name: str) -> list[np.ndarray]:
    return [subject.normalised_pixels(frame, 56) for frame in golden_clip(name)]


def video_tensor(name: str, frames: int) -> Any:
    return torch.from_numpy(fill.normal(f"qalign/{name}", (frames, 3, 56, 56)))


def image_block(network: MplugOwl2, name: str, frames: int) -> Any:
    return network.encode_frames(video_tensor(name, frames)).flatten(0, 1)[None]


# --- the network


def test_full_size_keys_and_shapes_are_the_checkpoints() -> None:
    manifest = json.loads((FOLDER / "manifests/one_align.json").read_text())
    config = manifest["config"]
    config["llm"]["rms_norm_eps"] = 1e-5
    with torch.device("meta"):
        full = MplugOwl2(read_config(config))
    shapes = {key: list(tensor.shape) for key, tensor in full.state_dict().items()}
    assert len(shapes) == 862
    assert shapes == manifest["shapes"]
    assert sum(parameter.numel() for parameter in full.parameters()) == manifest["counts"]["parameters"]
    assert sorted(name for name, _ in full.named_buffers()) == sorted(manifest["persistent_buffers"])
    assert full.config == MplugOwl2Config.from_json({"rms_norm_eps": 1e-5}, "defaults")


def test_tiny_keys_and_shapes_are_the_references(network: MplugOwl2) -> None:
    manifest = json.loads((FOLDER / "manifests/tiny.json").read_text())
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == manifest["state_dict_shapes"]


def test_abstractor_norms_keep_torchs_epsilon(network: MplugOwl2) -> None:
    """The goldens hardly see `norm2` and `normk` at 1e-6, so this is said outright."""
    for layer in network.model.visual_abstractor.encoder.layers:
        step = layer.crossattention
        assert [norm.eps for norm in (step.norm1, step.normk, step.output.norm2)] == [1e-5] * 3


@pytest.mark.parametrize(("video", "frames"), [("v3", 3), ("v5", 5)])
def test_every_stored_state(
    network: MplugOwl2, golden: dict[str, np.ndarray], video: str, frames: int
) -> None:
    model = network.model
    first = model.layers[0]
    watched = {
        "vision_embeddings": model.vision_model.embeddings,
        "vision_last_hidden_state": model.vision_model,
        "abstractor_output": model.visual_abstractor,
        "llm_layer0_input_norm": first.input_layernorm,
        "llm_layer0_q": first.self_attn.q_proj,
        "llm_layer0_k": first.self_attn.k_proj,
        "llm_layer0_v": first.self_attn.v_proj,
        "llm_layer0_attn": first.self_attn,
        "llm_layer0_post_norm": first.post_attention_layernorm,
        "llm_final_norm": model.norm,
        **{f"vision_layer{n}": layer for n, layer in enumerate(model.vision_model.encoder.layers)},
        **{f"abstractor_layer{n}": layer for n, layer in enumerate(model.visual_abstractor.encoder.layers)},
        **{f"llm_layer{n}": layer for n, layer in enumerate(model.layers)},
    }
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    handles.append(
        model.register_forward_pre_hook(lambda module, given: seen.update(llm_inputs_embeds=given[0]))
    )
    try:
        logits = network(BEFORE, image_block(network, f"video{frames}", frames), AFTER)
    finally:
        for handle in handles:
            handle.remove()
    seen["logits"], seen["last_logits"] = logits, logits[:, -1]
    seen["pref_logits"] = logits[:, -1, list(WORDS)]
    stored = {key.partition("/")[2] for key in golden if key.startswith(f"{video}/")}
    assert stored - seen.keys() == {"modality_indicators", "softmax", "score"}
    for name, state in seen.items():
        np.testing.assert_allclose(state, golden[f"{video}/{name}"], **STATES, err_msg=name)
    indicators = golden[f"{video}/modality_indicators"][0]
    assert indicators.tolist() == [0] * len(BEFORE) + [1] * 6 * frames + [0] * len(AFTER)


@pytest.mark.parametrize("frames", [3, 5])
def test_rating_path_equals_the_definition(
    network: MplugOwl2, golden: dict[str, np.ndarray], frames: int
) -> None:
    image = image_block(network, f"video{frames}", frames)
    quick = network.word_logits(network.prefix(BEFORE), image, AFTER, WORDS)
    plain = network(BEFORE, image, AFTER)[:, -1, list(WORDS)]
    np.testing.assert_allclose(quick, plain, atol=5e-6, rtol=1e-5)
    np.testing.assert_allclose(quick, golden[f"v{frames}/pref_logits"], **STATES)
    np.testing.assert_allclose(quick.softmax(-1), golden[f"v{frames}/softmax"], **SCORES)


def test_prefix_cache_is_the_plain_runs_prefix(network: MplugOwl2) -> None:
    image = image_block(network, "video3", 3)
    whole = torch.cat([network._embed(BEFORE, 1), image, network._embed(AFTER, 1)], 1)
    _, memory = network.model(whole, Span(len(BEFORE), len(BEFORE) + image.shape[1]))
    for cached, full in zip(network.prefix(BEFORE), memory, strict=True):
        np.testing.assert_allclose(cached.key_BHTK, full.key_BHTK[:, :, : len(BEFORE)], atol=5e-6)
        np.testing.assert_allclose(cached.value_BHTK, full.value_BHTK[:, :, : len(BEFORE)], atol=5e-6)


def test_two_windows_in_a_batch_equal_each_alone(network: MplugOwl2, golden: dict[str, np.ndarray]) -> None:
    images = torch.cat([image_block(network, "video3", 3), image_block(network, "video3b", 3)])
    quick = network.word_logits(network.prefix(BEFORE), images, AFTER, WORDS)
    np.testing.assert_allclose(quick, golden["batch2/pref_logits"], **STATES)
    np.testing.assert_allclose(network(BEFORE, images, AFTER)[:, -1], golden["batch2/last_logits"], **STATES)
    assert np.abs(golden["batch2/pref_logits"][0] - golden["batch2/pref_logits"][1]).max() > 1e-2


def set_eps(modules: Any, kind: type, eps: float) -> None:
    for module in modules.modules():
        if isinstance(module, kind):
            module.eps = eps


def chunk_projection(net: MplugOwl2) -> None:
    for layer in net.model.vision_model.encoder.layers:
        fused = layer.self_attn.query_key_value
        heads = layer.self_attn.heads
        for tensor in (fused.weight, fused.bias):
            blocks = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
            tensor.copy_(blocks.clone())


def text_weights_only(net: MplugOwl2) -> None:
    for module in net.modules():
        if isinstance(module, mplug_owl2.Multiway):
            module.multiway[1] = module.multiway[0]


def drop_vit_eos(net: MplugOwl2) -> None:
    net.model.visual_abstractor.vit_eos.zero_()


def exact_gelu(net: MplugOwl2) -> None:
    def forward(self: Any, hidden: Any) -> Any:
        return self.fc2(torch.nn.functional.gelu(self.fc1(hidden)))

    for layer in net.model.vision_model.encoder.layers:
        layer.mlp.forward = forward.__get__(layer.mlp)


MISTAKES: dict[str, Callable[[MplugOwl2], None]] = {
    "tower epsilon": lambda net: set_eps(net.model.vision_model, torch.nn.LayerNorm, 1e-5),
    "ffn_ln epsilon": lambda net: (
        [
            set_eps(layer.crossattention.output.mlp, torch.nn.LayerNorm, 1e-5)
            for layer in net.model.visual_abstractor.encoder.layers
        ]
        and None
    ),
    "RMSNorm epsilon": lambda net: set_eps(net, mplug_owl2.RmsNorm, 1e-6),
    "chunked projection": chunk_projection,
    "text weights for the image": text_weights_only,
    "no vit_eos": drop_vit_eos,
    "exact GELU": exact_gelu,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_goldens_would_catch(golden: dict[str, np.ndarray], mistake: str) -> None:
    wrong = golden_network()
    MISTAKES[mistake](wrong)
    logits = wrong.word_logits(wrong.prefix(BEFORE), image_block(wrong, "video3", 3), AFTER, WORDS)
    assert np.abs(logits.numpy() - golden["v3/pref_logits"]).max() > 1e-3


def test_position_tables(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(line_positions(np.arange(5), 32), golden["sincos/q"], atol=1e-5)
    np.testing.assert_allclose(grid_positions(4, 32), golden["sincos/k"], atol=1e-5)
    rows = [0, 1, 2, 33, 34, 1024]
    full = grid_positions(32, 1024)
    assert full.shape == (1025, 1024)
    np.testing.assert_allclose(full[rows], golden["sincos/full_k_rows_0_1_2_33_34_1024"], atol=1e-5)
    line = line_positions(np.arange(64), 1024)[[0, 1, 63]]
    np.testing.assert_allclose(line, golden["sincos/full_q_rows_0_1_63"], atol=1e-5)


# --- frames, windows, artefacts, prompt


@pytest.mark.parametrize("name", ["landscape", "portrait", "square"])
def test_preprocessing_to_the_byte(name: str) -> None:
    with np.load(FOLDER / "preprocess.npz") as stored:
        meta = json.loads(str(stored["meta_json"]))["images"][name]
        image = fill.uint8_image(meta["input_name"], *meta["input_hw"])
        np.testing.assert_array_equal(subject.square(image, 448), stored[f"{name}/uint8_hwc"])
        pixels = subject.normalised_pixels(image, 448)
        np.testing.assert_allclose(pixels[:, ::7, ::7], stored[f"{name}/pixel_values_stride7"], atol=1e-6)
        black = subject.normalised_pixels(np.zeros((448, 448, 3), np.uint8), 448)
        np.testing.assert_allclose(black[:, 5, 5], stored["black_frame_value"], atol=1e-6)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == meta["sha256_float32_chw"]
    assert hashlib.sha256(pixels.astype(np.float16).tobytes()).hexdigest() == meta["sha256_float16_chw"]


def test_windows_are_the_originals() -> None:
    for case in json.loads((FOLDER / "sliding_window.json").read_text())["windows"]:
        frames, size = case["n_frames"], case["window_size"]
        windows = [list(subject.window_indices(centre, frames, size)) for centre in range(frames)]
        assert windows == case["windows"], (frames, size)


def test_artifacts_are_the_originals() -> None:
    stored = json.loads((FOLDER / "sliding_window.json").read_text())
    by_name = {case["name"]: case for case in stored["artifacts"]}
    assert len(by_name) == 19
    for case in [*stored["artifacts"], *stored["artifacts_other_threshold"]]:
        scores = by_name[case["name"]]["scores"]
        assert subject.artifact_frames(scores, case["threshold"]) == case["artifact_frames"], case["name"]
        assert subject.smoothness(scores, case["threshold"]) == case["smoothness"], case["name"]


def test_prompt_is_the_originals() -> None:
    stored = json.loads((FOLDER / "prompt.json").read_text())
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


# --- the scorer over a stream of frames


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_scorer_end_to_end(
    network: MplugOwl2, golden: dict[str, np.ndarray], name: str, size: int, batch_size: int
) -> None:
    scorer = WindowScorer(network, PROMPT, window_size=size, batch_size=batch_size)
    scores = scorer.frame_scores(iter(golden_pixels(name)))
    key = f"e2e_{name}_w{size}"
    np.testing.assert_allclose(scores, golden[f"{key}/score"], **SCORES)
    assert subject.artifact_frames(scores) == golden[f"{key}/artifact_frames"].tolist()
    assert subject.smoothness(scores) == float(golden[f"{key}/smoothness"])


def test_end_to_end_pixels_and_logits(network: MplugOwl2, golden: dict[str, np.ndarray]) -> None:
    pixels = golden_pixels("land")
    for frame in (0, 7):
        np.testing.assert_allclose(pixels[frame], golden[f"e2e_land/pixel_values_frame{frame}"], atol=1e-6)
    vectors = network.encode_frames(torch.from_numpy(np.stack(pixels)))
    images = torch.stack([vectors[list(subject.window_indices(c, 8))].flatten(0, 1) for c in range(8)])
    logits = network.word_logits(network.prefix(BEFORE), images, AFTER, WORDS)
    np.testing.assert_allclose(logits, golden["e2e_land_w3/logits"], **STATES)


def test_half_precision_runs_in_half_throughout(golden: dict[str, np.ndarray]) -> None:
    """The dtype path of a GPU, on the CPU; 5e-3 is what the goldens' cost.md suggests between devices."""
    scorer = WindowScorer(golden_network().half(), PROMPT, batch_size=4)
    scores = scorer.frame_scores(golden_pixels("land"))
    assert scorer.dtype == torch.float16
    np.testing.assert_allclose(scores, golden["half_e2e_land_w3/score"], atol=5e-3)
    assert [float(np.float16(score)) for score in scores] == scores


def test_nothing_is_computed_twice_or_kept(network: MplugOwl2, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes, encoded, rated, held = [], [], [], []
    plain_prefix, plain_logits = network.prefix, network.word_logits

    def prefix(before: Any) -> Any:
        prefixes.append(before)
        return plain_prefix(before)

    def word_logits(cache: Any, images: Any, *rest: Any) -> Any:
        rated.append(len(images))
        return plain_logits(cache, images, *rest)

    monkeypatch.setattr(network, "prefix", prefix)
    monkeypatch.setattr(network, "word_logits", word_logits)
    scorer = WindowScorer(network, PROMPT, window_size=5, batch_size=4)
    plain_rate = scorer._rate

    def rate(windows: Any, vectors: Any) -> Any:
        held.append(len(vectors))
        return plain_rate(windows, vectors)

    monkeypatch.setattr(scorer, "_rate", rate)
    handle = network.model.vision_model.register_forward_hook(
        lambda module, given, output: encoded.append(len(output))
    )
    frames = (golden_pixels("land") * 3)[:21]
    try:
        scores = scorer.frame_scores(frames)
        assert len(scores) == 21
        assert sum(encoded) == 21
        # Centres 0 and 1 are both five times frame 0.
        assert sum(rated) == 20
        assert max(held) <= 4 + 5
        scorer.frame_scores(frames)
    finally:
        handle.remove()
    assert len(prefixes) == 1


# --- the metric on files


def moving_clip(path: Path, frames: int, height: int = 48, width: int = 64) -> Path:
    images = [np.roll(fill.uint8_image("clip", height, width), 5 * shift, axis=1) for shift in range(frames)]
    write_video(path, images, 24)
    return path


def load(folder: Path) -> MotionSmoothness:
    metric = MotionSmoothness()
    metric.load(Environment(threads=1, weights=folder))
    return metric


def copied(weights: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the tiny weights that a test may damage: the folder, and the checkpoint in it."""
    folder = tmp_path / "copy"
    shutil.copytree(weights, folder)
    return folder, folder / "q-future/one-align"


def test_tiny_checkpoint_scores_a_clip(tiny_weights: Path, tmp_path: Path) -> None:
    metric = load(tiny_weights)
    video = Video(moving_clip(tmp_path / "faceobj_1.mp4", 9))
    score = metric.score(SAMPLE, video)
    again = load(tiny_weights).score(SAMPLE, video)
    assert score == again
    assert 0 <= score.value <= 1
    assert score.details["frames"] == len(score.details["frame_scores"]) == 9
    assert score.value == 1 - len(score.details["artifact_frames"]) / 9
    assert np.ptp(score.details["frame_scores"]) > 1e-3
    json.dumps(score.details, allow_nan=False)
    provenance = metric.provenance()
    assert (provenance["dtype"], provenance["batch_size"]) == ("float32", 4)
    shard = "pytorch_model-00001-of-00002.bin"
    digest = hashlib.sha256((tiny_weights / "q-future/one-align" / shard).read_bytes()).hexdigest()
    assert provenance["weights"][f"one-align/{shard}"] == f"tiny:{digest}"
    assert len(provenance["weights"]) == 4
    metric.close()
    assert metric.provenance() == {}


def test_the_real_videos_score(tiny_weights: Path) -> None:
    shared = os.environ.get("REFBENCH_SHARED")
    if shared is None:
        pytest.skip("REFBENCH_SHARED names no folder with the real videos")
    metric = load(tiny_weights)
    videos = sorted((Path(shared) / "data/opens2v_eval/videos").glob("*.mp4"))
    assert videos
    scores = [metric.score(SAMPLE, Video(path)) for path in videos]
    assert all(score.details["frames"] > 3 for score in scores)
    assert any(0 < score.value < 1 for score in scores)


def test_tiny_checkpoint_is_the_same_each_time(tiny_weights: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert Path("q-future/one-align/REFBENCH_TINY") in files
    assert all((tmp_path / file).read_bytes() == (tiny_weights / file).read_bytes() for file in files)


def test_shards_single_file_and_safetensors_are_one(tiny_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, place = copied(tiny_weights, tmp_path)
    (place / "REFBENCH_TINY").unlink()
    tensors: dict[str, Any] = {}
    for shard in sorted(place.glob("*.bin")):
        tensors.update(torch.load(shard, weights_only=True))
        shard.unlink()
    (place / "pytorch_model.bin.index.json").unlink()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    torch.save(tensors, place / "pytorch_model.bin")
    video = Video(moving_clip(tmp_path / "clip.mp4", 4))
    expected = load(tiny_weights).score(SAMPLE, video)
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
    tiny_weights: Path, tmp_path: Path, frames: int, value: float | None
) -> None:
    score = load(tiny_weights).score(SAMPLE, Video(moving_clip(tmp_path / "short.mp4", frames)))
    assert score.details["frames"] == frames
    assert score.value in (0.0, 1.0) if value is None else score.value == value
    assert (score.details["smallest_margin"] is None) == (frames == 1)


def test_an_undecodable_video_is_a_reason(tiny_weights: Path, tmp_path: Path) -> None:
    metric = load(tiny_weights)
    (tmp_path / "prose.mp4").write_text("this is no video")
    whole = moving_clip(tmp_path / "whole.mp4", 30).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    for name in ("prose", "cut", "empty", "absent"):
        with pytest.raises(SampleError):
            metric.score(SAMPLE, Video(tmp_path / f"{name}.mp4"))


def test_a_frame_too_long_to_be_padded_is_a_reason() -> None:
    with pytest.raises(SampleError, match="too long"):
        subject.square(np.zeros((1, 8193, 3), np.uint8), 56)


def test_scores_that_are_not_finite_are_a_reason(tiny_weights: Path, tmp_path: Path) -> None:
    """The original compares NaN with the threshold and calls the video smooth."""
    folder, place = copied(tiny_weights, tmp_path)
    shard = place / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(shard, weights_only=True)
    tensors["lm_head.weight"].fill_(float("nan"))
    torch.save(tensors, shard)
    with pytest.raises(SampleError, match="not finite"):
        load(folder).score(SAMPLE, Video(moving_clip(tmp_path / "clip.mp4", 3)))


def test_missing_files_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    nowhere = Environment(weights=tmp_path / "nowhere")
    assert "q-future/one-align is not on disk" in str(MotionSmoothness().unavailable(nowhere))
    with pytest.raises(MissingWeights, match="refbench weights pull one-align"):
        MotionSmoothness().load(nowhere)
    for name in ("config.json", "tokenizer.model", "pytorch_model-00002-of-00002.bin"):
        folder, place = copied(tiny_weights, tmp_path / name)
        environment = Environment(weights=folder)
        assert MotionSmoothness().unavailable(environment) is None
        (place / name).unlink()
        assert name in str(MotionSmoothness().unavailable(environment))
        with pytest.raises(MissingWeights, match=name):
            MotionSmoothness().load(environment)


def test_a_missing_package_is_named(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "refbench.bench.environment.find_spec", lambda name: None if name == "sentencepiece" else find(name)
    )
    assert "sentencepiece" in str(MotionSmoothness().unavailable(Environment(weights=tiny_weights)))


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
    "config no JSON": (lambda place: (place / "config.json").write_text("{") and None, "cannot be read"),
    "index leaves folder": (
        lambda place: edit(place / INDEX, weight_map={"lm_head.weight": "../../evil.bin"}),
        "no weight file beside it",
    ),
    "index empty": (lambda place: edit(place / INDEX, weight_map={}), "no weight_map"),
    "tokenizer no model": (
        lambda place: (place / "tokenizer.model").write_text("prose") and None,
        "no SentencePiece model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_give_one_clear_line(tiny_weights: Path, tmp_path: Path, damage: str) -> None:
    folder, place = copied(tiny_weights, tmp_path)
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
