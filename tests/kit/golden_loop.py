"""The Wan sampling loop on the inputs of a golden: its noise, text features and VAE stand where a generator,
a text encoder and a real VAE would, and every step is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from kit.golden_networks import named
from kit.golden_vae import GoldenVAE
from refbench.baselines.wan.codec import ImageCodec
from refbench.baselines.wan.conditioning import Conditioner, Geometry
from refbench.baselines.wan.guidance import RULES
from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler

CPU = torch.device("cpu")
SEED = 42


@dataclass(frozen=True, kw_only=True)
class GoldenCodec(ImageCodec):
    """A codec whose text features are given by the texts `prompt` and `negative`."""

    texts: Mapping[str, torch.Tensor]

    def encode_text(self, text: str) -> tuple[torch.Tensor, str]:
        return self.texts[text], ""


def golden_codec(
    texts: Mapping[str, torch.Tensor] | None = None,
    *,
    vae: Any = None,
    image_encoder: Any = None,
    image_processor: Any = None,
) -> GoldenCodec:
    """The golden's VAE and text features, and its image encoder where it has one."""
    return GoldenCodec(
        tokenizer=None,
        text_encoder=None,
        vae=GoldenVAE() if vae is None else vae,
        image_encoder=image_encoder,
        image_processor=image_processor,
        device=CPU,
        dtype=torch.float32,
        texts=texts or {},
    )


def padded_texts(golden: str) -> dict[str, torch.Tensor]:
    """A golden's features of its prompts, 7 and 5 rows of 32, padded to (1,512,32)."""
    texts = {
        "prompt": named(golden, "context", (7, 32)),
        "negative": named(golden, "context_negative", (5, 32)),
    }
    return {
        name: torch.cat([rows, rows.new_zeros(512 - len(rows), 32)])[None] for name, rows in texts.items()
    }


class WatchedSampler(WanSampler):
    """The loop, keeping what it has seen: predictions by pass of each step, the network that made them, and
    the latents after it.
    """

    def __init__(self, *, scheduler: Any, **parts: Any) -> None:
        super().__init__(scheduler=scheduler, **parts)
        self.networks: list[Any] = []
        self.predictions: list[dict[str, torch.Tensor]] = []
        self.latents: list[torch.Tensor] = []
        step = scheduler.step

        def watched(*arguments: Any, **settings: Any) -> Any:
            made = step(*arguments, **settings)
            self.latents.append(made[0])
            return made

        scheduler.step = watched

    def predict(self, *arguments: Any) -> dict[str, torch.Tensor]:
        self.networks.append(arguments[-1])
        self.predictions.append(super().predict(*arguments))
        return self.predictions[-1]

    @property
    def timesteps(self) -> list[float]:
        timesteps: list[float] = self.scheduler.timesteps.tolist()
        return timesteps


class WatchedConditioner(Conditioner[Any]):
    """A method's conditioner, keeping the condition that it encoded; with `noise` by (geometry, references)
    in place of what a generator draws.
    """

    def __init__(
        self, own: Conditioner[Any], noise: Callable[[Geometry, int], torch.Tensor] | None = None
    ) -> None:
        self.own = own
        self.noise = noise
        self.condition: Any = None

    def draw_noise(
        self, geometry: Geometry, references: int, generator: torch.Generator, device: torch.device
    ) -> torch.Tensor:
        if self.noise is None:
            return self.own.draw_noise(geometry, references, generator, device)
        return self.noise(geometry, references)

    def encode(self, *arguments: Any) -> Any:
        self.condition = self.own.encode(*arguments)
        return self.condition


def sampled(
    method: WanMethod,
    transformer: Any,
    references: Sequence[Image.Image],
    conditioner: Conditioner[Any],
    *,
    codec: GoldenCodec,
    geometry: Geometry,
    steps: int,
    scales: Mapping[str, float] | None = None,
    low_noise_transformer: Any = None,
    **settings: Any,
) -> tuple[torch.Tensor, WatchedSampler]:
    """Final latents (1,16,F,h,w) with the method's own solver, guidance (or its rule with other `scales`) and
    boundary between experts, and the watched loop.
    """
    native = method.spec.native
    sampler = WatchedSampler(
        codec=codec,
        transformer=transformer,
        low_noise_transformer=low_noise_transformer,
        boundary=method.spec.boundary,
        scheduler=make_scheduler(native.solver, native.shift),
    )
    made = sampler(
        prompt="prompt",
        negative_prompt="negative",
        references=references,
        conditioner=conditioner,
        rule=RULES[method.spec.guidance_rule],
        scales=native.guidance if scales is None else scales,
        geometry=geometry,
        steps=steps,
        generator=torch.Generator("cpu").manual_seed(SEED),
        **settings,
    )
    return made.latents, sampler
