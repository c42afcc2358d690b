"""A training step: prepared features against encoding on the way, tokens per second, use of the GPU's peak.

    python benchmarks/training_step.py [--recipe tiny] [--steps 12] [--threads 1] [--data DATA --weights DIR]
    # The step alone with RA and without, on a GPU; the recipe's own 128 samples an update only take longer:
    python benchmarks/training_step.py --drawn --recipe stage1_1_3b run.samples_per_step=1
    # The same on a CPU in seconds, to see that it runs:
    python benchmarks/training_step.py --drawn

Ratio: updates with decoding and encoding, in turn with updates on prepared features, medians; the first of
each is thrown away. Without --data a drawn clip of the recipe's size is used, so its decoding is cheaper than
a real one's. With --drawn only the step itself is measured, in the recipe's full size with three references,
on a network that is not read from disk, first with the alignment loss and then without.

Model FLOP utilisation (MFU): as in a run's log (`refalign/training/flops.py`), of the GPU's dense peak in the
run's precision; loss and projectors (benchmarks/alignment.py) are left out.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe

from refbench.bench.video import write_video
from refbench.refalign.data.dataset import PositionSampler
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training.assembly import StartingPoint
from refbench.refalign.training.batch import Example, Features
from refbench.refalign.training.encoder import latent_shape
from refbench.refalign.training.examples import EncodedSource, ExampleSource
from refbench.refalign.training.flops import forward_flops, peak_flops
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.parts import teacher_names
from refbench.refalign.training.prepare import prepare_features
from refbench.refalign.training.prepared import PreparedSource
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.run import made_weights, make_encoder, open_data
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer, read_start

REFERENCES = 3
TEXT_ROWS, TEXT_WIDTH = 512, 4096
RELEASED: dict[str, dict[str, int]] = {
    name: {"attention_head_dim": 128, "text_dim": TEXT_WIDTH, **sizes}
    for name, sizes in (
        ("wan2.1-t2v-1.3b", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}),
        ("wan2.1-t2v-14b", {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}),
    )
}
TINY = {
    "num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 256, "num_layers": 4, "text_dim": 32,
}  # fmt: skip


class DrawnSource(ExampleSource):
    """The same random features of full size at each position."""

    def __init__(self, config: TrainingConfig, text_width: int) -> None:
        self.length = 1000
        self.teacher_widths = tuple(get_teacher_spec(name).width for name in teacher_names(config))
        channels, frames, rows, columns = latent_shape(config.data.clip)
        tokens = (rows // config.model.patch) * (columns // config.model.patch)
        self._features = Features(
            latents_CFhw=torch.randn(channels, frames, rows, columns),
            text_LD=torch.randn(TEXT_ROWS, text_width),
            references_CNhw=torch.randn(channels, REFERENCES, rows, columns),
            teachers=tuple(torch.randn(REFERENCES, tokens, width) for width in self.teacher_widths),
        )

    def examples(self, *, start: int, rank: int, world_size: int) -> Generator[Example, None, None]:
        """See the parent."""
        for at in PositionSampler(self.length, start=start, rank=rank, world_size=world_size):
            yield Example(key="drawn", epoch=at.epoch, position=at.position, features=self._features)


def draw_clip(folder: Path, config: TrainingConfig) -> Path:
    """A JSONL file of one moving pattern with three references."""
    from PIL import Image

    rule = config.data.clip
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (rule.height, rule.width, 3), dtype=np.uint8)
    frames = [np.roll(picture, 2 * index, axis=1) for index in range(rule.window_frames)]
    write_video(folder / "clip.mp4", frames, 24)
    names = [f"{number}.png" for number in range(REFERENCES)]
    for number, name in enumerate(names):
        Image.fromarray(picture[: rule.height // 2, number * 8 :]).save(folder / name)
    line = {"video": "clip.mp4", "prompt": "a pattern moves to the right", "references": names}
    (folder / "clips.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "clips.jsonl"


def seconds_per_update(trainer: Trainer, examples: Iterator[Example]) -> float:
    """Wall time of one update; its losses are read, so a GPU has finished it."""
    start = time.perf_counter()
    trainer.update(examples)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def tokens_of_sample(config: TrainingConfig) -> tuple[int, int]:
    """Tokens of a sample's video and of its three references."""
    _, frames, rows, columns = latent_shape(config.data.clip)
    of_one_picture = (rows // config.model.patch) * (columns // config.model.patch)
    return frames * of_one_picture, REFERENCES * of_one_picture


def sample_flops(architecture: Mapping[str, Any], config: TrainingConfig) -> float:
    """FLOPs of forward and backward pass of a sample with three references."""
    of_video, of_references = tokens_of_sample(config)
    flops = forward_flops(
        architecture,
        video_tokens=of_video,
        reference_tokens=of_references,
        text_rows=config.model.text_rows,
    )
    return flops.of_training(adapters=config.lora.enabled)


def report_step(config: TrainingConfig, trainer: Trainer, seconds: float, peak_tflops: float | None) -> None:
    """Tokens per second, utilisation and peak memory of updates with three references in each sample."""
    of_video, of_references = tokens_of_sample(config)
    tokens = of_video + of_references
    samples = config.run.samples_per_step
    speed = samples / seconds
    print(f"  {speed:.3f} samples/s, {speed * tokens:.0f} tokens/s ({tokens} a sample)")
    flops = samples * sample_flops(trainer.model.transformer.config, config)
    device = trainer.parallel.device
    peak = peak_flops(device, half=config.run.precision == "bfloat16")
    peak = peak if peak_tflops is None else peak_tflops * 1e12
    used = f", MFU {100 * flops / seconds / peak:.1f} % of {peak / 1e12:.0f} TFLOP/s" if peak else ""
    print(f"  {flops / samples / 1e12:.3g} TFLOP a sample, {flops / seconds / 1e12:.3g} TFLOP/s{used}")
    gib = trainer.meter.peak_gib()
    if gib is not None:
        print(f"  peak memory {gib:.1f} GiB")


def measure_drawn(config: TrainingConfig, steps: int, peak_tflops: float | None) -> None:
    """The step alone, on a random network and drawn features, with the alignment loss and without."""
    sizes = TINY if config.model.random else RELEASED[config.model.base]
    architecture = {"in_channels": 16, "out_channels": 16, "freq_dim": 256, **sizes}
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        parallel = Parallel(config, Path(folder))
        for aligned in (True, False):
            chosen = replace(config, alignment=replace(config.alignment, enabled=aligned))
            source = DrawnSource(chosen, architecture["text_dim"])
            start = StartingPoint(architecture=architecture, network=None, projectors=None)
            trainer = Trainer(chosen, parallel, source, Path(folder), start=start)
            examples = source.examples(start=0, rank=0, world_size=1)
            times = [seconds_per_update(trainer, examples) for _ in range(steps + 1)][1:]
            medians.append(statistics.median(times))
            name = "with" if aligned else "without"
            print(f"update on drawn features {name} RA, median of {steps}: {medians[-1]:.3f} s")
            report_step(chosen, trainer, medians[-1], peak_tflops)
            # The second network shall not find the first one beside it.
            del trainer
            parallel.accelerator.free_memory()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    print(f"RA's share of the step: {100 * (1 - medians[1] / medians[0]):.1f} %")


def measure_ratio(
    config: TrainingConfig, steps: int, data: Path | None, weights: Path | None, peak_tflops: float | None
) -> None:
    """Updates with encoding on the way and with prepared features, in turn."""
    with tempfile.TemporaryDirectory() as name, made_weights(config, weights) as found:
        folder = Path(name)
        path = draw_clip(folder, config) if data is None else data
        parallel = Parallel(config, folder)
        encoder = make_encoder(config, found, parallel.device)
        opened = open_data(config, path, folder / "index")
        prepare_features(config, opened, encoder, folder / "features", positions=len(opened), weights=found)
        encoded = EncodedSource(opened, encoder, workers=config.data.workers)
        prepared = PreparedSource(folder / "features", config, weights=found)
        trainer = Trainer(config, parallel, encoded, folder, start=read_start(config, parallel, found, None))
        streams = [source.examples(start=0, rank=0, world_size=1) for source in (encoded, prepared)]
        pairs = [[seconds_per_update(trainer, stream) for stream in streams] for _ in range(steps + 1)][1:]
        encoding, reading = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"update with decoding and encoding, median of {steps}: {encoding:.3f} s")
        print(f"update on prepared features:  {reading:.3f} s")
        print(f"ratio, median of pairs: {ratio:.1f}")
        report_step(config, trainer, reading, peak_tflops)


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--peak-tflops", type=float)
    # Several threads wait for each other where a machine does other work.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    quiet = ["log.tensorboard=false", "log.every=1000000"]
    config = build_config(chosen.recipe, [*quiet, *chosen.overrides])
    print(describe("torch", "diffusers", "accelerate"))
    print(torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads")
    print(f"recipe {config.recipe}, {config.run.samples_per_step} samples an update, {config.run.precision}")
    if chosen.drawn:
        measure_drawn(config, chosen.steps, chosen.peak_tflops)
    else:
        measure_ratio(config, chosen.steps, chosen.data, chosen.weights, chosen.peak_tflops)


if __name__ == "__main__":
    main()
