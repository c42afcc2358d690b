"""Buckets: where a clip goes, updates of one size, and a training over clips of several sizes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kit.training import SHORT_RUN, files_of, logged_steps  # noqa: E402
from refbench.bench.errors import SampleError, UserError  # noqa: E402
from refbench.bench.video import write_video  # noqa: E402
from refbench.refalign.data.buckets import (  # noqa: E402
    UPDATES_IN_WINDOW,
    BucketedData,
    nearest_bucket,
    parse_bucket,
)
from refbench.refalign.data.dataset import MixedData, TrainingData  # noqa: E402
from refbench.refalign.data.lines import LinesSource  # noqa: E402
from refbench.refalign.data.opens2v import OpenS2VSource  # noqa: E402
from refbench.refalign.data.sample import Clip, ClipRule, ClipSize  # noqa: E402
from refbench.refalign.data.source import ClipSource  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, prepare, train  # noqa: E402

RULE = ClipRule()
BUCKETS = [parse_bucket(text, RULE) for text in ("832x480x81", "480x832x81", "624x624x49")]


def went_to(width: int, height: int, frames: int) -> int:
    return nearest_bucket(ClipSize(width=width, height=height, frames=frames), BUCKETS)


def test_a_clip_goes_to_the_nearest_bucket() -> None:
    assert went_to(1280, 720, 300) == went_to(1920, 1080, 81) == 0
    assert went_to(720, 1280, 300) == 1
    assert went_to(1000, 1000, 300) == went_to(900, 1000, 60) == 2
    # Of a wide clip that is a little short the form counts more, of one that is much shorter the length.
    assert went_to(1280, 720, 60) == 0
    assert went_to(1100, 720, 45) == 2
    # Of two of one form the longer one, where the clip fills it.
    lengths = [parse_bucket(text, RULE) for text in ("832x480x49", "832x480x81", "416x240x81")]
    assert nearest_bucket(ClipSize(width=832, height=480, frames=90), lengths) == 1
    assert nearest_bucket(ClipSize(width=832, height=480, frames=50), lengths) == 0


class Sized(ClipSource):
    """A shard of clips of drawn sizes, of which some cannot be read."""

    path = Path("sized")

    def __init__(self, sizes: list[int | None]) -> None:
        self.sizes = sizes
        self.shards = [_Shard(len(sizes))]  # type: ignore[list-item]
        self.asked = 0

    def name(self, shard: int, number: int) -> str:
        return str(number)

    def size(self, shard: int, number: int) -> ClipSize:
        self.asked += 1
        which = self.sizes[number]
        if which is None:
            raise SampleError("it is damaged")
        bucket = BUCKETS[which]
        return ClipSize(width=2 * bucket.width, height=2 * bucket.height, frames=bucket.num_frames)

    def clip(self, shard: int, number: int, rule: ClipRule, *rest: Any) -> Clip:
        # One byte stands for a picture: only the names matter here.
        video = np.zeros((1, 1, 1, 3), np.uint8)
        return Clip(
            key=f"{number} {rule.width}x{rule.height}x{rule.num_frames}",
            prompt="",
            video_FHWC=video,
            references_NHWC=video[:0],
            labels=(),
            first_frame=0,
        )


class _Shard:
    name = "one"

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def digest(self) -> str:
        return "of the shard"


def keys(data: TrainingData, count: int) -> list[str]:
    return [data.sample(*divmod(number, len(data))).clip.key for number in range(count)]


@given(
    sizes=st.lists(st.sampled_from([0, 0, 0, 1, 2, None]), min_size=1, max_size=60),
    together=st.integers(1, 6),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_an_update_has_one_bucket_and_a_position_one_sample(
    sizes: list[int | None], together: int, seed: int
) -> None:
    data = TrainingData(Sized(sizes), RULE, seed=seed)
    bucketed = BucketedData(data, BUCKETS, together=together)
    window = UPDATES_IN_WINDOW * together
    found = keys(bucketed, 2 * window)
    for first in range(0, 2 * window, together):
        assert len({key.partition(" ")[2] for key in found[first : first + together]}) == 1
    names = ["832x480x81", "480x832x81", "624x624x49"]
    for key in found:
        number, _, cut_to = key.partition(" ")
        assert cut_to == names[sizes[int(number)] or 0]
    for number, key in enumerate(found):
        assert bucketed.placed(*divmod(number, len(data))) == (data, (0, int(key.partition(" ")[0])))
    # Only clips of the window come in it.
    for start in (0, window):
        plain = Counter(key.partition(" ")[0] for key in keys(data, start + window)[start:])
        assert {key.partition(" ")[0] for key in found[start : start + window]} <= set(plain)
    again = BucketedData(TrainingData(Sized(sizes), RULE, seed=seed), BUCKETS, together=together)
    last = 2 * window - 1
    assert again.sample(*divmod(last, len(data))).clip.key == found[last]


def test_one_bucket_is_the_order_without_buckets() -> None:
    data = TrainingData(Sized([0] * 37), RULE, seed=2)
    for buckets in (BUCKETS[:1], BUCKETS):
        assert keys(BucketedData(data, buckets, together=4), 80) == keys(data, 80)


def test_buckets_have_updates_in_proportion_to_their_clips() -> None:
    """Also one that is too rare for an update in each window; a size is read once."""
    source = Sized([0] * 90 + [1] * 9 + [2])
    data = BucketedData(TrainingData(source, RULE, seed=1), BUCKETS, together=4)
    windows = 100
    found = Counter(
        key.partition(" ")[2] for key in keys(data, windows * UPDATES_IN_WINDOW * 4)[:: data.together]
    )
    shares = {name: count / (windows * UPDATES_IN_WINDOW) for name, count in found.items()}
    assert shares == pytest.approx({"832x480x81": 0.9, "480x832x81": 0.09, "624x624x49": 0.01}, abs=0.012)
    assert source.asked == 100


def test_a_mixture_is_dealt_to_buckets_too() -> None:
    sets = [TrainingData(Sized([which] * 12), RULE, seed=3) for which in (0, 1)]
    mixed = MixedData(sets, (3, 1))
    data = BucketedData(mixed, BUCKETS, together=2)
    found = [key.partition(" ")[2] for key in keys(data, 64)]
    assert Counter(found) == {"832x480x81": 48, "480x832x81": 16}
    assert len(data) == len(mixed) and data.content_digest() == mixed.content_digest()
    with pytest.raises(
        UserError, match=r"numbered does not tell the sizes of its clips, which data\.buckets"
    ):
        plain = Sized([0])
        plain.path, plain.size = Path("numbered"), lambda *entry: ClipSource.size(plain, *entry)
        BucketedData(TrainingData(plain, RULE, seed=0), BUCKETS, together=1).sample(0, 0)


def test_sizes_of_data_sets(tmp_path: Path) -> None:
    """Of a list by the video, of OpenS2V-5M by the annotation where it says so."""
    file = write_wide_and_high(tmp_path)
    source = LinesSource(file, [file], None)
    assert source.size(0, 0) == ClipSize(width=128, height=64, frames=13)
    assert source.size(0, 1) == ClipSize(width=64, height=128, frames=13)
    with pytest.raises(SampleError, match="is missing"):
        source.size(0, 4)
    folder = tmp_path / "opens2v"
    (folder / "videos" / "part").mkdir(parents=True)
    (folder / "annotations").mkdir()
    frame = {"ann_frame_idx": 0, "annotations": []}
    metadata = {"path": "a.mp4", "face_cap_qwen": "", "crop": [8, 108, 0, 50], "face_cut": [3, 11]}
    entries = {
        name: {
            "metadata": {key: value for key, value in metadata.items() if key != left_out},
            "annotation": {"ann_frame_data": frame, "mask_annotation": {}},
        }
        for name, left_out in (("a", ""), ("b", "crop"), ("c", "face_cut"))
    }
    (folder / "annotations" / "part.json").write_text(json.dumps(entries))
    (folder / "videos" / "part" / "a.mp4").write_bytes((tmp_path / "0.mp4").read_bytes())
    opened = OpenS2VSource(folder, None)
    assert opened.size(0, 0) == ClipSize(width=100, height=50, frames=8)
    assert opened.size(0, 1) == ClipSize(width=128, height=64, frames=8)
    assert opened.size(0, 2) == ClipSize(width=100, height=50, frames=13)


def write_wide_and_high(folder: Path) -> Path:
    """Two wide clips and two high ones, each with a reference, and one that is not there."""
    lines = []
    for number in range(4):
        size = (64, 128) if number % 2 == 0 else (128, 64)
        frames = [np.full((*size, 3), 20 * number + 5 * index, np.uint8) for index in range(13)]
        write_video(folder / f"{number}.mp4", frames, 8)
        Image.fromarray(frames[0][:32, :48]).save(folder / f"{number}.png")
        lines.append({"video": f"{number}.mp4", "prompt": "p", "references": [f"{number}.png"]})
    lines.append({"video": "absent.mp4", "prompt": "p", "references": []})
    file = folder / "clips.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_training_over_buckets(weights: Path, tmp_path: Path) -> None:
    """Accumulated or in one call, straight or resumed: the same losses; updates of both sizes."""
    data = write_wide_and_high(tmp_path)
    chosen = (*SHORT_RUN, "data.buckets=64x32x5,32x64x9", "run.max_steps=6", "optimizer.epsilon=1e-4")

    def rows(name: str, *more: str, resume: bool = False) -> list[dict[str, Any]]:
        config = build_config("tiny", [*chosen, *more])
        out = tmp_path / name
        train(config, TrainingPaths(out=out, weights=weights, data=data), resume=resume)
        return logged_steps(out)

    straight = rows("straight")
    # Two samples of 2 or 3 latent frames, and a reference, each of 2×4 or 4×2 tokens.
    assert [row["tokens"] for row in straight].count(2 * 3 * 8) in range(1, 6)
    assert {row["tokens"] for row in straight} == {2 * 3 * 8, 2 * 4 * 8}
    together = rows("together", "run.samples_per_call=2")
    losses = [[row["loss"] for row in one] for one in (straight, together)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    rows("halves", "run.max_steps=3")
    assert rows("halves", resume=True) == straight
    last = "checkpoints/step-00000006"
    assert files_of(tmp_path / "halves" / last) == files_of(tmp_path / "straight" / last)
    with pytest.raises(UserError, match=r"was trained with data\.buckets=\[.*\], not \[\]; give the same"):
        rows("halves", "data.buckets=", resume=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_prepared_features_have_no_buckets(weights: Path, tmp_path: Path) -> None:
    config = build_config("tiny", [*SHORT_RUN, "data.buckets=64x32x5"])
    with pytest.raises(
        UserError, match=r"^data\.buckets does not go together with prepared features"
    ) as told:
        prepare(config, write_wide_and_high(tmp_path), tmp_path / "features", weights, epochs=1)
    assert "\n" not in str(told.value) and not (tmp_path / "features").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("832x480", r"data: a bucket is WIDTHxHEIGHTxFRAMES, 832x480x81 for instance, not '832x480'"),
        ("832x481x81", r"data: height must be a multiple of 16, 481 is not"),
        ("832x480x80", r"data: num_frames must be 4k\+1, 80 is not"),
        ("64x64x5,64x64x5", r"data: buckets names one twice: 64x64x5, 64x64x5"),
    ],
)
def test_buckets_that_are_refused(value: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build_config("tiny", [f"data.buckets={value}"])
