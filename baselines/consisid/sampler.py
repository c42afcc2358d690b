"""ConsisID's sampling: diffusers' own pipeline over what a face reader found in the reference.

Axes: B samples (one), F frames, H W rows and columns, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, ConsisIDPipeline
from diffusers.models.transformers import ConsisIDTransformer3DModel

from refbench.baselines.consisid.faces import ConsisIDFaces, FaceReader
from refbench.baselines.consisid.random_faces import RandomFaces
from refbench.baselines.wan.execution import place_models
from refbench.baselines.wan.finite import FiniteSteps, check_pixels
from refbench.baselines.wan.t5 import load_text_encoder, load_tokenizer
from refbench.bench.method import OnStep, silent
from refbench.bench.weights.hf_folder import load_model, load_part
from refbench.bench.weights.store import is_tiny

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class SampledFrames:
    """`frames_FHWC` RGB uint8, and remarks for the user."""

    frames_FHWC: np.ndarray
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConsisIDSampler:
    """A pipeline (diffusers' `ConsisIDPipeline`) and a reader of faces, loaded and placed."""

    pipeline: Any
    faces: FaceReader

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        device: torch.device = self.pipeline._execution_device
        return device

    def __call__(
        self,
        *,
        prompt: str,
        negative_prompt: str,
        reference: Image.Image,
        size: tuple[int, int],
        num_frames: int,
        steps: int,
        guidance: float,
        generator: torch.Generator,
        vae_tiling: bool = False,
        on_step: OnStep = silent,
    ) -> SampledFrames:
        """One video.

        `size` is (width, height) in pixels. `generator` draws the face's latents, the noise, and then the
        solver's in each step. `on_step` is called with (steps done, steps in all), first with 0 when the face
        is read. Raises SampleError for a reference without a face, and for latents or pixels that are not
        finite.
        """
        face = self.faces.read(reference)
        on_step(0, steps)
        length = self.pipeline.transformer.config.max_text_seq_length
        texts = {"prompt": prompt, "negative prompt": negative_prompt}
        notes = [note for name, text in texts.items() if (note := self._cut(name, text, length))]

        finite = FiniteSteps(steps)

        def done(pipeline: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
            finite.see(tensors["latents"])
            on_step(index + 1, steps)
            return {}

        latents_BFCHW = self.pipeline(
            image=face.picture,
            prompt=prompt,
            negative_prompt=negative_prompt,
            width=size[0],
            height=size[1],
            num_frames=num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance,
            use_dynamic_cfg=False,
            generator=generator,
            output_type="latent",
            callback_on_step_end=done,
            callback_on_step_end_tensor_inputs=["latents"],
            max_sequence_length=length,
            id_vit_hidden=list(face.layers_1ND),
            id_cond=face.identity_1D,
            kps_cond=face.landmarks_52,
        ).frames
        finite.end()
        return SampledFrames(frames_FHWC=self._decoded(latents_BFCHW, vae_tiling), notes=tuple(notes))

    def _decoded(self, latents_BFCHW: torch.Tensor, tiling: bool) -> np.ndarray:
        """RGB uint8 frames (F,H,W,3), rounded, as diffusers makes pictures of them."""
        pipeline = self.pipeline
        if tiling:
            pipeline.vae.enable_tiling()
        try:
            with torch.no_grad():
                video = pipeline.decode_latents(latents_BFCHW)
        finally:
            pipeline.vae.use_tiling = False
        check_pixels(video)
        shares_BFHWC = pipeline.video_processor.postprocess_video(video=video, output_type="np")
        pipeline.maybe_free_model_hooks()
        frames_FHWC: np.ndarray = (shares_BFHWC[0] * 255).round().astype(np.uint8)
        return frames_FHWC

    def _cut(self, name: str, text: str, length: int) -> str:
        """The remark on a text of more than `length` tokens; empty for a shorter one."""
        whole = len(self.pipeline.tokenizer(text, verbose=False).input_ids)
        if whole <= length:
            return ""
        return f"the {name} has {whole} tokens; the first {length} are used, as in the original code"


def load_sampler(folder: Path, *, device: str, dtype: torch.dtype, offload: str) -> ConsisIDSampler:
    """Everything of the repository's folder, on the device.

    Tiny random weights have a face reader of the same kind, since the published face networks have one size.
    Raises UserError for what is damaged and for offloading without a GPU.
    """
    from transformers import T5EncoderModel

    pipeline = ConsisIDPipeline(
        tokenizer=load_tokenizer(folder / "tokenizer"),
        text_encoder=load_text_encoder(T5EncoderModel, folder / "text_encoder", dtype=dtype),
        vae=load_model(AutoencoderKLCogVideoX, folder / "vae", dtype=dtype),
        transformer=load_model(ConsisIDTransformer3DModel, folder / "transformer", dtype=dtype),
        scheduler=load_part(CogVideoXDPMScheduler, folder / "scheduler"),
    )
    pipeline.set_progress_bar_config(disable=True)
    place_models(pipeline, device, offload)
    faces: FaceReader = (
        RandomFaces(folder / "face_encoder", device=device, dtype=dtype)
        if is_tiny(folder)
        else ConsisIDFaces(folder, device=device, dtype=dtype)
    )
    return ConsisIDSampler(pipeline=pipeline, faces=faces)
