"""How references reach the transformer: encoded once before sampling, then part of every call's inputs.

A `Conditioner` says how much noise is drawn and encodes the references into a `Condition`; a `Condition`
gives the network's inputs at each pass. The sampling loop (`baselines.wan.sampler`) knows nothing else of a
method.

Shapes: C latent channels (16 of Wan2.1's VAE), F latent frames, N references, h and w latent rows and
columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

import torch

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.guidance import PassReferences
from refbench.baselines.wan.latents import WAN21_LATENTS, LatentSpace
from refbench.baselines.wan.references import fit_and_pad, own_size, to_tensor
from refbench.bench.errors import SampleError

if TYPE_CHECKING:
    from PIL import Image

# Of the methods whose masks and canvases are made for Wan2.1's VAE.
LATENT_CHANNELS = WAN21_LATENTS.channels
TEMPORAL_COMPRESSION = WAN21_LATENTS.stride_frames
SPATIAL_COMPRESSION = WAN21_LATENTS.stride_px

Codec = TypeVar("Codec", bound=WanCodec)
# A network's input: a tensor, or one for each reference.
NetworkInput: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...]"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size of a video in pixels and frames (4k + 1), and of its latents in the VAE's space."""

    width: int
    height: int
    num_frames: int
    latents: LatentSpace = WAN21_LATENTS

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns."""
        return self.latents.shape(self.width, self.height, self.num_frames)


class Condition(ABC):
    """The encoded references of one sample."""

    # Frames of the solver's state that stand before the video's and are dropped before decoding.
    leading_frames: int = 0

    @abstractmethod
    def inputs(self, latents: torch.Tensor, references: PassReferences) -> Mapping[str, NetworkInput]:
        """The network's keyword arguments beside timestep and text, for a state (1,C,F,h,w).

        `references` is `zero` in a pass with zero latents in their place, `none` in one without them. The
        batch axis comes first in all tensors, so that passes can be joined. Raises ValueError for a kind of
        pass that the method has not.
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
        """The solver's start (1,C,F,h,w), float32, drawn on the generator's device, for a number of
        references.
        """
        frames, rows, columns = geometry.latent_shape
        shape = (1, geometry.latents.channels, frames + self.leading_noise(references), rows, columns)
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
    """Clean reference latents (1,C,N,h,w) beside the state; the network puts both into one sequence."""

    latents_BCNHW: torch.Tensor

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, torch.Tensor]:
        """State (1,C,F,h,w) and references; `zero` keeps their number, so that positions stay the same."""
        if references == "none":
            return {"hidden_states": latents}
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
        """The start (1,C,F,h,w) for the video's frames alone, with the generator used as the original code
        uses it.
        """
        frames, rows, columns = geometry.latent_shape
        channels = geometry.latents.channels
        drawn = frames + (references if self.trailing_noise else 0)
        if self.frames_first:
            shape: tuple[int, ...] = (1, drawn, channels, rows, columns)
            noise = torch.randn(shape, generator=generator, device=generator.device).transpose(1, 2)
        else:
            shape = (1, channels, drawn, rows, columns)
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
    """Images, each encoded alone as a clip of one frame: (1,C,N,h,w) normalised latents, the posterior's
    modes or, with `generator`, draws from it in order.
    """
    latents = [codec.encode(to_tensor(image)[None, :, None], generator=generator) for image in images]
    return torch.cat(latents, dim=2)


@dataclass(frozen=True, kw_only=True)
class OwnSizeLatents(Condition):
    """Clean latents (1,16,1,h,w) of each reference, of sizes of their own; the network puts all into one
    sequence with the state.
    """

    latents: tuple[torch.Tensor, ...]

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, NetworkInput]:
        """State (1,16,F,h,w) and references. Raises ValueError for a pass with zero latents."""
        if references == "zero":
            raise ValueError("references of their own size have no pass with zero latents in their place")
        if references == "none" or not self.latents:
            return {"hidden_states": latents}
        own = tuple(one.to(latents.dtype) for one in self.latents)
        return {"hidden_states": latents, "reference_hidden_states": own}


@dataclass(frozen=True, kw_only=True)
class OwnSizeReferences(Conditioner[WanCodec]):
    """Each reference at its own aspect ratio and size, no canvas and no margin, its longer side at most
    `limit_px`; encoded alone by the VAE, its mode (Bernini-R).
    """

    limit_px: int

    def encode(
        self,
        codec: WanCodec,
        references: Sequence[Image.Image],
        geometry: Geometry,
        generator: torch.Generator,
    ) -> OwnSizeLatents:
        """Latents of all references, in the given order."""
        images = [own_size(image, self.limit_px) for image in references]
        return OwnSizeLatents(
            latents=tuple(codec.encode(to_tensor(image)[None, :, None]) for image in images)
        )


class TextOnly(Condition):
    """The state alone."""

    def inputs(self, latents: torch.Tensor, references: PassReferences) -> dict[str, torch.Tensor]:
        """The state (1,C,F,h,w)."""
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
