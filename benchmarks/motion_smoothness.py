"""How much work MotionSmoothness saves: FLOPs at full size, and wall time beside the original order of work.

    python benchmarks/motion_smoothness.py [--device cuda] [--size full] [--frames 81]

The baseline is the same network used as the original uses it: every window encodes its three frames afresh
and runs prompt, images and head over all positions. FLOPs are matrix products (1 multiply-add = 2), counted
while the real scoring code runs on the meta device at full size. Wall time is taken on random weights, in
turns, best of several; the scaled network has the full depth, a sixteenth of the widths, a quarter of queries
and prompt and a fifth of the patches, so that tower, abstractor and language model keep their shares of the
work. Beside wall time stand the seconds of processor time, which other work on the machine disturbs less.
Decoding and resizing are left out.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from refbench.bench.provenance import package_versions, python_version
from refbench.metrics.motion_smoothness import (
    BATCH_SIZE_CPU,
    BATCH_SIZE_GPU,
    LLAMA_PROMPT,
    RATING_WEIGHTS,
    WINDOW_SIZE,
    Prompt,
    WindowRater,
    window_indices,
)
from refbench.metrics.nets.mplug_owl2.network import LanguageConfig, MplugOwl2, MplugOwl2Config
from refbench.metrics.nets.mplug_owl2.vision import AbstractorConfig, VisionConfig

FULL = MplugOwl2Config(
    language=LanguageConfig(rms_norm_eps=1e-5), vision=VisionConfig(), abstractor=AbstractorConfig()
)
SCALED = MplugOwl2Config(
    language=LanguageConfig(
        rms_norm_eps=1e-5,
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=688,
        num_attention_heads=4,
        num_key_value_heads=4,
    ),
    vision=VisionConfig(hidden_size=64, intermediate_size=256, num_attention_heads=2, image_size=196),
    abstractor=AbstractorConfig(
        num_learnable_queries=16,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=176,
        encoder_hidden_size=64,
        grid_size=14,
    ),
)
SCALED_PROMPT = Prompt(before=(1, 2, 3, 4), after=(5, 6, 7), words=(11, 12, 13, 14, 15))
SIZES = {"full": (FULL, LLAMA_PROMPT), "scaled": (SCALED, SCALED_PROMPT)}
REPEATS = 3
# The tolerance of the goldens for scores in float32; float16 rounds 1/2048 apart, and its errors add up.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 5e-3}


class MetaRater(WindowRater):
    """The rater without values: the meta device computes none to read out."""

    def rate(self, windows: Sequence[tuple[int, ...]], vectors: Any) -> torch.Tensor:
        super().rate(windows, vectors)
        return torch.zeros(len(windows))


def scores_afresh(
    network: MplugOwl2, prompt: Prompt, pixels: Sequence[np.ndarray], batch_size: int
) -> torch.Tensor:
    """Scores (frames,) in the original order of work: no frame, prefix, layer or head row is spared."""
    weight = network.lm_head.weight
    worth_W = torch.tensor(list(RATING_WEIGHTS.values()), device=weight.device, dtype=weight.dtype)
    windows = [window_indices(centre, len(pixels)) for centre in range(len(pixels))]
    scores = []
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            stacked = np.stack([pixels[index] for window in batch for index in window])
            frames_F3YX = torch.from_numpy(stacked).to(weight.device, weight.dtype)
            vectors = network.encode_frames(frames_F3YX)
            image_BID = vectors.unflatten(0, (len(batch), WINDOW_SIZE)).flatten(1, 2)
            logits_BSV = network(prompt.before, image_BID, prompt.after)
            scores.append(logits_BSV[:, -1, list(prompt.words)].softmax(-1) @ worth_W)
    return torch.cat(scores)


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of the matrix products in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def report_flops(size: str, frames: int) -> None:
    """Print both counts for a size of network and their ratio."""
    config, prompt = SIZES[size]
    with torch.device("meta"):
        network = MplugOwl2(config).requires_grad_(False)
    side = config.vision.image_size
    pixels = [np.zeros((3, side, side), np.float32)] * frames
    before = counted(lambda: scores_afresh(network, prompt, pixels, BATCH_SIZE_GPU))
    after = counted(lambda: MetaRater(network, prompt, batch_size=BATCH_SIZE_GPU).frame_scores(pixels))
    print(f"FLOPs, {size} size, {frames} frames, windows of {WINDOW_SIZE}:")
    print(f"  every window afresh  {before / 1e12:8.2f} T")
    print(f"  as scored here       {after / 1e12:8.2f} T   {before / after:.2f}x fewer")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of wall and processor time, and the scores (frames,)."""

    wall_s: float
    processor_s: float
    scores: torch.Tensor


def timed(work: Callable[[], torch.Tensor], device: torch.device) -> Timing:
    """One run of `work`, with the device idle at both ends."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s, processor_s = time.perf_counter(), time.process_time()
    scores = work().float().cpu()
    return Timing(
        wall_s=time.perf_counter() - wall_s,
        processor_s=time.process_time() - processor_s,
        scores=scores,
    )


def report_time(device: torch.device, size: str, frames: int) -> bool:
    """Print the times in turns, their ratios and the largest difference of scores; whether they agree."""
    config, prompt = SIZES[size]
    batch_size = BATCH_SIZE_CPU if device.type == "cpu" else BATCH_SIZE_GPU
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        network = MplugOwl2(config).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    side = config.vision.image_size
    generator = np.random.default_rng(0)
    pixels = [generator.standard_normal((3, side, side), np.float32) for _ in range(frames)]
    rater = WindowRater(network, prompt, batch_size=batch_size)
    slow, quick = [], []
    for _ in range(REPEATS):
        slow.append(timed(lambda: scores_afresh(network, prompt, pixels, batch_size), device))
        quick.append(timed(lambda: torch.tensor(rater.frame_scores(pixels)), device))
    print(f"time, {size} size, random weights, {dtype}, batches of {batch_size}, best of {REPEATS}:")
    wall_s = [min(run.wall_s for run in runs) for runs in (slow, quick)]
    processor_s = [min(run.processor_s for run in runs) for runs in (slow, quick)]
    for kind, (before, after) in (("wall", wall_s), ("processor", processor_s)):
        print(f"  {kind:9s}  afresh {before:7.2f} s   here {after:7.2f} s   {before / after:.2f}x faster")
    difference = float((quick[0].scores - slow[0].scores).abs().max())
    span = float(quick[0].scores.max() - quick[0].scores.min())
    print(f"  largest difference of a score {difference:.1e}; scores span {span:.1e}")
    if device.type == "cuda":
        print(f"  peak device memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return difference <= TOLERANCE[dtype]


def processor() -> str:
    """The processor's name where the system tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def main() -> None:
    """Print machine, versions and both claims; exit code 1 when the scores differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=("scaled", "full"), default="scaled")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    versions = ", ".join(
        f"{name} {version}" for name, version in package_versions(["torch", "numpy"]).items()
    )
    print(f"{place}; {chosen.threads} threads; {platform.system()}; {python_version()}; {versions}")
    for size in dict.fromkeys(("full", chosen.size)):
        report_flops(size, chosen.frames)
    if not report_time(device, chosen.size, chosen.frames):
        raise SystemExit("the scores differ")


if __name__ == "__main__":
    main()
