"""Rows of the metrics' networks on prepared inputs, and two workers on one device."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_rows import networks
from gpu_rows.bench import PROMPT, REFERENCES, RUNS, Bench, make_bench
from gpu_rows.rows import Fact, Measured
from refbench.metrics.motion_smoothness import prepared
from refbench.metrics.nets.curricularface import FACE_SIDE_PX, face_embeddings
from refbench.metrics.nets.gme import TEXT_INSTRUCTION
from refbench.metrics.nets.yolo_world.boxes import Letterbox


def normal_pixels(count: int, side: int) -> list[np.ndarray]:
    """Normalised float32 pixels (3, side, side) of frames of noise."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal((3, side, side), np.float32) for _ in range(count)]


def motion_video(bench: Bench) -> Callable[[], list[float]]:
    """The scores of one prepared video by the whole of OneAlign."""
    sizes = bench.sizes
    network = networks.owl_network(sizes.owl, bench.device, bench.half)
    rater = networks.window_rater(network, sizes.prompt)
    pixels = normal_pixels(sizes.video_frames, sizes.owl.vision.image_size)
    return lambda: rater.frame_scores(pixels)


def motion_smoothness(bench: Bench) -> Measured:
    """All frames of a video, prepared; and the time to prepare them."""
    sizes = bench.sizes
    score = motion_video(bench)
    facts: dict[str, Fact] = {"scores finite": "yes" if np.isfinite(score()).all() else "NO"}
    frames = networks.noise_frames(sizes.video_frames, sizes.geometry.height, sizes.geometry.width)
    for threads in (1, 8):

        def prepare(threads: int = threads) -> None:
            for _ in prepared(frames, sizes.owl.vision.image_size, threads):
                pass

        facts[f"preparing s, {threads} threads"] = bench.clock.seconds(prepare)
    return bench.clock.measure(score, facts=facts)


def gmescore(bench: Bench) -> Measured:
    """A prompt and the frames of a video, Pillow's resizes included."""
    geometry = bench.sizes.geometry
    model = networks.gme_model(bench.sizes.gme, bench.device, bench.half)
    embedder = networks.gme_embedder(model, bench.subfolder(), bench.device)
    pictures = networks.noise_pictures(bench.sizes.scored_frames, geometry.height, geometry.width)

    def score() -> torch.Tensor:
        text = embedder.embed_texts([PROMPT], TEXT_INSTRUCTION)
        return embedder.embed_images(pictures) @ text[0]

    finite = bool(score().isfinite().all())
    resizing = bench.clock.seconds(lambda: embedder.patches(pictures))
    facts: dict[str, Fact] = {"of them resizing s": resizing, "scores finite": "yes" if finite else "NO"}
    # torch's counter does not know attention with fewer heads of keys than of queries.
    return bench.clock.measure(score, counted=False, facts=facts)


def nexus_detector(bench: Bench) -> Measured:
    """The frames of a video against three references, with letterboxes and suppressions; no embeddings."""
    detector = networks.detector(bench.sizes, bench.device)
    geometry = bench.sizes.geometry
    frames = networks.noise_frames(bench.sizes.scored_frames, geometry.height, geometry.width)
    pictures = networks.noise_pictures(REFERENCES, geometry.height, geometry.width)
    at_once = max(detector.pairs_per_pass // REFERENCES, 1)
    boxes = 0

    def detect() -> None:
        nonlocal boxes
        prompts = detector.prompts(pictures)
        found = [
            detector.detect(frames[start : start + at_once], prompts)
            for start in range(0, len(frames), at_once)
        ]
        boxes = sum(len(one.scores) for part in found for frame in part for one in frame)

    letterbox = Letterbox.of(geometry.height, geometry.width)
    resizing = bench.clock.seconds(lambda: [letterbox.apply(frame) for frame in frames])
    measured = bench.clock.measure(detect)
    facts: dict[str, Fact] = {
        "of them letterboxes s": resizing,
        "boxes": float(boxes),
        "pairs a pass": float(detector.pairs_per_pass),
    }
    return replace(measured, facts=facts)


def face_video(bench: Bench) -> Measured:
    """The aligned faces of a video; finding them is ONNX Runtime's work and not measured."""
    network = networks.face_network(bench.sizes, bench.device)
    faces = np.stack(networks.noise_frames(bench.sizes.scored_frames, FACE_SIDE_PX, FACE_SIDE_PX))
    return bench.clock.measure(lambda: face_embeddings(network, faces))


def aesthetics_video(bench: Bench) -> Measured:
    """The prepared frames of a video."""
    scorer = networks.aesthetic_scorer(bench.sizes, bench.device)
    pixels = np.stack(normal_pixels(bench.sizes.scored_frames, scorer.crop.crop_px))
    return bench.clock.measure(lambda: scorer.frame_scores(pixels))


def two_workers(bench: Bench) -> Measured:
    """MotionSmoothness in one and in two processes on the same device."""
    context = multiprocessing.get_context("spawn")
    barrier, lock, results = context.Barrier(2), context.Lock(), context.Queue()
    tiny = bench.sizes is networks.TINY
    workers = [
        context.Process(target=work_in_turns, args=(number, str(bench.device), tiny, barrier, lock, results))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(results.get(timeout=180) for _ in range(3))
    finally:
        for worker in workers:
            worker.join(timeout=30)
            if worker.is_alive():
                worker.terminate()
    alone, together = found["alone"], max(found["first"], found["second"])
    facts: dict[str, Fact] = {
        "s a video, one worker": alone,
        "s a video of each of two": together,
        "throughput of two / one": 2 * alone / together,
    }
    return Measured(facts=facts)


def work_in_turns(number: int, device: str, tiny: bool, barrier: Any, lock: Any, results: Any) -> None:
    """One worker: the first works alone, then both at once."""
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(torch.device(device), tiny=tiny, folder=Path(folder))
        # Weights are made in float32 first, which two of them at once would not find room for.
        with lock:
            score = motion_video(bench)
        score()
        barrier.wait(timeout=120)
        if number == 0:
            results.put(("alone", bench.clock.seconds(lambda: [score() for _ in range(RUNS)]) / RUNS))
        barrier.wait(timeout=120)
        seconds = bench.clock.seconds(lambda: [score() for _ in range(RUNS)]) / RUNS
        results.put((("first", "second")[number], seconds))
