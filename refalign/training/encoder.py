"""The frozen networks: from a training sample's pixels and prompt to latents, text and teacher features.

`FeatureEncoder` does the work during training or once beforehand (`refalign.training.prepare`); its result
depends on the sample alone, so both give the same losses. Each picture is encoded alone, by the teachers too:
its features do not depend on what stands beside it. VAE latents are the posterior's mode: no draw, therefore
worth keeping. Text features keep no rows of zeros; teacher features lie on the network's token grid. A
dropped text is the empty prompt; dropped references are left out.

Source: the trainer of gudaochangsheng/RefAlign@6f91526.

Shapes: C latent channels, F frames (of pixels or latents), N references, H and W rows and columns of pixels,
h and w of latents, L text rows, D channels of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.latents import WAN21_LATENTS, LatentSpace
from refbench.refalign.bases import check_clip
from refbench.refalign.data.sample import ClipRule, TrainingSample
from refbench.refalign.teacher import Teacher
from refbench.refalign.training.batch import Features

BYTE_SCALE = 2 / 255


def latent_shape(rule: ClipRule, space: LatentSpace = WAN21_LATENTS) -> tuple[int, int, int, int]:
    """The shape (C,F,h,w) of a clip's latents in a VAE's space."""
    return (space.channels, *space.shape(rule.width, rule.height, rule.num_frames))


class FeatureEncoder:
    """The frozen networks: VAE, text encoder and teachers.

    `parts` are tokenizer, text encoder and VAE (`baselines.wan.loading.load_base`). `teachers` see the
    references, `frame_teachers` the clip's frames 0, 4, 8, …, one for each latent frame. Text and teacher
    features get `dtype`, latents stay in float32. `patch`: rows and columns of latents in a token, to which
    the teachers' tokens are resampled. `offloaded`: the networks are on `device` inside `at_work` alone.
    Raises UserError for a clip's size that does not divide into tokens.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        teachers: Mapping[str, Teacher],
        *,
        rule: ClipRule,
        device: torch.device | str,
        dtype: torch.dtype,
        patch: int = 2,
        offloaded: bool = False,
        frame_teachers: Mapping[str, Teacher] | None = None,
    ) -> None:
        self.rule = rule
        self.patch = patch
        self.teachers = dict(teachers)
        self.frame_teachers = dict(frame_teachers or {})
        self.dtype = dtype
        # A teacher of both, references and frames, is one network.
        together = {id(one): one for one in (*self.teachers.values(), *self.frame_teachers.values())}
        networks = [parts["text_encoder"], parts["vae"], *together.values()]
        self._visitors = Visitors(networks, device) if offloaded else None
        if not offloaded:
            for network in networks:
                network.to(device)
        self.codec = WanCodec(**parts, device=torch.device(device), dtype=dtype)
        check_clip(rule, self.codec.latents, patch)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside the block the networks are on the device; blocks may be nested."""
        with nullcontext() if self._visitors is None else self._visitors.present():
            yield

    def encode(self, sample: TrainingSample) -> Features:
        """Encode a sample, leaving out what it drops; the result is on the CPU, shaped as in `Features`."""
        prompt = "" if sample.dropped in ("text", "both") else sample.clip.prompt
        pictures_NHWC = sample.clip.references_NHWC
        if sample.dropped in ("references", "both"):
            pictures_NHWC = pictures_NHWC[:0]
        with self.at_work():
            latents_CFhw = self.latents(sample.clip.video_FHWC)
            features = joined_features(
                latents_CFhw,
                self.text(prompt),
                [self.latents(picture_HWC[None]) for picture_HWC in pictures_NHWC],
                [
                    [self.teacher_tokens(name, picture_HWC) for picture_HWC in pictures_NHWC]
                    for name in self.teachers
                ],
                widths=[teacher.width for teacher in self.teachers.values()],
                patch=self.patch,
                dtype=self.dtype,
            )
            frames = [self.frame_tokens(name, sample.clip.video_FHWC) for name in self.frame_teachers]
            return replace(features, frames=tuple(frames))

    @torch.no_grad()
    def latents(self, frames_FHWC: np.ndarray) -> torch.Tensor:
        """Latents (C,F,h,w) in float32 of a video, or of a picture as a video of one frame; RGB uint8."""
        pixels_CFHW = torch.from_numpy(np.ascontiguousarray(frames_FHWC)).permute(3, 0, 1, 2)
        return self.codec.encode((pixels_CFHW.float() * BYTE_SCALE - 1)[None])[0].float().cpu()

    @torch.no_grad()
    def text(self, prompt: str) -> torch.Tensor:
        """Features (L,D) of a prompt."""
        features_LD = self.codec.encode_text(prompt)[0][0]
        used = features_LD.any(dim=1).nonzero()
        return features_LD[: int(used.max()) + 1 if len(used) else 0].cpu()

    @torch.no_grad()
    def teacher_tokens(self, name: str, picture_HWC: np.ndarray) -> torch.Tensor:
        """A teacher's tokens (T,D) of a picture, RGB uint8."""
        return self._tokens(self.teachers[name], picture_HWC[None])[0]

    @torch.no_grad()
    def frame_tokens(self, name: str, frames_FHWC: np.ndarray) -> torch.Tensor:
        """A teacher's tokens (latent frames, T, D) of a video's frames 0, 4, 8, …, RGB uint8."""
        seen_FHWC = frames_FHWC[:: self.codec.latents.stride_frames]
        return self._tokens(self.frame_teachers[name], seen_FHWC)

    def _tokens(self, teacher: Teacher, pictures_NHWC: np.ndarray) -> torch.Tensor:
        # Clips of several buckets have sizes of their own, and their references too.
        _, height, width, _ = pictures_NHWC.shape
        _, rows, columns = self.codec.latents.shape(width, height, 1)
        pictures = torch.from_numpy(np.ascontiguousarray(pictures_NHWC))
        grid = (rows // self.patch, columns // self.patch)
        return teacher.features(pictures, grid).to(self.dtype).cpu()


def joined_features(
    latents_CFhw: torch.Tensor,
    text_LD: torch.Tensor,
    references: Sequence[torch.Tensor],
    teachers: Sequence[Sequence[torch.Tensor]],
    *,
    widths: Sequence[int],
    patch: int,
    dtype: torch.dtype,
) -> Features:
    """A sample's features out of those of its parts.

    `references`: latents (C,1,h,w) of each picture; `teachers`: of each teacher the tokens (T,D) of each
    picture, D one of `widths`. There may be no picture.
    """
    channels, _, rows, columns = latents_CFhw.shape
    tokens = (rows // patch) * (columns // patch)
    return Features(
        latents_CFhw=latents_CFhw,
        text_LD=text_LD,
        references_CNhw=torch.cat([latents_CFhw.new_zeros(channels, 0, rows, columns), *references], dim=1),
        teachers=tuple(
            torch.cat([torch.zeros(0, tokens, width, dtype=dtype), *(one_TD[None] for one_TD in each)])
            for each, width in zip(teachers, widths, strict=True)
        ),
    )


class Visitors:
    """Frozen networks that live on the CPU and visit a device.

    The CPU keeps their weights all the time, in pinned memory for a GPU, so leaving copies nothing.
    """

    def __init__(self, networks: Sequence[torch.nn.Module], device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._tensors = [
            tensor for network in networks for tensor in (*network.parameters(), *network.buffers())
        ]
        if self._device.type == "cuda":
            # One after the other, so that no second copy of all of them is held.
            for tensor in self._tensors:
                tensor.data = tensor.data.pin_memory()
        self._homes = [tensor.data for tensor in self._tensors]
        self._blocks = 0

    @contextmanager
    def present(self) -> Iterator[None]:
        """On the device inside of the block; the outermost of nested blocks counts."""
        self._blocks += 1
        try:
            if self._blocks == 1:
                for tensor, home in zip(self._tensors, self._homes, strict=True):
                    tensor.data = home.to(self._device, non_blocking=True)
            yield
        finally:
            self._blocks -= 1
            if self._blocks == 0:
                for tensor, home in zip(self._tensors, self._homes, strict=True):
                    tensor.data = home


def load_teachers(
    names: Sequence[str], weights: Path | None, *, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Teacher]:
    """Load the teachers by name.

    Raises MissingWeights for one that is not on disk, UserError for an unknown name and a damaged model.
    """
    return {name: Teacher.load(name, weights, device=device, dtype=dtype) for name in names}
