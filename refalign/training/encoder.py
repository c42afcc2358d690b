"""What the frozen networks make of a training sample, and how samples become a batch.

`FeatureEncoder` does the work during training or once beforehand (`refalign.training.prepare`); its result
depends on the sample alone, so both give the same losses. VAE latents are the posterior's mode: no draw,
therefore worth keeping. Text features keep no rows of zeros; teacher features lie on the network's token
grid. A dropped text is the empty prompt. For dropped references (and in a sample without any) one reference
of zeros stands in at the video's size, with a teacher of zeros, which switches the alignment loss off.

Source: the trainer of gudaochangsheng/RefAlign@6f91526.

Shapes: B samples, C latent channels, F latent frames, N references, h and w latent rows and columns, L text
rows, T tokens of all references, D channels of the teacher or the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refbench.baselines.wan.conditioning import LATENT_CHANNELS, SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION
from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.refalign.data.draws import uniform
from refbench.refalign.data.sample import ClipRule, Skipped, TrainingSample
from refbench.refalign.flow_matching import LEVELS, FlowSchedule
from refbench.refalign.teacher import Teacher

PATCH = 2
BYTE_SCALE = 2 / 255


@dataclass(frozen=True, kw_only=True)
class Features:
    """One sample as the networks see it, on the CPU.

    `latents_CFhw` of the video; `text_LD` without rows of zeros at the end; `references_CNhw` clean latents,
    N 0 where they are dropped; `teachers` for each teacher (N, tokens of one reference, D).
    """

    latents_CFhw: torch.Tensor
    text_LD: torch.Tensor
    references_CNhw: torch.Tensor
    teachers: tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample ready for training and where it stands in the order; `skipped` as in `TrainingSample`."""

    key: str
    epoch: int
    position: int
    features: Features
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of equal size, noise and noise levels included.

    `counts_B`: how many of the N references are real, None where all are; `subject_BT` the reference of each
    token, -1 for padding; `teachers` for each teacher (B,T,D).
    """

    latents_BCFhw: torch.Tensor
    noise_BCFhw: torch.Tensor
    timesteps_B: torch.Tensor
    sigmas_B: torch.Tensor
    weights_B: torch.Tensor
    text_BLD: torch.Tensor
    references_BCNhw: torch.Tensor
    counts_B: torch.Tensor | None
    subject_BT: torch.Tensor
    teachers: tuple[torch.Tensor, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(each) for each in value)
            return None if value is None else value.to(device, non_blocking=True)

        return replace(self, **{item.name: moved(getattr(self, item.name)) for item in fields(self)})

    @property
    def tokens(self) -> int:
        """Tokens in the network's sequences, padding included."""
        frames, rows, columns = self.latents_BCFhw.shape[2:]
        video: int = frames * (rows // PATCH) * (columns // PATCH)
        return len(self.latents_BCFhw) * (video + int(self.subject_BT.shape[1]))


@dataclass(frozen=True, kw_only=True)
class NoiseDraw:
    """A sample's noise (C,F,h,w) and the id of its noise level."""

    noise_CFhw: torch.Tensor
    level_id: int

    @classmethod
    def of(cls, seed: int, epoch: int, position: int, shape: Sequence[int]) -> NoiseDraw:
        """The draw of a position, on the CPU: the same in every process, whatever came before."""
        # 53 bits of the key's SHA-256.
        number = int(uniform(f"{seed}/{epoch}/{position}/noise") * 2**53)
        generator = torch.Generator("cpu").manual_seed(number)
        level_id = int(torch.randint(LEVELS, (), generator=generator))
        return cls(noise_CFhw=torch.randn(tuple(shape), generator=generator), level_id=level_id)


def collate(
    examples: Sequence[Example], schedule: FlowSchedule, seed: int, text_rows: int = MAX_TEXT_TOKENS
) -> Batch:
    """Examples with the noise of their positions; missing references and text rows are filled with zeros."""
    samples = [example.features for example in examples]
    draws = [
        NoiseDraw.of(seed, example.epoch, example.position, example.features.latents_CFhw.shape)
        for example in examples
    ]
    level = schedule.level_of_ids(torch.tensor([draw.level_id for draw in draws]))
    # A sample without references takes one of zeros.
    counts = [max(sample.references_CNhw.shape[1], 1) for sample in samples]
    most = max(counts)
    rows, columns = samples[0].latents_CFhw.shape[2:]
    tokens_each = (rows // PATCH) * (columns // PATCH)
    subject_BT = torch.full((len(samples), most * tokens_each), -1)
    for row, count in zip(subject_BT, counts, strict=True):
        row[: count * tokens_each] = torch.arange(count).repeat_interleave(tokens_each)
    return Batch(
        latents_BCFhw=torch.stack([sample.latents_CFhw for sample in samples]),
        noise_BCFhw=torch.stack([draw.noise_CFhw for draw in draws]),
        timesteps_B=level.timesteps_B,
        sigmas_B=level.sigmas_B,
        weights_B=level.weights_B,
        text_BLD=torch.stack([_filled(sample.text_LD, 0, text_rows) for sample in samples]),
        references_BCNhw=torch.stack([_filled(sample.references_CNhw, 1, most) for sample in samples]),
        counts_B=None if min(counts) == most else torch.tensor(counts),
        subject_BT=subject_BT,
        teachers=tuple(
            torch.stack([_filled(tokens_NTD, 0, most).flatten(0, 1) for tokens_NTD in one_teacher])
            for one_teacher in zip(*(sample.teachers for sample in samples), strict=True)
        ),
    )


def _filled(values: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    missing = list(values.shape)
    missing[axis] = length - values.shape[axis]
    return torch.cat([values, values.new_zeros(missing)], dim=axis)


def latent_shape(rule: ClipRule) -> tuple[int, int, int, int]:
    """(C,F,h,w) of a clip's latents."""
    return (
        LATENT_CHANNELS,
        1 + (rule.num_frames - 1) // TEMPORAL_COMPRESSION,
        rule.height // SPATIAL_COMPRESSION,
        rule.width // SPATIAL_COMPRESSION,
    )


class FeatureEncoder:
    """The frozen networks: VAE, text encoder and teachers.

    `parts` are tokenizer, text encoder and VAE (`baselines.wan.components.load_base`). Text and teacher
    features get `dtype`, latents stay in float32.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        teachers: Mapping[str, Teacher],
        *,
        rule: ClipRule,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.rule = rule
        self.teachers = dict(teachers)
        self.dtype = dtype
        for name in ("text_encoder", "vae"):
            parts[name].to(device)
        for teacher in self.teachers.values():
            teacher.to(device)
        standin = _NoNetwork(torch.device(device), dtype)
        self._sampler = WanSampler(**parts, transformer=standin, scheduler=make_scheduler("euler", 5))

    def sampler_with(self, network: torch.nn.Module) -> WanSampler:
        """A sampler of `network` (which has `dtype` and `device`) with this encoder's text encoder and
        VAE.
        """
        parts = {name: getattr(self._sampler, name) for name in ("tokenizer", "text_encoder", "vae")}
        return WanSampler(**parts, transformer=network, scheduler=make_scheduler("euler", 5))

    def encode(self, sample: TrainingSample) -> Features:
        """The features of a sample without what it drops, on the CPU."""
        prompt = "" if sample.dropped in ("text", "both") else sample.clip.prompt
        pictures_NHWC = sample.clip.references_NHWC
        if sample.dropped in ("references", "both"):
            pictures_NHWC = pictures_NHWC[:0]
        with torch.no_grad():
            return Features(
                latents_CFhw=self._latents(sample.clip.video_FHWC),
                text_LD=self._text(prompt),
                references_CNhw=self._references(pictures_NHWC),
                teachers=tuple(self._teach(teacher, pictures_NHWC) for teacher in self.teachers.values()),
            )

    def _latents(self, frames_FHWC: np.ndarray) -> torch.Tensor:
        pixels_CFHW = torch.from_numpy(np.ascontiguousarray(frames_FHWC)).permute(3, 0, 1, 2)
        return self._sampler.encode((pixels_CFHW.float() * BYTE_SCALE - 1)[None])[0].float().cpu()

    def _references(self, pictures_NHWC: np.ndarray) -> torch.Tensor:
        channels, _, rows, columns = latent_shape(self.rule)
        each = [self._latents(picture_HWC[None]) for picture_HWC in pictures_NHWC]
        return torch.cat(each, dim=1) if each else torch.zeros(channels, 0, rows, columns)

    def _text(self, prompt: str) -> torch.Tensor:
        features_LD = self._sampler.encode_text(prompt)[0][0]
        used = features_LD.any(dim=1).nonzero()
        return features_LD[: int(used.max()) + 1 if len(used) else 0].cpu()

    def _teach(self, teacher: Teacher, pictures_NHWC: np.ndarray) -> torch.Tensor:
        _, _, rows, columns = latent_shape(self.rule)
        grid = (rows // PATCH, columns // PATCH)
        if not len(pictures_NHWC):
            return torch.zeros(0, grid[0] * grid[1], teacher.width, dtype=self.dtype)
        pictures = torch.from_numpy(np.ascontiguousarray(pictures_NHWC))
        return teacher.features(pictures, grid).to(self.dtype).cpu()


class _NoNetwork(torch.nn.Module):
    """Stands where encoding needs no network, with the dtype and device that the sampler asks for."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device = device
        self.dtype = dtype


def load_teachers(
    names: Sequence[str], weights: Path | None, *, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Teacher]:
    """The teachers by name. Raises MissingWeights and UserError."""
    return {name: Teacher.load(name, weights, device=device, dtype=dtype) for name in names}
