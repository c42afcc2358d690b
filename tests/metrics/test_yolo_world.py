"""The image-prompt detector against the original's numbers, its checkpoint's keys, and its way of loading.

Tolerances are those of goldens `yolo_world` (README): float32 with another convolution kernel, well under the
change that any of the mistakes named there makes.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from refbench.bench.errors import SampleError, UserError  # noqa: E402
from refbench.metrics.nets.yolo_world import backbone as yolo_world_backbone  # noqa: E402
from refbench.metrics.nets.yolo_world.boxes import (  # noqa: E402
    SCRIPT_SCORE,
    Letterbox,
    decoded_boxes,
    flat_logits,
    head_boxes,
    script_boxes,
)
from refbench.metrics.nets.yolo_world.detector import (  # noqa: E402
    INERT_PICKLED_TYPES,
    YoloWorld,
    YoloWorldSizes,
    detector_tensors,
    load_yolo_world,
    read_training_checkpoint,
)
from refbench.metrics.nets.yolo_world.head import expected_distances  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt import ClipPictureTower  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector  # noqa: E402
from refbench.metrics.small import nexusscore as tiny  # noqa: E402

GOLDENS = Path(__file__).parents[1] / "goldens"
YOLO = GOLDENS / "yolo_world"
LEVELS = range(3)
STRIDES = (8, 16, 32)

LOGIT_LIMITS = (1e-3, 1e-2)
DISTANCE_LIMITS = (3e-3, 0.05)
UNIT_LIMIT = 1e-4


def _fill_module() -> ModuleType:
    specification = importlib.util.spec_from_file_location("golden_fill", GOLDENS / "fill.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


fill: Any = _fill_module()


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(YOLO / name) as file:
        return {key: file[key] for key in file.files}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def sampled(tensor: Any, count: int) -> np.ndarray:
    flat = tensor.reshape(-1).numpy()
    return flat[:: max(1, flat.size // count) | 1][:count]


def assert_near(actual: np.ndarray, expected: np.ndarray, limits: tuple[float, float], name: str) -> None:
    """Root mean square and maximum of the difference lie under the limits."""
    assert actual.shape == expected.shape, name
    error = actual.astype(np.float64) - expected
    assert np.sqrt((error**2).mean()) < limits[0], f"{name}: rms {np.sqrt((error**2).mean()):.2e}"
    assert np.abs(error).max() < limits[1], f"{name}: max {np.abs(error).max():.2e}"


def apply_recipe(network: YoloWorld) -> None:
    """Steps 1 to 3 of the golden weights."""
    tensors = network.state_dict()
    for key, tensor in tensors.items():
        if key.startswith("neck.") and key.endswith("attn_block.guide_fc.weight"):
            tensor.mul_(32)
    for level in LEVELS:
        tensors[f"bbox_head.head_module.reg_preds.{level}.2.weight"].mul_(4)
    tensors["image_prompt_encoder.projector.0.weight"].mul_(16)


def apply_statistics(network: YoloWorld, name: str, logit_bias: float) -> None:
    """Steps 4 and 5 of the golden weights."""
    tensors = network.state_dict()
    for level in LEVELS:
        tensors[f"bbox_head.head_module.cls_contrasts.{level}.bias"].fill_(logit_bias)
    for key, statistics in golden(name).items():
        tensors[key].copy_(torch.from_numpy(statistics.astype(np.float32)))


def tap_modules(network: YoloWorld) -> dict[str, Any]:
    """The modules whose outputs the goldens sample."""
    darknet, neck = network.backbone["image_model"], network.neck
    head = network.bbox_head.head_module
    return {
        "stem": darknet.stem,
        **{f"stage{number}": getattr(darknet, f"stage{number}") for number in (1, 2, 3, 4)},
        "stage4_before_sppf": darknet.stage4[1],
        **{f"top_down_{index}": neck.top_down_layers[index] for index in (0, 1)},
        **{f"top_down_{index}_attn": neck.top_down_layers[index].attn_block for index in (0, 1)},
        **{f"downsample_{index}": neck.downsample_layers[index] for index in (0, 1)},
        **{f"bottom_up_{index}": neck.bottom_up_layers[index] for index in (0, 1)},
        **{f"cls_embed_{level}": head.cls_preds[level] for level in LEVELS},
        **{f"reg_logits_{level}": head.reg_preds[level] for level in LEVELS},
    }


@torch.inference_mode()
def run_with_taps(network: YoloWorld, images: Any, prompts: Any) -> dict[str, Any]:
    """Every tapped output of one pass, with logits, distances and boxes."""
    outputs: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: outputs.update({name: output.clone()}))
        for name, module in tap_modules(network).items()
    ]
    logits, distances = network.predict(network.features(images), prompts)
    for handle in handles:
        handle.remove()
    for level in LEVELS:
        outputs[f"cls_logits_{level}"], outputs[f"ltrb_{level}"] = logits[level], distances[level]
    outputs["boxes"] = decoded_boxes(distances)
    return outputs


@torch.inference_mode()
def unit_blocks(network: YoloWorld, prompts: Any) -> dict[str, Any]:
    """The blocks that the goldens test alone, for one prompt or two."""

    def noise(name: str, *shape: int) -> Any:
        return torch.from_numpy(fill.normal(f"yolo/unit/{name}", shape))

    darknet, neck = network.backbone["image_model"], network.neck
    block, count = neck.top_down_layers[1], prompts.shape[1]
    outputs = {
        f"attn_k{count}": block.attn_block(noise("attn", 1, 128, 12, 12), prompts),
        f"guided_csp_k{count}": block(noise("guided_csp", 1, 768, 12, 12), prompts),
        f"contrast_k{count}": network.bbox_head.head_module.cls_contrasts[0](
            noise("contrast", 1, 512, 12, 12), 3 * prompts
        ),
    }
    if count == 1:
        outputs["sppf"] = darknet.stage4[2](noise("sppf", 1, 512, 12, 12))
        outputs["csp_identity"] = darknet.stage1[1](noise("csp", 1, 128, 12, 12))
        outputs["dfl"] = expected_distances(3 * noise("dfl", 1, 64, 12, 12), 16)
    return outputs


@pytest.fixture(scope="module", autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def full() -> SimpleNamespace:
    """The full-size network and what it returned in each state that the goldens name, in order."""
    prompt_K1 = torch.from_numpy(unit(fill.normal("yolo/full/prompt", (1, 1, 512))))
    padding = torch.from_numpy(unit(fill.normal("yolo/full/padding", (1, 1, 512))))
    prompts_K2 = torch.cat([prompt_K1, padding], dim=1)
    pixels = fill.uint8_image("yolo/full/image", 640, 640).transpose(2, 0, 1)[None].astype(np.float32) / 255
    images = torch.from_numpy(pixels + fill.normal("yolo/full/noise", (1, 3, 640, 640), std=0.1))

    network = YoloWorld()
    fill.fill_state_dict(network)
    network.eval().requires_grad_(False)
    plain = run_with_taps(network, images, prompt_K1)
    apply_recipe(network)
    apply_statistics(network, "yolo_world_full_bn.npz", -2.5)
    runs = {
        "plain_k1": plain,
        "k1": run_with_taps(network, images, prompt_K1),
        "k2": run_with_taps(network, images, prompts_K2),
    }
    blocks = unit_blocks(network, prompt_K1) | unit_blocks(network, prompts_K2)
    return SimpleNamespace(network=network, runs=runs, blocks=blocks, images=images, prompts_K2=prompts_K2)


def clip_tower() -> ClipPictureTower:
    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig())
    fill.fill_state_dict(model)
    model.eval().requires_grad_(False)
    return ClipPictureTower(model, transformers.CLIPImageProcessorPil(), torch.device("cpu"))


@pytest.fixture(scope="module")
def detector(full: SimpleNamespace) -> ImagePromptDetector:
    """The whole chain with the weights of the end-to-end golden."""
    network = copy.deepcopy(full.network)
    apply_statistics(network, "yolo_world_e2e_bn.npz", -6.0)
    return ImagePromptDetector(network, clip_tower(), torch.device("cpu"))


def test_the_manifest_is_the_network_at_full_size() -> None:
    manifest = json.loads((YOLO / "manifests" / "yolo_world_v2_l_image_prompt.json").read_text())
    needed = {key: tuple(entry["shape"]) for key, entry in manifest["keys"].items() if entry["needed"]}
    with torch.device("meta"):
        network = YoloWorld()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == needed
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == manifest["totals"]["needed_parameters"] == 47_882_146


def test_the_sizes_are_read_from_the_whole_published_file() -> None:
    manifest = json.loads((YOLO / "manifests" / "yolo_world_v2_l_image_prompt.json").read_text())
    published = {
        "module." + key: torch.empty(entry["shape"], device="meta") for key, entry in manifest["keys"].items()
    }
    published["module.backbone.text_model.model.text_model.embeddings.position_ids"] = torch.empty(1)
    tensors = detector_tensors(published)
    assert YoloWorldSizes.of(tensors, "published") == YoloWorldSizes()
    with torch.device("meta"):
        assert YoloWorld().state_dict().keys() == tensors.keys()


@pytest.mark.parametrize("run", ["k1", "k2"])
def test_full_size_outputs(full: SimpleNamespace, run: str) -> None:
    expected, outputs = golden("yolo_world_full.npz"), full.runs[run]
    for level, stride in zip(LEVELS, STRIDES, strict=True):
        for name, limits in (("cls_logits", LOGIT_LIMITS), ("ltrb", DISTANCE_LIMITS)):
            tap = f"{name}_{level}"
            assert_near(outputs[tap].numpy(), expected[f"{run}/full/{tap}"], limits, tap)
        points = (640 // stride) ** 2
        start = sum((640 // finer) ** 2 for finer in STRIDES[:level])
        assert_near(
            outputs["boxes"][:, start : start + points].numpy(),
            expected[f"{run}/full/boxes"][:, start : start + points],
            (DISTANCE_LIMITS[0] * stride, DISTANCE_LIMITS[1] * stride),
            f"boxes of level {level}",
        )


@pytest.mark.parametrize("run", ["plain_k1", "k1", "k2"])
def test_every_tap_inside_the_network(full: SimpleNamespace, run: str) -> None:
    expected = golden("yolo_world_full.npz")
    taps = [key.rsplit("/", 1)[1] for key in expected if key.startswith(f"{run}/sample/")]
    assert len(taps) >= 14
    for tap in taps:
        wanted = expected[f"{run}/sample/{tap}"]
        actual = sampled(full.runs[run][tap], 128 if run == "plain_k1" else 1024)
        if run == "plain_k1":
            # Activations die out or grow with the plain fill: a float32 rounding of their own scale.
            scale = max(float(np.abs(wanted).max()), 1.0)
            assert np.abs(actual - wanted).max() < 1e-5 * scale, tap
            continue
        assert tuple(full.runs[run][tap].shape) == tuple(expected[f"{run}/shape/{tap}"]), tap
        # The noise floor that the golden states, times six for another machine's kernels.
        largest, rms = expected[f"{run}/float64_gap/{tap}"]
        assert_near(actual, wanted, (6 * rms + 1e-7, 6 * largest + 1e-6), tap)


def test_unit_blocks(full: SimpleNamespace) -> None:
    expected = golden("yolo_world_full.npz")
    assert {f"unit/{name}" for name in full.blocks} == {key for key in expected if key.startswith("unit/")}
    for name, output in full.blocks.items():
        wanted = expected[f"unit/{name}"]
        actual = sampled(output, 4096).reshape(wanted.shape) if output.numel() > 20_000 else output.numpy()
        assert np.abs(actual - wanted).max() < UNIT_LIMIT, name


def test_the_goldens_notice_the_mistakes_they_name(
    full: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong batch-norm epsilon, a mean over the prompts, and interleaved heads exceed the tolerance."""
    expected = golden("yolo_world_full.npz")

    def worst(name: str) -> float:
        output = unit_blocks(full.network, full.prompts_K2)[name].numpy()
        return float(np.abs(output - expected[f"unit/{name}"]).max())

    assert max(worst("attn_k2"), worst("contrast_k2")) < UNIT_LIMIT
    with monkeypatch.context() as patch:
        patch.setattr(yolo_world_backbone, "BATCH_NORM_EPSILON", 1e-5)
        assert worst("contrast_k2") > UNIT_LIMIT
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "amax", torch.Tensor.mean)
        assert worst("attn_k2") > UNIT_LIMIT
    with monkeypatch.context() as patch:
        contiguous = torch.Tensor.unflatten

        def interleaved(tensor: Any, axis: int, sizes: tuple[int, ...]) -> Any:
            if axis == -1:
                return contiguous(tensor, axis, (-1, sizes[0])).transpose(-1, -2)
            return contiguous(tensor, axis, sizes)

        patch.setattr(torch.Tensor, "unflatten", interleaved)
        assert worst("attn_k2") > UNIT_LIMIT


CASES = ("landscape", "hd", "portrait", "upscale_truncated", "upscale", "exact")


@pytest.mark.parametrize("case", CASES)
def test_preprocessing(case: str) -> None:
    expected = {key.split("/", 1)[1]: value for key, value in golden("preprocess.npz").items() if case in key}
    height, width = (int(side) for side in expected["frame_hw"])
    letterbox = Letterbox.of(height, width)
    pixels_CHW = letterbox.apply(fill.uint8_image(f"yolo/pre/{case}", height, width))
    np.testing.assert_array_equal(pixels_CHW[:, ::4, ::4], expected["net_u8_every4"])
    np.testing.assert_array_equal(pixels_CHW.sum(axis=(1, 2), dtype=np.int64), expected["net_u8_sum"])
    np.testing.assert_allclose(letterbox.scale, expected["scale_factor_wh"], rtol=0, atol=1e-12)
    assert (letterbox.top, letterbox.left) == tuple(expected["pad_top_bottom_left_right"][[0, 2]])


def test_the_network_sees_blue_first_and_grey_padding() -> None:
    expected = golden("preprocess.npz")
    frame_HWC = np.broadcast_to(expected["channel_order/frame_rgb"], (320, 640, 3))
    pixels_CHW = Letterbox.of(320, 640).apply(np.ascontiguousarray(frame_HWC)).astype(np.float32) / 255
    np.testing.assert_allclose(pixels_CHW[:, 320, 320], expected["channel_order/net_pixel_inside"])
    np.testing.assert_allclose(pixels_CHW[:, 0, 0], expected["channel_order/net_pixel_padding"])


def test_a_strip_without_a_pixel_across_is_refused() -> None:
    with pytest.raises(SampleError, match="too narrow"):
        Letterbox.of(2, 4000)


@pytest.mark.parametrize("case", ["a_landscape", "b_two_prompts", "c_low", "d_empty", "e_crowd", "f_border"])
def test_boxes_after_the_head_and_after_the_script(case: str) -> None:
    expected = {
        key.split("/", 1)[1]: value for key, value in golden("yolo_world_post.npz").items() if case in key
    }
    logits_NK = flat_logits([torch.from_numpy(expected[f"in_cls_{level}"]) for level in LEVELS])[0]
    corners_N4 = decoded_boxes([torch.from_numpy(expected[f"in_ltrb_{level}"]) for level in LEVELS])[0]
    letterbox = Letterbox.of(*(int(side) for side in expected["frame_hw"]))
    np.testing.assert_allclose(corners_N4[::7].numpy(), expected["decoded_every7"], atol=1e-4)

    candidates = head_boxes(logits_NK, corners_N4, letterbox)
    returned = script_boxes(candidates)
    shortcut = script_boxes(head_boxes(logits_NK, corners_N4, letterbox, above=SCRIPT_SCORE))
    for boxes, stage in ((candidates, "head"), (returned, "final"), (shortcut, "final")):
        np.testing.assert_allclose(boxes.corners.numpy(), expected[f"{stage}_boxes"], atol=2e-4)
        np.testing.assert_allclose(boxes.scores.numpy(), expected[f"{stage}_scores"], atol=1e-6)
        np.testing.assert_array_equal(boxes.labels.numpy(), expected[f"{stage}_labels"])
    if case == "f_border":
        assert len(returned.scores) < len(candidates.scores), "the second suppression removes boxes"


def test_prompts_from_pictures(detector: ImagePromptDetector) -> None:
    expected, tower, network = golden("prompt.npz"), detector._tower, detector._network
    for name in "abc":
        height, width = (int(side) for side in expected[f"clip/{name}/image_hw"])
        picture = Image.fromarray(fill.uint8_image(f"yolo/prompt/{name}", height, width))
        pixels = tower.pixel_values([picture])[:, :, ::4, ::4].numpy()
        np.testing.assert_allclose(pixels, expected[f"clip/{name}/pixel_values_every4"], atol=1e-6)
        embedding = tower.embed([picture])
        np.testing.assert_allclose(embedding.numpy(), expected[f"clip/{name}/image_embeds"], atol=5e-6)
        prompt = network.project(embedding)
        np.testing.assert_allclose(prompt.numpy(), expected[f"clip/{name}/embedding"], atol=2e-6)
    vectors = torch.from_numpy(fill.normal("yolo/projector/in", (3, 512)))
    projected = network.project(vectors).numpy()
    np.testing.assert_allclose(projected, expected["projector/out_of_unit_then_unit"], atol=2e-6)
    # The training code's residual would be far off.
    with_residual = unit(expected["projector/out_of_unit"] + unit(vectors.numpy()))
    assert np.abs(with_residual - projected).max() > 1e-2


def e2e_frame() -> np.ndarray:
    image = fill.uint8_image("yolo/e2e/frame", 480, 832).astype(np.float64)
    noisy = image + 20 * fill.normal("yolo/e2e/frame/noise", (480, 832, 3))
    frame_HWC: np.ndarray = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    assert zlib.crc32(frame_HWC.tobytes()) == 3466411132
    return frame_HWC


def test_the_whole_chain_from_frame_and_picture_to_boxes(detector: ImagePromptDetector) -> None:
    expected = golden("yolo_world_e2e.npz")
    reference = Image.fromarray(fill.uint8_image("yolo/e2e/reference", 300, 200))
    prompts_RD = detector.prompts([reference])
    np.testing.assert_allclose(prompts_RD.numpy(), expected["none/prompt"][0], atol=2e-6)
    boxes = detector.detect([e2e_frame()], prompts_RD)[0][0]
    assert boxes.corners.shape == (51, 4)
    np.testing.assert_allclose(boxes.corners.numpy(), expected["none/final_boxes"], atol=0.3)
    np.testing.assert_allclose(boxes.scores.numpy(), expected["none/final_scores"], atol=2e-3)


def test_the_whole_chain_with_a_padding_prompt(detector: ImagePromptDetector) -> None:
    """The script never asks for it; it tests the maximum over prompts and classes of their own."""
    expected = golden("yolo_world_e2e.npz")
    padding = unit(fill.normal("yolo/e2e/padding", (1, 512)))
    prompts_KD = unit(np.concatenate([expected["none/prompt"][0], padding]))
    np.testing.assert_allclose(prompts_KD, expected["padding/prompt"][0], atol=2e-6)
    letterbox = Letterbox.of(480, 832)
    with torch.inference_mode():
        images = torch.from_numpy(letterbox.apply(e2e_frame())[None]).float() / 255
        maps = detector._network.features(images)
        logits, distances = detector._network.predict(maps, torch.from_numpy(prompts_KD)[None])
    for level in LEVELS:
        tap = f"cls_logits_{level}"
        assert_near(logits[level].numpy(), expected[f"padding/{tap}"], LOGIT_LIMITS, tap)
    boxes = script_boxes(head_boxes(flat_logits(logits)[0], decoded_boxes(distances)[0], letterbox))
    np.testing.assert_allclose(boxes.corners.numpy(), expected["padding/final_boxes"], atol=0.3)
    np.testing.assert_array_equal(boxes.labels.numpy(), expected["padding/final_labels"])


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Path:
    return tiny_weights / tiny.DETECTOR_REPOSITORY / tiny.DETECTOR_FILE


@pytest.fixture(scope="module")
def small(tiny_weights: Path, checkpoint: Path) -> ImagePromptDetector:
    return ImagePromptDetector.load(checkpoint, tiny_weights / tiny.CLIP_REPOSITORY, torch.device("cpu"))


def test_tiny_checkpoints_are_the_same_each_time(checkpoint: Path, tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path)
    again = tmp_path / tiny.DETECTOR_REPOSITORY / tiny.DETECTOR_FILE
    assert again.read_bytes() == checkpoint.read_bytes()


def test_frames_and_references_in_one_pass_give_what_each_gives_alone(small: ImagePromptDetector) -> None:
    frames = [fill.uint8_image(f"frame {number}", 96, 160) for number in range(3)]
    pictures = [Image.fromarray(fill.uint8_image(f"picture {number}", 80, 60)) for number in range(2)]
    together = small.detect(frames, small.prompts(pictures))
    assert [len(row) for row in together] == [2, 2, 2]
    seen = 0
    for frame, row in zip(frames, together, strict=True):
        for picture, boxes in zip(pictures, row, strict=True):
            alone = small.detect([frame], small.prompts([picture]))[0][0]
            torch.testing.assert_close(boxes.corners, alone.corners, atol=1e-3, rtol=0)
            torch.testing.assert_close(boxes.scores, alone.scores, atol=1e-5, rtol=0)
            seen += len(boxes.scores)
    assert seen > 0
    assert not torch.equal(together[0][0].scores, together[0][1].scores), "the prompt does not matter"


def test_what_does_not_depend_on_the_prompt_is_computed_once_per_frame(small: ImagePromptDetector) -> None:
    rows: dict[str, int] = {}
    network = small._network
    watched = {
        "backbone": network.backbone["image_model"].stem,
        "first block before its gates": network.neck.top_down_layers[0].main_conv,
        "first block after its gates": network.neck.top_down_layers[0].final_conv,
        "second block": network.neck.top_down_layers[1].main_conv,
    }
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: rows.update({name: len(output)}))
        for name, module in watched.items()
    ]
    pictures = [Image.fromarray(fill.uint8_image(f"picture {number}", 80, 60)) for number in range(3)]
    small.detect([fill.uint8_image("frame", 96, 160)] * 2, small.prompts(pictures))
    for handle in handles:
        handle.remove()
    assert rows == {
        "backbone": 2,
        "first block before its gates": 2,
        "first block after its gates": 6,
        "second block": 6,
    }


def _saved(path: Path, folder: Path, change: Any) -> Path:
    """A copy of the tiny checkpoint in `folder` with its content changed."""
    content = torch.load(path, weights_only=True)
    changed = folder / "changed.pth"
    torch.save(change(content), changed)
    return changed


HEAD_BIAS = "bbox_head.head_module.cls_contrasts.0.bias"


def _without_a_key(content: Any) -> Any:
    del content["state_dict"][HEAD_BIAS]
    return content


def _with_a_wrong_shape(content: Any) -> Any:
    content["state_dict"]["neck.downsample_layers.0.conv.weight"] = torch.zeros(1, 2, 3, 3)
    return content


def _with_an_unknown_key(content: Any) -> Any:
    content["state_dict"]["neck.surprise.weight"] = torch.zeros(1)
    return content


def _of_another_model(content: Any) -> Any:
    return {"state_dict": {"layer.weight": torch.zeros(1)}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_without_a_key, rf"1 missing \({HEAD_BIAS}\)"),
        (_with_a_wrong_shape, r"1 of a wrong shape \(neck.downsample_layers.0.conv.weight \(1, 2, 3, 3\)"),
        (_with_an_unknown_key, r"1 unexpected \(neck.surprise.weight\)"),
        (_of_another_model, "no YOLO-World image-prompt checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_by_its_keys(
    tmp_path: Path, checkpoint: Path, change: Any, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        load_yolo_world(_saved(checkpoint, tmp_path, change))


def test_a_truncated_checkpoint_is_one_line(tmp_path: Path, checkpoint: Path) -> None:
    cut = tmp_path / checkpoint.name
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        load_yolo_world(cut)


def test_an_unneeded_prefix_and_counters_are_passed_over(tmp_path: Path, checkpoint: Path) -> None:
    def as_trained_in_parallel(content: Any) -> Any:
        tensors = {f"module.{key}": value for key, value in content["state_dict"].items()}
        tensors["module.backbone.image_model.stem.bn.num_batches_tracked"] = torch.tensor(7)
        return {"state_dict": tensors, "meta": {"epoch": 80}}

    loaded = load_yolo_world(_saved(checkpoint, tmp_path, as_trained_in_parallel)).state_dict()
    original = load_yolo_world(checkpoint).state_dict()
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


class _HistoryBuffer:
    """Stands in for MMEngine's log of one training value."""

    def __init__(self) -> None:
        self._log_history = np.arange(3.0)
        self.max_length = np.float64(5.0)


_HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
_HistoryBuffer.__qualname__ = _HistoryBuffer.__name__ = "HistoryBuffer"


def test_a_training_log_in_the_file_is_read_as_nothing(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = _HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    logged = _saved(
        checkpoint,
        tmp_path,
        lambda content: content | {"message_hub": {"log_scalars": {"loss": _HistoryBuffer()}}},
    )
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(logged, weights_only=True)
    assert f"{module.__name__}.HistoryBuffer" in INERT_PICKLED_TYPES
    assert read_training_checkpoint(logged).keys() == read_training_checkpoint(checkpoint).keys()


class _RunsACommand:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


def test_a_checkpoint_with_code_is_refused_and_runs_nothing(tmp_path: Path, checkpoint: Path) -> None:
    witness = tmp_path / "ran"
    hostile = _saved(checkpoint, tmp_path, lambda content: content | {"meta": _RunsACommand(str(witness))})
    with pytest.raises(UserError, match="more than tensors"):
        load_yolo_world(hostile)
    assert not witness.exists()


def test_a_whole_clip_folder_and_its_picture_half_load_alike(tiny_weights: Path, tmp_path: Path) -> None:
    """Published folders hold the text tower too, and old ones pickled weights with position ids."""
    folder = tiny_weights / tiny.CLIP_REPOSITORY
    picture = Image.fromarray(fill.uint8_image("picture", 80, 60))
    half = ClipPictureTower.load(folder, torch.device("cpu"))
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.final_layer_norm.weight"] = torch.ones(32)
    tensors["logit_scale"] = torch.tensor(4.6)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50)[None]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole = ClipPictureTower.load(tmp_path, torch.device("cpu"))
    with torch.inference_mode():
        torch.testing.assert_close(whole.embed([picture]), half.embed([picture]), atol=0, rtol=0)


@pytest.mark.parametrize("absent", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_an_incomplete_clip_folder_is_a_user_error(tiny_weights: Path, tmp_path: Path, absent: str) -> None:
    for file in (tiny_weights / tiny.CLIP_REPOSITORY).iterdir():
        if file.name != absent:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError):
        ClipPictureTower.load(tmp_path, torch.device("cpu"))
