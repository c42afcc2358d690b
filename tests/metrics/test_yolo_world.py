"""The image-prompt detector at full size against the original's numbers, from its blocks to the whole chain.

Tolerances are those of goldens `yolo_world` (README): float32 with another convolution kernel, well under the
change that any of the mistakes named there makes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fill import normal, uint8_image
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kit.golden_yolo_world import (  # noqa: E402
    LEVELS,
    apply_recipe,
    apply_statistics,
    assert_near,
    golden,
    run_with_taps,
    sampled,
    unit,
    unit_blocks,
)
from kit.goldens import crc, fill_network, read  # noqa: E402
from refbench.metrics.nets.clip import ClipImageTower  # noqa: E402
from refbench.metrics.nets.yolo_world import backbone as yolo_world_backbone  # noqa: E402
from refbench.metrics.nets.yolo_world.boxes import (  # noqa: E402
    STRIDES_PX,
    Letterbox,
    decoded_boxes,
    flat_logits,
    head_boxes,
    script_boxes,
)
from refbench.metrics.nets.yolo_world.detector import (  # noqa: E402
    YoloWorld,
    YoloWorldSizes,
    detector_tensors,
)
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector  # noqa: E402

LOGIT_LIMITS = (1e-3, 1e-2)
DISTANCE_LIMITS = (3e-3, 0.05)
UNIT_LIMIT = 1e-4


@pytest.fixture(scope="module", autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def full() -> SimpleNamespace:
    """The full-size network and what it returned in each state that the goldens name, in order."""
    prompt_K1 = torch.from_numpy(unit(normal("yolo/full/prompt", (1, 1, 512))))
    padding = torch.from_numpy(unit(normal("yolo/full/padding", (1, 1, 512))))
    prompts_K2 = torch.cat([prompt_K1, padding], dim=1)
    pixels = uint8_image("yolo/full/image", 640, 640).transpose(2, 0, 1)[None].astype(np.float32) / 255
    images = torch.from_numpy(pixels + normal("yolo/full/noise", (1, 3, 640, 640), std=0.1))

    with torch.device("meta"):
        network = YoloWorld()
    fill_network(network)
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


def reference_encoder() -> ReferenceEncoder:
    """CLIP ViT-B/32 filled by name."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig())
    tower = ClipImageTower(model=fill_network(model))
    return ReferenceEncoder(tower=tower, processor=transformers.CLIPImageProcessorPil())


@pytest.fixture(scope="module")
def detector(full: SimpleNamespace) -> ImagePromptDetector:
    """The whole chain with the weights of the end-to-end golden."""
    network = copy.deepcopy(full.network)
    apply_statistics(network, "yolo_world_e2e_bn.npz", -6.0)
    return ImagePromptDetector(
        network=network, encoder=reference_encoder(), device=torch.device("cpu"), pairs_per_pass=4
    )


def test_the_manifest_is_the_network_at_full_size() -> None:
    manifest = read("yolo_world/manifests/yolo_world_v2_l_image_prompt.json")
    needed = {key: tuple(entry["shape"]) for key, entry in manifest["keys"].items() if entry["needed"]}
    with torch.device("meta"):
        network = YoloWorld()
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == needed
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == manifest["totals"]["needed_parameters"] == 47_882_146


def test_the_sizes_are_read_from_the_whole_published_file() -> None:
    manifest = read("yolo_world/manifests/yolo_world_v2_l_image_prompt.json")
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
    for level, stride in zip(LEVELS, STRIDES_PX, strict=True):
        for name, limits in (("cls_logits", LOGIT_LIMITS), ("ltrb", DISTANCE_LIMITS)):
            tap = f"{name}_{level}"
            assert_near(outputs[tap].numpy(), expected[f"{run}/full/{tap}"], limits, tap)
        points = (640 // stride) ** 2
        start = sum((640 // finer) ** 2 for finer in STRIDES_PX[:level])
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


def test_prompts_from_pictures(detector: ImagePromptDetector) -> None:
    expected, encoder, network = golden("prompt.npz"), detector.encoder, detector.network
    for name in "abc":
        height, width = (int(side) for side in expected[f"clip/{name}/image_hw"])
        picture = Image.fromarray(uint8_image(f"yolo/prompt/{name}", height, width))
        pixels = encoder.pixel_values([picture])[:, :, ::4, ::4].numpy()
        np.testing.assert_allclose(pixels, expected[f"clip/{name}/pixel_values_every4"], atol=1e-6)
        embedding = encoder.embed([picture])
        np.testing.assert_allclose(embedding.numpy(), expected[f"clip/{name}/image_embeds"], atol=5e-6)
        prompt = network.project(embedding)
        np.testing.assert_allclose(prompt.numpy(), expected[f"clip/{name}/embedding"], atol=2e-6)
    vectors = torch.from_numpy(normal("yolo/projector/in", (3, 512)))
    projected = network.project(vectors).numpy()
    np.testing.assert_allclose(projected, expected["projector/out_of_unit_then_unit"], atol=2e-6)
    # The training code's residual would be far off.
    with_residual = unit(expected["projector/out_of_unit"] + unit(vectors.numpy()))
    assert np.abs(with_residual - projected).max() > 1e-2


def e2e_frame() -> np.ndarray:
    image = uint8_image("yolo/e2e/frame", 480, 832).astype(np.float64)
    noisy = image + 20 * normal("yolo/e2e/frame/noise", (480, 832, 3))
    frame_HWC: np.ndarray = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    assert crc(frame_HWC) == 3466411132
    return frame_HWC


def test_the_whole_chain_from_frame_and_picture_to_boxes(detector: ImagePromptDetector) -> None:
    expected = golden("yolo_world_e2e.npz")
    reference = Image.fromarray(uint8_image("yolo/e2e/reference", 300, 200))
    prompts_RD = detector.prompts([reference])
    np.testing.assert_allclose(prompts_RD.numpy(), expected["none/prompt"][0], atol=2e-6)
    boxes = detector.detect([e2e_frame()], prompts_RD)[0][0]
    assert boxes.corners.shape == (51, 4)
    np.testing.assert_allclose(boxes.corners.numpy(), expected["none/final_boxes"], atol=0.3)
    np.testing.assert_allclose(boxes.scores.numpy(), expected["none/final_scores"], atol=2e-3)


def test_the_whole_chain_with_a_padding_prompt(detector: ImagePromptDetector) -> None:
    """The script never asks for it; it tests the maximum over prompts and classes of their own."""
    expected = golden("yolo_world_e2e.npz")
    padding = unit(normal("yolo/e2e/padding", (1, 512)))
    prompts_KD = unit(np.concatenate([expected["none/prompt"][0], padding]))
    np.testing.assert_allclose(prompts_KD, expected["padding/prompt"][0], atol=2e-6)
    letterbox = Letterbox.of(480, 832)
    with torch.inference_mode():
        images = torch.from_numpy(letterbox.apply(e2e_frame())[None]).float() / 255
        maps = detector.network.features(images)
        logits, distances = detector.network.predict(maps, torch.from_numpy(prompts_KD)[None])
    for level in LEVELS:
        tap = f"cls_logits_{level}"
        assert_near(logits[level].numpy(), expected[f"padding/{tap}"], LOGIT_LIMITS, tap)
    boxes = script_boxes(head_boxes(flat_logits(logits)[0], decoded_boxes(distances)[0], letterbox))
    np.testing.assert_allclose(boxes.corners.numpy(), expected["padding/final_boxes"], atol=0.3)
    np.testing.assert_array_equal(boxes.labels.numpy(), expected["padding/final_labels"])
