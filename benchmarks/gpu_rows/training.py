"""Rows of training: updates of RefAlign's trainer on features that are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from training_step import DrawnSource, sample_flops

from gpu_rows import networks
from gpu_rows.bench import Bench, kernel_shares
from gpu_rows.rows import Measured
from refbench.baselines.wan.checkpoint import WanCheckpoint
from refbench.refalign.flow_matching import FlowSchedule
from refbench.refalign.training.assembly import StartingPoint, plain_config
from refbench.refalign.training.batch import Example, collate
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer


def training_config(sizes: networks.Sizes, *overrides: str) -> TrainingConfig:
    """The recipe with one sample an update and without files of curves."""
    quiet = ("log.tensorboard=false", "log.every=1000000", "run.samples_per_step=1")
    return build_config(sizes.recipe, [*quiet, *overrides])


def drawn_features(sizes: networks.Sizes, config: TrainingConfig) -> DrawnSource:
    """Random features of the recipe's geometry, with three references."""
    return DrawnSource(config, text_width=sizes.text_width)


def drawn_trainer(bench: Bench, config: TrainingConfig) -> tuple[Trainer, Iterator[Example]]:
    """The project's trainer around a random network, and its examples."""
    sizes = bench.sizes
    arguments = networks.architecture(sizes.spec, sizes.text_width)
    # A network that is not trained itself is read in the run's precision.
    half = config.lora.enabled and config.run.precision == "bfloat16"
    network = networks.transformer(arguments, bench.device, torch.bfloat16 if half else torch.float32)
    start = StartingPoint(
        architecture=plain_config(network),
        network=WanCheckpoint(
            tensors=dict(network.state_dict()),
            config=plain_config(network),
            projectors={},
            source=Path("random weights"),
        ),
        projectors=None,
    )
    folder = bench.subfolder()
    source = drawn_features(sizes, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(config, Parallel(config, folder), source, folder, start=start)
    return trainer, source.examples(start=0, rank=0, world_size=1)


def train(bench: Bench, *overrides: str) -> Measured:
    """An update with batch 1 on prepared features: forward, backward, AdamW."""
    config = training_config(bench.sizes, *overrides)
    trainer, examples = drawn_trainer(bench, config)
    tflop = sample_flops(trainer.model.transformer.config, config) / 1e12
    found = bench.clock.measure(lambda: trainer.update(examples), tflop=tflop)
    assert found.seconds is not None
    tokens = collate([next(examples)], FlowSchedule(), seed=0).tokens
    return replace(found, facts={"tokens": float(tokens), "tokens/s": tokens / found.seconds})


def profile_update(bench: Bench) -> Measured:
    """One update with RA, blocks recomputed."""
    config = training_config(bench.sizes, "run.gradient_checkpointing=true")
    trainer, examples = drawn_trainer(bench, config)
    return Measured(facts=kernel_shares(bench.clock, lambda: trainer.update(examples)))
