"""The text-to-video base: a Wan transformer of 3 million parameters and its text encoder, learned together.

Flow matching as Wan's: x = (1 - s)·clean + s·noise, the network predicts noise - clean, s is a uniform draw
shifted by 3. One prompt in ten is empty, for guidance.

The network attends to text rows of which those after the prompt are zeros, all alike. Here one of them stands
for all behind the longest prompt, its weight multiplied by their number: equal sums for less work.

Shapes: B samples, L text rows, D features, C channels, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from refbench.baselines.small.pipelines import (
    DIFFUSERS_WEIGHTS,
    pipeline_index,
    save_text_encoder,
    write_scheduler,
    write_tokenizer,
)
from refbench.baselines.wan.t5 import load_tokenizer
from refbench.bench.files import write_json
from refbench.bench.weights.tiny import save_tensors
from refbench.mini.training.build import Build, OnStep, Part
from refbench.mini.training.latents import NAME as LATENTS
from refbench.mini.training.latents import prompt_for, read_latents
from refbench.mini.training.loop import Schedule, seeded
from refbench.mini.training.text import MOST_TOKENS, TEXT_ROWS, TEXT_WIDTH, new_encoder, pieces
from refbench.mini.training.vae import REPOSITORY

NAME = "base"
SHIFT = 3.0
EMPTY_RATE = 0.1
SAMPLES_PER_STEP = 8
# Tokens of one latent, not of four as in the released networks, and steps of few samples: in equal time they
# learn more, at this size (docs/mini.md).
CONFIG: dict[str, Any] = {
    "patch_size": (1, 1, 1),
    "num_attention_heads": 4,
    "attention_head_dim": 48,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 64,
    "ffn_dim": 384,
    "num_layers": 6,
}
SCHEDULE = Schedule(steps=12_000, learning_rate=1.5e-3, warmup_steps=200, average=0.999)


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Latents (B,16,3,8,8) with the token numbers (B,L) and masks of their prompts."""

    latents_BCFHW: torch.Tensor
    tokens_BL: torch.Tensor
    mask_BL: torch.Tensor


class TextToVideo(nn.Module):
    """Transformer and text encoder as one network."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import WanTransformer3DModel

        self.transformer = WanTransformer3DModel(**CONFIG)
        self.text_encoder = new_encoder()
        for block in self.transformer.blocks:
            block.attn2.set_processor(CountedText(TEXT_ROWS - MOST_TOKENS))

    def forward(self, noised: torch.Tensor, timesteps_B: torch.Tensor, batch: TextBatch) -> torch.Tensor:
        """The prediction (B,16,F,H,W)."""
        states_BLD = self.text_encoder(batch.tokens_BL, batch.mask_BL).last_hidden_state
        states_BLD = states_BLD * batch.mask_BL[..., None]
        prediction: torch.Tensor = self.transformer(
            noised, timesteps_B, functional.pad(states_BLD, (0, 0, 0, 1)), return_dict=False
        )[0]
        return prediction


class CountedText:
    """Attention to text rows of which the last stands for `copies` equal ones."""

    def __init__(self, copies: int) -> None:
        self.bias = math.log(copies)

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
        rotary_emb: None = None,
    ) -> torch.Tensor:
        """As diffusers' processor of Wan's text attention."""
        query = attn.norm_q(attn.to_q(hidden_states))
        key = attn.norm_k(attn.to_k(encoder_hidden_states))
        value = attn.to_v(encoder_hidden_states)
        query, key, value = (
            rows.unflatten(2, (attn.heads, -1)).transpose(1, 2) for rows in (query, key, value)
        )
        bias = torch.zeros(key.shape[2], dtype=query.dtype, device=query.device)
        bias[-1] = self.bias
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.expand(1, 1, query.shape[2], -1)
        )
        result: torch.Tensor = attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))
        return result


class BaseLearner:
    """Denoising of stored latents with their prompts."""

    name = NAME

    def __init__(
        self, latents_folder: Path, tokenizer: Any, clips_seed: int, seed: int = 0, batch: int = 1
    ) -> None:
        self.samples = SAMPLES_PER_STEP * batch
        self.latents_NCFHW = read_latents(latents_folder)
        self.tokenizer = tokenizer
        self.clips_seed = clips_seed
        with seeded(NAME, seed):
            self.network = TextToVideo()

    def examples(self, generator: random.Random, progress: float) -> TextBatch:
        """Random clips with newly worded prompts, one in ten without."""
        numbers = sorted(generator.sample(range(len(self.latents_NCFHW)), self.samples))
        prompts = [
            "" if generator.random() < EMPTY_RATE else prompt_for(number, self.clips_seed, generator)
            for number in numbers
        ]
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=MOST_TOKENS, truncation=True, return_tensors="pt"
        )
        return TextBatch(
            latents_BCFHW=torch.from_numpy(self.latents_NCFHW[numbers].astype(np.float32)),
            tokens_BL=tokens.input_ids,
            mask_BL=tokens.attention_mask,
        )

    def losses(self, batch: TextBatch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The squared error of the predicted velocity."""
        clean = batch.latents_BCFHW
        uniform_B = torch.rand(len(clean), generator=generator, device=clean.device)
        sigma_B = SHIFT * uniform_B / (1 + (SHIFT - 1) * uniform_B)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        sigma = sigma_B.view(-1, 1, 1, 1, 1)
        prediction = self.network((1 - sigma) * clean + sigma * noise, 1000 * sigma_B, batch)
        return {"velocity": functional.mse_loss(prediction, noise - clean)}


def write_base(network: TextToVideo, place: Path) -> None:
    """Write transformer, text encoder and scheduler beside VAE and tokenizer: a `WanPipeline` folder, in half
    precision.
    """
    folder = place / "transformer"
    folder.mkdir(parents=True, exist_ok=True)
    network.transformer.save_config(folder)
    state = {key: value.half() for key, value in network.transformer.state_dict().items()}
    save_tensors(folder, state, f"{DIFFUSERS_WEIGHTS}.safetensors")
    encoder = network.text_encoder
    halves = {key: value.half() for key, value in encoder.state_dict().items()}
    save_text_encoder(place / "text_encoder", encoder.config, halves)
    write_scheduler(place / "scheduler")
    write_json(place / "model_index.json", pipeline_index("WanPipeline", type(network.transformer).__name__))


def make(build: Build, on_step: OnStep) -> None:
    """Train the base and write its pipeline folder."""
    place = build.place(REPOSITORY)
    write_tokenizer(place / "tokenizer", pieces(), TEXT_ROWS)
    tokenizer = load_tokenizer(place / "tokenizer")
    learner = BaseLearner(build.run_folder(LATENTS), tokenizer, build.seed, build.seed, build.batch)
    build.train(learner, SCHEDULE, on_step, compiled=True)
    write_base(learner.network.cpu(), place)


PART = Part(
    name=NAME,
    summary="the text-to-video base",
    make=make,
    needs=(LATENTS,),
    files=tuple(f"{REPOSITORY}/{folder}/*" for folder in ("transformer", "text_encoder", "tokenizer")),
)
