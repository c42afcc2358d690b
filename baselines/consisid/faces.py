"""How ConsisID reads the face of a reference: a small interface, and the published face networks behind it.

Axes: N tokens and D features of a face network; 5 landmarks of 2 coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from refbench.bench.errors import SampleError, UserError, one_line

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
    pixels of the reference, scaled to at most 1024 pixels.
    """

    identity_1D: torch.Tensor
    layers_1ND: tuple[torch.Tensor, ...]
    picture: Image.Image
    landmarks_52: np.ndarray


class FaceReader(Protocol):
    """Finds the face of a reference and reads it."""

    def read(self, reference: Image.Image) -> ReadFace:
        """The face of an RGB picture. Raises SampleError where there is none."""


class ConsisIDFaces:
    """The published face networks through diffusers' own code: RetinaFace and BiSeNet (facexlib), antelopev2
    (InsightFace), EVA02-CLIP-L. All files must be there, because these libraries download missing ones.
    """

    def __init__(self, folder: Path, *, device: str, dtype: torch.dtype) -> None:
        from diffusers.pipelines.consisid.consisid_utils import prepare_face_models

        self._device, self._dtype = device, dtype
        try:
            with _no_second_parser():
                found = prepare_face_models(str(folder), device=device, dtype=dtype)
        except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
            raise UserError(f"{folder / 'face_encoder'} cannot be loaded: {one_line(error, 200)}") from None
        check_clip(found[2], folder / CLIP_FILE)
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


def check_clip(network: Any, file: Path) -> None:
    """Raises UserError for a file that lacks a layer: consisid_eva_clip would leave it at random values."""
    factory: Any = import_module("consisid_eva_clip.factory")
    stored = factory.load_state_dict(str(file))
    for key in network.state_dict():
        # Tables of rotary positions are computed, not stored.
        if "freqs_" not in key and f"visual.{key}" not in stored:
            raise UserError(f"{file} is not EVA02-CLIP-L-14-336: it lacks visual.{key}")


@contextmanager
def _no_second_parser() -> Iterator[None]:
    """Within this, facexlib's helper makes no ParseNet: it would download one that is not there, and
    diffusers' code replaces it by BiSeNet at once.
    """
    face_restoration_helper: Any = import_module("facexlib.utils.face_restoration_helper")
    original = face_restoration_helper.init_parsing_model
    face_restoration_helper.init_parsing_model = lambda **settings: None
    try:
        yield
    finally:
        face_restoration_helper.init_parsing_model = original
