"""How much work NexusScore saves: FLOPs at full size, and wall time beside the official order of work.

    python benchmarks/nexusscore.py [--device cuda] [--size full] [--references 1 2 3] [--frames 32]

The official order opens and encodes each reference for every frame, runs the backbone twice per frame and
reference, neck and head with batch 1, and embeds reference picture, label and crop for every box. Claims:
FLOPs at need at least 1.7 times fewer with one reference and 2.2 times with three, equal scores.

FLOPs of detector and picture tower are counted on the meta device at full size while the metric's own modules
run. The 7B embedding model's are two per weight of its matrices and token, attention's products left out, for
one confident box per frame and reference. What it saves depends on the sizes of reference and crop, so the
ratio of everything is printed for the sizes of `--reference-px` and `--crop-px` and as a floor, for pictures
that are all of the smallest size that the model sees; a box under the confidence that counts only adds to it.

Times are taken on random weights, in turns, best of several: the scaled detector has the full depth and a
quarter of the widths, the scaled picture tower a quarter of its width, the embedding model is a tiny one.
Beside wall time stands processor time, which other work on the machine disturbs less. They are ratios of
these stand-ins, whose shares of the work are not those of the released models.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from refbench.bench.sample import Reference, Sample, category_of
from refbench.bench.video import Video, uniform_frames, write_video
from refbench.metrics.nets.clip import ClipImageTower
from refbench.metrics.nets.gme import TEXT_INSTRUCTION, GmeEmbedder, image_token_count
from refbench.metrics.nets.yolo_world.boxes import (
    INPUT_SIZE_PX,
    Letterbox,
    decoded_boxes,
    flat_logits,
    head_boxes,
    script_boxes,
)
from refbench.metrics.nets.yolo_world.detector import YoloWorld, YoloWorldSizes
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder
from refbench.metrics.nets.yolo_world.image_prompt_detector import PAIRS_PER_PASS, ImagePromptDetector
from refbench.metrics.nexusscore import (
    FRAMES,
    MIN_CONFIDENCE,
    MIN_TEXT_SIMILARITY,
    Subject,
    score_video,
    subjects_of,
)
from refbench.metrics.small.gmescore import write_tiny as write_tiny_gme
from refbench.metrics.small.nexusscore import random_detector
from refbench.metrics.weights import GME_QWEN2_VL

CLAIMED = {1: 1.7, 3: 2.2}

FULL_SIZE = YoloWorldSizes()
SCALED_SIZE = YoloWorldSizes(
    stem=16, stages=(32, 64, 128, 128), neck_heads=(2, 1, 2, 2), classification=64, regression=16
)
FULL_TOWER: dict[str, int] = {}
SCALED_TOWER = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}

# Qwen2-VL-7B, whose sizes GME keeps.
EMBEDDER_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
EMBEDDER_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 3584}
PATCHES_PER_TOKEN = 4
# About what the template adds to a picture, and a label with its instruction in the template.
PICTURE_PROMPT_TOKENS = 24
LABEL_TOKENS = 32

# A square of this side or a smaller one gives the fewest image tokens, 256.
SMALLEST_PX = 448

# Boxes of the random detector: the best point of the first frame gets this logit, 0.65 as a score.
BEST_LOGIT = 0.6


@dataclass(frozen=True, kw_only=True)
class Work:
    """TFLOP of one video: detector with picture tower, and embedding model."""

    detector: float
    embedder: float

    @property
    def all(self) -> float:
        """Both."""
        return self.detector + self.embedder


def counted(work: Any) -> float:
    """TFLOP of a call on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    return float(counter.get_total_flops()) / 1e12


@dataclass(frozen=True, kw_only=True)
class DetectorFlops:
    """TFLOP of the parts, per run."""

    prompt: float
    backbone: float
    neck_and_head: dict[int, float]

    @classmethod
    def measured(cls, references: Sequence[int]) -> DetectorFlops:
        """Of the full-size modules; neck and head for one frame and so many references."""
        with torch.device("meta"):
            network = YoloWorld()
            tower = CLIPVisionModelWithProjection(CLIPVisionConfig()).eval()
            pixels, image = torch.empty(1, 3, 224, 224), torch.empty(1, 3, INPUT_SIZE_PX, INPUT_SIZE_PX)
        with torch.inference_mode():
            maps = network.features(image)
        return cls(
            prompt=counted(lambda: network.project(tower(pixel_values=pixels).image_embeds)),
            backbone=counted(lambda: network.features(image)),
            neck_and_head={
                count: counted(lambda count=count: network.predict(maps, _meta_prompts(count)))
                for count in {1, *references}
            },
        )

    def official(self, references: int) -> float:
        """Everything per frame and reference, the backbone twice."""
        once = 2 * self.backbone + self.neck_and_head[1] + self.prompt
        return FRAMES * references * once

    def needed(self, references: int) -> float:
        """Prompts per reference, the backbone per frame, the rest per pair but for the shared first block."""
        return FRAMES * (self.backbone + self.neck_and_head[references]) + references * self.prompt


def _meta_prompts(count: int) -> torch.Tensor:
    return torch.empty(count, 1, FULL_SIZE.prompt, device="meta")


@dataclass(frozen=True, kw_only=True)
class EmbedderFlops:
    """TFLOP per token of the language model and per image token of the picture tower, matrices alone."""

    token: float
    image_token: float

    @classmethod
    def measured(cls) -> EmbedderFlops:
        """Of Qwen2-VL-7B's modules on the meta device."""
        with torch.device("meta"):
            config = Qwen2VLConfig(text_config=EMBEDDER_TEXT, vision_config=EMBEDDER_VISION)
            model = Qwen2VLForConditionalGeneration(config).model
        merger = _matrix_weights(model.visual.merger)
        per_patch = _matrix_weights(model.visual) - merger + model.visual.patch_embed.proj.weight.numel()
        return cls(
            token=2e-12 * _matrix_weights(model.language_model),
            image_token=2e-12 * (PATCHES_PER_TOKEN * per_patch + merger),
        )

    def picture(self, side_px: int) -> float:
        """One square picture."""
        tokens = image_token_count(side_px, side_px)
        return tokens * self.image_token + (tokens + PICTURE_PROMPT_TOKENS) * self.token

    @property
    def label(self) -> float:
        """One label."""
        return LABEL_TOKENS * self.token


def _matrix_weights(module: Any) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, torch.nn.Linear))


def report_flops(references: Sequence[int], reference_px: int, crop_px: int) -> None:
    """Print FLOPs at full size for so many references, and whether the claims hold."""
    detector, embedder = DetectorFlops.measured(references), EmbedderFlops.measured()
    print(
        f"GFLOP per run: picture tower {1e3 * detector.prompt:.1f}, backbone {1e3 * detector.backbone:.1f}, "
        f"neck and head {1e3 * detector.neck_and_head[1]:.1f}; 7B model: picture of {reference_px}² px "
        f"{1e3 * embedder.picture(reference_px):,.0f}, crop of {crop_px}² px "
        f"{1e3 * embedder.picture(crop_px):,.0f}, label {1e3 * embedder.label:,.0f}"
    )
    for count in references:
        official, needed = work(detector, embedder, count, reference_px, crop_px)
        least_official, least_needed = work(detector, embedder, count, SMALLEST_PX, SMALLEST_PX)
        boxes = FRAMES * count
        claim = f"; claim ≥ {CLAIMED[count]}" if count in CLAIMED else ""
        print(
            f"R={count}, TFLOP official / needed: detector and tower {official.detector:.1f} / "
            f"{needed.detector:.1f} = {official.detector / needed.detector:.2f}×; 7B model "
            f"{official.embedder:.0f} / {needed.embedder:.0f} = {official.embedder / needed.embedder:.2f}× "
            f"({3 * boxes} against {boxes + 2 * count} inputs); all {official.all / needed.all:.2f}×, at "
            f"least {least_official.all / least_needed.all:.2f}×{claim}"
        )


def work(
    detector: DetectorFlops, embedder: EmbedderFlops, references: int, reference_px: int, crop_px: int
) -> tuple[Work, Work]:
    """The official order's work and what is needed, with one confident box per frame and reference."""
    boxes = FRAMES * references
    whole, crop = embedder.picture(reference_px), embedder.picture(crop_px)
    official = Work(detector=detector.official(references), embedder=boxes * (whole + crop + embedder.label))
    once = references * (whole + embedder.label)
    return official, Work(detector=detector.needed(references), embedder=boxes * crop + once)


class OfficialOrder:
    """The official script's order of work on our modules."""

    def __init__(
        self, network: YoloWorld, encoder: ReferenceEncoder, embedder: GmeEmbedder, device: torch.device
    ) -> None:
        self.network, self.encoder, self.embedder, self.device = network, encoder, embedder, device

    def boxes(self, frame_HWC: np.ndarray, subject: Subject) -> list[tuple[list[float], np.float32]]:
        """What one call of the detector returns: (corners, confidence) by falling confidence."""
        picture = subject.reference.open_plain_rgb()
        prompts_RKD = self.network.project(self.encoder.embed([picture])).unsqueeze(1)
        letterbox = Letterbox.of(*frame_HWC.shape[:2])
        images_BCHW = torch.from_numpy(letterbox.apply(frame_HWC)[None]).to(self.device).float() / 255
        # The original runs the backbone with both towers first and throws the result away.
        self.network.features(images_BCHW)
        logits, distances = self.network.predict(self.network.features(images_BCHW), prompts_RKD)
        found = script_boxes(head_boxes(flat_logits(logits)[0], decoded_boxes(distances)[0], letterbox)).cpu()
        return list(zip(found.corners.tolist(), found.scores.numpy(), strict=True))

    def score(self, sample: Sample, video: Video) -> tuple[float, int]:
        """(score, boxes) of a video."""
        pictures: list[Image.Image] = []
        labels: list[str] = []
        crops: list[Image.Image] = []
        confidences: list[np.float32] = []
        frames_with_a_box = set()
        for number, frame_HWC in enumerate(video.frames(uniform_frames(FRAMES))):
            for subject in subjects_of(sample):
                for (left, top, right, bottom), confidence in self.boxes(frame_HWC, subject):
                    frames_with_a_box.add(number)
                    pictures.append(subject.reference.open_plain_rgb())
                    labels.append(subject.label)
                    crops.append(Image.fromarray(frame_HWC).crop((left, top, right, bottom)))
                    confidences.append(confidence)
        whole_BD = self.embedder.embed_images(pictures).half()
        label_BD = self.embedder.embed_texts(labels, TEXT_INSTRUCTION).half()
        crop_BD = self.embedder.embed_images(crops).half()
        likeness, match = (whole_BD * crop_BD).sum(-1), (label_BD * crop_BD).sum(-1)
        kept = [
            one
            for one, text, confidence in zip(likeness, match.numpy(), confidences, strict=True)
            if confidence > MIN_CONFIDENCE and text > MIN_TEXT_SIMILARITY and one != 0
        ]
        mean = float(torch.tensor(kept).mean()) if kept else 0.0
        return mean / len(frames_with_a_box), len(crops)


def report_wall_time(folder: Path, arguments: argparse.Namespace) -> None:
    """Print wall times of both orders, their ratios, and the scores, which must agree."""
    device = torch.device(arguments.device)
    is_full = arguments.size == "full"
    network = YoloWorld(FULL_SIZE if is_full else SCALED_SIZE).eval().requires_grad_(False)
    network.load_state_dict(random_detector(FULL_SIZE if is_full else SCALED_SIZE))
    network.to(device)
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**(FULL_TOWER if is_full else SCALED_TOWER)))
    tower = ClipImageTower(model=model.eval().requires_grad_(False).to(device))
    encoder = ReferenceEncoder(tower=tower, processor=CLIPImageProcessorPil())
    write_tiny_gme(folder)
    embedder = GmeEmbedder.load(folder / GME_QWEN2_VL.repository, arguments.device)
    detector = ImagePromptDetector(
        network=network,
        encoder=encoder,
        device=device,
        pairs_per_pass=PAIRS_PER_PASS["cpu" if device.type == "cpu" else "cuda"],
    )
    official = OfficialOrder(network, encoder, embedder, device)
    video = drawn_video(folder / "clip.mp4", arguments.frames)
    embedder.embed_texts(["warm-up"])
    for count in arguments.references:
        sample = drawn_sample(folder, count)
        calibrate(detector, video, sample)
        slow, fast, results = best_of(
            arguments.repeats,
            partial(official.score, sample, video),
            partial(score_video, sample, video, detector, embedder),
        )
        (value, boxes), score = results
        same = boxes == score.details["boxes"] and abs(value - score.value) <= 2**-10 * abs(value)
        print(
            f"R={count}, {arguments.size} detector, {boxes} boxes, {score.details['kept']} kept, best "
            f"of {arguments.repeats} in turns: wall {slow.wall_s:.1f} / {fast.wall_s:.1f} s = "
            f"{slow.wall_s / fast.wall_s:.2f}×, processor {slow.processor_s:.1f} / "
            f"{fast.processor_s:.1f} s = {slow.processor_s / fast.processor_s:.2f}×; "
            f"scores {value:.8f} and {score.value:.8f} "
            f"{'equal to a float16 rounding' if same else 'DIFFER'}"
        )
        if not same:
            raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """The least wall and processor time of several runs (not necessarily of the same one)."""

    wall_s: float
    processor_s: float


def best_of(
    repeats: int, a: Callable[[], Any], b: Callable[[], Any]
) -> tuple[Seconds, Seconds, tuple[Any, Any]]:
    """Times of two calls, run in turns so that other work on the machine meets both, and their results."""
    walls: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(repeats):
        for side, call in enumerate((a, b)):
            wall, used = time.perf_counter(), time.process_time()
            results[side] = call()
            walls[side].append(time.perf_counter() - wall)
            processor[side].append(time.process_time() - used)
    first, second = (Seconds(wall_s=min(walls[side]), processor_s=min(processor[side])) for side in (0, 1))
    return first, second, (results[0], results[1])


def calibrate(detector: ImagePromptDetector, video: Video, sample: Sample) -> None:
    """Shift the coarse level's logits so that a few points of a frame are over the confidence that counts."""
    network = detector.network
    frame_HWC = next(iter(video.frames(uniform_frames(1))))
    pixels_BCHW = torch.from_numpy(Letterbox.of(*frame_HWC.shape[:2]).apply(frame_HWC)[None])
    prompts_RD = detector.prompts([subject.reference.open_plain_rgb() for subject in subjects_of(sample)])
    maps = network.features(pixels_BCHW.to(prompts_RD.device).float() / 255)
    logits, _ = network.predict(maps, prompts_RD.unsqueeze(1))
    best = logits[-1].amax(dim=(1, 2, 3)).max()
    network.bbox_head.head_module.cls_contrasts[-1].bias += BEST_LOGIT - best


def drawn_video(path: Path, frames: int) -> Video:
    """832×480: smooth noise that slides."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (480, 1100, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(noise, (31, 31), 0)
    write_video(path, (texture[:, 3 * index : 3 * index + 832] for index in range(frames)), 15)
    return Video(path)


def drawn_sample(folder: Path, references: int) -> Sample:
    """A sample with references of 512×512 pixels and labels of their own."""
    made = []
    for number in range(references):
        name = f"reference_{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC).save(folder / name)
        made.append(Reference(path=name, root=folder, label=f"Thing {number}", kind="object"))
    sample_id = "multiobject_1"
    return Sample(id=sample_id, category=category_of(sample_id), prompt="", references=tuple(made))


def main() -> None:
    """Count, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=("scaled", "full"), default="scaled", help="detector of the timing")
    parser.add_argument("--references", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--frames", type=int, default=FRAMES, help="frames of the drawn video")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each order")
    parser.add_argument("--reference-px", type=int, default=512)
    parser.add_argument("--crop-px", type=int, default=256)
    arguments = parser.parse_args()
    print(describe("torch", "torchvision", "transformers", "opencv-python", "numpy"))
    report_flops(arguments.references, arguments.reference_px, arguments.crop_px)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        report_wall_time(Path(folder), arguments)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if arguments.device != "cpu":
        peak_gib = torch.cuda.max_memory_allocated() / 2**30
    print(f"peak memory of both orders: {peak_gib:.2f} GiB")


if __name__ == "__main__":
    main()
