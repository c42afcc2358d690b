"""Training clips as latents on disk, so that the generators' training does not encode them again and again.

Clip i of a seed is a function of both; its prompt is worded anew each time. The file holds the normalised
latents in half precision. It is written in pieces; a call that was stopped goes on at its last whole piece.

Shapes: N clips, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from refbench.bench.errors import UserError
from refbench.bench.files import read_json_object, write_json
from refbench.bench.weights.store import sha256_of
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.loop import fixed_threads
from refbench.mini.training.vae import NAME as VAE
from refbench.mini.training.vae import REPOSITORY, WEIGHTS_FILE, as_pixels, load_vae
from refbench.mini.world.prompts import prompt_of
from refbench.mini.world.render import render
from refbench.mini.world.scene import Scene, random_scene

FILE, DONE_FILE = "latents.npy", "latents.json"
SHAPE_CFHW = (16, 3, 8, 8)
PIECE = 16
NAME = "latents"
CLIPS = 12_000


def scene_of(number: int, seed: int) -> Scene:
    """The scene of a training clip."""
    return random_scene("training", random.Random(f"latents/{seed}/{number}"))


def prompt_for(number: int, seed: int, generator: random.Random) -> str:
    """A prompt for a training clip; the generator picks the words."""
    return prompt_of(scene_of(number, seed), generator)


def write_latents(
    vae: Any,
    folder: Path,
    clips: int,
    seed: int,
    vae_digest: str,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 0,
    piece: int = PIECE,
) -> None:
    """Encode `clips` clips into `folder`, on the VAE's device; `workers` processes draw them. Raises
    UserError for a folder of another VAE, number or seed.
    """
    asked = {"clips": clips, "seed": seed, "vae": vae_digest}
    folder.mkdir(parents=True, exist_ok=True)
    path, note = folder / FILE, folder / DONE_FILE
    done = 0
    if note.is_file():
        content = read_json_object(note)
        done = int(content.pop("done"))
        if content != asked:
            raise UserError(f"{folder} holds latents of other clips or another VAE; remove it")
    mode = "r+" if done and path.is_file() else "w+"
    latents_NCFHW = np.lib.format.open_memmap(path, mode=mode, dtype=np.float16, shape=(clips, *SHAPE_CFHW))
    mean, std = (
        torch.tensor(values, device=vae.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    with fixed_threads(), torch.no_grad():
        pieces = range(done, clips, piece)
        drawn = DataLoader(_Pieces(clips, seed, piece), batch_size=None, sampler=pieces, num_workers=workers)
        for first, pixels in zip(pieces, drawn, strict=True):
            numbers = range(first, first + len(pixels))
            encoded = (vae.encode(pixels.to(vae.device)).latent_dist.mode() - mean) / std
            latents_NCFHW[numbers.start : numbers.stop] = encoded.cpu().numpy()
            latents_NCFHW.flush()
            write_json(note, {**asked, "done": numbers.stop})
            on_clip(numbers.stop, clips)


@dataclass(frozen=True)
class _Pieces(Dataset[torch.Tensor]):
    """The pixels (B,3,F,H,W) of a piece's clips by the number of its first."""

    clips: int
    seed: int
    piece: int

    def __getitem__(self, first: int) -> torch.Tensor:
        numbers = range(first, min(first + self.piece, self.clips))
        return as_pixels(np.stack([render(scene_of(number, self.seed)).video_FHWC for number in numbers]))


def read_latents(folder: Path) -> np.ndarray:
    """The latents (N,C,F,H,W), float16, read from disk as they are used. Raises UserError when they are not
    complete.
    """
    content = read_json_object(folder / DONE_FILE)
    if content.get("done") != content.get("clips"):
        raise UserError(f"{folder} is not complete: {content.get('done')} of {content.get('clips')} clips")
    array: np.ndarray = np.load(folder / FILE, mmap_mode="r")
    return array


def make(build: Build, on_step: OnStep) -> None:
    """Encode the training clips of the base."""
    folder = build.weights / REPOSITORY / VAE
    digest = " ".join(sha256_of(folder / name) for name in (WEIGHTS_FILE, "config.json"))
    write_latents(
        load_vae(build).to(build.device),
        build.run_folder(NAME),
        build.count(CLIPS, least=32) * build.wider,
        build.seed,
        digest,
        on_step,
        build.workers,
        PIECE * build.wider,
    )


PART = Part(name=NAME, summary="training clips as latents", make=make, needs=(VAE,))
