"""Videos of a few benchmark samples during training, by the loop that the registered method uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import WanSettings
from refbench.bench.dataset import DATASET_VARIABLE, HUB_DATASET, load_suite, load_track
from refbench.bench.errors import UserError
from refbench.bench.files import replacing
from refbench.bench.sample import Sample
from refbench.bench.video import write_video
from refbench.refalign.sampler import sample_video
from refbench.refalign.training.encoder import FeatureEncoder
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.recipes import TrainingConfig

FPS = 16.0


def validation_samples(config: TrainingConfig) -> list[Sample]:
    """The samples of which a run makes videos; none where `validation.every` is 0.

    Raises UserError for a data set that is not there and for a sample that it does not have.
    """
    chosen = config.validation
    if not chosen.every:
        return []
    if chosen.dataset is None and not os.environ.get(DATASET_VARIABLE):
        raise UserError(
            f"validation.every={chosen.every} needs a data set: give validation.dataset=DIR (a copy of "
            f"{HUB_DATASET}, or a suite's FILE.jsonl), or set {DATASET_VARIABLE}"
        )
    if chosen.dataset is not None and chosen.dataset.is_file():
        track = load_suite(chosen.dataset)
    else:
        track = load_track(chosen.track, chosen.dataset)
    samples = []
    for name in chosen.samples:
        sample = track.sample(name)
        if sample is None:
            raise UserError(f"validation.samples: {track.name} has no sample {name!r}")
        samples.append(sample)
    return samples


class Validation:
    """Makes the validation videos of a run with its text encoder and VAE."""

    def __init__(self, config: TrainingConfig, samples: Sequence[Sample], encoder: FeatureEncoder) -> None:
        chosen = config.validation
        self.samples = samples
        self.seed = chosen.seed
        self.settings = WanSettings(
            width=config.data.clip.width,
            height=config.data.clip.height,
            num_frames=config.data.clip.num_frames,
            fps=FPS,
            steps=chosen.steps,
            solver="euler",
            shift=config.flow.shift,
            guidance={"image": chosen.image_scale, "text": chosen.text_scale},
            negative_prompt=WAN_NEGATIVE,
        )
        self._encoder = encoder

    def run(self, model: TrainingModel, parallel: Parallel, folder: Path) -> None:
        """Write `<folder>/<sample>.mp4` for each sample.

        Processes share the samples, except under FSDP2, where each call needs all of them. Draws come from
        generators of their own, so training goes on as if nothing had happened.
        """
        network = _Network(model, parallel)
        for number, sample in enumerate(self.samples):
            mine = number % parallel.world_size == parallel.rank
            if not (mine or parallel.strategy == "fsdp2"):
                continue
            references = [reference.open_on_white() for reference in sample.references]
            frames = sample_video(
                self._encoder.codec,
                network,
                self.settings,
                prompt=sample.prompt,
                references=references,
                seed=self.seed,
            )
            if mine:
                with replacing(folder / f"{sample.id}.mp4") as partial:
                    write_video(partial, frames, FPS)
            else:
                for _ in frames:
                    pass
        parallel.accelerator.wait_for_everyone()


class _Network(torch.nn.Module):
    """The network in training behind the sampler's interface; not its owner, so nothing is moved."""

    def __init__(self, model: TrainingModel, parallel: Parallel) -> None:
        super().__init__()
        self._parts = (model, parallel)
        half = parallel.accelerator.mixed_precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32
        self.device = parallel.device

    def forward(self, **inputs: Any) -> SimpleNamespace:
        """An object with `sample`."""
        model, parallel = self._parts
        with torch.no_grad(), parallel.accelerator.autocast():
            return SimpleNamespace(sample=model.predict(**inputs).to(self.dtype))
