"""Finding a picture's largest face and cutting it out, through insightface's detector and alignment.

A picture in which no face is found is framed in grey and looked at once more, which helps with faces that
fill it. The crop is always taken from the picture itself: landmarks that were found in the framed one are
shifted back. Everything insightface needs is read from a local folder and checked before it is called,
because it downloads what it does not find.

Source: `process_image` of OpenS2V-Nexus@210eb08 `eval/get_facesim.py`; goldens `opens2v_eval` (face_align,
scrfd_decode, facesim). Kept: the area is that of the raw box, of equal ones the later in detector order wins,
crops of 224 pixels are halved to 112, and the ArcFace embedding of a face found in the framed picture comes
from there, grey included. Different: ArcFace embeds the largest face alone, not every face found.

Axes: H W rows and columns, C channels, F faces, D embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.environment import quiet_onnx
from refbench.bench.errors import MissingWeights, SampleError, UserError, one_line
from refbench.bench.weights.store import how_to_get
from refbench.metrics.weights import OPENS2V_WEIGHT

# The official script's call: FaceAnalysis(root=<weights>/face_extractor).prepare(det_size=(320, 320)).
OFFICIAL_PACK = "buffalo_l"
DETECTOR_SIDE_PX = 320
DETECTION_THRESHOLD = 0.5
CROP_SIDE_PX = 224
FACE_SIDE_PX = 112
# The frame that is put around a picture without a face: a quarter of its size on each side.
FRAME_SHARE = 0.25
FRAME_GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class Face:
    """A face of a picture: the aligned crop, RGB uint8 (112, 112, 3), its five landmarks (eyes, nose, corners
    of the mouth; x and y) and its box (x1, y1, x2, y2) in pixels of the picture, which both may pass.

    `framed` says that the face was only found after framing. `for_arcface_HWC` is what ArcFace takes, BGR
    uint8, None where the model pack has no recogniser or it was not cut; `arcface_D` its embedding (D,),
    None where it was not asked.
    """

    crop_HWC: np.ndarray
    landmarks_52: np.ndarray
    framed: bool
    box_4: tuple[float, float, float, float]
    for_arcface_HWC: np.ndarray | None = None
    arcface_D: np.ndarray | None = None


def pack_folder(weights: Path, pack: str) -> Path:
    """The folder with the `.onnx` files of a pack, below the OpenS2V weights or wherever `pack` points.

    `pack` is a name, or the path of a pack or of an insightface root (which holds `models/<name>`). Both
    layouts are looked for: `<root>/models/<name>/*.onnx` and the pack's folder itself. Raises MissingWeights.
    """
    given = Path(pack).expanduser()
    if given.is_absolute():
        places = [given, given / "models" / OFFICIAL_PACK]
    else:
        roots = [weights / "face_extractor", weights]
        places = [place for root in roots for place in (root / "models" / pack, root / pack)]
    for place in places:
        if any(place.glob("*.onnx")):
            return place
    others = sorted({path.parent.name for path in weights.glob("**/models/*/*.onnx")})
    hint = f" (found: {', '.join(others)}; --set facesim.pack=NAME takes it instead)" if others else ""
    raise MissingWeights(f"no InsightFace pack {pack!r} in {places[0]}{hint}; {how_to_get(OPENS2V_WEIGHT)}")


def largest(boxes_F4: np.ndarray) -> int:
    """Index of the largest of the boxes (F, 4 or more): x1, y1, x2, y2 in pixels; the last of equal ones.

    Boxes are not clipped to the picture, and two negative sides give a positive area, as officially.
    """
    areas_F = (boxes_F4[:, 2] - boxes_F4[:, 0]) * (boxes_F4[:, 3] - boxes_F4[:, 1])
    return int(np.argsort(areas_F, kind="stable")[-1])


def framed(image_HWC: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture, uint8 (H, W, 3), with a quarter of its size in grey on each side.

    Also how many columns (left) and rows (top) stand before it.
    """
    import cv2

    height, width = image_HWC.shape[:2]
    top, left = int(height * FRAME_SHARE), int(width * FRAME_SHARE)
    bordered: np.ndarray = cv2.copyMakeBorder(
        image_HWC, top, top, left, left, cv2.BORDER_CONSTANT, value=FRAME_GREY
    )
    return bordered, (left, top)


def aligned_crop(image_HWC: np.ndarray, landmarks_52: np.ndarray, side_px: int) -> np.ndarray:
    """The face of five landmarks (5, 2), x and y in pixels, turned and scaled onto the template.

    The picture is uint8 (H, W, 3), the result uint8 (side, side, 3).

    Bilinear; black outside of the picture. OpenCV 4 and 5 differ by a level in few pixels, by up to four
    where the border enters.
    """
    from insightface.utils import face_align

    with warnings.catch_warnings():
        # insightface 2.1 calls an estimator of scikit-image by its older name.
        warnings.simplefilter("ignore", FutureWarning)
        crop_HWC: np.ndarray = face_align.norm_crop(image_HWC, landmark=landmarks_52, image_size=side_px)
    return crop_HWC


def halved(crop_HWC: np.ndarray) -> np.ndarray:
    """A crop, uint8 (224, 224, 3), at the network's size, (112, 112, 3).

    By OpenCV's bilinear resize, which takes means of 2×2 pixels.
    """
    import cv2

    small_HWC: np.ndarray = cv2.resize(crop_HWC, (FACE_SIDE_PX, FACE_SIDE_PX))
    return small_HWC


@dataclass(frozen=True, kw_only=True)
class _FoundFaces:
    """Boxes (F, 5) and landmarks (F, 5, 2) in the picture that was searched, which begins `shift` (x, y)
    before the given one.
    """

    boxes_F5: np.ndarray
    landmarks_F52: np.ndarray
    searched_bgr: np.ndarray
    shift: tuple[int, int]


def _cut(image_bgr: np.ndarray, found: _FoundFaces, place: int) -> Face:
    """The face at that place, cut out of the given picture, without what ArcFace takes."""
    shifted_52 = found.landmarks_F52[place] - np.array(found.shift, np.float32)
    left, top, right, bottom = (found.boxes_F5[place, :4] - np.array(2 * found.shift, np.float32)).tolist()
    return Face(
        crop_HWC=halved(aligned_crop(image_bgr, shifted_52, CROP_SIDE_PX))[..., ::-1],
        landmarks_52=shifted_52,
        framed=found.searched_bgr is not image_bgr,
        box_4=(left, top, right, bottom),
    )


class FaceFinder:
    """A loaded pack: `detector.detect(bgr)` gives boxes with scores (F, 5) and landmarks (F, 5, 2).

    `recogniser.get_feat(bgr_crop)` gives the ArcFace embedding of an aligned face; None for a pack without
    one.
    """

    def __init__(self, detector: Any, recogniser: Any) -> None:
        self.detector = detector
        self.recogniser = recogniser

    def find(self, image_HWC: np.ndarray) -> Face | None:
        """The largest face of a picture, RGB uint8 (H, W, 3), or None.

        Raises SampleError for a strip too narrow to search.
        """
        image_bgr, found = self._found(image_HWC)
        if found is None:
            return None
        face = self._cut_largest(image_bgr, found, largest(found.boxes_F5))
        return replace(face, arcface_D=self.arcface(face))

    def find_all(self, image_HWC: np.ndarray) -> list[Face]:
        """All faces of a picture, RGB uint8 (H, W, 3), without ArcFace embeddings: first the largest, with
        what ArcFace takes, then the others in the detector's order.

        The grey frame is put around as in `find`. Raises SampleError for a strip too narrow to search.
        """
        image_bgr, found = self._found(image_HWC)
        if found is None:
            return []
        first = largest(found.boxes_F5)
        others = (place for place in range(len(found.boxes_F5)) if place != first)
        return [
            self._cut_largest(image_bgr, found, first),
            *(_cut(image_bgr, found, place) for place in others),
        ]

    def arcface(self, face: Face) -> np.ndarray | None:
        """The ArcFace embedding (D,) of a face that was cut for it, else None."""
        if face.for_arcface_HWC is None:
            return None
        embedding_D: np.ndarray = self.recogniser.get_feat(face.for_arcface_HWC).flatten()
        return embedding_D

    def _found(self, image_HWC: np.ndarray) -> tuple[np.ndarray, _FoundFaces | None]:
        """The picture as BGR and the faces of it, or of it in a grey frame; None where neither has one."""
        height, width = image_HWC.shape[:2]
        if min(height, width) * DETECTOR_SIDE_PX < max(height, width):
            raise SampleError(f"a picture of {width}×{height} pixels is too narrow to look for faces")
        image_bgr = np.ascontiguousarray(image_HWC[..., ::-1])
        boxes_F5, landmarks_F52 = self.detector.detect(image_bgr)
        searched, shift = image_bgr, (0, 0)
        if len(boxes_F5) == 0:
            searched, shift = framed(image_bgr)
            boxes_F5, landmarks_F52 = self.detector.detect(searched)
            if len(boxes_F5) == 0:
                return image_bgr, None
        return image_bgr, _FoundFaces(
            boxes_F5=boxes_F5, landmarks_F52=landmarks_F52, searched_bgr=searched, shift=shift
        )

    def _cut_largest(self, image_bgr: np.ndarray, found: _FoundFaces, place: int) -> Face:
        face = _cut(image_bgr, found, place)
        if self.recogniser is None:
            return face
        side_px = self.recogniser.input_size[0]
        crop_bgr = aligned_crop(found.searched_bgr, found.landmarks_F52[place], side_px)
        return replace(face, for_arcface_HWC=crop_bgr)

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider that really runs the detector; scores may differ between them."""
        name: str = self.detector.session.get_providers()[0]
        return name

    @property
    def files(self) -> Iterator[Path]:
        """The pack's files that are used."""
        for model in (self.detector, self.recogniser):
            if model is not None:
                yield Path(model.model_file)


def provider_options(device: str, providers: Sequence[str]) -> list[dict[str, int]]:
    """For each provider its options: CUDA's works on the GPU that the device names, by default the first."""
    number = int(device.partition(":")[2] or 0)
    return [{"device_id": number} if name == "CUDAExecutionProvider" else {} for name in providers]


def execution_providers(device: str) -> list[str]:
    """ONNX Runtime's providers for a device: CUDA where it is asked for and available, else the CPU."""
    import onnxruntime

    if device.startswith("cuda") and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def load_faces(folder: Path, device: str, threads: int) -> FaceFinder:
    """The detector and the recogniser of a pack folder (see `pack_folder`); nothing is downloaded.

    Raises UserError for a damaged pack and for one without a detector of five landmarks.
    """
    quiet_onnx()
    import onnxruntime
    from insightface.app import FaceAnalysis

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(threads, 1)
    providers = execution_providers(device)
    try:
        # An existing folder as the name is what keeps both generations of insightface off the network.
        analysis = FaceAnalysis(
            name=str(folder.resolve(strict=True)),
            allowed_modules=["detection", "recognition"],
            providers=providers,
            provider_options=provider_options(device, providers),
            sess_options=options,
        )
        analysis.prepare(
            ctx_id=0 if len(providers) > 1 else -1,
            det_thresh=DETECTION_THRESHOLD,
            det_size=(DETECTOR_SIDE_PX, DETECTOR_SIDE_PX),
        )
    except AssertionError:
        raise UserError(f"the InsightFace pack {folder} holds no face detector") from None
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"the InsightFace pack {folder} is damaged: {one_line(error, 160)}") from None
    if not analysis.det_model.use_kps:
        raise UserError(f"the detector of the InsightFace pack {folder} finds no landmarks")
    return FaceFinder(analysis.det_model, analysis.models.get("recognition"))
