"""Training data, the pure rules: frames, geometry, masks, choice of subjects, draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refbench.bench.errors import SampleError

pytest.importorskip("torch")
coco = pytest.importorskip("pycocotools.mask")

from refbench.refalign.data.draws import Draws, below, permutation, uniform  # noqa: E402
from refbench.refalign.data.frames import cover, frame_indices, letterbox, stacked_references  # noqa: E402
from refbench.refalign.data.sample import ClipRule, DropoutRates  # noqa: E402
from refbench.refalign.data.subjects import AnnotatedSubject, chosen_cutouts, cut_out, run_lengths  # noqa: E402

SMALL = ClipRule(width=64, height=32, num_frames=5, stride=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 831},
        {"height": 8},
        {"height": 0},
        {"num_frames": 80},
        {"num_frames": 0},
        {"stride": 0},
        {"max_references": -1},
    ],
)
def test_a_clip_rule_that_the_vae_cannot_hold_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ClipRule(**fields)


def test_the_published_window_is_241_frames() -> None:
    assert ClipRule().window_frames == 241


def test_short_clips_repeat_frames_in_order() -> None:
    assert frame_indices(10, 13, SMALL, lambda n: 0) == [10, 10, 11, 11, 12]
    assert frame_indices(0, 5, SMALL, lambda n: 0) == [0, 1, 2, 3, 4]
    assert frame_indices(7, 8, SMALL, lambda n: 0) == [7, 7, 7, 7, 7]


def test_clips_between_frame_count_and_window_are_spread_and_truncated() -> None:
    assert frame_indices(0, 6, SMALL, lambda n: 0) == [0, 1, 2, 3, 5]
    asked = []
    assert frame_indices(2, 16, SMALL, lambda n: asked.append(n) or 1) == [3, 6, 9, 12, 15]
    assert asked == [2]


@given(
    first=st.integers(0, 500),
    length=st.integers(1, 400),
    quarter=st.integers(0, 20),
    stride=st.integers(1, 5),
    share=st.floats(0, 1, exclude_max=True),
)
def test_frame_rule(first: int, length: int, quarter: int, stride: int, share: float) -> None:
    rule = ClipRule(num_frames=4 * quarter + 1, stride=stride)
    indices = frame_indices(first, first + length, rule, lambda n: int(share * n))
    assert len(indices) == rule.num_frames and indices == sorted(indices)
    assert first <= indices[0] and indices[-1] < first + length
    times = Counter(indices)
    if length <= rule.num_frames:
        assert set(times) == set(range(first, first + length))
        assert max(times.values()) - min(times.values()) <= 1
        assert [times[index] for index in sorted(times)] == sorted(times.values(), reverse=True)
    elif length >= rule.window_frames:
        assert set(np.diff(indices)) <= {stride}
    else:
        assert (indices[0], indices[-1]) == (first, first + length - 1 if rule.num_frames > 1 else first)


def test_no_frame_in_the_cut_is_a_reason() -> None:
    with pytest.raises(SampleError, match=r"no frame lies in \[5, 5\)"):
        frame_indices(5, 5, SMALL, lambda n: 0)


@pytest.mark.parametrize(
    ("columns", "rows", "box"),
    [
        (64, 64, (16, 0, 48, 32)),
        (200, 20, (0, 13, 64, 19)),
        (16, 8, (0, 0, 64, 32)),
        (1, 300, (31, 0, 32, 32)),
    ],
)
def test_letterbox_geometry(columns: int, rows: int, box: tuple[int, int, int, int]) -> None:
    boxed = letterbox(np.full((rows, columns, 3), 40, np.uint8), SMALL)
    expected = np.full((32, 64, 3), 255, np.uint8)
    expected[box[1] : box[3], box[0] : box[2]] = 40
    np.testing.assert_array_equal(boxed, expected)


def test_letterbox_is_antialiased_and_bilinear() -> None:
    board = np.indices((128, 256)).sum(0) % 2 * 255
    boxed = letterbox(np.repeat(board[:, :, None], 3, 2).astype(np.uint8), SMALL)
    assert abs(boxed.astype(int) - 127).max() <= 2
    edge = np.zeros((2, 4, 3), np.uint8)
    edge[:, 2:] = 160
    row = letterbox(edge, SMALL)[16, :, 0].astype(int)
    assert row.min() == 0 and row.max() == 160 and (np.diff(row) >= 0).all()


def test_cover_scales_to_the_tight_side_and_crops_the_middle() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48] = 200
    assert (cover(image, 64, 32) == 200).all()
    wide = np.zeros((32, 128, 3), np.uint8)
    wide[:, 32:96] = 200
    assert (cover(wide, 64, 32) == 200).all()
    assert cover(np.zeros((720, 1280, 3), np.uint8), 832, 480).shape == (480, 832, 3)
    assert cover(np.zeros((7, 3, 3), np.uint8), 64, 32).shape == (32, 64, 3)


def test_no_references_is_an_empty_stack() -> None:
    assert stacked_references([], SMALL).shape == (0, 32, 64, 3)


def counts_of(mask_HW: np.ndarray) -> str:
    return coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))["counts"].decode()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 40), width=st.integers(1, 40), share=st.floats(0, 1))
def test_run_lengths_are_those_of_the_mask(seed: int, height: int, width: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    mask_HW = generator.random((height, width)) < share
    runs = run_lengths(counts_of(mask_HW), height, width)
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(flat.reshape(width, height).T, mask_HW)


@settings(max_examples=300, deadline=None)
@given(counts=st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=30))
def test_a_code_that_is_admitted_fills_the_frame(counts: str) -> None:
    try:
        runs = run_lengths(counts, 6, 9)
    except SampleError:
        return
    assert runs.sum() == 54 and runs.min() >= 0
    assert coco.decode({"size": [6, 9], "counts": counts.encode()}).max() <= 1


@pytest.mark.parametrize("counts", ["", "1000", "o" * 12, "oooooooooooo0", "~~~~", "é", "0" * 10_000, "\x00"])
def test_hostile_codes_are_refused(counts: str) -> None:
    with pytest.raises(SampleError, match=r"no run-length code of 30×20 pixels"):
        run_lengths(counts, 20, 30)


def subject(
    number: int,
    box: tuple[int, int, int, int] | None,
    *,
    aes: float | None = None,
    gme: float | None = None,
    fallback: tuple[float, float, float, float] = (0, 0, 0, 0),
    size: tuple[int, int] = (40, 60),
) -> AnnotatedSubject:
    """A subject whose mask fills `box` (left, top, right, bottom) but for its lower right pixel."""
    mask_HW = np.zeros(size)
    if box is not None:
        mask_HW[box[1] : box[3], box[0] : box[2]] = 1
        mask_HW[box[3] - 1, box[2] - 1] = 0
    return AnnotatedSubject(
        id=str(number),
        label=f"thing {number}",
        aes_score=aes,
        gme_score=gme,
        box=fallback,
        mask_counts=counts_of(mask_HW),
        mask_size=size,
    )


def chosen(*subjects: AnnotatedSubject, limit: int = 3) -> list[str]:
    return [cutout.subject.id for cutout in chosen_cutouts(subjects, 40, 60, limit)]


def test_either_score_at_its_threshold_qualifies() -> None:
    box = (0, 0, 9, 9)
    subjects = [
        subject(1, box, aes=4.5, gme=0.1),
        subject(2, box, aes=4.4, gme=0.59),
        subject(3, box, aes=1.0, gme=0.6),
        subject(4, box),
    ]
    assert chosen(*subjects) == ["1", "3"]
    assert chosen(subjects[1], subjects[3]) == ["2", "4"]


def test_of_many_the_largest_crops_are_taken_in_annotation_order() -> None:
    sides = {1: 10, 2: 4, 3: 12, 4: 11, 5: 5}
    subjects = [subject(number, (0, 0, side, side), aes=5) for number, side in sides.items()]
    assert chosen(*subjects) == ["1", "3", "4"]
    assert chosen(*subjects, limit=1) == ["3"]
    assert chosen(*(subject(number, (0, 0, 8, 8)) for number in range(1, 6))) == ["1", "2", "3"]


def test_outside_the_mask_is_white_and_the_region_is_the_masks_box() -> None:
    frame_HWC = np.full((40, 60, 3), 70, np.uint8)
    (cutout,) = chosen_cutouts([subject(1, (5, 6, 15, 26))], 40, 60, 3)
    piece_HWC = cut_out(frame_HWC, cutout)
    expected = np.full((20, 10, 3), 70, np.uint8)
    expected[-1, -1] = 255
    np.testing.assert_array_equal(piece_HWC, expected)
    assert (frame_HWC == 70).all()


def test_an_empty_mask_falls_back_to_the_box_clipped_to_the_frame() -> None:
    (cutout,) = chosen_cutouts([subject(1, None, fallback=(-3.5, 10.2, 20.1, 99.0))], 40, 60, 3)
    piece_HWC = cut_out(np.full((40, 60, 3), 70, np.uint8), cutout)
    assert piece_HWC.shape == (30, 21, 3) and (piece_HWC == 70).all()
    with pytest.raises(SampleError, match="no subject is annotated"):
        chosen_cutouts([subject(1, None, fallback=(70, 5, 90, 9))], 40, 60, 3)


def test_a_mask_of_another_size_is_a_reason() -> None:
    with pytest.raises(SampleError, match=r"subject 7 is for 60×41 pixels, the frame has 60×40"):
        chosen_cutouts([subject(7, (0, 0, 5, 5), size=(41, 60))], 40, 60, 3)


def test_draws_are_what_they_were() -> None:
    """Fixed numbers: another stream would send a resumed run elsewhere."""
    assert uniform("0/0/0/condition") == 0.6081130642380191
    assert below(1000, "3/1/2/start") == 944
    assert permutation(8, "5/0/shards").tolist() == [0, 1, 6, 4, 7, 3, 2, 5]


def test_draws_differ_by_seed_epoch_position_and_purpose() -> None:
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (11, 0, 0)]
    draws = [Draws(seed=seed, epoch=epoch, position=position) for seed, epoch, position in places]
    assert len({draw.uniform(what) for draw in draws for what in ("start", "gpt")}) == 2 * len(places)
    assert len({draw.below(10**9, "start") for draw in draws}) == len(places)
    assert len({tuple(draw.permutation(20, "start")) for draw in draws}) == len(places)


@given(count=st.integers(0, 200), key=st.text(max_size=20))
def test_permutations_hold_every_number_once(count: int, key: str) -> None:
    assert sorted(permutation(count, key).tolist()) == list(range(count))


def test_dropout_frequencies() -> None:
    total = 20_000
    rates = DropoutRates()
    drawn = Counter(Draws(seed=7, epoch=0, position=p).dropped(rates) for p in range(total))
    expected = {"text": 0.1, "references": 0.1, "both": 0.1, "nothing": 0.7}
    for dropped, share in expected.items():
        deviation = abs(drawn[dropped] / total - share) / (share * (1 - share) / total) ** 0.5
        assert deviation < 4, (dropped, drawn[dropped])


@pytest.mark.parametrize(
    ("r", "dropped"),
    [(0.0, "text"), (0.0999, "text"), (0.1, "references"), (0.2001, "both"), (0.3001, "nothing")],
)
def test_what_is_dropped_follows_one_draw(r: float, dropped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refbench.refalign.data.draws.uniform", lambda key: r)
    assert Draws(seed=0, epoch=0, position=0).dropped(DropoutRates()) == dropped


@pytest.mark.parametrize("rates", [{"text": -0.1}, {"both": 0.9}, {"references": float("nan")}])
def test_dropout_rates_are_shares(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares of one whole"):
        DropoutRates(**rates)
