"""Training clips of the drawn world: the real data code reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kit.cli import complaint, printed
from refbench.mini.world import NUM_FRAMES, SIZE_PX
from refbench.mini.world.identity import split_of

pytest.importorskip("torch")
coco = pytest.importorskip("pycocotools.mask")

from refbench.bench.video import ALL_FRAMES, Video  # noqa: E402
from refbench.mini.clips import CLIPS_PER_CLUSTER, CROSS_PAIR_SHARE, cluster, write_training_clips  # noqa: E402
from refbench.refalign.data.dataset import open_training_data  # noqa: E402
from refbench.refalign.data.pairs import CrossPairs, cluster_of  # noqa: E402
from refbench.refalign.data.sample import ClipRule  # noqa: E402
from refbench.refalign.data.source import ReferenceRates  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402

CLIPS = 16
RULE = ClipRule(width=SIZE_PX, height=SIZE_PX, num_frames=NUM_FRAMES, stride=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_training_clips(folder, CLIPS)
    return folder


def test_processes_write_the_same_files(tmp_path: Path, written: Path) -> None:
    write_training_clips(tmp_path / "clips", CLIPS, workers=2)
    names = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert len(names) > CLIPS
    assert all((tmp_path / "clips" / name).read_bytes() == (written / name).read_bytes() for name in names)


def entries(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((folder / "annotations/part0000.json").read_text())
    return found


def test_the_real_data_code_reads_every_clip_with_its_own_references(written: Path) -> None:
    data = open_training_data(written, RULE, seed=0, cache=None, rates=ReferenceRates(cross_pair=0))
    assert CLIPS - 2 <= len(data) <= CLIPS
    prompts = {clip.prompt for number in range(CLIPS // 2) for clip in cluster(number, 0)}
    for position in range(len(data)):
        sample = data.sample(0, position)
        assert not sample.skipped
        assert sample.clip.prompt in prompts
        assert sample.clip.video_FHWC.shape == (NUM_FRAMES, SIZE_PX, SIZE_PX, 3)
        assert 1 <= len(sample.clip.references_NHWC) == len(sample.clip.labels) <= 3
        for reference_HWC in sample.clip.references_NHWC:
            assert (reference_HWC[0, 0] > 240).all() and 0.05 < (reference_HWC < 240).mean() < 1


def test_a_cross_pair_shows_the_same_subjects_in_another_clip(written: Path) -> None:
    own = open_training_data(written, RULE, seed=0, cache=None, rates=ReferenceRates(cross_pair=0))
    crossed = open_training_data(written, RULE, seed=0, cache=None, rates=ReferenceRates(cross_pair=1))
    changed = 0
    for position in range(len(own)):
        one, other = own.sample(0, position).clip, crossed.sample(0, position).clip
        assert one.key == other.key and np.array_equal(one.video_FHWC, other.video_FHWC)
        assert set(other.labels) <= {clip_label(one.key, number) for number in range(3)}
        same_shape = one.references_NHWC.shape == other.references_NHWC.shape
        changed += not same_shape or not np.array_equal(one.references_NHWC, other.references_NHWC)
    assert changed >= 0.7 * len(own)


def clip_label(key: str, number: int) -> str:
    index = int(key.partition("/mini")[2].partition("_")[0])
    actors = cluster(index, 0)[0].rendering.scene.actors
    return actors[min(number, len(actors) - 1)].subject.label.lower()


def test_masks_and_boxes_are_the_renderers(written: Path) -> None:
    clips = {clip.id: clip for number in range(CLIPS // 2) for clip in cluster(number, 0)}
    for clip_id, entry in entries(written).items():
        annotation = entry["annotation"]
        assert isinstance(annotation, dict)
        frame = annotation["ann_frame_data"]["ann_frame_idx"]
        by_label = {
            tuple(labels.box_FK[frame]): labels.mask_FHW[frame] for labels in clips[clip_id].rendering.labels
        }
        masks = annotation["mask_annotation"][str(frame)]
        for number, scored in enumerate(annotation["ann_frame_data"]["annotations"], start=1):
            code = masks[str(number)]
            decoded = coco.decode({"size": code["size"], "counts": code["counts"].encode()})
            assert np.array_equal(decoded.astype(bool), by_label[tuple(scored["bbox"])])
            assert 0 < scored["gme_score"] <= 1
        file = written / "videos/part0000" / entry["metadata"]["path"]  # type: ignore[index]
        decoded_FHWC = np.stack(list(Video(file).frames(ALL_FRAMES))).astype(int)
        assert np.abs(decoded_FHWC - clips[clip_id].rendering.video_FHWC).mean() < 6


def test_pairs_name_the_same_subject_in_both_clips(written: Path) -> None:
    pairs = CrossPairs(written / "cross_frames_pairs", None)
    linked = 0
    for clip_id in entries(written):
        assert cluster_of(clip_id) == clip_id.partition("_")[0]
        for other, subjects in pairs.linked("part0000", clip_id).items():
            linked += 1
            mine, theirs = (entries(written)[name] for name in (clip_id, other.partition("/")[2]))
            words = theirs["annotation"]["mask_map"]  # type: ignore[index]
            own = {one["class_name"] for one in mine["annotation"]["mask_map"].values()}  # type: ignore[index]
            assert {words[number]["class_name"] for number in subjects} <= own
    assert linked >= CLIPS * 0.7


def test_everybody_in_them_is_of_training() -> None:
    clips = [clip for number in range(30) for clip in cluster(number, 0)]
    assert len(clips) == 30 * CLIPS_PER_CLUSTER
    subjects = [actor.subject for clip in clips for actor in clip.rendering.scene.actors]
    assert {split_of(subject.what) for subject in subjects} == {"training"}


def test_the_same_numbers_give_the_same_files_and_a_broken_run_goes_on(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(written, folder)
    (folder / "annotations/part0000.json").unlink()
    lost = next((folder / "videos/part0000").iterdir())
    lost.unlink()
    printed("mini", "clips", "--out", folder, "--clips", CLIPS)
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (written / file).read_bytes() for file in files)
    line = complaint("mini", "clips", "--out", folder, "--clips", CLIPS, "--seed", 1)
    assert "holds clips of other numbers" in line


def test_the_mixture_of_pairs_is_an_override_of_the_recipe() -> None:
    config = build_config("tiny", [f"data.references.cross_pair={CROSS_PAIR_SHARE}"])
    assert config.data.references.cross_pair == pytest.approx(0.4)
