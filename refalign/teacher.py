"""The frozen teachers of the alignment losses: patch features of DINOv3, DINOv2, SigLIP 2 and CLIP, and of
networks that plugins register (`register_teacher`).

A reference picture is fed whole at its own size, each side brought to the nearest multiple of the patch; its
patch tokens are resampled to the generator's token grid where the two grids differ. At 832×480 a teacher with
patches of 16 has the grid of Wan's tokens, 30×52, and nothing is resampled.

Features are `last_hidden_state` without class and register tokens: after the final norm, except for CLIP,
whose norm belongs to the class token alone. RefAlign takes `hidden_states[-1]` of DINOv3, which was the same
in transformers 4.56 and is the state before the norm in 5. Its trainer also leaves the teacher in training
mode, where DINOv3 stretches its positions by a random factor; here evaluation mode is enforced.

Source: RefAlign, arXiv 2603.25743, code at gudaochangsheng/RefAlign@6f91526.

Shapes: N pictures, H and W their sides in pixels, D channels of the teacher.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import interpolate

from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.weights.hf_folder import load_model, read_config
from refbench.bench.weights.store import is_small, require_model_folder
from refbench.refalign.losses import own_code, place_of

Kind = Literal["dinov3_vit", "dinov2", "siglip", "clip", "own"]
Triple = tuple[float, float, float]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# The vision model of each family; DINO's take any size without being asked to interpolate positions.
CLASSES = {
    "dinov3_vit": "DINOv3ViTModel",
    "dinov2": "Dinov2Model",
    "siglip": "SiglipVisionModel",
    "clip": "CLIPVisionModel",
}
CLASS_TOKENS = {"dinov3_vit": 1, "dinov2": 1, "siglip": 0, "clip": 1, "own": 0}
TWO_TOWERS = ("siglip", "clip")
# What a checkpoint of two towers holds beside its vision model.
OTHER_TOWER = ("text_model.", "text_projection.", "visual_projection.", "logit_")


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """A teacher: its repository, patch in pixels, channels of a token, and normalisation of 0..1 pixels.

    `kind` is the `model_type` of its `config.json`. Any other network is of the kind `own`: `load(folder)`
    reads it from the repository's folder, and gives a module that maps normalised pixels (N,3,H,W), H and W
    multiples of the patch, to tokens (N, H/patch · W/patch, width), row by row.
    """

    repository: str
    kind: Kind
    patch_px: int
    width: int
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    load: Callable[[Path], nn.Module] | None = None

    def code_digest(self) -> str | None:
        """The SHA-256 of the file that `load` is from; None for the families known here."""
        file = None if self.load is None else inspect.getsourcefile(self.load)
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()

    def __post_init__(self) -> None:
        if (self.kind == "own") != (self.load is not None):
            raise UserError("a teacher of the kind 'own' needs `load`, and no other kind has it")


TEACHERS = {
    "dinov3-vitb16": TeacherSpec(
        repository="facebook/dinov3-vitb16-pretrain-lvd1689m", kind="dinov3_vit", patch_px=16, width=768
    ),
    "dinov3-vitl16": TeacherSpec(
        repository="facebook/dinov3-vitl16-pretrain-lvd1689m", kind="dinov3_vit", patch_px=16, width=1024
    ),
    "dinov2-base": TeacherSpec(repository="facebook/dinov2-base", kind="dinov2", patch_px=14, width=768),
    "dinov2-large": TeacherSpec(repository="facebook/dinov2-large", kind="dinov2", patch_px=14, width=1024),
    # Checkpoints of fixed resolution are of the first SigLIP's architecture.
    "siglip2-base": TeacherSpec(
        repository="google/siglip2-base-patch16-512",
        kind="siglip",
        patch_px=16,
        width=768,
        mean=SIGLIP_MEAN,
        std=SIGLIP_STD,
    ),
    "clip-vit-large": TeacherSpec(
        repository="openai/clip-vit-large-patch14",
        kind="clip",
        patch_px=14,
        width=1024,
        mean=CLIP_MEAN,
        std=CLIP_STD,
    ),
}
# Of RefAlign 1.3B; 14B was trained with dinov3-vitl16.
DEFAULT_TEACHER = "dinov3-vitb16"


def register_teacher(name: str, spec: TeacherSpec) -> TeacherSpec:
    """Make a teacher known by its name, and return its spec. Raises UserError when another one has the
    name.
    """
    if TEACHERS.setdefault(name, spec) is not spec:
        raise UserError(f"two teachers are called {name!r}")
    return spec


def get_teacher_spec(name: str) -> TeacherSpec:
    """A teacher by its name. Raises UserError that lists the known ones."""
    if name not in TEACHERS:
        raise UserError(f"no teacher is called {one_line(name, 60)!r}; known: {', '.join(TEACHERS)}")
    return TEACHERS[name]


class Teacher(nn.Module):
    """A frozen vision model that stays in evaluation mode, also when `train()` is called on a parent module.

    `width` is the number of channels of its tokens.
    """

    def __init__(self, network: nn.Module, spec: TeacherSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network: Any = network.requires_grad_(False)
        self.width: int = self.network.config.hidden_size
        self.patch_px: int = self.network.config.patch_size
        self._leading_tokens = CLASS_TOKENS[spec.kind] + getattr(
            self.network.config, "num_register_tokens", 0
        )
        self.train(False)

    @classmethod
    def load(
        cls,
        name: str,
        folder: Path | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Teacher:
        """The teacher `name` from the weights folder, else from where all weights are looked for.

        Raises UserError for an unknown name and a folder that holds another or a damaged model,
        MissingWeights for one that is not there.
        """
        spec = get_teacher_spec(name)
        try:
            model_folder = require_model_folder(spec.repository, folder)
        except MissingWeights as missing:
            raise MissingWeights(f"teacher {name}: {missing}") from None
        network = _load_network(spec, model_folder, dtype)
        _check_sizes(name, spec, model_folder, network.config)
        teacher = cls(network, spec)
        teacher.to(device)
        return teacher

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever `mode` says."""
        super().train(False)
        return self

    def features(self, references: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Patch features of reference pictures on the generator's token grid.

        Args:
            references: (N,H,W,3) uint8, or (N,3,H,W) floating-point in -1..1.
            grid: rows and columns of the tokens of one reference, 30 and 52 at 832×480.

        Returns (N, rows·columns, D) in float32, in the order row, column, without a gradient. Raises
        ValueError for another shape or type.
        """
        self.network.eval()
        device = self.network.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            pixels_NCHW = _unit_pixels(references.to(device))
            height, width = (_nearest_multiple(side, self.patch_px) for side in pixels_NCHW.shape[-2:])
            if pixels_NCHW.shape[-2:] != (height, width):
                pixels_NCHW = interpolate(pixels_NCHW, (height, width), mode="bicubic", antialias=True)
            mean_C11, std_C11 = (
                torch.tensor(values, device=device)[:, None, None]
                for values in (self.spec.mean, self.spec.std)
            )
            pixels_NCHW = (pixels_NCHW - mean_C11) / std_C11
            settings = {"interpolate_pos_encoding": True} if self.spec.kind in TWO_TOWERS else {}
            states = self.network(pixels_NCHW.to(self.network.dtype), **settings).last_hidden_state
            tokens_NTD = states[:, self._leading_tokens :].float()
            return resample_tokens(tokens_NTD, (height // self.patch_px, width // self.patch_px), grid)


def _unit_pixels(references: torch.Tensor) -> torch.Tensor:
    """(N,3,H,W) float32 in 0..1."""
    if references.dtype == torch.uint8 and references.ndim == 4 and references.shape[3] == 3:
        return references.permute(0, 3, 1, 2).float() / 255
    if references.is_floating_point() and references.ndim == 4 and references.shape[1] == 3:
        return (references.float() + 1) / 2
    raise ValueError(
        "references must be (N,H,W,3) uint8 or (N,3,H,W) floating-point, "
        f"not {tuple(references.shape)} {references.dtype}"
    )


def resample_tokens(
    tokens_NTD: torch.Tensor, source: tuple[int, int], target: tuple[int, int]
) -> torch.Tensor:
    """Resample tokens bilinearly from the grid `source` (rows, columns) to the grid `target`.

    Args:
        tokens_NTD: (N,T,D), T = rows·columns of `source`, in the order row, column.

    Returns (N,T,D) with the T of `target`; the tokens themselves where both grids are equal.
    """
    if source == target:
        return tokens_NTD
    tokens_NDYX = tokens_NTD.transpose(1, 2).unflatten(2, source)
    return interpolate(tokens_NDYX, target, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def _nearest_multiple(side_px: int, patch_px: int) -> int:
    return max(1, round(side_px / patch_px)) * patch_px


def _load_network(spec: TeacherSpec, folder: Path, dtype: torch.dtype) -> Any:
    import transformers

    if spec.load is not None:
        return _OwnNetwork(spec, folder, dtype)
    kind = read_config(folder).get("model_type")
    if kind not in (spec.kind, f"{spec.kind}_vision_model"):
        raise UserError(f"{folder} holds a model of type {one_line(kind, 40)!r}, not {spec.kind!r}")
    other_tower = OTHER_TOWER if spec.kind in TWO_TOWERS else ()
    return load_model(getattr(transformers, CLASSES[spec.kind]), folder, dtype=dtype, may_hold=other_tower)


class _OwnNetwork(nn.Module):
    """A network from a user's file behind the interface of transformers' vision models."""

    def __init__(self, spec: TeacherSpec, folder: Path, dtype: torch.dtype) -> None:
        super().__init__()
        assert spec.load is not None
        self.spec = spec
        self.config = SimpleNamespace(hidden_size=spec.width, patch_size=spec.patch_px)
        with own_code("the teacher's load()", spec.load):
            self.network = spec.load(folder).to(dtype)
        if next(self.network.parameters(), None) is None:
            raise UserError(
                f"the teacher's load() ({place_of(spec.load)}) returned a network without weights"
            )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        return next(self.network.parameters()).dtype

    def forward(self, pixels_NCHW: torch.Tensor) -> SimpleNamespace:
        """An object with `last_hidden_state` (N,T,D). Raises UserError for tokens that do not fit."""
        code = type(self.network).forward
        with own_code("the teacher", code):
            tokens_NTD = self.network(pixels_NCHW)
        count, _, height, width = pixels_NCHW.shape
        patches = (height // self.spec.patch_px) * (width // self.spec.patch_px)
        wanted = (count, patches, self.spec.width)
        told = f"the teacher ({place_of(code)}) returned"
        if not isinstance(tokens_NTD, torch.Tensor) or tuple(tokens_NTD.shape) != wanted:
            found = (
                tuple(tokens_NTD.shape) if isinstance(tokens_NTD, torch.Tensor) else type(tokens_NTD).__name__
            )
            raise UserError(f"{told} {found}, not tokens {wanted}: pictures, patches, channels")
        if not bool(tokens_NTD.isfinite().all()):
            raise UserError(f"{told} tokens that are not finite")
        return SimpleNamespace(last_hidden_state=tokens_NTD)


def _check_sizes(name: str, spec: TeacherSpec, folder: Path, config: Any) -> None:
    """A larger or smaller sister of the teacher loads as well; only tiny and mini checkpoints may differ."""
    found = (config.hidden_size, config.patch_size)
    if found != (spec.width, spec.patch_px) and not is_small(folder):
        raise UserError(
            f"{folder} is not {name}: width {found[0]} and patch {found[1]} "
            f"instead of {spec.width} and {spec.patch_px}"
        )
