"""What the network is trained on: the features of a sample, and a batch of several with their noise.

A sample without references, or whose references are dropped, takes one reference of zeros at the video's
size, with a teacher of zeros, which switches the alignment loss off (`refalign.alignment`).

Source: the trainer of gudaochangsheng/RefAlign@6f91526.

Shapes: B samples, C latent channels, F latent frames, N references, h and w latent rows and columns, L text
rows, T tokens of all references, D channels of the teacher or the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.refalign.data.draws import uniform
from refbench.refalign.data.sample import Skipped
from refbench.refalign.flow_matching import FlowSchedule


@dataclass(frozen=True, kw_only=True)
class Features:
    """One sample as the networks see it, on the CPU.

    `latents_CFhw`: the video's, float32. `text_LD`: text features without rows of zeros at the end.
    `references_CNhw`: clean latents, float32, N 0 where they are dropped. `teachers`: of each teacher
    (N, tokens of one reference, D); `frames`: of each teacher of the clip's frames (F, tokens of one latent
    frame, D). Text and features have the dtype of training.
    """

    latents_CFhw: torch.Tensor
    text_LD: torch.Tensor
    references_CNhw: torch.Tensor
    teachers: tuple[torch.Tensor, ...]
    frames: tuple[torch.Tensor, ...] = ()

    def in_memory(self) -> Features:
        """The same features, none of them a part of a file any more."""
        return Features(
            latents_CFhw=self.latents_CFhw.clone(),
            text_LD=self.text_LD.clone(),
            references_CNhw=self.references_CNhw.clone(),
            teachers=tuple(tokens.clone() for tokens in self.teachers),
            frames=tuple(tokens.clone() for tokens in self.frames),
        )


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
    """Samples of equal size with their noise and noise levels.

    `timesteps_B` on 0..1000, `sigmas_B` in 0..1 and `weights_B` of the squared error as in `NoiseLevel`;
    `counts_B`: how many of the N references are real, None where all are; `subject_BT`: the number of the
    reference that a token belongs to, -1 for padding; `teachers`: of each teacher (B,T,D);
    `frame_teachers`: of each teacher of the clip's frames (B,V,D), V tokens of the video.
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
    frame_teachers: tuple[torch.Tensor, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; a GPU copies it out of pinned memory while the host goes on."""
        pins = torch.device(device).type == "cuda"

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(each) for each in value)
            if value is None:
                return None
            return (value.pin_memory() if pins else value).to(device, non_blocking=True)

        return replace(self, **{item.name: moved(getattr(self, item.name)) for item in fields(self)})

    @property
    def reference_tokens(self) -> int:
        """Tokens of a sample's references, padding included."""
        return int(self.subject_BT.shape[1])

    @property
    def video_tokens(self) -> int:
        """Tokens of a sample's video."""
        of_one_picture = self.reference_tokens // int(self.references_BCNhw.shape[2])
        return int(self.latents_BCFhw.shape[2]) * of_one_picture

    @property
    def tokens(self) -> int:
        """Tokens in the network's sequences, padding included."""
        return len(self.latents_BCFhw) * (self.video_tokens + self.reference_tokens)


@dataclass(frozen=True, kw_only=True)
class NoiseDraw:
    """A sample's noise (C,F,h,w) and the id of its noise level."""

    noise_CFhw: torch.Tensor
    level_id: int

    @classmethod
    def of(
        cls, seed: int, epoch: int, position: int, shape: Sequence[int], schedule: FlowSchedule | None = None
    ) -> NoiseDraw:
        """The draw of a position, on the CPU: the same in every process, whatever came before.

        `shape` is that of the latents, (C,F,h,w). The noise is standard normal in float32; `level_id`, in
        0..999, is drawn as `schedule` says (None: all equally often).
        """
        # 53 bits of the key's SHA-256.
        number = int(uniform(f"{seed}/{epoch}/{position}/noise") * 2**53)
        generator = torch.Generator("cpu").manual_seed(number)
        level_id = (schedule or FlowSchedule()).draw(generator)
        return cls(noise_CFhw=torch.randn(tuple(shape), generator=generator), level_id=level_id)


def collate(
    examples: Sequence[Example],
    schedule: FlowSchedule,
    seed: int,
    text_rows: int = MAX_TEXT_TOKENS,
    patch: int = 2,
) -> Batch:
    """A batch of examples with the noise of their positions; a token stands for `patch` × `patch` latents.

    Text is filled with rows of zeros to `text_rows`, references with zeros to the most that an example has.
    Raises RuntimeError for examples of different sizes.
    """
    samples = [example.features for example in examples]
    draws = [
        NoiseDraw.of(seed, example.epoch, example.position, example.features.latents_CFhw.shape, schedule)
        for example in examples
    ]
    level = schedule.level_of_ids(torch.tensor([draw.level_id for draw in draws]))
    counts = [max(sample.references_CNhw.shape[1], 1) for sample in samples]
    most = max(counts)
    rows, columns = samples[0].latents_CFhw.shape[2:]
    tokens_each = (rows // patch) * (columns // patch)
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
        frame_teachers=tuple(
            torch.stack([tokens_FTD.flatten(0, 1) for tokens_FTD in one_teacher])
            for one_teacher in zip(*(sample.frames for sample in samples), strict=True)
        ),
    )


def _filled(values: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    missing = list(values.shape)
    missing[axis] = length - values.shape[axis]
    return torch.cat([values, values.new_zeros(missing)], dim=axis)
