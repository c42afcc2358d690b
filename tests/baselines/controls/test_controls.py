"""The control methods: how their frames look; sample, seed and options alone decide them."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from refbench.baselines.controls.black import Black
from refbench.baselines.controls.canvas import CanvasOptions, letterboxed, reference_layout
from refbench.baselines.controls.flash_frame import FlashFrame, FlashOptions, pattern
from refbench.baselines.controls.noise import Noise, NoiseOptions
from refbench.baselines.controls.pan_reference import PanOptions, PanReference
from refbench.baselines.controls.static_reference import StaticReference
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError
from refbench.bench.method import Frames, Method
from refbench.bench.sample import Reference, Sample
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.video import Video, uniform_frames, write_video
from refbench.metrics.motion_amplitude import MotionAmplitude

# `printf singleobj_1/0/1 | openssl dgst -shake256 -xoflen 12`: four cells of three channels.
EXPECTED_CELLS = list(bytes.fromhex("6c8628197c9b59f7e53050e5"))

RED, BLUE = (200, 20, 20), (20, 20, 200)


def saved(folder: Path, images: dict[str, Image.Image], sample_id: str = "multiobject_1") -> Sample:
    """A sample whose references are these images."""
    for name, image in images.items():
        image.save(folder / name)
    references = tuple(Reference(path=name, root=folder, label="Cup", kind="object") for name in images)
    return Sample(id=sample_id, category="multiobject", prompt="two cups", references=references)


def plain(size: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", size, colour)


def disc(side: int = 200) -> Image.Image:
    """A soft dark disc in the middle of a white square."""
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).ellipse((side * 0.3, side * 0.3, side * 0.7, side * 0.7), fill="black")
    return image.filter(ImageFilter.GaussianBlur(4))


def texture(side: int = 200) -> Image.Image:
    """A smooth pattern with detail everywhere, which optical flow can follow."""
    noise = np.random.default_rng(0).integers(0, 256, (side // 5, side // 5, 3), np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def generated(method: Method, sample: Sample, seed: int = 0) -> Frames:
    made = method.load(Environment()).generate(sample, seed)
    assert isinstance(made, Frames)
    return made


def frames_of(method: Method, sample: Sample, seed: int = 0) -> list[np.ndarray]:
    return list(generated(method, sample, seed).images)


def controls(**size: int) -> list[Method]:
    return [
        StaticReference(CanvasOptions(**size)),
        PanReference(PanOptions(**size)),
        FlashFrame(FlashOptions(**{"cell_px": 8} | size)),
        Noise(NoiseOptions(**size)),
        Black(CanvasOptions(**size)),
    ]


def amplitude(method: Method, sample: Sample, path: Path) -> float:
    made = generated(method, sample)
    write_video(path, made.images, made.fps)
    return MotionAmplitude().load(Environment()).score(sample, Video(path)).value


def dark_centre(frame_HWC: np.ndarray) -> tuple[float, float, float]:
    """Centre (x, y) and amount of what is dark."""
    darkness_HW = 255.0 - frame_HWC.mean(axis=2)
    rows, columns = np.indices(darkness_HW.shape)
    total = darkness_HW.sum()
    return (columns * darkness_HW).sum() / total, (rows * darkness_HW).sum() / total, total


@pytest.mark.parametrize(
    "method", controls(width=70, height=50, num_frames=6), ids=lambda method: method.name
)
def test_frames_have_the_asked_for_size_count_and_type(method: Method, tmp_path: Path) -> None:
    sample = saved(tmp_path, {"a.png": plain((30, 30), RED)})
    frames = frames_of(method, sample)
    assert len(frames) == 6
    assert all(frame.shape == (50, 70, 3) and frame.dtype == np.uint8 for frame in frames)
    made = generated(method, sample)
    written = write_video(tmp_path / "out.mp4", made.images, made.fps)
    probe = Video(tmp_path / "out.mp4").probe
    assert (written.frames, probe.frames, probe.width, probe.height, probe.fps) == (6, 6, 70, 50, 16.0)


@pytest.mark.parametrize("name", ["static-reference", "pan-reference", "flash-frame", "noise", "black"])
def test_the_same_sample_and_seed_give_the_same_frames(name: str, tmp_path: Path) -> None:
    size = {"width": 64, "height": 48, "num_frames": 4}
    method = next(method for method in controls(**size) if method.name == name)
    sample = saved(tmp_path, {"a.png": disc(60)})
    other = saved(tmp_path, {"b.png": plain((9, 9), BLUE)}, "multiobject_2")
    used = method.load(Environment())
    before, made = used.generate(other, 5), used.generate(sample, 3)
    assert isinstance(before, Frames) and isinstance(made, Frames)
    assert len(list(before.images)) == 4
    np.testing.assert_array_equal(frames_of(method, sample, 3), list(made.images))


@pytest.mark.parametrize("method", controls(num_frames=100_000), ids=lambda method: method.name)
def test_frames_are_made_when_they_are_asked_for(method: Method, tmp_path: Path) -> None:
    made = generated(method, saved(tmp_path, {"a.png": disc(60)}))
    assert len(list(islice(made.images, 2))) == 2


@pytest.mark.parametrize("method", controls(width=64, height=48)[:3], ids=lambda method: method.name)
def test_references_are_needed(method: Method, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="the sample has no reference"):
        generated(method, saved(tmp_path, {}))
    sample = saved(tmp_path, {"a.png": disc(60)})
    (tmp_path / "a.png").unlink()
    with pytest.raises(SampleError, match=r"reference image a\.png is missing"):
        generated(method, sample)


def test_references_stand_side_by_side_in_order_with_their_aspect(tmp_path: Path) -> None:
    sample = saved(tmp_path, {"a.png": plain((40, 20), RED), "b.png": plain((10, 40), BLUE)})
    layout = np.asarray(reference_layout(sample, 201, 100)).astype(int)
    for colour, box in ((RED, (0, 25, 100, 75)), (BLUE, (138, 0, 163, 100))):
        rows, columns = np.nonzero((layout == colour).all(axis=2))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box
    assert (layout[:25, :100] == 255).all()
    assert (layout[:, 101:138] == 255).all()


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (3, 3), (641, 479)])
def test_any_aspect_fits(size: tuple[int, int]) -> None:
    fitted = np.asarray(letterboxed(plain(size, RED), 60, 40))
    assert fitted.shape == (40, 60, 3)
    red = (fitted == RED).all(axis=2)
    assert red.any()
    assert red.any(axis=0).all() or red.any(axis=1).all()
    assert ((fitted == 255).all(axis=2) | red).all()


def test_more_references_than_columns_are_refused(tmp_path: Path) -> None:
    sample = saved(tmp_path, {f"{index}.png": plain((2, 2), RED) for index in range(17)})
    assert reference_layout(sample, 17, 16).size == (17, 16)
    with pytest.raises(SampleError, match="17 references do not fit into 16 pixels"):
        reference_layout(sample, 16, 16)


def test_transparency_is_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((*RED, 255), (10, 10, 30, 30))
    (frame,) = frames_of(
        StaticReference(CanvasOptions(width=40, height=40, num_frames=1)), saved(tmp_path, {"a.png": image})
    )
    assert tuple(frame[0, 0]) == (255, 255, 255)
    assert tuple(frame[20, 20]) == RED


def test_static_frames_are_the_layout_over_and_over(tmp_path: Path) -> None:
    sample = saved(tmp_path, {"a.png": disc(60)})
    frames = frames_of(StaticReference(CanvasOptions(width=64, height=48, num_frames=5)), sample, seed=1)
    layout = np.asarray(reference_layout(sample, 64, 48))
    assert all(np.array_equal(frame, layout) for frame in frames)


def test_the_pan_is_steady_and_finer_than_a_pixel(tmp_path: Path) -> None:
    options = PanOptions(width=160, height=120, num_frames=41, travel=0.1, zoom=1.0)
    frames = frames_of(PanReference(options), saved(tmp_path, {"a.png": disc()}))
    centres = [dark_centre(frame) for frame in frames]
    steps_x = [later[0] - earlier[0] for earlier, later in pairwise(centres)]
    steps_y = [later[1] - earlier[1] for earlier, later in pairwise(centres)]
    # The window moves right and down, so what it shows moves left and up.
    np.testing.assert_allclose(steps_x, -0.1 * 160 / 40, atol=0.02)
    np.testing.assert_allclose(steps_y, -0.1 * 120 / 40, atol=0.02)


def test_the_zoom_grows_steadily_to_the_pictures_own_size(tmp_path: Path) -> None:
    sample = saved(tmp_path, {"a.png": disc()})
    options = PanOptions(width=160, height=120, num_frames=11, travel=0.0, zoom=1.44)
    frames = frames_of(PanReference(options), sample)
    amounts = [dark_centre(frame)[2] for frame in frames]
    # Areas grow with the square of the magnification.
    np.testing.assert_allclose([b / a for a, b in pairwise(amounts)], 1.44**0.2, atol=0.02)
    np.testing.assert_array_equal(frames[-1], np.asarray(reference_layout(sample, 160, 120)))


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_pan_without_travel_and_zoom_is_the_still(num_frames: int, tmp_path: Path) -> None:
    sample = saved(tmp_path, {"a.png": disc(60)})
    size = {"width": 64, "height": 48, "num_frames": num_frames}
    panned = frames_of(PanReference(PanOptions(travel=0.0, zoom=1.0, **size)), sample)
    np.testing.assert_array_equal(panned, frames_of(StaticReference(CanvasOptions(**size)), sample))


@pytest.mark.parametrize(("travel", "zoom"), [(1.0, 4.0), (1.0, 1.0), (0.0, 4.0), (0.333, 1.777)])
def test_the_window_never_leaves_the_picture(travel: float, zoom: float, tmp_path: Path) -> None:
    options = PanOptions(width=67, height=45, num_frames=7, travel=travel, zoom=zoom)
    frames = frames_of(PanReference(options), saved(tmp_path, {"a.png": plain((67, 45), RED)}))
    assert [frame.shape for frame in frames] == [(45, 67, 3)] * 7


def test_motion_amplitude_tells_the_controls_apart(tmp_path: Path) -> None:
    size = {"width": 208, "height": 120, "num_frames": 13}
    sample = saved(tmp_path, {"a.png": texture()})
    still, pan, flash, noise, black = (
        amplitude(method, sample, tmp_path / f"{method.name}.mp4")
        for method in (
            StaticReference(CanvasOptions(**size)),
            PanReference(PanOptions(**size)),
            FlashFrame(FlashOptions(flash_frames=1, **size)),
            Noise(NoiseOptions(**size)),
            Black(CanvasOptions(**size)),
        )
    )
    assert still == pytest.approx(0.0, abs=0.01)
    assert black == 0.0
    assert pan > 0.2
    assert flash > 0.2
    assert noise < pan / 2


def test_noise_depends_on_sample_seed_and_frame(tmp_path: Path) -> None:
    method = Noise(NoiseOptions(width=64, height=48, num_frames=3))
    one, two = saved(tmp_path, {}, "singleobj_1"), saved(tmp_path, {}, "singleobj_11")
    videos = [frames_of(method, sample, seed) for sample, seed in ((one, 0), (one, 1), (one, 11), (two, 1))]
    pictures = [frame.tobytes() for video in videos for frame in video]
    assert len(set(pictures)) == len(pictures)


def test_noise_is_uniform_and_blocky(tmp_path: Path) -> None:
    method = Noise(NoiseOptions(width=250, height=130, num_frames=4, cell_px=8))
    frames = np.array(frames_of(method, saved(tmp_path, {})))
    cells = frames[:, ::8, ::8]
    restored = cells.repeat(8, axis=1).repeat(8, axis=2)[:, :130, :250]
    np.testing.assert_array_equal(frames, restored)
    quarters, _ = np.histogram(cells, bins=4, range=(0, 256))
    np.testing.assert_allclose(quarters / cells.size, 0.25, atol=0.02)


def test_noise_has_the_same_bytes_everywhere(tmp_path: Path) -> None:
    method = Noise(NoiseOptions(width=16, height=16, num_frames=2, cell_px=8))
    frames = frames_of(method, saved(tmp_path, {}, "singleobj_1"), seed=0)
    assert frames[1][::8, ::8].reshape(-1).tolist() == EXPECTED_CELLS


def shown(frames: list[np.ndarray], sample: Sample) -> list[int]:
    """The frames that show the references."""
    layout = np.asarray(reference_layout(sample, frames[0].shape[1], frames[0].shape[0]))
    return [index for index, frame in enumerate(frames) if np.array_equal(frame, layout)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 5, 6]),
        ({"flash_frames": 1}, [5]),
        ({"flash_at": 0.0}, [0, 1, 2]),
        ({"flash_at": 1.0, "flash_frames": 2}, [9, 10]),
        ({"flash_frames": 11}, list(range(11))),
    ],
)
def test_the_references_flash_where_they_are_asked_for(
    options: dict[str, float], expected: list[int], tmp_path: Path
) -> None:
    method = FlashFrame(FlashOptions(width=64, height=48, num_frames=11, cell_px=8, **options))  # type: ignore[arg-type]
    sample = saved(tmp_path, {"a.png": disc(60)})
    assert shown(frames_of(method, sample), sample) == expected
    assert f"shown in frames {expected[0]} to {expected[-1]} alone" in str(
        method.card().reference_preparation
    )


@pytest.mark.parametrize("num_frames", [69, 77, 81, 121])
@pytest.mark.parametrize("flash_at", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_one_or_two_of_nexusscores_frames_see_the_flash(num_frames: int, flash_at: float) -> None:
    flash = FlashOptions(num_frames=num_frames, flash_at=flash_at).flash
    looked_at = uniform_frames(32).indices
    assert looked_at is not None
    seen = sum(index in flash for index in looked_at(num_frames, num_frames))
    # At 121 frames the 32 lie further apart than the flash is long.
    assert seen in ((0, 1) if num_frames == 121 else (1, 2))


def test_the_pattern_drifts_seamlessly_and_depends_on_sample_and_seed(tmp_path: Path) -> None:
    options = FlashOptions(width=96, height=64, num_frames=9, cell_px=16, drift_px=5, flash_at=0.0)
    sample = saved(tmp_path, {"a.png": disc(60)}, "singleobj_1")
    frames = frames_of(FlashFrame(options), sample, seed=4)
    for index in range(3, 9):
        np.testing.assert_array_equal(
            frames[index], np.roll(pattern("singleobj_1", 4, options), 5 * index, axis=1)
        )
    patterns = [
        pattern(sample_id, seed, options) for sample_id, seed in (("a_1", 0), ("a_1", 1), ("a_11", 0))
    ]
    assert len({one.tobytes() for one in patterns}) == 3
    for one in patterns:
        steps = np.abs(np.diff(one.astype(int), axis=1)).mean()
        seam = np.abs(one[:, 0].astype(int) - one[:, -1]).mean()
        assert seam < 2 * steps


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"flash_frames": 0}, "flash_frames must be 1 to num_frames, 0 is not"),
        ({"flash_frames": 82}, "flash_frames must be 1 to num_frames, 82 is not"),
        ({"flash_at": 1.5}, "flash_at"),
        ({"flash_at": float("nan")}, "flash_at"),
        ({"cell_px": 0}, "cell_px"),
        ({"drift_px": -1}, "drift_px"),
        ({"drift_px": 833}, "drift_px"),
    ],
)
def test_wrong_flashes_are_refused(options: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FlashOptions(**options)  # type: ignore[arg-type]


def test_black_is_black(tmp_path: Path) -> None:
    frames = frames_of(Black(CanvasOptions(width=32, height=16, num_frames=3)), saved(tmp_path, {}))
    assert np.array_equal(frames, np.zeros((3, 16, 32, 3), np.uint8))


def test_the_page_on_controls_names_every_control_and_component() -> None:
    page = (Path(__file__).parents[3] / "docs/controls.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    for component in COMPONENTS.values():
        assert any(component.label in line for line in table), component.label
    for name in ("static-reference", "pan-reference", "noise", "black", "flash-frame", "wan-t2v"):
        assert any(line.startswith(f"| `{name}") for line in table), name
