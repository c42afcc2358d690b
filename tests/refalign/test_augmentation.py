"""Augmentation of a clip's own references: what each strength does, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from refbench.refalign.data.augmentation import ReferenceAugmentation, augmented
from refbench.refalign.data.draws import Draws
from refbench.refalign.training.recipes import AUGMENTATION


def subject(rows: int = 40, columns: int = 60) -> np.ndarray:
    """A coloured ellipse on white."""
    y, x = np.mgrid[:rows, :columns]
    inside = ((x - columns / 2) / (columns / 2)) ** 2 + ((y - rows / 2) / (rows / 2)) ** 2 < 0.8
    image_HWC = np.full((rows, columns, 3), 255, np.uint8)
    image_HWC[inside] = np.stack([x * 3, y * 4, x + y], axis=2)[inside] % 230
    return image_HWC


def drawn(strengths: ReferenceAugmentation, position: int = 0, place: int = 0) -> np.ndarray:
    return augmented(subject(), strengths, Draws(seed=1, epoch=0, position=position), place)


def darkness(image_HWC: np.ndarray) -> float:
    """How much is not white: a map of the plane keeps it, times the change of area."""
    return float((255.0 - image_HWC).sum())


def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    image_HWC = subject()
    assert augmented(image_HWC, ReferenceAugmentation(), Draws(seed=0, epoch=0, position=0), 0) is image_HWC
    assert ReferenceAugmentation().is_off and not AUGMENTATION.is_off


def test_a_flip_is_a_mirror_image() -> None:
    np.testing.assert_array_equal(drawn(ReferenceAugmentation(flip=1.0)), subject()[:, ::-1])
    seen = {
        bool((drawn(ReferenceAugmentation(flip=0.5), position) == subject()).all()) for position in range(12)
    }
    assert seen == {True, False}


@pytest.mark.parametrize(
    "strengths", [{"rotation_degrees": 180}, {"shear_degrees": 45}, {"rotation_degrees": 15}]
)
@pytest.mark.parametrize("position", range(4))
def test_turning_and_shearing_cut_nothing_off(strengths: dict[str, float], position: int) -> None:
    image_HWC = drawn(ReferenceAugmentation(**strengths), position)
    assert darkness(image_HWC) == pytest.approx(darkness(subject()), rel=0.02)
    assert image_HWC.shape != subject().shape


def test_scaling_changes_both_sides_apart() -> None:
    shapes = {drawn(ReferenceAugmentation(scale=0.5), position).shape for position in range(8)}
    assert len(shapes) == 8
    for rows, columns, _ in shapes:
        assert 20 <= rows <= 60 and 30 <= columns <= 90


def test_colours_change_and_white_stays() -> None:
    image_HWC = drawn(ReferenceAugmentation(colour=0.5))
    background = (subject() == 255).all(axis=2)
    assert (image_HWC[background] == 255).all()
    assert (image_HWC[~background] != subject()[~background]).mean() > 0.5


def test_blur_smooths() -> None:
    def roughness(image_HWC: np.ndarray) -> float:
        return float(np.abs(np.diff(image_HWC.astype(float), axis=1)).mean())

    blurred = [roughness(drawn(ReferenceAugmentation(blur_px=20.0), position)) for position in range(8)]
    assert max(blurred) < roughness(subject()) and min(blurred) < roughness(subject()) / 2


def test_a_reference_depends_on_its_position_and_place_alone() -> None:
    np.testing.assert_array_equal(drawn(AUGMENTATION, 3, 1), drawn(AUGMENTATION, 3, 1))
    others = [drawn(AUGMENTATION, 3, 2), drawn(AUGMENTATION, 4, 1)]
    for other in others:
        assert other.shape != drawn(AUGMENTATION, 3, 1).shape or (other != drawn(AUGMENTATION, 3, 1)).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1)])
def test_the_smallest_pictures_survive(size: tuple[int, int]) -> None:
    image_HWC = np.zeros((*size, 3), np.uint8)
    strong = ReferenceAugmentation(
        rotation_degrees=180, scale=0.9, flip=0.5, shear_degrees=45, blur_px=50, colour=1.0
    )
    for position in range(6):
        made = augmented(image_HWC, strong, Draws(seed=0, epoch=0, position=position), 0)
        assert made.dtype == np.uint8 and made.ndim == 3 and min(made.shape[:2]) >= 1


@pytest.mark.parametrize("name", ["rotation_degrees", "scale", "flip", "shear_degrees", "blur_px", "colour"])
def test_a_strength_out_of_range_is_refused(name: str) -> None:
    for value in (-0.1, 1000.0, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must lie in 0"):
            ReferenceAugmentation(**{name: value})
