"""consisid: ConsisID on CogVideoX-5B, one face through its aligned picture and through its features.

The reference's face is found, aligned to 512×512 pixels and cut out on white. That picture, squashed to the
video's size, goes through the VAE (a draw from the posterior) and stands beside the noise of the first latent
frame, zeros beside all others; a network with `is_kps` has the face's landmarks, drawn, beside the second. An
ArcFace embedding and five layers of EVA-CLIP's grey copy of the face become 32 tokens, to which the video's
tokens attend after every second block. Both guidance passes see the face: v = u + 6.0·(c - u), 50 steps of
CogVideoX's DPM solver, which draws noise in each step; 720×480, 49 frames.

Source: the model's own pipeline in diffusers 0.42 (`pipelines/consisid`), called as the README of
PKU-YuanGroup/ConsisID@0b40d91 calls it; the solver as in its scripts. The released weights were not at hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.method import Frames, Method, MethodCard
from refbench.bench.metric import Environment
from refbench.bench.registry import methods
from refbench.bench.sample import Reference, Sample
from refbench.bench.weights.store import (
    CATALOGUE,
    any_tiny,
    how_to_get,
    is_tiny,
    missing_files,
    missing_packages,
    require,
    weights_fingerprint,
)

if TYPE_CHECKING:
    import torch

    from refbench.baselines.consisid.faces import ConsisIDSampler

WEIGHTS = "consisid"
# What finding, aligning and reading a face needs beyond the generators' packages.
FACE_MODULES = ("insightface", "onnxruntime", "consisid_eva_clip", "facexlib", "timm", "einops")
# Below the repository's folder. Its libraries download what they do not find, so all is looked for first.
FACE_FILES = (
    "face_encoder/detection_Resnet50_Final.pth",
    "face_encoder/parsing_bisenet.pth",
    "face_encoder/EVA02_CLIP_L_336_psz14_s6B.pt",
    "face_encoder/models/antelopev2/glintr100.onnx",
    "face_encoder/models/antelopev2/scrfd*.onnx",
)
# The README's "Max Memory Allocated", in GB.
MEMORY_GB = {"none": 37, "model": 22}
TRAINED_FRAMES = 49


@dataclass(frozen=True, kw_only=True)
class ConsisIDOptions:
    """What a user may set.

    `settings`: `native` only. `width` and `height` are those that the network is for (720×480); `num_frames`
    is 4k + 1, up to 49. `noise_key`: draw noise from the seed alone, as the authors do, or from seed and
    sample. `noise_device`: `cpu` gives the same noise on every machine; the authors draw on the GPU.
    `overflow` `first`: of several references the first that shows a person is used. `dtype` auto: bfloat16 on
    a GPU, float32 on a CPU. `vae_tiling` tiles decoding only. Raises ValueError for what cannot be done.
    """

    settings: Literal["native", "matched"] = "native"
    width: int = 720
    height: int = 480
    num_frames: int = TRAINED_FRAMES
    fps: float = 8.0
    steps: int = 50
    guidance: float = 6.0
    negative_prompt: str = ""
    noise_key: Literal["seed", "sample"] = "seed"
    noise_device: Literal["cpu", "model"] = "cpu"
    overflow: Literal["refuse", "first"] = "refuse"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    offload: Literal["none", "model", "group"] = "none"
    vae_tiling: bool = False

    def __post_init__(self) -> None:
        if self.settings == "matched":
            raise ValueError(
                "matched settings are 832×480 and 81 frames, CogVideoX-5B makes 720×480 and up to "
                f"{TRAINED_FRAMES}: leave settings at native"
            )
        frames = self.num_frames
        if not (5 <= frames <= TRAINED_FRAMES and frames % 4 == 1):
            raise ValueError(f"num_frames must be 4k + 1 from 5 to {TRAINED_FRAMES}, {frames} is not")
        for name, value in (("steps", self.steps), ("fps", self.fps)):
            if not 0 < value <= 1000:
                raise ValueError(f"{name} must be above 0 and at most 1000, {value} is not")
        if not 1 <= self.guidance <= 100:
            raise ValueError(f"guidance must be from 1 (no second pass) to 100, {self.guidance} is not")


@methods.register
class ConsisID(Method):
    """ConsisID."""

    name = "consisid"
    summary = "ConsisID: one face, as a picture beside the first frame and as features of two face networks"
    needs_torch = True
    weights = (WEIGHTS,)
    # The face networks' packages are asked for with the weights: made-up weights bring a face reader that
    # needs none.
    modules = ("torch", "transformers", "diffusers", "accelerate", "safetensors", "sentencepiece")
    Options = ConsisIDOptions

    def __init__(self, options: ConsisIDOptions | None = None) -> None:
        super().__init__(options)
        self._sampler: ConsisIDSampler | None = None

    def card(self) -> MethodCard:
        """The method card; weights are named by repository until `find_weights` has seen them."""
        options: ConsisIDOptions = self.options
        deviations = [
            "not compared with the released weights; the pipeline is diffusers' own",
            "the authors use prompts refined by GPT-4o; here the prompt set's prompts as they are",
        ]
        if options.noise_device == "cpu":
            deviations.append("noise is drawn on the CPU, by the authors' example on the GPU")
        return MethodCard(
            name=self.name,
            summary=self.summary,
            base_model="CogVideoX-5B",
            licence="CogVideoX License (transformer), Apache-2.0 (rest); face networks for research only",
            weights={WEIGHTS: CATALOGUE[WEIGHTS].repository},
            max_references=1,
            reference_overflow=(
                "a sample with more than 1 is refused"
                if options.overflow == "refuse"
                else "the first that shows a person is used"
            ),
            reference_preparation=(
                "EXIF applied, alpha on white, long side at most 1024; ArcFace reads the largest face, "
                "the most central is aligned at 512×512, cut out on white, squashed to the video's size"
            ),
            width=options.width,
            height=options.height,
            num_frames=options.num_frames,
            generated_frames=options.num_frames,
            fps=options.fps,
            steps=options.steps,
            solver="cogvideox-dpm",
            guidance={"text": options.guidance},
            negative_prompt=options.negative_prompt,
            deviations=tuple(deviations),
            options=self.option_values(),
        )

    def refuses(self, sample: Sample) -> str | None:
        """No reference with a person, or more references than the one face."""
        if not any(reference.kind == "person" for reference in sample.references):
            return "no reference shows a person"
        count = len(sample.references)
        if count > 1 and self.options.overflow == "refuse":
            return (
                f"{count} references, {self.name} takes one face "
                "(--set overflow=first uses the first that shows a person)"
            )
        return None

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """The digest of all networks, those that read the face included.

        Raises MissingWeights for files or packages that are not there, UserError for a size that the network
        is not for.
        """
        place = self._place(environment)
        patterns = [f"{part}/*.safetensors" for part in ("transformer", "text_encoder", "vae")]
        patterns += ["face_encoder/*.safetensors"] if is_tiny(place) else FACE_FILES
        files = [path for pattern in patterns for path in sorted(place.glob(pattern))]
        return {WEIGHTS: weights_fingerprint(place.resolve(), [path.resolve() for path in files])}

    def load(self, environment: Environment) -> None:
        """Read all networks and put them onto the device.

        Raises UserError before that for a GPU with too little memory.
        """
        from refbench.baselines.consisid.faces import load_sampler
        from refbench.baselines.wan.components import chosen_dtype

        place = self._place(environment)
        if environment.device.startswith("cuda") and not is_tiny(place):
            self._check_memory(environment.device)
        self._sampler = load_sampler(
            place,
            device=environment.device,
            dtype=chosen_dtype(self.options.dtype, environment.device),
            offload=self.options.offload,
        )

    def generate(self, sample: Sample, seed: int) -> Frames:
        """One video; SampleError for a reference that cannot be read or shows no face."""
        options, sampler = self.options, self._loaded()
        made = sampler(
            prompt=sample.prompt,
            negative_prompt=options.negative_prompt,
            reference=self._reference(sample).open_on_white(),
            size=(options.width, options.height),
            num_frames=options.num_frames,
            steps=options.steps,
            guidance=options.guidance,
            generator=self._generator(sample, seed),
            vae_tiling=options.vae_tiling,
            on_step=self.on_step,
        )
        return Frames(images=list(made.frames_FHWC), fps=options.fps, notes=made.notes)

    def close(self) -> None:
        """Give the models' memory back."""
        self._sampler = None
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _place(self, environment: Environment) -> Path:
        """The weights' folder with all that `load` reads; complains about packages, files and the size."""
        tiny = any_tiny((WEIGHTS,), environment.weights)
        absent = None if tiny else missing_packages(FACE_MODULES, WEIGHTS)
        if absent is not None:
            raise MissingWeights(f"reading the face {absent}")
        place, entry = require(WEIGHTS, environment.weights), CATALOGUE[WEIGHTS]
        lacking = missing_files(entry, place)
        if not tiny:
            lacking += [pattern for pattern in FACE_FILES if not any(place.glob(pattern))]
        if lacking:
            raise MissingWeights(f"{place} lacks {lacking[0].replace('|', ' or ')}; {how_to_get(entry)}")
        self._check_size(place)
        return place

    def _check_size(self, place: Path) -> None:
        """The size that is asked for is the network's: its positions, which are learned, fit no other."""
        file = place / "transformer/config.json"
        try:
            config = json.loads(file.read_bytes())
            size = (8 * int(config["sample_width"]), 8 * int(config["sample_height"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{file} is damaged: it names no sample_width and sample_height") from None
        if size != (self.options.width, self.options.height):
            raise UserError(
                f"the network in {place} makes {size[0]}×{size[1]} videos only, "
                f"not {self.options.width}×{self.options.height}"
            )

    def _check_memory(self, device: str) -> None:
        import torch

        needed = MEMORY_GB.get(self.options.offload, 0)
        free = torch.cuda.mem_get_info(device)[0] / 1e9
        if needed > free:
            advice = "model" if self.options.offload == "none" and free >= MEMORY_GB["model"] else "group"
            raise UserError(
                f"{self.name} needs about {needed} GB of GPU memory (offload={self.options.offload}), "
                f"{free:.1f} are free; --set offload={advice}"
            )

    def _reference(self, sample: Sample) -> Reference:
        return next(reference for reference in sample.references if reference.kind == "person")

    def _generator(self, sample: Sample, seed: int) -> torch.Generator:
        from refbench.baselines.wan.components import noise_generator

        device = "cpu" if self.options.noise_device == "cpu" else self._loaded().device
        return noise_generator(seed, sample.id, key=self.options.noise_key, device=device)

    def _loaded(self) -> ConsisIDSampler:
        if self._sampler is None:
            raise UserError(f"{self.name} was not loaded")
        return self._sampler
