"""Training data, the order: plain JSONL, workers, ranks, resuming, substitutes, and what is skipped."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refbench.bench.errors import SampleError, UserError
from refbench.bench.sample import Reference
from refbench.bench.video import write_video

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from refbench.refalign.data.dataset import (  # noqa: E402
    MOST_ATTEMPTS,
    MixedData,
    PositionSampler,
    TrainingData,
    open_source,
    open_training_data,
)
from refbench.refalign.data.draws import Draws  # noqa: E402
from refbench.refalign.data.frames import letterbox  # noqa: E402
from refbench.refalign.data.sample import Clip, ClipRule, DropoutRates, EpochPosition, TrainingSample  # noqa: E402
from refbench.refalign.data.source import ClipSource, ReferenceRates  # noqa: E402

# What seed 4 gave before `open_shards`.
ORDER_OF_BEFORE = [7, 0, 2, 8, 1, 6, 4, 3, 5]
RULE = ClipRule(width=32, height=16, num_frames=5, stride=2, max_references=2)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six videos, one of them damaged, and references of several kinds."""
    folder = tmp_path_factory.mktemp("lines")
    for number in range(6):
        frames = (np.full((32, 48, 3), 20 + 30 * number + index, np.uint8) for index in range(16))
        write_video(folder / f"{number}.mp4", frames, 8)
    (folder / "damaged.mp4").write_bytes((folder / "0.mp4").read_bytes()[:900])
    (folder / "empty.mp4").write_bytes(b"")
    Image.new("RGB", (20, 20), (10, 20, 30)).save(folder / "plain.png")
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 255))
    clear.paste((90, 90, 90, 0), (0, 0, 10, 20))
    clear.save(folder / "clear.png")
    turned = Image.new("RGB", (20, 10), (10, 20, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    (folder / "damaged.png").write_bytes((folder / "plain.png").read_bytes()[:60])
    return folder


def good(number: int, **fields: Any) -> dict[str, Any]:
    return {"video": f"{number}.mp4", "prompt": f"prompt {number}", "references": ["plain.png"]} | fields


@pytest.fixture
def written(media: Path, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Writes lines (objects, or text as it is) to a file of the test's own beside the media."""

    def write(*lines: dict[str, Any] | str, name: str = "") -> Path:
        path = media / f"{name or request.node.name.split('[')[0]}.jsonl"
        path.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        )
        return path

    return write


def six(written: Callable[..., Path], **options: Any) -> TrainingData:
    path = written(*(good(number, id=str(number)) for number in range(6)))
    return open_training_data(path, RULE, seed=11, cache=None, **options)


def fingerprint(sample: TrainingSample) -> tuple[Any, ...]:
    """All of a sample, to compare."""
    clip = sample.clip
    pixels = (clip.video_FHWC.tobytes(), clip.references_NHWC.tobytes())
    content = (clip.key, clip.first_frame, clip.prompt, clip.labels, clip.replaced)
    return (sample.epoch, sample.position, sample.dropped, sample.skipped, *content, *pixels)


def line_clip(path: Path, number: int = 0, rule: ClipRule = RULE) -> Clip:
    draws = Draws(seed=0, epoch=0, position=0)
    return open_source(path, None).clip(0, number, rule, ReferenceRates(), draws)


def test_a_line_is_a_clip_with_letterboxed_references(written: Callable[..., Path]) -> None:
    names = ["clear.png", "turned.png", "plain.png"]
    path = written(good(2, references=names, labels=["a", "b", "c"]), good(3, references=[]))
    made = line_clip(path)
    assert made.video_FHWC.shape == (5, 16, 32, 3) and made.prompt == "prompt 2"
    levels = made.video_FHWC[:, 8, 16, 0].astype(int) - (20 + 60 + made.first_frame)
    assert np.abs(levels - [0, 2, 4, 6, 8]).max() <= 2
    assert made.labels == ("a", "b") and made.references_NHWC.shape == (2, 16, 32, 3)
    clear = np.full((20, 20, 3), (10, 20, 30), np.uint8)
    clear[:, :10] = 255
    turned = np.full((20, 10, 3), (10, 20, 30), np.uint8)
    np.testing.assert_array_equal(made.references_NHWC, [letterbox(clear, RULE), letterbox(turned, RULE)])
    alone = line_clip(path, 1)
    assert alone.references_NHWC.shape == (0, 16, 32, 3) and alone.labels == ()


def test_references_of_more_than_eight_bits_are_opened_as_generators_open_them(
    written: Callable[..., Path], media: Path
) -> None:
    """`Reference.open_on_white` alone knows how grey of 16 bits and of floats is scaled."""
    values = np.linspace(0, 65535, 400).reshape(20, 20)
    Image.fromarray(values.astype(np.uint16)).save(media / "deep.png")
    Image.fromarray(values.astype(np.int32)).save(media / "deep.tif")
    Image.fromarray((values / 65535).astype(np.float32)).save(media / "float.tif")
    for name in ("deep.png", "deep.tif", "float.tif"):
        opened = Reference(path=name, root=media, label="", kind="object").open_on_white()
        found = line_clip(written(good(2, references=[name]), name=f"of-{name}")).references_NHWC[0]
        np.testing.assert_array_equal(found, letterbox(np.asarray(opened), RULE))


def test_keys_name_the_id_or_the_line_and_its_content(written: Callable[..., Path]) -> None:
    path = written(good(0, id="x"), good(1), name="keys")
    assert line_clip(path, 0).key == "keys/x"
    before = line_clip(path, 1).key
    assert before.startswith("keys.jsonl:2#")
    path = written(good(0, id="x"), good(1, prompt="another"), name="keys")
    assert line_clip(path, 1).key != before


BAD_LINES = {
    "broken": ("{nonsense", "broken JSON"),
    "no object": ("[1, 2]", "Input should be a valid dictionary"),
    "unknown field": (good(0, caption="x"), "caption: Extra inputs are not permitted"),
    "missing field": ({"video": "0.mp4", "prompt": ""}, "references: Field required"),
    "wrong type": (good(0, prompt=5), "prompt: Input should be a valid string"),
    "labels": (good(0, labels=[]), "labels: 0 for 1 references"),
    "no id": (good(0, id=""), "id: String should have at least 1 character"),
    "missing video": (good(0, video="none.mp4"), "the video none.mp4 is missing"),
    "damaged video": (good(0, video="damaged.mp4"), "the video cannot be decoded"),
    "empty video": (good(0, video="empty.mp4"), "the video file is empty"),
    "no video": (good(0, video="plain.png"), "cannot be decoded"),
    "video escapes": (good(0, video="../0.mp4"), "leaves the data set's folder"),
    "video absolute": (good(0, video="/absent/0.mp4"), "the video /absent/0.mp4 is missing"),
    "reference absolute": (good(0, references=["/absent/a.png"]), "reference image absent/a.png is missing"),
    "reference escapes": (good(0, references=["../a.png"]), "leaves the data set's folder"),
    "missing reference": (good(0, references=["no.png"]), "reference image no.png is missing"),
    "damaged reference": (good(0, references=["damaged.png"]), "reference image damaged.png cannot be read"),
    "reference no image": (good(0, references=["0.mp4"]), "reference image 0.mp4 cannot be read"),
}


def test_absolute_paths_are_for_lists_that_the_user_names(media: Path, tmp_path: Path) -> None:
    line = good(2, video=str(media / "2.mp4"), references=[str(media / "plain.png")])
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(line) + "\n")
    made = line_clip(path)
    assert made.prompt == "prompt 2" and len(made.references_NHWC) == 1
    with pytest.raises(SampleError, match="leaves the data set's folder"):
        line_clip(tmp_path)
    path.write_text(json.dumps(good(2, video="../2.mp4")) + "\n")
    with pytest.raises(SampleError, match="leaves the data set's folder"):
        line_clip(path)


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_that_lines_reason(name: str, written: Callable[..., Path]) -> None:
    line, reason = BAD_LINES[name]
    path = written(line)
    with pytest.raises(SampleError, match=reason):
        line_clip(path)


def test_bad_lines_are_skipped_counted_and_named(written: Callable[..., Path]) -> None:
    path = written(good(0, id="0"), *(line for line, _ in BAD_LINES.values()), "", good(1, id="1"))
    data = open_training_data(path, RULE, seed=3, cache=None)
    total = len(BAD_LINES) + 2
    assert len(data) == total
    samples = [data.sample(0, position) for position in range(total)]
    stem = path.stem
    assert {sample.clip.key for sample in samples} == {f"{stem}/0", f"{stem}/1"}
    assert [sample.position for sample in samples] == list(range(total))
    expected = {
        f"{path.name}:{number}": reason for number, (_, reason) in enumerate(BAD_LINES.values(), start=2)
    }
    found = [skipped for sample in samples for skipped in sample.skipped]
    assert {skipped.key for skipped in found} == set(expected)
    assert all(expected[skipped.key] in skipped.reason for skipped in found)


def test_a_substitute_is_the_same_every_time(written: Callable[..., Path]) -> None:
    lines = [good(number, id=str(number)) for number in range(5)]
    path = written(*lines, good(0, video="damaged.mp4", id="bad"))
    data = open_training_data(path, RULE, seed=2, cache=None)
    again = open_training_data(path, RULE, seed=2, cache=None)
    stand_ins = {}
    for epoch in range(6):
        (sample,) = [made for p in range(6) if (made := data.sample(epoch, p)).skipped]
        assert sample.skipped[0].key == f"{path.name}:6"
        assert fingerprint(again.sample(epoch, sample.position)) == fingerprint(sample)
        stand_ins[epoch] = sample.clip.key
    assert len(set(stand_ins.values())) > 1


def test_no_usable_line_is_one_line(written: Callable[..., Path]) -> None:
    path = written("{", good(0, video="damaged.mp4"))
    with pytest.raises(UserError, match="none of 2 samples tried can be used") as caught:
        open_training_data(path, RULE, seed=0, cache=None)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert f"{path.name}:1: broken JSON" in message and f"{path.name}:2: the video" in message


def test_of_a_large_set_a_bounded_number_is_tried(written: Callable[..., Path]) -> None:
    path = written(*["{"] * (5 * MOST_ATTEMPTS))
    with pytest.raises(UserError, match=f"none of {MOST_ATTEMPTS} samples tried"):
        open_training_data(path, RULE, seed=0, cache=None)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match="holds no training sample"):
        open_training_data(tmp_path / "a.jsonl", RULE, seed=0, cache=None)


def test_places_that_hold_no_data_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("")
    for place, reason in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "data.csv", "is no .jsonl file"),
        (tmp_path, "holds neither"),
    ):
        with pytest.raises(UserError, match=reason):
            open_training_data(place, RULE, seed=0, cache=None)


class SizedShard:
    """What the order knows of a shard: its name and length."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self.length = length

    def __len__(self) -> int:
        return self.length


class NumberedSource(ClipSource):
    """Shards of a length, whose clips are only named: `<shard>/<number>`."""

    path = Path("numbered")

    def __init__(self, shards: int, length: int) -> None:
        self.shards = [SizedShard(f"shard {number}", length) for number in range(shards)]  # type: ignore[misc]

    def name(self, shard: int, number: int) -> str:
        return f"{shard}/{number}"

    def clip(self, shard: int, number: int, *rest: Any) -> Clip:
        video = np.zeros((1, 16, 16, 3), np.uint8)
        return Clip(
            key=self.name(shard, number),
            prompt="",
            video_FHWC=video,
            references_NHWC=video[:0],
            labels=(),
            first_frame=0,
        )


def entry_at(data: TrainingData, epoch: int, position: int) -> tuple[int, int]:
    """Shard and number of the entry at a position of a `NumberedSource`."""
    shard, _, number = data.sample(epoch, position).clip.key.partition("/")
    return int(shard), int(number)


def test_an_epoch_mixes_the_open_shards() -> None:
    data = TrainingData(NumberedSource(5, 40), RULE, seed=4, open_shards=3)
    orders = []
    for epoch in range(2):
        entries = [entry_at(data, epoch, position) for position in range(200)]
        assert sorted(entries) == [(shard, number) for shard in range(5) for number in range(40)]
        first = {shard for shard, _ in entries[:120]}
        assert len(first) == 3 and {shard for shard, _ in entries[:20]} == first
        assert {shard for shard, _ in entries[120:140]} == {0, 1, 2, 3, 4} - first
        orders.append(entries)
    assert orders[0] != orders[1]
    again = TrainingData(NumberedSource(5, 40), RULE, seed=4, open_shards=3)
    assert [entry_at(again, 1, position) for position in (199, 3, 120)] == [
        orders[1][position] for position in (199, 3, 120)
    ]


def test_the_order_of_one_shard_is_that_of_before() -> None:
    """As the versions before `open_shards` had it: runs of one file go on in the order that they had."""
    one, old = (TrainingData(NumberedSource(1, 9), RULE, seed=4, open_shards=n) for n in (16, 1))
    order = [entry_at(one, 0, position) for position in range(9)]
    assert order == [entry_at(old, 0, position) for position in range(9)]
    assert [number for _, number in order] == ORDER_OF_BEFORE


def test_data_sets_are_mixed_by_their_shares(written: Callable[..., Path]) -> None:
    sets = [
        open_training_data(
            written(*(good(number, id=str(number)) for number in range(count)), name=f"mixed{count}"),
            RULE,
            seed=11,
            cache=None,
        )
        for count in (2, 5)
    ]
    data = MixedData(sets, (1, 3))
    assert len(data) == 7
    samples = [data.sample(place // 7, place % 7) for place in range(28)]
    names = [sample.clip.key.partition("/")[0] for sample in samples]
    for start in range(0, 28, 4):
        assert sorted(names[start : start + 4]) == ["mixed2", "mixed5", "mixed5", "mixed5"]
    assert len({tuple(names[start : start + 4]) for start in range(0, 28, 4)}) > 1
    of_five = [sample.clip.key for sample in samples if "mixed5" in sample.clip.key]
    for start in range(0, 20, 5):
        assert len(set(of_five[start : start + 5])) == 5
    again = MixedData(sets, (1, 3)).sample(3, 5)
    assert fingerprint(again) == fingerprint(samples[26])
    assert data.content_digest() != MixedData(sets[::-1], (3, 1)).content_digest()
    for shares, text in (((1,), "2 data sets need a share each"), ((1, 0), "whole numbers from 1 on")):
        with pytest.raises(UserError, match=text):
            MixedData(sets, shares)


def test_an_epoch_goes_shard_by_shard() -> None:
    data = TrainingData(NumberedSource(3, 9), RULE, seed=4, open_shards=1)
    orders = []
    for epoch in range(3):
        entries = [entry_at(data, epoch, position) for position in range(27)]
        assert sorted(entries) == [(shard, number) for shard in range(3) for number in range(9)]
        assert len(list(itertools.groupby(entries, key=lambda entry: entry[0]))) == 3
        orders.append(entries)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0][:9] == [(0, number) for number in ORDER_OF_BEFORE]
    other = TrainingData(NumberedSource(3, 9), RULE, seed=5, open_shards=1)
    assert [entry_at(other, 0, position) for position in range(27)] != orders[0]


def test_a_folder_of_files_has_a_shard_for_each(tmp_path: Path) -> None:
    for shard in "abc":
        lines = [
            json.dumps({"video": f"{n}.mp4", "prompt": "", "references": [], "id": f"{n}"}) for n in range(9)
        ]
        (tmp_path / f"{shard}.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path, None)
    assert [(shard.name, len(shard)) for shard in source.shards] == [("a", 9), ("b", 9), ("c", 9)]


def test_an_epoch_holds_every_sample_once_and_epochs_differ(written: Callable[..., Path]) -> None:
    data = six(written)
    epochs = [[data.sample(epoch, position) for position in range(6)] for epoch in range(4)]
    for samples in epochs:
        assert sorted(sample.clip.prompt for sample in samples) == [f"prompt {number}" for number in range(6)]
    assert len({tuple(sample.clip.key for sample in samples) for samples in epochs}) > 1
    windows = {(sample.clip.key, sample.clip.first_frame) for samples in epochs for sample in samples}
    assert len(windows) > 6
    with pytest.raises(IndexError):
        data.sample(0, 6)


def loaded(data: TrainingData, count: int, *, workers: int = 0, **place: int) -> list[TrainingSample]:
    sampler = PositionSampler(len(data), **({"start": 0, "rank": 0, "world_size": 1} | place))
    loader = torch.utils.data.DataLoader(data, sampler=sampler, batch_size=None, num_workers=workers)
    return list(itertools.islice(loader, count))


def test_workers_make_the_same_samples_and_tell_what_they_skipped(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    lines = [good(number, id=str(number)) for number in range(4)]
    path = written(*lines, "{", good(0, video="damaged.mp4"))
    alone = open_training_data(path, RULE, seed=9, cache=None)
    expected = loaded(alone, 14)
    shared = open_training_data(path, RULE, seed=9, cache=tmp_path / "cache")
    received = loaded(shared, 14, workers=2)
    assert [fingerprint(sample) for sample in received] == [fingerprint(sample) for sample in expected]
    named = {skipped.key for sample in received for skipped in sample.skipped}
    assert named == {f"{path.name}:5", f"{path.name}:6"}
    sent = pickle.loads(pickle.dumps(shared))  # noqa: S301 - what a started (not forked) worker gets
    assert fingerprint(sent.sample(0, 3)) == fingerprint(expected[3])


def test_two_ranks_see_together_what_one_sees(written: Callable[..., Path]) -> None:
    data = six(written)
    one = [fingerprint(sample) for sample in loaded(data, 14)]
    ranks = [
        [fingerprint(sample) for sample in loaded(data, 7, rank=rank, world_size=2)] for rank in range(2)
    ]
    assert [sample for step in zip(*ranks, strict=True) for sample in step] == one


def test_resuming_gives_the_tail(written: Callable[..., Path]) -> None:
    expected = [fingerprint(sample) for sample in loaded(six(written), 14)]
    for start in (1, 5, 6, 8):
        resumed = six(written)
        assert [fingerprint(sample) for sample in loaded(resumed, 14 - start, start=start)] == expected[
            start:
        ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 7, 30])
def test_positions_of_ranks(world_size: int, start: int) -> None:
    wanted = [EpochPosition(epoch=p // 7, position=p % 7) for p in range(start, start + 30)]
    met = []
    for rank in range(world_size):
        sampler = PositionSampler(7, start=start, rank=rank, world_size=world_size)
        for index in itertools.islice(sampler, 40):
            place = index.epoch * 7 + index.position
            assert place % world_size == rank and place >= start
            met.append(index)
    assert len(set(met)) == len(met) and set(wanted) <= set(met)


@pytest.mark.parametrize(
    ("length", "place"),
    [
        (0, {"start": 0, "rank": 0, "world_size": 1}),
        (5, {"start": -1, "rank": 0, "world_size": 1}),
        (5, {"start": 0, "rank": 2, "world_size": 2}),
        (5, {"start": 0, "rank": -1, "world_size": 2}),
    ],
)
def test_positions_that_make_no_sense_are_refused(length: int, place: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no position for"):
        PositionSampler(length, **place)


def test_conditions_follow_the_position_and_leave_the_sample_whole(written: Callable[..., Path]) -> None:
    everything = DropoutRates(text=0.0, references=0.0, both=1.0)
    sample = six(written, dropout=everything).sample(0, 0)
    assert sample.dropped == "both"
    assert sample.clip.prompt.startswith("prompt") and sample.clip.references_NHWC.shape[0] == 1
    data = six(written)
    drawn = [Draws(seed=11, epoch=0, position=position).dropped(data.dropout) for position in range(6)]
    assert [data.sample(0, position).dropped for position in range(6)] == drawn


def test_epochs_of_a_million_clips_need_no_list_of_them() -> None:
    """Orders are made shard by shard and few are held."""
    length = 50_000
    data = TrainingData(NumberedSource(40, length), RULE, seed=0, open_shards=1)
    assert len(data) == 2_000_000
    met = {entry_at(data, 0, position) for position in range(49_000, 151_000, 1000)}
    assert len(met) == 102 and 3 <= len({shard for shard, _ in met}) <= 4
    assert len({entry_at(data, 0, position)[0] for position in range(0, len(data), length)}) == 40
    eight_orders = 8 * length * np.dtype(np.int64).itemsize
    assert len(pickle.dumps(data)) < eight_orders + length
