"""Training data in OpenS2V-5M's layout: a drawn data set, hostile annotations, and the real demo clip."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refbench.bench.errors import SampleError, UserError
from refbench.bench.video import ALL_FRAMES, Video, write_video

pytest.importorskip("torch")
coco = pytest.importorskip("pycocotools.mask")

from refbench.refalign.data.augmentation import ReferenceAugmentation  # noqa: E402
from refbench.refalign.data.dataset import TrainingData, open_source, open_training_data  # noqa: E402
from refbench.refalign.data.draws import Draws  # noqa: E402
from refbench.refalign.data.frames import cover, letterbox  # noqa: E402
from refbench.refalign.data.pairs import cluster_of  # noqa: E402
from refbench.refalign.data.sample import Clip, ClipRule  # noqa: E402
from refbench.refalign.data.source import ReferenceRates  # noqa: E402

RULE = ClipRule(width=64, height=32, num_frames=5, stride=2)
OWN = ReferenceRates(cross_pair=0)
CROSSED = ReferenceRates(cross_pair=1)
GPT = ReferenceRates(cross_pair=0, gpt=1)
WIDTH, HEIGHT, FRAMES = 96, 64, 14
# The annotated frame is cropped to 80×56 pixels: rows and columns outside are the watermark.
CROP = [8, 88, 4, 60]
BOXES = {"1": (10, 10, 30, 40), "2": (40, 8, 70, 50), "3": (2, 2, 8, 8), "4": (30, 44, 60, 54)}


def clip_id(name: str) -> str:
    return f"{name}_part1_step1-0-14_step2-0-14_step3_step4"


def rle(box: tuple[int, int, int, int], size: tuple[int, int] = (56, 80)) -> dict[str, Any]:
    """A mask that fills the box but for its first column's upper half."""
    mask_HW = np.zeros(size, np.uint8, order="F")
    mask_HW[box[1] : box[3], box[0] : box[2]] = 1
    mask_HW[box[1] : (box[1] + box[3]) // 2, box[0]] = 0
    code = coco.encode(mask_HW)
    return {"size": list(code["size"]), "counts": code["counts"].decode(), "score": [0.9]}


def entry(path: str, *, still: int = 3) -> dict[str, Any]:
    """An annotation in the real layout: four subjects, of which 1, 2 and 4 qualify."""
    scores = {"1": (0.1, 5.0), "2": (0.7, 1.0), "3": (0.2, 2.0), "4": (0.3, 4.5)}
    return {
        "metadata": {
            "cut": [0, FRAMES],
            "crop": list(CROP),
            "tech": 2.0,
            "fps": 8.0,
            "num_frames": FRAMES,
            "resolution": {"height": HEIGHT, "width": WIDTH},
            "path": path,
            "face_cut": [2, 13],
            "face_cap_qwen": f"caption of {path}",
        },
        "word_tags": {"subject": ["thing"]},
        "annotation": {
            "ann_frame_data": {
                "ann_frame_idx": still,
                "annotations": [
                    {
                        "class_name": f"thing {number}",
                        "bbox": [float(side) for side in box],
                        "gme_score": scores[number][0],
                        "aes_score": scores[number][1],
                    }
                    for number, box in BOXES.items()
                ],
                "box_format": "xyxy",
            },
            "mask_map": {number: {"class_name": f"thing {number}"} for number in BOXES},
            "mask_annotation": {str(still): {number: rle(box) for number, box in BOXES.items()}},
        },
    }


def picture(shade: int) -> np.ndarray:
    """The frame as drawn: black watermark border, a shade, brighter subjects."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    inner = image[CROP[2] : CROP[3], CROP[0] : CROP[1]]
    inner[:] = shade
    for number, (left, top, right, bottom) in BOXES.items():
        inner[top:bottom, left:right] = (shade // 2, 60 * int(number), 120)
    return image


def clip_frames(base: int) -> Iterator[np.ndarray]:
    return (picture(base + 6 * index) for index in range(FRAMES))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set's files without annotations: three videos in two shards, and GPT frames of one."""
    folder = tmp_path_factory.mktemp("opens2v")
    for shard, name, base in (("one", "a", 60), ("one", "b", 100), ("two", "a", 140)):
        path = folder / "videos" / shard / f"{name}_part1.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, clip_frames(base), 8, crf=1)
    gpt = folder / "gpt_frames" / "a_part1_step1-0-14_step2-0-14_step4_step5_step6"
    gpt.mkdir(parents=True)
    for number, (name, colour) in enumerate(
        [("blue_top", "blue"), ("cat", "red"), ("x", "green"), ("y", "black")]
    ):
        Image.new("RGB", (40, 40), colour).save(gpt / f"{number}_{name}.png")
    Image.new("RGB", (40, 40), "white").save(gpt / "main_image.png")
    return folder


Shards = dict[str, dict[str, Any]]


@pytest.fixture
def layout(drawn: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set: layout(shards, pairs) beside links to the drawn files."""

    def write(shards: Shards | None = None, pairs: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "data"
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        for name in ("videos", "gpt_frames"):
            if not (folder / name).exists():
                (folder / name).symlink_to(drawn / name)
        for shard, entries in (shards or default_shards()).items():
            (folder / "annotations" / f"{shard}.json").write_text(json.dumps(entries, indent=4))
        if pairs is not None:
            (folder / "cross_frames_pairs").mkdir(exist_ok=True)
            (folder / "cross_frames_pairs" / "cross_frames_pairs.json").write_text(json.dumps(pairs))
        return folder

    return write


def default_shards() -> Shards:
    return {
        "one": {clip_id(name): entry(f"{name}_part1.mp4") for name in ("a", "b")},
        "two": {clip_id("a"): entry("a_part1.mp4", still=5)},
    }


def pair(cur: str, cur_class: str, aft: str, aft_class: str) -> dict[str, Any]:
    return {
        "cur_id": cur,
        "aft_id": aft,
        "cur_class_id": cur_class,
        "aft_class_id": aft_class,
        "cur_class_name": "thing",
        "aft_class_name": "thing",
        "text_similarity": 0.9,
        "image_similarity": 0.9,
        "cur_frame_idx": 3,
        "aft_frame_idx": 5,
    }


ONE_A, TWO_A = f"one/{clip_id('a')}", f"two/{clip_id('a')}"
PAIRS = {
    "other": [],
    "a": [
        pair(ONE_A, "1", TWO_A, "2"),
        pair(ONE_A, "3", TWO_A, "3"),
        pair(ONE_A, "1", ONE_A, "4"),
    ],
}


def clip(
    folder: Path, key: str, rates: ReferenceRates = OWN, position: int = 0, rule: ClipRule = RULE
) -> Clip:
    """The clip `<shard>/<clip id>`; its draws are those of a position."""
    source = open_source(folder, None)
    shard, _, name = key.partition("/")
    number = [other.name for other in source.shards].index(shard)
    found = source.shards[number].find(name)
    assert found is not None
    return source.clip(number, found, rule, rates, Draws(seed=1, epoch=0, position=position))


def near(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for what a lossy codec does."""
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(int) - expected.astype(int))
    assert difference.mean() < 3, difference.mean()


def decoded(folder: Path, key: str, index: int) -> np.ndarray:
    """The cropped frame of a clip's video."""
    shard, _, name = key.partition("/")
    video = Video(folder / "videos" / shard / f"{name.split('_step')[0]}.mp4")
    frame_HWC = list(video.frames(ALL_FRAMES))[index]
    return frame_HWC[CROP[2] : CROP[3], CROP[0] : CROP[1]]


def piece(frame_HWC: np.ndarray, number: str, *, mirrored: bool = False) -> np.ndarray:
    """A subject of the drawn frame, cut out as the rules say."""
    left, top, right, bottom = BOXES[number]
    cut = frame_HWC[top:bottom, left:right].copy()
    cut[: (bottom - top) // 2, 0] = 255
    return letterbox(cut[:, ::-1] if mirrored else cut, RULE)


def test_a_clip_is_cropped_cut_and_covered(layout: Callable[..., Path]) -> None:
    folder = layout()
    starts = set()
    for position in range(8):
        made = clip(folder, ONE_A, position=position)
        starts.add(made.first_frame)
        frames = [decoded(folder, ONE_A, made.first_frame + 2 * step) for step in range(5)]
        np.testing.assert_array_equal(made.video_FHWC, [cover(frame, 64, 32) for frame in frames])
    # A window of 9 frames inside [2, 13) starts at 2, 3 or 4.
    assert starts == {2, 3, 4}
    assert made.key == ONE_A and made.prompt == "caption of a_part1.mp4" and made.replaced == ()
    near(made.video_FHWC[0], cover(picture(60 + 6 * made.first_frame)[4:60, 8:88], 64, 32))


def test_own_references_are_cut_from_the_annotated_frame(layout: Callable[..., Path]) -> None:
    folder = layout()
    made = clip(folder, ONE_A)
    assert made.labels == ("thing 1", "thing 2", "thing 4")
    still = decoded(folder, ONE_A, 3)
    np.testing.assert_array_equal(made.references_NHWC, [piece(still, number) for number in "124"])


def test_own_references_are_augmented_and_linked_ones_are_not(layout: Callable[..., Path]) -> None:
    folder = layout(pairs=PAIRS)
    mirrored = ReferenceAugmentation(flip=1.0)
    own = clip(folder, ONE_A, ReferenceRates(cross_pair=0, augmentation=mirrored))
    plain = clip(folder, ONE_A)
    assert own.labels == plain.labels
    np.testing.assert_array_equal(own.video_FHWC, plain.video_FHWC)
    still = decoded(folder, ONE_A, 3)
    expected = [piece(still, number, mirrored=True) for number in "124"]
    np.testing.assert_array_equal(own.references_NHWC, expected)
    linked = clip(folder, ONE_A, ReferenceRates(cross_pair=1, augmentation=mirrored))
    np.testing.assert_array_equal(linked.references_NHWC, clip(folder, ONE_A, CROSSED).references_NHWC)


def test_linked_subjects_replace_the_own_in_both_directions(layout: Callable[..., Path]) -> None:
    folder = layout(pairs=PAIRS)
    made = clip(folder, ONE_A, CROSSED)
    # Of the linked subjects 2 and 3 only 2 qualifies; the frame is the other clip's.
    assert made.labels == ("thing 2",)
    np.testing.assert_array_equal(made.references_NHWC, [piece(decoded(folder, TWO_A, 5), "2")])
    assert made.prompt == "caption of a_part1.mp4"
    back = clip(folder, TWO_A, CROSSED)
    assert back.labels == ("thing 1",)
    np.testing.assert_array_equal(back.references_NHWC, [piece(decoded(folder, ONE_A, 3), "1")])


def test_a_clip_without_links_keeps_its_own(layout: Callable[..., Path]) -> None:
    folder = layout(pairs=PAIRS | {"b": [pair(f"one/{clip_id('b')}", "1", "three/not here", "1")]})
    for key in (f"one/{clip_id('b')}",):
        made = clip(folder, key, CROSSED)
        assert len(made.labels) == 3 and made.replaced == ()
    folder = layout({"one": {"unpaired": entry("a_part1.mp4")}})
    assert len(clip(folder, "one/unpaired", CROSSED).labels) == 3


def test_a_file_per_cluster_serves_as_well(layout: Callable[..., Path]) -> None:
    folder = layout()
    (folder / "cross_frames_pairs").mkdir()
    (folder / "cross_frames_pairs" / "a.json").write_text(json.dumps(PAIRS["a"]))
    assert clip(folder, ONE_A, CROSSED).labels == ("thing 2",)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ({"a": [{"cur_id": 5}]}, "cross-frame pairs of a: 0.cur_id"),
        ({"a": "hostile"}, "cross-frame pairs of a"),
        ({"a": [pair(ONE_A, "1", TWO_A, "9")]}, "linked clip two/.*: no subject is annotated"),
    ],
)
def test_links_that_cannot_be_read_are_named_and_the_own_taken(
    pairs: dict[str, Any], reason: str, layout: Callable[..., Path]
) -> None:
    made = clip(layout(pairs=pairs), ONE_A, CROSSED)
    assert made.labels == ("thing 1", "thing 2", "thing 4")
    (replaced,) = made.replaced
    assert replaced.key == f"{ONE_A}, other references"
    assert re.match(reason, replaced.reason)


def test_a_linked_clip_without_its_video_is_named(layout: Callable[..., Path]) -> None:
    shards = default_shards()
    shards["two"][clip_id("a")]["metadata"]["path"] = "gone.mp4"
    shards["two"] = {"a_part1_extra": shards["two"][clip_id("a")]}
    pairs = {"a": [pair(ONE_A, "1", "two/a_part1_extra", "1")]}
    (replaced,) = clip(layout(shards, pairs), ONE_A, CROSSED).replaced
    assert "the video gone.mp4 is missing from videos/two" in replaced.reason


def test_cross_pair_probability(layout: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of positions at which linked references are taken, without decoding."""
    folder = layout(pairs=PAIRS)
    undecoded = SimpleNamespace(probe=Video(folder / "videos" / "one" / "a_part1.mp4").probe)
    frame_HWC = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    module = "refbench.refalign.data.opens2v"
    monkeypatch.setattr(f"{module}.Video", lambda file: undecoded)
    monkeypatch.setattr(f"{module}.read_clip", lambda *_, **__: (frame_HWC[None], frame_HWC))
    monkeypatch.setattr(f"{module}.read_frames", lambda *_: [(0, frame_HWC)])
    monkeypatch.setattr(f"{module}.stacked_references", lambda *_: frame_HWC[None])
    source = open_source(folder, None)
    total = 5000
    taken = Counter(
        source.clip(0, 0, RULE, ReferenceRates(), Draws(seed=3, epoch=0, position=p)).labels
        for p in range(total)
    )
    assert set(taken) == {("thing 2",), ("thing 1", "thing 2", "thing 4")}
    deviation = (taken[("thing 2",)] / total - 0.23) / (0.23 * 0.77 / total) ** 0.5
    assert abs(deviation) < 4
    data = TrainingData(source, RULE, seed=0)
    assert (data.rates.cross_pair, data.rates.gpt) == (0.23, 0.0)


@pytest.mark.parametrize("rates", [{"cross_pair": 1.1}, {"gpt": -0.1}])
def test_reference_rates_are_probabilities(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be a probability"):
        ReferenceRates(**rates)


def test_gpt_frames_are_found_in_spite_of_other_steps(layout: Callable[..., Path]) -> None:
    made = clip(layout(), ONE_A, GPT)
    assert made.labels == ("blue top", "cat", "x")
    expected = [np.full((40, 40, 3), colour, np.uint8) for colour in ((0, 0, 255), (255, 0, 0), (0, 128, 0))]
    np.testing.assert_array_equal(made.references_NHWC, [letterbox(image, RULE) for image in expected])
    assert clip(layout(), f"one/{clip_id('b')}", GPT).labels == ("thing 1", "thing 2", "thing 4")


@pytest.mark.parametrize("clip_name", ["gm1-2_part2_step1-0-95", "gm1-2", "gm1-2_segment3_part2"])
def test_cluster_names(clip_name: str) -> None:
    assert cluster_of(clip_name) == "gm1-2"


def test_videos_are_found_by_path_part_and_id(layout: Callable[..., Path]) -> None:
    shards = {
        "one": {
            "by_part": entry("two/a_part1.mp4"),
            clip_id("b"): entry("renamed.mp4"),
        }
    }
    folder = layout(shards)
    for key, base in (("one/by_part", 140), (f"one/{clip_id('b')}", 100)):
        made = clip(folder, key)
        near(made.video_FHWC[0], cover(picture(base + 6 * made.first_frame)[4:60, 8:88], 64, 32))


def test_optional_fields_fall_back(layout: Callable[..., Path]) -> None:
    plain = entry("a_part1.mp4")
    del plain["metadata"]["face_cut"]
    plain["metadata"]["cut"] = [-5, 4]
    del plain["annotation"]["mask_map"]
    uncut = copy.deepcopy(plain)
    del uncut["metadata"]["cut"]
    folder = layout({"one": {"plain": plain, "uncut": uncut}})
    made = clip(folder, "one/plain")
    assert made.first_frame == 0 and made.labels[0] == "thing 1"
    np.testing.assert_array_equal(made.video_FHWC[0], made.video_FHWC[1])
    starts = {clip(folder, "one/uncut", position=position).first_frame for position in range(30)}
    assert starts == set(range(6))


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    made = entry("a_part1.mp4")
    change(made)
    return made


def masks(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["annotation"]["mask_annotation"]["3"]
    return found


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no metadata": (lambda e: e.pop("metadata"), "metadata: Field required"),
    "no caption": (lambda e: e["metadata"].pop("face_cap_qwen"), "metadata.face_cap_qwen: Field required"),
    "absolute": (lambda e: e["metadata"].update(path="/etc/passwd"), "leaves the data set's folder"),
    "climbing": (lambda e: e["metadata"].update(path="../../x.mp4"), "leaves the data set's folder"),
    "crop outside": (lambda e: e["metadata"].update(crop=[0, 97, 0, 64]), "is not inside 96×64 pixels"),
    "crop inverted": (lambda e: e["metadata"].update(crop=[50, 50, 0, 64]), "is not inside"),
    "crop huge": (lambda e: e["metadata"].update(crop=[0, 10**400, 0, 64]), "is not inside"),
    "cut outside": (lambda e: e["metadata"].update(face_cut=[14, 20]), r"no frame lies in \[14, 14\)"),
    "still outside": (
        lambda e: (
            e["annotation"]["ann_frame_data"].update(ann_frame_idx=99),
            e["annotation"]["mask_annotation"].update({"99": masks(e)}),
        ),
        "the video has no frame 99",
    ),
    "still negative": (
        lambda e: e["annotation"]["ann_frame_data"].update(ann_frame_idx=-1),
        "ann_frame_idx: Input should be greater",
    ),
    "no masks": (lambda e: e["annotation"].update(mask_annotation={}), "no subject is annotated"),
    "mask huge": (
        lambda e: masks(e)["1"].update(size=[2**31, 2**31]),
        "mask of subject 1 is for 2147483648×2147483648 pixels",
    ),
    "mask cut short": (lambda e: masks(e)["1"].update(counts="10"), "no run-length code of 80×56 pixels"),
    "mask garbage": (lambda e: masks(e)["1"].update(counts="o" * 5000), "no run-length code"),
    "mask list": (lambda e: masks(e)["1"].update(counts=[1, 2]), "counts: Input should be a valid string"),
    "subject unknown": (lambda e: masks(e).update({"0": masks(e)["1"]}), "subject '0' has no entry"),
    "subject negative": (lambda e: masks(e).update({"-1": masks(e)["1"]}), "subject '-1' has no entry"),
    "box not finite": (
        lambda e: e["annotation"]["ann_frame_data"]["annotations"][0].update(bbox=[0, 0, float("nan"), 5]),
        "bbox.2: Input should be a finite number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_annotation_is_that_clips_reason(name: str, layout: Callable[..., Path]) -> None:
    change, reason = HOSTILE[name]
    folder = layout({"one": {"bad": broken(change)}})
    with pytest.raises(SampleError, match=reason):
        clip(folder, "one/bad")


def leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from leaves(node[key])


def test_no_replaced_value_can_do_more_than_skip_the_clip(layout: Callable[..., Path]) -> None:
    values = [None, -1, 0, 10**30, 1e308, "", "\ud800", "../x", "1", [], {}, [1] * 9, {"0": {"1": {}}}, True]
    entries: dict[str, Any] = {}
    for number in range(sum(1 for _ in leaves(entry("a_part1.mp4")))):
        made = entry("a_part1.mp4")
        node, key = list(leaves(made))[number]
        node[key] = values[number % len(values)]
        entries[f"clip {number}"] = made
    folder = layout({"one": entries})
    source = open_source(folder, None)
    outcomes: Counter[str] = Counter()
    for number in range(len(entries)):
        try:
            source.clip(0, number, RULE, ReferenceRates(), Draws(seed=0, epoch=0, position=number))
            outcomes["used"] += 1
        except SampleError as error:
            assert "\n" not in str(error)
            outcomes["skipped"] += 1
    assert outcomes["used"] > 10 and outcomes["skipped"] > 30


def test_a_link_out_of_the_videos_is_refused(
    layout: Callable[..., Path], drawn: Path, tmp_path: Path
) -> None:
    folder = layout()
    (folder / "videos").unlink()
    (folder / "videos" / "one").mkdir(parents=True)
    (folder / "videos" / "one" / "a_part1.mp4").symlink_to(drawn / "videos" / "one" / "a_part1.mp4")
    with pytest.raises(SampleError, match="leaves the data set's folder"):
        clip(folder, ONE_A)


def test_skipped_clips_are_counted_and_named(layout: Callable[..., Path], tmp_path: Path) -> None:
    shards = default_shards()
    shards["one"]["hostile"] = broken(HOSTILE["mask garbage"][0])
    folder = layout(shards)
    text = (folder / "annotations" / "two.json").read_text()
    (folder / "annotations" / "two.json").write_text(text[:-40])
    cache = tmp_path / "cache"
    data = open_training_data(folder, RULE, seed=5, cache=cache, rates=OWN)
    assert len(data) == 4
    samples = [data.sample(epoch, position) for epoch in range(2) for position in range(4)]
    assert {sample.clip.key for sample in samples} == {ONE_A, f"one/{clip_id('b')}"}
    skipped = [each for sample in samples for each in sample.skipped]
    faults = {each.key: each.reason for each in skipped}
    assert set(faults) == {"one/hostile", "two.json, entry 1"}
    assert "run-length code" in faults["one/hostile"] and "broken JSON" in faults["two.json, entry 1"]
    # Each is met once an epoch at its own place, and may be met as a substitute.
    assert len(skipped) >= 4
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "gpt_frames", "videos"]
    assert len(list(cache.glob("*.npy"))) == 2


def test_no_usable_clip_is_one_line(layout: Callable[..., Path]) -> None:
    folder = layout({"one": {f"bad {n}": broken(HOSTILE["mask garbage"][0]) for n in range(3)}})
    with pytest.raises(UserError, match=r"data: none of 3 samples tried can be used \(one/bad") as caught:
        open_training_data(folder, RULE, seed=0, cache=None)
    assert "\n" not in str(caught.value) and "run-length code" in str(caught.value)


def test_a_folder_without_clips_is_one_line(layout: Callable[..., Path]) -> None:
    folder = layout({"one": {}})
    (folder / "annotations" / "one.json").write_text("{}")
    with pytest.raises(UserError, match="holds no training sample"):
        open_training_data(folder, RULE, seed=0, cache=None)
    (folder / "videos").unlink()
    with pytest.raises(UserError, match="no folder videos"):
        open_training_data(folder, RULE, seed=0, cache=None)


@pytest.fixture
def demo(shared: Path) -> Path:
    return shared / "data" / "opens2v_5m_demo"


DEMO_ID = "gm1252760410-365677148_part2_step1-0-95_step2-0-95_step3_step4_step5"


def test_the_real_demo_by_the_published_rules(demo: Path) -> None:
    data = TrainingData(open_source(demo, None), RULE, seed=0)
    samples = [data.sample(0, position) for position in range(len(data))]
    assert len({sample.clip.key for sample in samples}) == len(data) == 3
    assert not any(sample.skipped for sample in samples)
    made = clip(demo, f"dataset1/{DEMO_ID}", rule=ClipRule())
    assert made.video_FHWC.shape == (81, 480, 832, 3)
    # Seven subjects reach an aesthetic score of 4.5; the largest crops are three names of the meadow.
    assert made.labels == ("green grass", "park", "park")
    assert made.references_NHWC.shape == (3, 480, 832, 3)
    assert (made.references_NHWC[0] == 255).all(axis=-1).mean() > 0.3
    assert made.prompt.startswith("The video features three individuals outdoors")
    assert made.first_frame == 0


def test_the_real_demo_with_links_and_gpt_frames(demo: Path) -> None:
    # Both clips linked to this one are in the other shard, whose annotation names other subjects.
    crossed = clip(demo, f"dataset1/{DEMO_ID}", CROSSED)
    assert crossed.labels == ("person", "park", "grassy area") and crossed.replaced == ()
    drawn = clip(demo, f"dataset1/{DEMO_ID}", GPT)
    assert drawn.labels == ("woman", "blue top", "grassy area")
    without = clip(demo, f"dataset1_cluster/{DEMO_ID.replace('step1-', 'step122-')}", GPT)
    assert without.labels == ("person", "park", "grassy area") and without.replaced == ()
