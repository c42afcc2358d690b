"""GmeScore's work: the prompt embedded once, against the official order, which embeds it for every frame.

    python benchmarks/gmescore.py [--weights DIR] [--device cuda] [--repeats 3]

Without `--weights` on a tiny random model, whose tokenizer makes a token of each byte: its prompts are about
four times as long as the real model's, so its time ratio overstates what the real one gains. Both orders run
by turns on the same model, video and batches; printed are what went through the network, the best times,
their ratio, the difference of the scores, and the peak memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from refbench.bench.environment import Environment
from refbench.bench.sample import Sample
from refbench.bench.video import Video, write_video
from refbench.metrics.gmescore import FRAMES, GmeScore, frame_groups, frame_scores
from refbench.metrics.nets.gme import TEXT_INSTRUCTION, GmeEmbedder
from refbench.metrics.small.gmescore import write_tiny

PROMPT = (
    "A woman in a green raincoat walks a spotted dog along a harbour at dusk; she stops, ties her shoe, "
    "looks up at the gulls and laughs while the camera slowly circles her and the lights come on."
)
VIDEO_FRAMES, HEIGHT, WIDTH = 69, 480, 832


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, help="folder of weights; without it a tiny random model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.weights is None:
            write_tiny(folder)
        environment = Environment(device=arguments.device, weights=arguments.weights or folder)
        write_video(folder / "clip.mp4", moving_squares(), 15)
        measure(environment, Video(folder / "clip.mp4"), arguments.repeats)


def measure(environment: Environment, video: Video, repeats: int) -> None:
    """Run both orders alternately and print the comparison."""
    scorer = GmeScore().load(environment)
    embedder = scorer.embedder
    sample = Sample(id="clip_1", category="clip", prompt=PROMPT, references=())
    scorer.score(sample, video)
    ours_s, official_s = [], []
    texts = images = official_texts = official_images = 0
    ours = official = 0.0
    for _ in range(repeats):
        texts, images = embedder.texts_embedded, embedder.images_embedded
        started = time.perf_counter()
        ours = scorer.score(sample, video).value
        ours_s.append(time.perf_counter() - started)
        texts, images = embedder.texts_embedded - texts, embedder.images_embedded - images
        official_texts, official_images = embedder.texts_embedded, embedder.images_embedded
        started = time.perf_counter()
        official = official_order(embedder, video)
        official_s.append(time.perf_counter() - started)
        official_texts = embedder.texts_embedded - official_texts
        official_images = embedder.images_embedded - official_images
    print_machine(environment)
    print(f"{'':18}{'texts':>8}{'frames':>8}{'best s':>10}")
    for title, row_texts, row_images, seconds in (
        ("official order", official_texts, official_images, official_s),
        ("prompt once", texts, images, ours_s),
    ):
        print(f"{title:18}{row_texts:>8}{row_images:>8}{min(seconds):>10.3f}")
    ratio = min(official_s) / min(ours_s)
    print(
        f"time ratio {ratio:.2f}; scores {official:.7f} and {ours:.7f}, difference {abs(official - ours):.1e}"
    )
    print_memory(environment)
    scorer.close()


def official_order(embedder: GmeEmbedder, video: Video) -> float:
    """The score with the prompt embedded once per frame, in one list, as the official script does."""
    texts_FD = embedder.embed_texts([PROMPT] * FRAMES, TEXT_INSTRUCTION)
    images_FD = torch.cat([embedder.embed_images(images) for images, _ in frame_groups(video)])
    return float(frame_scores(texts_FD, images_FD).mean())


def moving_squares() -> list[np.ndarray]:
    """Frames that all differ: noise under a moving square."""
    generator = np.random.RandomState(0)
    background = generator.randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) // 4
    frames = []
    for number in range(VIDEO_FRAMES):
        frame = background.copy()
        frame[100:300, 5 * number : 5 * number + 200] = (200, 3 * number, 60)
        frames.append(frame)
    return frames


def print_machine(environment: Environment) -> None:
    """Where the numbers were taken."""
    device = environment.device
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "CPU"
    print(
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, {device} ({name}); Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def print_memory(environment: Environment) -> None:
    """Peak memory of the process, and of the GPU where there is one."""
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory: process {peak_gib:.2f} GiB", end="")
    if environment.device.startswith("cuda"):
        print(f", GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", end="")
    print()


if __name__ == "__main__":
    main()
