"""Generators with tiny weights: from the command line to videos, or loaded within this process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from kit.cli import invoke
from refbench.bench.environment import Environment
from refbench.bench.method import Frames, Generator, Method
from refbench.bench.sample import Kind, Reference, Sample
from refbench.bench.video import Video

# What takes a generator's process some seconds to import.
SLOW_MODULES = (
    "diffusers.models.autoencoders.autoencoder_kl_wan",
    "transformers.models.umt5.modeling_umt5",
    "refbench.baselines.wan.loading",
    "refbench.refalign.transformer",
)


def loaded(method: Method, weights: Path) -> Generator:
    """The method's generator on the CPU."""
    return method.load(Environment(device="cpu", weights=weights))


def made(generator: Generator, sample: Sample, seed: int = 0) -> Frames:
    """The generator's answer, which is frames in memory."""
    answer = generator.generate(sample, seed)
    assert isinstance(answer, Frames)
    return answer


def frames_of(generator: Generator, sample: Sample, seed: int = 0) -> np.ndarray:
    """The frames of one video (frames, height, width, 3)."""
    return np.stack(list(made(generator, sample, seed).images))


def tokenized_texts(generator: Any) -> list[str]:
    """The texts that reach the tokenizer of a loaded Wan generator from now on, as they come."""
    codec, seen = generator.sampler.codec, []
    tokenizer = codec.tokenizer

    def watched(text: str, **settings: Any) -> Any:
        seen.append(text)
        return tokenizer(text, **settings)

    watched.model_max_length = tokenizer.model_max_length  # type: ignore[attr-defined]
    object.__setattr__(codec, "tokenizer", watched)
    return seen


def sample_of(
    references: Iterable[str], folder: Path = Path(), *, kind: Kind = "object", **fields: Any
) -> Sample:
    """A sample with these reference files below `folder`, which need not be there."""
    opened = tuple(Reference(path=name, root=folder, label="Cup", kind=kind) for name in references)
    defaults: dict[str, Any] = {"id": "s_1", "category": "s", "prompt": "a cup", "references": opened}
    return Sample(**(defaults | fields))


def generated(
    name: str, options: Mapping[str, object], *, dataset: Path, weights: Path, out: Path, limit: int
) -> list[Video]:
    """The videos that `refbench generate NAME` writes for the first samples of a data set, by file name."""
    invoke(
        *("generate", name, "--dataset", dataset, "--weights", weights, "--out", out, "--limit", limit),
        *(f"--set={key}={value}" for key, value in options.items()),
    )
    return [Video(path) for path in sorted(out.rglob("seed-0/*.mp4"))]


def started(words: Sequence[object], folder: Path) -> BaseProcess:
    """`refbench WORDS` as a process with one thread, which works in `folder`: forked from one that has
    imported what is slow to import, so that a test can start and kill several.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(SLOW_MODULES))
    process = context.Process(target=_work, args=([str(word) for word in words], folder))
    process.start()
    return process


def _work(words: list[str], folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    os.chdir(folder)
    invoke(*words)
