"""The one sampling loop of the Wan family: text, references, guided steps, decoding.

A `DiffusionPipeline` of diffusers, so that its model and group offloading work; what a method does
differently comes in as a conditioner, a guidance rule, and a scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline

from refbench.baselines.wan.conditioning import Condition, Conditioner, Geometry
from refbench.baselines.wan.guidance import GuidanceRule, Pass
from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS, cleaned_prompt

if TYPE_CHECKING:
    from PIL import Image

BatchPasses = Literal["auto", "yes", "no"]
StepCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """`latents` (1,16,F,h,w) before decoding, without leading frames; `notes` are remarks for the user."""

    latents: torch.Tensor
    notes: tuple[str, ...]


class WanSampler(DiffusionPipeline):
    """Models of a Wan generator and the loop over them.

    `transformer` is the method's network; `image_encoder` and `image_processor` are there for the networks
    with an image branch. The VAE runs in its own dtype (float32 as in the original code).
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->vae"
    _optional_components = ("image_encoder", "image_processor")

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        transformer: Any,
        vae: AutoencoderKLWan,
        scheduler: Any,
        image_encoder: Any = None,
        image_processor: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            image_encoder=image_encoder,
            image_processor=image_processor,
        )
        self._joined_passes: bool | None = None

    def __call__(
        self,
        *,
        prompt: str,
        negative_prompt: str,
        references: Sequence[Image.Image],
        conditioner: Conditioner,
        rule: GuidanceRule,
        scales: Mapping[str, float],
        geometry: Geometry,
        steps: int,
        generator: torch.Generator,
        batch_passes: BatchPasses = "auto",
        state_dtype: torch.dtype = torch.float32,
        round_timestep: bool = False,
        on_step: StepCallback | None = None,
    ) -> Generated:
        """Sample one video's latents.

        Args:
            references: RGB images, opened on white.
            scales: of the guidance rule, by name.
            generator: draws the noise first; whatever a conditioner draws comes after it.
            state_dtype: of the solver's state between steps.
            round_timestep: hand the network the timestep rounded to its own dtype, as code that runs
            everything
                in bfloat16 does (731 becomes 732); the solver's step is exact either way.
            on_step: called with (steps done, steps in all), first with 0 when all is encoded.
        """
        device = self._execution_device
        with torch.no_grad():
            latents = conditioner.draw_noise(geometry, len(references), generator, device).to(state_dtype)
            condition = conditioner.encode(self, references, geometry, generator)
            texts, notes = {}, []
            for name, text in (("prompt", prompt), ("negative", negative_prompt)):
                texts[name], note = self.encode_text(text)
                notes += [f"the {name if name == 'prompt' else 'negative prompt'} {note}"] if note else []
            self.scheduler.set_timesteps(steps, device=device)
            latents = self.denoise(
                latents,
                texts,
                condition,
                rule,
                scales,
                batch_passes=batch_passes,
                round_timestep=round_timestep,
                on_step=on_step,
            )
        return Generated(latents=latents[:, :, condition.leading_frames :], notes=tuple(notes))

    def encode_text(self, text: str) -> tuple[torch.Tensor, str | None]:
        """Features (1,512,width) of a cleaned prompt, zero after its end; and a note if it was cut at 512
        tokens.

        Every row is attended to by the network, the zero ones too, as in Wan's code.
        """
        cleaned = cleaned_prompt(text)
        tokens = self.tokenizer(
            cleaned,
            padding="max_length",
            max_length=MAX_TEXT_TOKENS,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = self._execution_device
        mask = tokens.attention_mask.to(device)
        states = self.text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
        length = int(mask.sum())
        note = None
        if length == MAX_TEXT_TOKENS:
            whole = len(self.tokenizer(cleaned, verbose=False).input_ids)
            if whole > MAX_TEXT_TOKENS:
                note = f"has {whole} tokens; the first {MAX_TEXT_TOKENS} are used, as in the original code"
        states[:, length:] = 0
        return states.to(self.transformer.dtype), note

    def encode(self, pixels: torch.Tensor, *, sample: torch.Generator | None = None) -> torch.Tensor:
        """Normalised latents (1,16,F,h,w) of a clip (1,3,frames,height,width) in [-1,1].

        The posterior's mode, or a draw from it with the generator `sample`. Never tiled: tiling changes
        latents.
        """
        pixels = pixels.to(self._execution_device, self.vae.dtype)
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mode() if sample is None else posterior.sample(sample)
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: torch.Tensor, *, tiling: bool = False) -> Iterator[np.ndarray]:
        """RGB uint8 frames (height,width,3) of latents (1,16,F,h,w); values are truncated, as in Wan's code.

        Tiling saves memory and is switched on for decoding alone.
        """
        latents = latents.to(self._execution_device, self.vae.dtype)
        mean, std = self._latent_statistics(latents)
        if tiling:
            self.vae.enable_tiling()
        try:
            with torch.no_grad():
                video_BCFHW = self.vae.decode(latents * std + mean).sample
        finally:
            self.vae.use_tiling = False
        frames_FHWC = ((video_BCFHW[0].float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
        yield from frames_FHWC.cpu().numpy()

    def denoise(
        self,
        latents: torch.Tensor,
        texts: Mapping[str, torch.Tensor],
        condition: Condition,
        rule: GuidanceRule,
        scales: Mapping[str, float],
        *,
        batch_passes: BatchPasses = "auto",
        round_timestep: bool = False,
        on_step: StepCallback | None = None,
    ) -> torch.Tensor:
        """Run the scheduler's timesteps from `latents`; `texts` are features by `prompt` and `negative`."""
        total = len(self.scheduler.timesteps)
        if on_step is not None:
            on_step(0, total)
        for done, timestep in enumerate(self.scheduler.timesteps, start=1):
            seen = timestep.to(self.transformer.dtype).float() if round_timestep else timestep
            passes = rule.active_passes(scales)
            predictions = self.predict(latents, seen, texts, condition, passes, batch_passes)
            # Wan's network hands float32 out, so that guidance does not multiply half-precision rounding.
            predictions = {name: value.to(latents.dtype) for name, value in predictions.items()}
            guided = rule.guided(predictions, scales)
            latents = self.scheduler.step(guided, timestep, latents, return_dict=False)[0].to(latents.dtype)
            if on_step is not None:
                on_step(done, total)
        return latents

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        texts: Mapping[str, torch.Tensor],
        condition: Condition,
        passes: Sequence[Pass],
        batch_passes: BatchPasses,
    ) -> dict[str, torch.Tensor]:
        """The network's prediction in each pass.

        Joined into one call where memory allows: `auto` tries it on a GPU and goes back to separate calls,
        for good, when memory runs out. Passes whose inputs differ in length are never joined.
        """
        state = latents.to(self.transformer.dtype)
        calls = [
            {
                "timestep": timestep.reshape(1),
                "encoder_hidden_states": texts[one.text].to(self.transformer.dtype),
                **condition.inputs(state, one.references),
                **condition.text_inputs(one.text),
            }
            for one in passes
        ]
        names = [one.name for one in passes]
        if len(calls) > 1 and _same_shapes(calls) and self._joins(batch_passes):
            try:
                joined = {key: torch.cat([call[key] for call in calls]) for key in calls[0]}
                return dict(zip(names, self._call(joined).split(1), strict=True))
            except torch.OutOfMemoryError:
                if batch_passes == "yes":
                    raise
                torch.cuda.empty_cache()
                self._joined_passes = False
        return {name: self._call(call) for name, call in zip(names, calls, strict=True)}

    def _joins(self, batch_passes: BatchPasses) -> bool:
        if batch_passes == "auto" and self._joined_passes is None:
            self._joined_passes = self._execution_device.type == "cuda"
        return batch_passes == "yes" or (batch_passes == "auto" and bool(self._joined_passes))

    def _call(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # On a GPU torch rounds float32 convolutions to TensorFloat-32 unless told otherwise: the patch
        # embedding alone moved a float32 network's output by 1.5e-4. The VAE stays as in Wan's code.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            sample: torch.Tensor = self.transformer(**inputs).sample
        return sample

    def _latent_statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The VAE's per-channel mean and standard deviation, shaped to broadcast over latents."""
        mean, std = (
            torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, std


def _same_shapes(calls: Sequence[Mapping[str, torch.Tensor]]) -> bool:
    shapes = [{name: value.shape for name, value in call.items()} for call in calls]
    return all(other == shapes[0] for other in shapes)
