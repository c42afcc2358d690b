"""Videos of a few benchmark samples during training, by the loop that the registered method uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from refbench.baselines.wan.prompts import WAN_NEGATIVE
from refbench.baselines.wan.spec import WanSettings
from refbench.bench.dataset import DATASET_VARIABLE, HUB_DATASET, Track, load_suite, load_track
from refbench.bench.errors import UserError, one_line
from refbench.bench.files import replacing
from refbench.bench.sample import Sample
from refbench.bench.video import write_video
from refbench.refalign.sampler import sample_video
from refbench.refalign.training.encoder import FeatureEncoder
from refbench.refalign.training.model import TrainingModel
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.settings import TrainingConfig

FPS = 16.0


def validation_track(config: TrainingConfig) -> Track | None:
    """The samples of which a run makes videos, under their track's name; None where `validation.every` is 0.

    Raises UserError for a data set that is not there, for a sample that it does not have, and for one whose
    references cannot be opened.
    """
    chosen = config.validation
    if not chosen.every:
        return None
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
        _, fault = _opened(sample)
        if fault is not None:
            raise UserError(f"validation.samples: {fault}")
        samples.append(sample)
    return replace(track, samples=tuple(samples))


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

    def run(self, model: TrainingModel, parallel: Parallel, folder: Path) -> list[str]:
        """Write `<folder>/<sample>.mp4` for each sample; returns, in all processes, what could not be made
        and why, one line each.

        Processes share the samples, except where weights are sharded and each call needs all of them: there
        no process may leave a sample alone, so a file that only one of them cannot read is left out by all.
        Draws come from generators of their own, so training goes on as if nothing had happened.
        """
        network = NetworkInTraining(model, parallel)
        together = parallel.sharded
        faults: list[str] = []
        for number, sample in enumerate(self.samples):
            mine = number % parallel.world_size == parallel.rank
            if not (mine or together):
                continue
            if mine:
                # That of an earlier attempt at this step is not this network's.
                (folder / f"{sample.id}.mp4").unlink(missing_ok=True)
            references, fault = _opened(sample)
            own = [] if fault is None else [fault]
            unreadable = parallel.gather_objects(own) if together else own
            if unreadable:
                faults += unreadable[:1] if mine else []
                continue
            try:
                with self._encoder.at_work():
                    self._make(sample, references, network, folder if mine else None)
            except Exception as error:  # noqa: BLE001 - whatever it is, training goes on without the video
                faults.append(f"{sample.id}: {one_line(error, 200)}")
        return list(dict.fromkeys(parallel.gather_objects(faults)))

    def _make(
        self,
        sample: Sample,
        references: Sequence[Image.Image],
        network: NetworkInTraining,
        folder: Path | None,
    ) -> None:
        """Write a sample's video below `folder`; None: only take part in the calls of the network."""
        frames = sample_video(
            self._encoder.codec,
            network,
            self.settings,
            prompt=sample.prompt,
            references=references,
            seed=self.seed,
        )
        if folder is None:
            for _ in frames:
                pass
            return
        with replacing(folder / f"{sample.id}.mp4") as partial:
            write_video(partial, frames, FPS)


def _opened(sample: Sample) -> tuple[list[Image.Image], str | None]:
    """The references on white, and why they cannot be opened."""
    try:
        return [reference.open_on_white() for reference in sample.references], None
    except Exception as error:  # noqa: BLE001 - Pillow's parsers of metadata raise kinds of their own
        return [], f"{sample.id}: {one_line(error, 200)}"


class NetworkInTraining(torch.nn.Module):
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
