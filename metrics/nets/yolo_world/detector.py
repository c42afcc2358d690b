"""YOLO-World v2 with the image-prompt adapter, as one module whose state dict is the checkpoint's.

`features` runs the backbone once per frame; `predict` runs neck and head for every (frame, reference) pair.
All sizes are read from the checkpoint's own tensors, so a smaller network of the same make loads alike.

Source: the description of YOLO-World v2-L and its image-prompt adapter (AILab-CVC/YOLO-World, as vendored by
`eval/utils/yoloworld` of PKU-YuanGroup/OpenS2V-Nexus@210eb08). Different: only what inference with an image
prompt needs is there (551 of the file's 1,054 keys), and a key that is missing or has another shape is an
error, where the original loads what fits and warns about the rest.

Axes of tensor names: B frames, R references, G = B·R pairs with the references of a frame side by side,
K prompts of one pass, D prompt width, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from refbench.bench.errors import UserError
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict
from refbench.metrics.nets.yolo_world.backbone import CSPDarknet
from refbench.metrics.nets.yolo_world.head import SIDES, Head, HeadModule
from refbench.metrics.nets.yolo_world.neck import GuidedNeck

# Towers of CLIP and training-time buffers that the file holds beside the detector.
UNUSED_PREFIXES = (
    "backbone.text_model.",
    "data_preprocessor.",
    "image_prompt_encoder.image_encoder.",
    "image_prompt_encoder.img_mean",
    "image_prompt_encoder.img_std",
)
UNUSED_SUFFIXES = (".num_batches_tracked", "bbox_head.head_module.proj")

# What an MMEngine training log may leave in a checkpoint beside its tensors: read as empty shells.
INERT_PICKLED_TYPES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
)


@dataclass(frozen=True, kw_only=True)
class YoloWorldSizes:
    """Channels and depths; the defaults are v2-L's.

    `neck_heads` are the heads of the guided blocks in the order in which they run; `bins` those of a box
    side's distance.
    """

    stem: int = 64
    stages: tuple[int, int, int, int] = (128, 256, 512, 512)
    stage_depths: tuple[int, int, int, int] = (3, 6, 6, 3)
    neck_depth: int = 3
    neck_heads: tuple[int, int, int, int] = (8, 4, 8, 8)
    prompt: int = 512
    classification: int = 256
    regression: int = 64
    bins: int = 16
    projector: int = 1024

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], source: object) -> YoloWorldSizes:
        """The sizes of a checkpoint. Raises UserError when it is no checkpoint of this detector."""

        def rows(key: str) -> int:
            return int(tensors[key].shape[0])

        def depth(prefix: str) -> int:
            return len({key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)})

        backbone, neck, head = "backbone.image_model", "neck", "bbox_head.head_module"
        try:
            widths = [rows(f"{backbone}.stage{number}.0.conv.weight") for number in (1, 2, 3, 4)]
            heads = [
                rows(f"{neck}.{layers}.{number}.attn_block.bias")
                for layers in ("top_down_layers", "bottom_up_layers")
                for number in (0, 1)
            ]
            depths = [depth(f"{backbone}.stage{number}.1.blocks.") for number in (1, 2, 3, 4)]
            return cls(
                stem=rows(f"{backbone}.stem.conv.weight"),
                stages=(widths[0], widths[1], widths[2], widths[3]),
                stage_depths=(depths[0], depths[1], depths[2], depths[3]),
                neck_depth=depth(f"{neck}.top_down_layers.0.blocks."),
                neck_heads=(heads[0], heads[1], heads[2], heads[3]),
                prompt=rows(f"{head}.cls_preds.0.2.weight"),
                classification=rows(f"{head}.cls_preds.0.0.conv.weight"),
                regression=rows(f"{head}.reg_preds.0.0.conv.weight"),
                bins=rows(f"{head}.reg_preds.0.2.weight") // SIDES,
                projector=rows("image_prompt_encoder.projector.0.weight"),
            )
        except (KeyError, IndexError) as error:
            raise UserError(f"{source} is no YOLO-World image-prompt checkpoint: it lacks {error}") from None


class YoloWorld(nn.Module):
    """Backbone, guided neck, head and prompt projector."""

    def __init__(self, sizes: YoloWorldSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or YoloWorldSizes()
        maps = sizes.stages[1:]
        darknet = CSPDarknet(sizes.stem, sizes.stages, sizes.stage_depths)
        self.backbone = nn.ModuleDict({"image_model": darknet})
        self.neck = GuidedNeck(maps, sizes.neck_depth, sizes.neck_heads, sizes.prompt)
        self.bbox_head = Head(
            HeadModule(maps, sizes.classification, sizes.regression, sizes.bins, sizes.prompt)
        )
        projector = nn.Sequential(
            nn.Linear(sizes.prompt, sizes.projector), nn.GELU(), nn.Linear(sizes.projector, sizes.prompt)
        )
        self.image_prompt_encoder = nn.ModuleDict({"projector": projector})

    def project(self, embeddings_RD: torch.Tensor) -> torch.Tensor:
        """CLIP image embeddings (R, D), of any length, to unit prompts (R, D).

        The projector has no residual here: the original adds one in training only.
        """
        unit_RD = functional.normalize(embeddings_RD, dim=-1)
        projected_RD = self.image_prompt_encoder["projector"](unit_RD)
        return functional.normalize(projected_RD, dim=-1)

    def features(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Letterboxed images (B, 3, H, W), 0..1, to the backbone's maps (B, C, h, w) at strides 8, 16, 32."""
        maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = self.backbone["image_model"](images_BCHW)
        return maps

    def predict(
        self, maps_BCHW: Sequence[torch.Tensor], prompts_RKD: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Logits (B·R, K, h, w) and side distances (B·R, 4, h, w), in strides, at each of the three levels.

        Row `frame · R + reference` belongs to that frame and the prompts `prompts_RKD[reference]`.
        """
        prompts_GKD = prompts_RKD.repeat(len(maps_BCHW[0]), 1, 1)
        guided = self.neck(maps_BCHW, prompts_GKD)
        logits, distances = self.bbox_head.head_module(guided, prompts_GKD)
        return logits, distances


def load_yolo_world(path: Path) -> YoloWorld:
    """The detector of a checkpoint file, in evaluation mode on the CPU.

    Raises UserError for a file that is damaged, holds code, or does not fit, with the keys.
    """
    tensors = detector_tensors(read_training_checkpoint(path))
    with torch.device("meta"):
        network = YoloWorld(YoloWorldSizes.of(tensors, path.name))
    load_exactly(network, tensors, path.name)
    network.float().eval().requires_grad_(False)
    return network


def read_training_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors under `state_dict`, without running code of the file.

    MMEngine leaves its log of losses in some checkpoints, which a plain weights-only reader refuses. The
    types it needs are stood in for by shells that keep nothing.
    """
    with torch.serialization.safe_globals([(_Inert, name) for name in INERT_PICKLED_TYPES]):
        return read_state_dict(path)


def detector_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries that the detector needs, without a leading `module.`; unknown ones stay, to be named."""
    stripped = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {
        key: value
        for key, value in stripped.items()
        if not key.startswith(UNUSED_PREFIXES) and not key.endswith(UNUSED_SUFFIXES)
    }


class _Inert:
    """Stands in for a pickled object and keeps nothing of it."""

    def __new__(cls, *_arguments: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_arguments: object) -> None:
        return

    def __setstate__(self, _state: object) -> None:
        return
