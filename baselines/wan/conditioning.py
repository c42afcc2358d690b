"""How references reach the transformer: encoded once before sampling, then part of every call's inputs.

A `Conditioner` says how much noise is drawn and encodes the references into a `Condition`; a `Condition`
gives the network's inputs at each pass. The sampling loop (`baselines.wan.sampler`) knows nothing else of a
method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.references import fit_and_pad, to_tensor
from refbench.bench.errors import SampleError

if TYPE_CHECKING:
    from PIL import Image

LATENT_CHANNELS = 16
TEMPORAL_COMPRESSION = 4
SPATIAL_COMPRESSION = 8

Codec = TypeVar("Codec", bound=WanCodec)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size of a video in pixels and frames (4k + 1), and of its latents."""

    width: int
    height: int
    num_frames: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns."""
        return (
            1 + (self.num_frames - 1) // TEMPORAL_COMPRESSION,
            self.height // SPATIAL_COMPRESSION,
            self.width // SPATIAL_COMPRESSION,
        )


class Condition(ABC):
    """The encoded references of one sample."""

    # Frames of the solver's state that stand before the video's and are dropped before decoding.
    leading_frames: int = 0

    @abstractmethod
    def inputs(self, latents: torch.Tensor, references: Literal["own", "zero"]) -> dict[str, torch.Tensor]:
        """The network's keyword arguments beside timestep and text, for a state (1,16,F,h,w).

        `references` is `zero` in a pass with zero latents in their place. The batch axis comes first in all
        tensors, so that passes can be joined.
        """

    def text_inputs(self, text: Literal["prompt", "negative"]) -> dict[str, torch.Tensor]:
        """Further keyword arguments of the passes with this text, batch axis first: what references add to
        the text. Most methods add nothing.
        """
        return {}


class Conditioner(ABC, Generic[Codec]):
    """Encodes a method's references into the transformer's inputs, with the codec that it needs."""

    def draw_noise(
        self, geometry: Geometry, references: int, generator: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """The solver's start (1,16,F,h,w), float32, drawn on the generator's device, for a number of
        references.
        """
        frames, rows, columns = geometry.latent_shape
        shape = (1, LATENT_CHANNELS, frames + self.leading_noise(references), rows, columns)
        return torch.randn(shape, generator=generator, device=generator.device).to(device)

    def leading_noise(self, references: int) -> int:
        """Latent frames of noise that are drawn before the video's, for a number of references."""
        return 0

    @abstractmethod
    def encode(
        self,
        codec: Codec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> Condition:
        """Prepare and encode RGB references; `generator` continues after the noise."""


@dataclass(frozen=True, kw_only=True)
class ReferenceLatents(Condition):
    """Clean reference latents (1,16,N,h,w) beside the state; the network puts both into one sequence."""

    latents_BCNHW: torch.Tensor

    def inputs(self, latents: torch.Tensor, references: Literal["own", "zero"]) -> dict[str, torch.Tensor]:
        """State (1,16,F,h,w) and references; `zero` keeps their number, so that positions stay the same."""
        own = self.latents_BCNHW.to(latents.dtype)
        zero = torch.zeros_like(own)
        return {"hidden_states": latents, "reference_hidden_states": own if references == "own" else zero}


@dataclass(frozen=True, kw_only=True)
class ConcatenatedReferences(Conditioner[WanCodec]):
    """Each reference fitted on white, encoded alone by the VAE, and put into the sequence.

    Phantom, Kaleido, RefAlign and SkyReels-V3 do so; they differ in the network's `ReferenceRule`, in the
    guidance rule and in how noise is drawn. `trailing_noise`: noise is drawn for the references too, behind
    the video's, and thrown away (Phantom). `frames_first`: noise is drawn in the order frame, channel, row,
    column (Kaleido). `slots`: always so many latent frames of references, those without one zero; None is as
    many as there are references. `draws_posterior`: a reference is a draw from the VAE's posterior, one after
    the other behind the noise, and not its mode (both SkyReels-V3).
    """

    trailing_noise: bool = False
    frames_first: bool = False
    slots: int | None = None
    draws_posterior: bool = False

    def draw_noise(
        self, geometry: Geometry, references: int, generator: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        """The start (1,16,F,h,w) for the video's frames alone, with the generator used as the original code
        uses it.
        """
        frames, rows, columns = geometry.latent_shape
        drawn = frames + (references if self.trailing_noise else 0)
        if self.frames_first:
            shape: tuple[int, ...] = (1, drawn, LATENT_CHANNELS, rows, columns)
            noise = torch.randn(shape, generator=generator, device=generator.device).transpose(1, 2)
        else:
            shape = (1, LATENT_CHANNELS, drawn, rows, columns)
            noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise[:, :, :frames].contiguous().to(device)

    def encode(
        self,
        codec: WanCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> ReferenceLatents:
        """Latents of all references, in the given order, then those of empty slots.

        Raises SampleError for more references than slots.
        """
        images = [fit_and_pad(image, geometry.width, geometry.height) for image in references]
        empty = 0 if self.slots is None else self.slots - len(images)
        if empty < 0:
            raise SampleError(f"{len(images)} references, the network has {self.slots} slots for them")
        latents = encode_each(codec, images, generator=generator if self.draws_posterior else None)
        # Empty slots are zero where latents are normalised, which is no picture's encoding.
        return ReferenceLatents(latents_BCNHW=torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, empty)))


def encode_each(
    codec: WanCodec, images: Sequence[Image.Image], *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Images, each encoded alone as a clip of one frame: (1,16,N,h,w) normalised latents, the posterior's
    modes or, with `generator`, draws from it in order.
    """
    latents = [codec.encode(to_tensor(image)[None, :, None], generator=generator) for image in images]
    return torch.cat(latents, dim=2)


class TextOnly(Condition):
    """The state alone."""

    def inputs(self, latents: torch.Tensor, references: Literal["own", "zero"]) -> dict[str, torch.Tensor]:
        """The state (1,16,F,h,w)."""
        return {"hidden_states": latents}


class NoReferences(Conditioner[WanCodec]):
    """Text alone: references are not looked at."""

    def encode(
        self,
        codec: WanCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> TextOnly:
        """Nothing is encoded."""
        return TextOnly()
