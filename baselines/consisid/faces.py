"""ConsisID's two halves: a face reader behind a small interface, and diffusers' pipeline over what it read.

Axes: F frames, H W rows and columns, C channels; N tokens and D features of a face network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler, ConsisIDPipeline
from diffusers.models.transformers import ConsisIDTransformer3DModel

from refbench.baselines.wan.components import from_folder, load_tokenizer, place_models
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.weights.store import is_tiny

if TYPE_CHECKING:
    from PIL import Image

# InsightFace shrinks a picture to this side before it looks for faces.
DETECTOR_SIDE_PX = 640
CLIP_FILE = "face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt"


@dataclass(frozen=True, kw_only=True)
class ReadFace:
    """A face as the network takes it.

    `identity_1D` (1,1280) is ArcFace's embedding and EVA-CLIP's, `layers_1ND` five (1,577,1024) hidden states
    of EVA-CLIP; `picture` the aligned face on white; `landmarks_52` eyes, nose and mouth corners (x, y) in
    pixels of the reference at most 1024 pixels long.
    """

    identity_1D: torch.Tensor
    layers_1ND: tuple[torch.Tensor, ...]
    picture: Image.Image
    landmarks_52: np.ndarray


class FaceReader(Protocol):
    """Finds the face of a reference and reads it."""

    def read(self, reference: Image.Image) -> ReadFace:
        """The face of an RGB picture. Raises SampleError where there is none."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """`frames_FHWC` RGB uint8, and remarks for the user."""

    frames_FHWC: np.ndarray
    notes: tuple[str, ...]


class ConsisIDFaces:
    """The published face networks through diffusers' own code: RetinaFace and BiSeNet (facexlib), antelopev2
    (InsightFace), EVA02-CLIP-L. All files must be there: what these libraries miss they download.
    """

    def __init__(self, place: Path, *, device: str, dtype: torch.dtype) -> None:
        from diffusers.pipelines.consisid.consisid_utils import prepare_face_models

        self._device, self._dtype = device, dtype
        try:
            with _no_second_parser():
                found = prepare_face_models(str(place), device=device, dtype=dtype)
        except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
            raise UserError(f"{place / 'face_encoder'} cannot be loaded: {one_line(error, 200)}") from None
        _check_clip(found[2], place / CLIP_FILE)
        self._helper, self._recogniser, self._clip, self._finder, self._mean, self._std = found

    def read(self, reference: Image.Image) -> ReadFace:
        """The largest face by InsightFace and the most central by RetinaFace, which usually are one."""
        from diffusers.pipelines.consisid.consisid_utils import process_face_embeddings_infer

        width, height = reference.size
        if min(width, height) * DETECTOR_SIDE_PX < max(width, height):
            raise SampleError(f"a reference of {width}×{height} pixels is too narrow to look for faces")
        try:
            with torch.no_grad():
                identity, layers, picture, landmarks = process_face_embeddings_infer(
                    self._helper,
                    self._clip,
                    self._recogniser,
                    self._mean,
                    self._std,
                    self._finder,
                    self._device,
                    self._dtype,
                    np.asarray(reference),
                    is_align_face=True,
                )
        except IndexError:
            # It takes the first of RetinaFace's landmarks where InsightFace has none.
            raise SampleError("no face was found in the reference") from None
        except RuntimeError as error:
            if "align face fail" not in str(error):
                raise
            raise SampleError("no face in the reference could be aligned") from None
        return ReadFace(
            identity_1D=identity,
            layers_1ND=tuple(layers),
            picture=picture,
            landmarks_52=np.asarray(landmarks),
        )


def _check_clip(network: Any, file: Path) -> None:
    """consisid_eva_clip passes over what a file lacks, which would leave layers at random values."""
    factory: Any = import_module("consisid_eva_clip.factory")
    stored = factory.load_state_dict(str(file))
    for key in network.state_dict():
        # Tables of rotary positions are computed, not stored.
        if "freqs_" not in key and f"visual.{key}" not in stored:
            raise UserError(f"{file} is not EVA02-CLIP-L-14-336: it lacks visual.{key}")


@contextmanager
def _no_second_parser() -> Iterator[None]:
    """facexlib's helper always makes a ParseNet, downloading it where it is not there; diffusers drops it at
    once for BiSeNet. Within this it makes none.
    """
    face_restoration_helper: Any = import_module("facexlib.utils.face_restoration_helper")
    original = face_restoration_helper.init_parsing_model
    face_restoration_helper.init_parsing_model = lambda **settings: None
    try:
        yield
    finally:
        face_restoration_helper.init_parsing_model = original


class ConsisIDSampler:
    """A face reader and a pipeline, loaded and placed."""

    def __init__(self, pipeline: Any, faces: FaceReader) -> None:
        self.pipeline = pipeline
        self.faces = faces

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
        on_step: Callable[[int, int], None] | None = None,
    ) -> Made:
        """One video.

        `size` is (width, height). `generator` draws the face's latents, the noise, and then the solver's in
        each step. `on_step` is called with (steps done, steps in all), first with 0 when the face is read.
        Raises SampleError for a reference without a face.
        """
        face = self.faces.read(reference)
        if on_step is not None:
            on_step(0, steps)
        length = self.pipeline.transformer.config.max_text_seq_length
        texts = {"prompt": prompt, "negative prompt": negative_prompt}
        notes = [note for name, text in texts.items() if (note := self._cut(name, text, length))]

        def done(pipeline: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
            if on_step is not None:
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
            callback_on_step_end_tensor_inputs=[],
            max_sequence_length=length,
            id_vit_hidden=list(face.layers_1ND),
            id_cond=face.identity_1D,
            kps_cond=face.landmarks_52,
        ).frames
        return Made(frames_FHWC=self._decoded(latents_BFCHW, vae_tiling), notes=tuple(notes))

    def _decoded(self, latents_BFCHW: torch.Tensor, tiling: bool) -> np.ndarray:
        """RGB uint8 frames, rounded, as diffusers makes pictures of them."""
        pipeline = self.pipeline
        if tiling:
            pipeline.vae.enable_tiling()
        try:
            with torch.no_grad():
                video = pipeline.decode_latents(latents_BFCHW)
        finally:
            pipeline.vae.use_tiling = False
        shares_BFHWC = pipeline.video_processor.postprocess_video(video=video, output_type="np")
        pipeline.maybe_free_model_hooks()
        frames_FHWC: np.ndarray = (shares_BFHWC[0] * 255).round().astype(np.uint8)
        return frames_FHWC

    def _cut(self, name: str, text: str, length: int) -> str | None:
        whole = len(self.pipeline.tokenizer(text, verbose=False).input_ids)
        if whole <= length:
            return None
        return f"the {name} has {whole} tokens; the first {length} are used, as in the original code"


def load_sampler(place: Path, *, device: str, dtype: torch.dtype, offload: str) -> ConsisIDSampler:
    """Everything of the repository's folder, on the device.

    Made-up tiny weights have a made-up face reader, since the published ones have one size. Raises UserError
    for what is damaged and for offloading without a GPU.
    """
    from transformers import T5EncoderModel

    from refbench.baselines.consisid.random_faces import StandInFaces

    networks = {
        "text_encoder": from_folder(T5EncoderModel, place / "text_encoder", dtype=dtype),
        "vae": from_folder(AutoencoderKLCogVideoX, place / "vae", torch_dtype=dtype),
        "transformer": from_folder(ConsisIDTransformer3DModel, place / "transformer", torch_dtype=dtype),
    }
    for network in networks.values():
        network.eval().requires_grad_(False)
    if not bool(networks["text_encoder"].get_input_embeddings().weight.any()):
        raise UserError(f"the text encoder in {place} has an embedding of zeros: it was not read whole")
    pipeline = ConsisIDPipeline(
        tokenizer=load_tokenizer(place / "tokenizer"),
        scheduler=from_folder(CogVideoXDPMScheduler, place / "scheduler"),
        **networks,
    )
    pipeline.set_progress_bar_config(disable=True)
    place_models(pipeline, device, offload)
    faces: FaceReader = (
        StandInFaces(place / "face_encoder", device=device, dtype=dtype)
        if is_tiny(place)
        else ConsisIDFaces(place, device=device, dtype=dtype)
    )
    return ConsisIDSampler(pipeline, faces)
