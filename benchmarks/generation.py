"""Time per video of our sampling loop against diffusers' plain loops, VACE and Phantom.

    python benchmarks/generation.py [--device cuda] [--steps 4] [--runs 3] [--references 2] [--threads 2]

VACE: `WanVACEPipeline` with our scheduler, two calls of the network per step and the empty source encoded
twice. Phantom: the official loop written down on diffusers' own network: references concatenated behind the
state, three calls per step. Ours runs the same weights with separate calls and with a step's passes joined in
one. All start from the same noise and text features and end at latents; nothing is decoded. References have
the video's size already, so that both sides see the same pixels. Printed are the median times by turns,
ratios, and the largest difference of the latents.

On a GPU at the size of Wan2.1 1.3B (bfloat16, 832×480, 81 frames), on a CPU with a small network (float32,
256×160, 17 frames); weights are random either way.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from machine import describe, seconds
from PIL import Image

from refbench.baselines.phantom import Phantom13B
from refbench.baselines.vace import Vace13B
from refbench.baselines.wan.checkpoint import stays_float32
from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.conditioning import ConcatenatedReferences, Conditioner, Geometry, encode_each
from refbench.baselines.wan.guidance import IMAGE_AND_TEXT, TEXT, GuidanceRule
from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel
from refbench.baselines.wan.nets.vace import VaceReferences, VaceTransformer3DModel
from refbench.baselines.wan.sampler import BatchPasses, WanSampler
from refbench.baselines.wan.schedules import make_scheduler

SEED = 0


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is measured: the video, the networks, the number type."""

    geometry: Geometry
    network: Mapping[str, Any]
    vace_layers: tuple[int, ...]
    vae: Mapping[str, Any]
    dtype: torch.dtype


FULL = Size(
    geometry=Geometry(width=832, height=480, num_frames=81),
    network={"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096},
    vace_layers=tuple(range(0, 30, 2)),
    vae={},
    dtype=torch.bfloat16,
)
SMALL = Size(
    geometry=Geometry(width=256, height=160, num_frames=17),
    network={"num_attention_heads": 2, "ffn_dim": 1024, "num_layers": 6, "text_dim": 64},
    vace_layers=(0, 2, 4),
    vae={"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    dtype=torch.float32,
)


@dataclass(frozen=True, kw_only=True)
class FeatureCodec(WanCodec):
    """A VAE with given text features in place of a text encoder."""

    features: Mapping[str, torch.Tensor]

    def encode_text(self, text: str) -> tuple[torch.Tensor, str]:
        """The features of `prompt` or `negative`."""
        return self.features[text], ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--references", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of torch; default: its own")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = FULL if arguments.device.startswith("cuda") else SMALL
    print(describe("torch", "diffusers"))
    accelerator = torch.cuda.get_device_name() if size is FULL else f"CPU, {torch.get_num_threads()} threads"
    video = size.geometry
    print(
        f"{accelerator}, {str(size.dtype).removeprefix('torch.')}: {video.width}×{video.height}, "
        f"{video.num_frames} frames, {arguments.references} references, {arguments.steps} steps"
    )
    bench = Bench(size, arguments.device, arguments.steps, arguments.references)
    compare("VACE", bench.vace(), arguments.runs)
    compare("Phantom", bench.phantom(), arguments.runs)


class Bench:
    """Networks and inputs of one size, on one device."""

    def __init__(self, size: Size, device: str, steps: int, references: int) -> None:
        torch.manual_seed(SEED)
        self.size, self.device, self.steps = size, device, steps
        pixels = np.random.default_rng(SEED).integers(
            0, 256, (references, size.geometry.height, size.geometry.width, 3), dtype=np.uint8
        )
        self.images = [Image.fromarray(one) for one in pixels]
        width = size.network["text_dim"]
        self.features = {
            name: torch.randn(1, 512, width, device=device, dtype=size.dtype)
            for name in ("prompt", "negative")
        }
        with torch.device(device):
            self.vae = AutoencoderKLWan(**size.vae).eval()
        self.codec = FeatureCodec(
            tokenizer=None,
            text_encoder=None,
            vae=self.vae,
            device=torch.device(device),
            dtype=size.dtype,
            features=self.features,
        )

    def vace(self) -> dict[str, Callable[[], torch.Tensor]]:
        """The three ways to a VACE video's latents."""
        layers = list(self.size.vace_layers)
        stock = self._network(WanVACETransformer3DModel, vace_layers=layers)
        native = Vace13B.spec.native
        pipeline = WanVACEPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=self.vae,
            scheduler=make_scheduler(native.solver, native.shift),
            transformer=stock,
        )
        pipeline.set_progress_bar_config(disable=True)
        ours = self._sampler(self._twin(VaceTransformer3DModel, stock, vace_layers=layers), native.shift)
        video = self.size.geometry

        def plain() -> torch.Tensor:
            made: torch.Tensor = pipeline(
                # diffusers puts references before those that stand there already.
                reference_images=self.images[::-1],
                prompt_embeds=self.features["prompt"],
                negative_prompt_embeds=self.features["negative"],
                width=video.width,
                height=video.height,
                num_frames=video.num_frames,
                num_inference_steps=self.steps,
                guidance_scale=native.guidance["text"],
                generator=self._generator(),
                output_type="latent",
            ).frames
            # Latents come out with the references' frames.
            return made[:, :, len(self.images) :]

        return {"plain": plain, **self._ours(ours, VaceReferences(), TEXT, native.guidance)}

    def phantom(self) -> dict[str, Callable[[], torch.Tensor]]:
        """The three ways to a Phantom video's latents."""
        stock = self._network(WanTransformer3DModel)
        native = Phantom13B.spec.native
        scheduler = make_scheduler(native.solver, native.shift)
        ours = self._sampler(self._twin(PhantomTransformer3DModel, stock), native.shift)
        conditioner = ConcatenatedReferences(trailing_noise=True)
        frames, rows, columns = self.size.geometry.latent_shape
        prompt, negative = self.features["prompt"], self.features["negative"]

        @torch.no_grad()
        def plain() -> torch.Tensor:
            shape = (1, 16, frames + len(self.images), rows, columns)
            generator = self._generator()
            state = torch.randn(shape, generator=generator, device=generator.device).to(self.device)
            references = encode_each(self.codec, self.images)
            scheduler.set_timesteps(self.steps, device=self.device)
            for timestep in scheduler.timesteps:
                outputs = [
                    stock(
                        hidden_states=torch.cat([state[:, :, :frames], tail], dim=2).to(self.size.dtype),
                        timestep=timestep.reshape(1),
                        encoder_hidden_states=text,
                        return_dict=False,
                    )[0]
                    for tail, text in (
                        (references, prompt),
                        (references, negative),
                        (torch.zeros_like(references), negative),
                    )
                ]
                both, image, null = outputs
                guided = (
                    null
                    + native.guidance["image"] * (image - null)
                    + native.guidance["text"] * (both - image)
                )
                state = scheduler.step(guided, timestep, state, return_dict=False)[0]
            return state[:, :, :frames]

        return {"plain": plain, **self._ours(ours, conditioner, IMAGE_AND_TEXT, native.guidance)}

    def _ours(
        self,
        sampler: WanSampler,
        conditioner: Conditioner[Any],
        rule: GuidanceRule,
        scales: Mapping[str, float],
    ) -> dict[str, Callable[[], torch.Tensor]]:
        def run(batch_passes: BatchPasses) -> torch.Tensor:
            return sampler(
                prompt="prompt",
                negative_prompt="negative",
                references=self.images,
                conditioner=conditioner,
                rule=rule,
                scales=scales,
                geometry=self.size.geometry,
                steps=self.steps,
                generator=self._generator(),
                batch_passes=batch_passes,
            ).latents

        return {"separate": lambda: run("no"), "joined": lambda: run("yes")}

    def _sampler(self, transformer: Any, shift: float) -> WanSampler:
        scheduler = make_scheduler("unipc", shift)
        return WanSampler(codec=self.codec, transformer=transformer, scheduler=scheduler)

    def _network(self, network_class: Any, **settings: Any) -> Any:
        with torch.device(self.device):
            model = network_class(**self.size.network, **settings)
        for key, parameter in model.named_parameters():
            if not stays_float32(key):
                parameter.data = parameter.data.to(self.size.dtype)
        return model.eval().requires_grad_(False)

    def _twin(self, network_class: Any, stock: Any, **settings: Any) -> Any:
        """A network of another class on the same tensors."""
        with torch.device("meta"):
            model = network_class(**self.size.network, **settings)
        model.load_state_dict(stock.state_dict(), assign=True)
        # Buffers that no state dict holds.
        model.rope = stock.rope
        return model.eval().requires_grad_(False)

    def _generator(self) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(SEED)


def compare(title: str, ways: Mapping[str, Callable[[], torch.Tensor]], runs: int) -> None:
    """Run the ways by turns and print times, ratios and differences."""
    latents = {name: way().float().cpu() for name, way in ways.items()}
    turns: list[dict[str, float]] = [
        {name: seconds(partial(synchronised, way)) for name, way in ways.items()} for _ in range(runs)
    ]
    scale = latents["plain"].abs().max().item()
    print(f"\n{title:9}{'s a video':>12}{'plain / it':>12}{'max |Δ latents|':>18}")
    for name in ways:
        ratio = statistics.median(turn["plain"] / turn[name] for turn in turns)
        difference = (latents[name] - latents["plain"]).abs().max().item()
        median = statistics.median(turn[name] for turn in turns)
        print(f"{name:9}{median:>12.3f}{ratio:>12.2f}{difference:>18.1e}")
    joined = statistics.median(turn["separate"] / turn["joined"] for turn in turns)
    print(f"separate / joined {joined:.2f}; latents up to {scale:.1f}")


def synchronised(way: Callable[[], torch.Tensor]) -> None:
    """Run one way to its end on the device too."""
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
