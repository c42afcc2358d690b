"""Random changes of a clip's own references, so that copying them does not give the clip.

RefAlign augments the references of regular pairs with rotation, scaling, horizontal flip, an affine map with
shear, Gaussian blur and colour jitter. Strengths and order are not public; those here are ours. References
from elsewhere (a linked clip, GPT, a JSONL line) are another picture of the subject and stay as they are.

Source of the kinds: RefAlign, arXiv 2603.25743, read in secondary text.
Shape suffixes: H height, W width, C RGB channels, N pixels of the subject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from refbench.refalign.data.draws import Draws

WHITE = 255
# Standard deviations below this change no pixel.
SMALLEST_BLUR_PX = 0.1
# Weights of the channels in a grey value (BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
LARGEST = {
    "rotation_degrees": 180.0,
    "scale": 0.9,
    "flip": 1.0,
    "shear_degrees": 45.0,
    "blur_px": 50.0,
    "colour": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class ReferenceAugmentation:
    """How strongly a clip's own references are changed; all 0: not at all.

    `rotation_degrees`, `shear_degrees`: up to so much to either side. `scale`: each side by a factor of
    1 - scale to 1 + scale, drawn for width and height apart. `flip`: the probability of a mirror image.
    `blur_px`: the largest standard deviation. `colour`: brightness, contrast and saturation by factors of
    1 - colour to 1 + colour. Raises ValueError for a value out of range.
    """

    rotation_degrees: float = 0.0
    scale: float = 0.0
    flip: float = 0.0
    shear_degrees: float = 0.0
    blur_px: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= LARGEST[field.name]:
                raise ValueError(f"{field.name} must lie in 0..{LARGEST[field.name]:g}, {value} does not")

    @property
    def is_off(self) -> bool:
        """Whether references stay as they are."""
        return not any(getattr(self, field.name) for field in fields(self))


def augmented(
    image_HWC: np.ndarray, strengths: ReferenceAugmentation, draws: Draws, place: int
) -> np.ndarray:
    """The reference, the `place`-th of its clip, changed by draws; RGB uint8 (H,W,3) of another size.

    White stays white, and the picture grows where turning would cut it off. With all strengths 0 it is the
    array itself.
    """
    if strengths.is_off:
        return image_HWC

    def signed(what: str) -> float:
        return 2 * draws.uniform(f"augmentation {place} {what}") - 1

    image_HWC = _jittered(image_HWC, [1 + strengths.colour * signed(f"colour {part}") for part in range(3)])
    image_HWC = _blurred(image_HWC, strengths.blur_px * draws.uniform(f"augmentation {place} blur"))
    angle = math.radians(strengths.rotation_degrees * signed("rotation"))
    shear = math.tan(math.radians(strengths.shear_degrees * signed("shear")))
    mirror = -1.0 if draws.uniform(f"augmentation {place} flip") < strengths.flip else 1.0
    sides = [1 + strengths.scale * signed(side) for side in ("width", "height")]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([mirror * sides[0], sides[1]])
    return _warped(image_HWC, linear)


def _jittered(image_HWC: np.ndarray, factors: list[float]) -> np.ndarray:
    """Brightness, contrast and saturation by factors; white, which is no part of the subject, is kept."""
    if factors == [1.0, 1.0, 1.0]:
        return image_HWC
    brightness, contrast, saturation = factors
    subject_HW = (image_HWC != WHITE).any(axis=2)
    if not subject_HW.any():
        return image_HWC
    pixels_NC = image_HWC[subject_HW].astype(np.float32) * brightness
    mean = float((pixels_NC @ LUMA).mean())
    pixels_NC = mean + contrast * (pixels_NC - mean)
    grey_N1 = (pixels_NC @ LUMA)[:, None]
    pixels_NC = grey_N1 + saturation * (pixels_NC - grey_N1)
    changed_HWC = image_HWC.copy()
    changed_HWC[subject_HW] = np.clip(np.rint(pixels_NC), 0, WHITE).astype(np.uint8)
    return changed_HWC


def _blurred(image_HWC: np.ndarray, deviation_px: float) -> np.ndarray:
    import cv2

    if deviation_px < SMALLEST_BLUR_PX:
        return image_HWC
    blurred: np.ndarray = cv2.GaussianBlur(image_HWC, (0, 0), deviation_px, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _warped(image_HWC: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """The picture under a linear map of (x, y) about its middle, on white, as large as the map makes it."""
    import cv2

    if np.array_equal(linear, np.eye(2)):
        return image_HWC
    rows, columns = image_HWC.shape[:2]
    width, height = (
        max(math.ceil(side - 1e-6), 1) for side in np.abs(linear) @ np.array([columns, rows], float)
    )
    middle = np.array([columns - 1, rows - 1]) / 2
    shift = np.array([width - 1, height - 1]) / 2 - linear @ middle
    warped: np.ndarray = cv2.warpAffine(
        np.ascontiguousarray(image_HWC),
        np.column_stack([linear, shift]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(WHITE, WHITE, WHITE),
    )
    return warped
