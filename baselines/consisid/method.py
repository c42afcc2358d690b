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

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from refbench.bench.environment import Environment, missing_packages
from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.files import read_json
from refbench.bench.method import Frames, Generator, Method, MethodCard, OnStep, silent
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import BASE_FILES, TRANSFORMER_FILES, WeightEntry
from refbench.bench.weights.store import (
    how_to_get,
    is_tiny,
    kind_on_disk,
    missing_files,
    require,
    weights_fingerprint,
)

if TYPE_CHECKING:
    from refbench.baselines.consisid.sampler import ConsisIDSampler

CONSISID = WeightEntry(
    name="consisid",
    repository="BestWishYsh/ConsisID-preview",
    holds="ConsisID on CogVideoX-5B with VAE, text encoder and face networks",
    kind="generator",
    memory_gib=21.8,
    required=(
        *TRANSFORMER_FILES,
        *BASE_FILES,
        "scheduler/scheduler_config.json",
        "face_encoder/*",
    ),
    only=(
        "*.json",
        "README.md",
        "LICENSE*",
        *(f"{part}/*" for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")),
        "face_encoder/*",
    ),
    licence="CogVideoX License (transformer), Apache-2.0 (rest)",
)
# The extra that brings what reading a face needs.
EXTRA = "consisid"
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
    """What a user may set. Raises ValueError for what cannot be done."""

    settings: Literal["native", "matched", "leaderboard"] = "native"
    """The authors' defaults (native), which are the leaderboard's as well (leaderboard); the network cannot
    make videos of the matched size and length.
    """
    width: int = 720
    """Width of the video in pixels: the one that the network is for."""
    height: int = 480
    """Height of the video in pixels: the one that the network is for."""
    num_frames: int = TRAINED_FRAMES
    """Number of frames, 4k + 1 from 5 to 49."""
    fps: float = 8.0
    """Frames per second of the written video, above 0 and at most 1000."""
    steps: int = 50
    """Number of solver steps, 1 to 1000."""
    guidance: float = 6.0
    """Guidance scale of the text, 1 (no second pass) to 100."""
    negative_prompt: str = ""
    """Text to steer away from."""
    noise_key: Literal["seed", "sample"] = "seed"
    """Draw noise from the seed alone, as the authors do, or from seed and sample."""
    noise_device: Literal["cpu", "model"] = "cpu"
    """Draw noise on the CPU, equal on every machine, or where the model runs, as the authors do."""
    overflow: Literal["refuse", "first"] = "refuse"
    """What happens to a sample with several references: refuse it, or use the first that shows a person."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number type of the networks; auto is bfloat16 on a GPU and float32 on a CPU."""
    offload: Literal["none", "model", "group"] = "none"
    """Keep on the GPU all models (none), one model at a time (model), or one layer at a time (group)."""
    vae_tiling: bool = False
    """Decode in tiles, which saves memory."""

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
    weights = (CONSISID,)
    # The face networks' packages are asked for with the weights: tiny random weights bring a face reader that
    # needs none.
    modules = ("torch", "transformers", "diffusers", "accelerate", "safetensors", "sentencepiece")
    Options = ConsisIDOptions

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
            licence=f"{CONSISID.licence}; face networks for research only",
            weights={CONSISID.name: CONSISID.repository},
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
            settings=options.settings,
            deviations=tuple(deviations),
            options=self.option_values(),
        )

    def refuses(self, sample: Sample) -> str | None:
        """A sample without a reference of a person, or with more references than the one face."""
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
        folder = self._weights_folder(environment)
        patterns = [f"{part}/*.safetensors" for part in ("transformer", "text_encoder", "vae")]
        patterns += ["face_encoder/*.safetensors"] if is_tiny(folder) else FACE_FILES
        files = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        return {CONSISID.name: weights_fingerprint(folder.resolve(), [path.resolve() for path in files])}

    def memory_gib(self, device: str) -> float | None:
        """As its authors measured it on a GPU."""
        gigabytes = MEMORY_GB.get(self.options.offload)
        return gigabytes * 1e9 / 2**30 if gigabytes is not None and device.startswith("cuda") else None

    def job_limit_s(self, device: str) -> float:
        """Many times what a GPU takes; on a processor a video takes hours."""
        return 4 * 3600.0 if device.startswith("cuda") else 48 * 3600.0

    def load(self, environment: Environment) -> ConsisIDGenerator:
        """A generator with all networks on the device.

        Raises UserError before they are read for a GPU with too little memory.
        """
        from refbench.baselines.consisid.sampler import load_sampler
        from refbench.baselines.wan.execution import chosen_dtype

        folder = self._weights_folder(environment)
        if environment.device.startswith("cuda") and not is_tiny(folder):
            self.check_memory(environment.device)
        sampler = load_sampler(
            folder,
            device=environment.device,
            dtype=chosen_dtype(self.options.dtype, environment.device),
            offload=self.options.offload,
        )
        return ConsisIDGenerator(options=self.options, sampler=sampler)

    def check_memory(self, device: str) -> None:
        """Raises UserError where the GPU has less free memory than the options need, with the offload that
        would do.
        """
        import torch

        needed = MEMORY_GB.get(self.options.offload, 0)
        free = torch.cuda.mem_get_info(device)[0] / 1e9
        if needed > free:
            advice = "model" if self.options.offload == "none" and free >= MEMORY_GB["model"] else "group"
            raise UserError(
                f"{self.name} needs about {needed} GB of GPU memory (offload={self.options.offload}), "
                f"{free:.1f} are free; --set offload={advice}"
            )

    def _weights_folder(self, environment: Environment) -> Path:
        """The folder with all that `load` reads. Raises for missing packages or files, and a wrong size."""
        tiny = kind_on_disk((CONSISID,), environment.weights) == "tiny"
        absent = None if tiny else missing_packages(FACE_MODULES, EXTRA)
        if absent is not None:
            raise MissingWeights(f"reading the face {absent}")
        folder = require(CONSISID, environment.weights)
        lacking = missing_files(CONSISID, folder)
        if not tiny:
            lacking += [pattern for pattern in FACE_FILES if not any(folder.glob(pattern))]
        if lacking:
            raise MissingWeights(f"{folder} lacks {lacking[0].replace('|', ' or ')}; {how_to_get(CONSISID)}")
        self._check_size(folder)
        return folder

    def _check_size(self, folder: Path) -> None:
        """Raises UserError for another size than the network's, whose learned positions fit no other."""
        file = folder / "transformer/config.json"
        try:
            config = read_json(file)
            size = (8 * int(config["sample_width"]), 8 * int(config["sample_height"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file} is damaged: it names no sample_width and sample_height") from None
        if size != (self.options.width, self.options.height):
            raise UserError(
                f"the network in {folder} makes {size[0]}×{size[1]} videos only, "
                f"not {self.options.width}×{self.options.height}"
            )


@dataclass(kw_only=True)
class ConsisIDGenerator(Generator):
    """A loaded ConsisID."""

    options: ConsisIDOptions
    sampler: ConsisIDSampler

    def generate(self, sample: Sample, seed: int, on_step: OnStep = silent) -> Frames:
        """One video; SampleError for a reference that cannot be read or shows no face."""
        from refbench.baselines.wan.execution import noise_generator

        options, sampler = self.options, self.sampler
        person = next(reference for reference in sample.references if reference.kind == "person")
        noise_device = "cpu" if options.noise_device == "cpu" else sampler.device
        made = sampler(
            prompt=sample.prompt,
            negative_prompt=options.negative_prompt,
            reference=person.open_on_white(),
            size=(options.width, options.height),
            num_frames=options.num_frames,
            steps=options.steps,
            guidance=options.guidance,
            generator=noise_generator(seed, sample.id, key=options.noise_key, device=noise_device),
            vae_tiling=options.vae_tiling,
            on_step=on_step,
        )
        return Frames(images=list(made.frames_FHWC), fps=options.fps, notes=made.notes)

    def close(self) -> None:
        """Give the models' memory back."""
        from refbench.baselines.wan.execution import free_gpu_memory

        del self.sampler
        free_gpu_memory()
