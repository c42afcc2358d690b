"""A face reader of random matrices for tiny weights; its results have the real one's form and are computed
from the picture's pixels.

The published face networks have one size, some 400 million parameters, and need packages of their own. What
this reader finds means nothing and is marked as tiny like the weights that it reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from refbench.baselines.consisid.faces import ReadFace
from refbench.bench.errors import MissingWeights, SampleError

if TYPE_CHECKING:
    from PIL import Image

FILE = "stand_in.safetensors"
# The picture is read as 16 patches, and the face picture has the size of the real one.
READ_SIDE_PX = 64
PATCH_PX = 16
FACE_SIDE_PX = 512
PATCH_VALUES = 3 * PATCH_PX**2
# A picture whose levels vary less has no face.
LEAST_CONTRAST = 2.0
# Eyes, nose and mouth corners as shares of the picture.
LANDMARKS_52 = np.array([[0.38, 0.4], [0.62, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]])
LEAN = 0.1


class RandomFaces:
    """Matrices `identity` (D, 768) and `layer_0`… (D, 768) over patches of the picture."""

    def __init__(self, folder: Path, *, device: str, dtype: torch.dtype) -> None:
        from safetensors.torch import load_file

        if not (folder / FILE).is_file():
            raise MissingWeights(f"{folder} lacks {FILE}")
        self._matrices = load_file(folder / FILE)
        self._device, self._dtype = device, dtype

    def read(self, reference: Image.Image) -> ReadFace:
        """The whole picture as a face. Raises SampleError for one without contrast."""
        from PIL import Image

        small_HWC = np.asarray(
            reference.resize((READ_SIDE_PX, READ_SIDE_PX), Image.Resampling.BOX), np.float32
        )
        if small_HWC.std() < LEAST_CONTRAST:
            raise SampleError("no face was found in the reference")
        tiles = small_HWC.reshape(4, PATCH_PX, 4, PATCH_PX, 3).transpose(0, 2, 1, 3, 4)
        patches_NV = torch.from_numpy(tiles.reshape(16, PATCH_VALUES) / 127.5 - 1)
        count = len(self._matrices) - 1
        layers_ND = [patches_NV @ self._matrices[f"layer_{index}"].T for index in range(count)]
        identity_D = patches_NV.mean(0) @ self._matrices["identity"].T
        # The landmarks lean towards the side of the brighter channel.
        lean = LEAN * (small_HWC[..., 0].mean() - small_HWC[..., 2].mean()) / 255
        return ReadFace(
            identity_1D=identity_D[None].to(self._device, self._dtype),
            layers_1ND=tuple(layer[None].to(self._device, self._dtype) for layer in layers_ND),
            picture=reference.resize((FACE_SIDE_PX, FACE_SIDE_PX), Image.Resampling.BICUBIC),
            landmarks_52=(LANDMARKS_52 + np.array([lean, 0])) * np.array(reference.size),
        )
