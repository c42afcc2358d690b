"""What prepared features share: each thing is encoded once, whatever epochs, seeds, teachers or data sets."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import refbench.refalign.training.feature_store as feature_store  # noqa: E402
import refbench.refalign.training.features_by_position as features_by_position  # noqa: E402
import refbench.refalign.training.forecast as forecast_module  # noqa: E402
import refbench.refalign.training.run as run_module  # noqa: E402
from kit.training import (  # noqa: E402
    SHORT_RUN,
    files_of,
    logged_steps,
    write_clips,
    write_features_by_position,
)
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.encoder import FeatureEncoder  # noqa: E402
from refbench.refalign.training.feature_store import KnownEntries  # noqa: E402
from refbench.refalign.training.prepare import prepare_features  # noqa: E402
from refbench.refalign.training.prepared import PreparedSource  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import (  # noqa: E402
    TrainingPaths,
    make_encoder,
    open_data,
    prepare,
    train,
)
from refbench.refalign.training.settings import TrainingConfig  # noqa: E402

OLDER = Path(__file__).parents[1] / "files" / "version_0.1" / "training"
BOTH_TEACHERS = "alignment.teachers=dinov3-vitb16,dinov3-vitl16"

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "small_files")


@pytest.fixture(scope="module")
def small_files() -> Iterator[None]:
    """Files of three positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "POSITIONS_PER_FILE", 3)
        patch.setattr(features_by_position, "POSITIONS_PER_SHARD", 3)
        yield


@pytest.fixture(scope="module")
def two_teachers(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from refbench.refalign.small_teacher import write_tiny

    folder = Path(shutil.copytree(weights, tmp_path_factory.mktemp("two") / "weights"))
    write_tiny(folder, "dinov3-vitl16")
    return folder


def counted(name: str, real: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def call(encoder: FeatureEncoder, *given: Any) -> Any:
        counts[given[0] if name == "teacher_tokens" else name] += 1
        return real(encoder, *given)

    return call


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of thing was encoded."""
    counts: Counter[str] = Counter()
    for name in ("latents", "text", "teacher_tokens"):
        monkeypatch.setattr(FeatureEncoder, name, counted(name, getattr(FeatureEncoder, name), counts))
    return counts


def tiny(*overrides: str) -> TrainingConfig:
    return build_config("tiny", [*SHORT_RUN, *overrides])


def run(config: TrainingConfig, out: Path, **places: Any) -> list[dict[str, Any]]:
    train(config, TrainingPaths(out=out, **places), resume=False)
    return logged_steps(out)


def entries(folder: Path) -> Counter[str]:
    """How often each name stands in the files of a folder."""
    return Counter(name for tensors in files_of(folder).values() for name in tensors)


def test_each_thing_is_encoded_and_kept_once(
    weights: Path, clips: Path, tmp_path: Path, encoded: Counter[str]
) -> None:
    """Texts, pictures and equal windows of three clips over six epochs, and the empty prompt."""
    config = tiny()
    assert prepare(config, clips, tmp_path / "features", weights, epochs=6) == 24
    names = entries(tmp_path / "features")
    assert set(names.values()) == {1}
    kinds = Counter(name.partition("/")[0] for name in names)
    # Three prompts and the empty one; two and one references; at most 8 windows of each 12 frames.
    assert kinds["text"] == 4 and kinds["picture"] == kinds["teacher"] == 3
    assert 3 < kinds["video"] <= 24
    assert encoded == {"latents": kinds["video"] + 3, "text": 4, "dinov3-vitb16": 3}


def test_augmented_references_are_entries_of_their_own(
    weights: Path, tmp_path: Path, encoded: Counter[str]
) -> None:
    """A clip's own references are drawn anew at each position: no two are the same, and losses stay equal."""
    data = Path(os.environ.get("REFBENCH_SHARED", "/nowhere")) / "data" / "opens2v_5m_demo"
    if not data.is_dir():
        pytest.skip("the demo clip is not at hand")
    augmented = ("data.references.augmentation.rotation_degrees=15", "data.references.cross_pair=0")
    sizes = ("data.clip.width=64", "data.clip.height=48", "data.clip.num_frames=5")
    config = tiny(*augmented, *sizes, "run.max_steps=2")
    prepare(config, data, tmp_path / "features", weights, positions=4)
    kinds = Counter(name.partition("/")[0] for name in entries(tmp_path / "features"))
    assert kinds["picture"] == kinds["teacher"] == 12 and kinds["text"] <= 3
    from_features = run(config, tmp_path / "prepared", weights=weights, features=tmp_path / "features")
    assert from_features == run(config, tmp_path / "encoded", weights=weights, data=data)


def test_conditions_are_dropped_when_features_are_read(
    weights: Path, clips: Path, tmp_path: Path, encoded: Counter[str]
) -> None:
    """Other rates need no other features; losses are those of encoding on the way, to the bit."""
    folder = tmp_path / "features"
    prepare(tiny("data.dropout.text=0", "data.dropout.references=0"), clips, folder, weights, epochs=2)
    before = dict(encoded)
    assert prepare(tiny(), clips, folder, weights, epochs=2) == 8
    assert encoded == before
    for rates in (("text=0.9", "references=0"), ("text=0", "references=0.9"), ("both=0.8",)):
        config = tiny(*(f"data.dropout.{rate}" for rate in rates), "run.max_steps=3")
        found, expected = (
            run(config, tmp_path / f"{rates[0]}-{rates[-1]}-{name}", weights=weights, **{name: place})
            for name, place in (("features", folder), ("data", clips))
        )
        assert found == expected


def test_another_seed_shares_what_is_the_same(
    weights: Path, clips: Path, tmp_path: Path, encoded: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts and pictures are not encoded again, windows only where they are new; the forecast says so."""
    folder = tmp_path / "features"
    prepare(tiny(), clips, folder, weights, epochs=4)
    encoded.clear()
    capsys.readouterr()
    assert prepare(tiny("run.seed=1"), clips, folder, weights, epochs=4) == 16
    said = capsys.readouterr().err
    assert "to prepare: 16 positions, 16 of them not there yet" in said
    assert encoded["text"] == encoded["dinov3-vitb16"] == 0 < encoded["latents"] < 16
    # The fourth line's entries are others' that stand in, of which the forecast knows nothing.
    found = re.search(r"new: about (\d+) videos \S+ \S+, 0 pictures 0 B, 0 texts", said)
    assert found is not None and abs(int(found[1]) - encoded["latents"]) <= 4
    assert set(entries(folder).values()) == {1}
    for seed in (0, 1):
        config = tiny(f"run.seed={seed}", "run.max_steps=3")
        found_rows, expected = (
            run(config, tmp_path / f"{seed}-{name}", weights=weights, **{name: place})
            for name, place in (("features", folder), ("data", clips))
        )
        assert found_rows == expected
    with pytest.raises(
        UserError, match=r"were prepared with seed=\d, not 2; prepare them again with this setting"
    ):
        run(tiny("run.seed=2"), tmp_path / "none", weights=weights, features=folder)


def test_a_teacher_is_added_without_encoding_videos_again(
    two_teachers: Path, clips: Path, tmp_path: Path, encoded: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And a folder that began without one serves runs with none, one and two."""
    folder = tmp_path / "features"
    prepare(tiny("alignment.enabled=false"), clips, folder, two_teachers, epochs=2)
    assert not any(name.startswith("teacher/") for name in entries(folder))
    videos = files_of(folder)
    digest = PreparedSource(folder, tiny("alignment.enabled=false"), weights=two_teachers).digest()
    encoded.clear()
    capsys.readouterr()
    prepare(tiny(), clips, folder, two_teachers, epochs=2)
    assert encoded == {"dinov3-vitb16": 3}
    assert "3 pictures' tokens of dinov3-vitb16" in capsys.readouterr().err
    prepare(tiny(BOTH_TEACHERS), clips, folder, two_teachers, epochs=2)
    assert encoded == {"dinov3-vitb16": 3, "dinov3-vitl16": 3}
    assert videos.items() <= files_of(folder).items()
    assert PreparedSource(folder, tiny("alignment.enabled=false"), weights=two_teachers).digest() == digest
    for name, changes in (("none", "alignment.enabled=false"), ("both", BOTH_TEACHERS)):
        config = tiny(changes, "run.max_steps=3")
        found, expected = (
            run(config, tmp_path / f"{name}-{where}", weights=two_teachers, **{where: place})
            for where, place in (("features", folder), ("data", clips))
        )
        assert found == expected
    inputs = json.loads((tmp_path / "none-features" / "inputs.json").read_text())["inputs"]
    assert {name for name in inputs if name.startswith("weights.")} == {"weights.vae", "weights.text_encoder"}


def test_two_data_sets_in_one_folder(
    weights: Path, clips: Path, tmp_path: Path, encoded: Counter[str]
) -> None:
    """Stage 1 on one set, stage 2 on a mixture: what both take is kept once."""
    other = write_clips(tmp_path / "other", broken=False)
    other.write_text(other.read_text().replace("square", "box"))
    folder = tmp_path / "features"
    prepare(tiny(), clips, folder, weights, epochs=1)
    config = tiny("data.mixture=1,1", "run.max_steps=3")
    encoded.clear()
    assert prepare(config, (clips, other), folder, weights) == 6
    # The pictures and the empty prompt are there; other prompts are not.
    assert encoded["dinov3-vitb16"] == 0 and encoded["text"] <= 3
    assert set(entries(folder).values()) == {1}
    found = run(config, tmp_path / "features-run", weights=weights, features=folder)
    assert found == run(config, tmp_path / "data-run", weights=weights, data=(clips, other))
    prepare(tiny(), other, folder, weights, epochs=1)
    with pytest.raises(UserError, match=r"features of 2 data sets for these settings; name one with --data"):
        PreparedSource(folder, tiny(), weights=weights)
    data = open_data(tiny(), other, tmp_path / "index")
    assert PreparedSource(folder, tiny(), weights=weights, data=data).length == 3


def test_processes_share_the_files_out(weights: Path, clips: Path, tmp_path: Path) -> None:
    """Whatever their number and order, a run finds the same features."""
    config = tiny()
    data = open_data(config, clips, tmp_path / "index")
    encoder = make_encoder(config, weights, "cpu")
    settings = {"positions": 8, "weights": weights}
    prepare_features(config, data, encoder, tmp_path / "one", **settings)
    for rank in (2, 0, 1):
        prepare_features(config, data, encoder, tmp_path / "three", **settings, rank=rank, world_size=3)
    one, three = (
        PreparedSource(tmp_path / name, config, weights=weights).digest() for name in ("one", "three")
    )
    assert one == three
    assert set(entries(tmp_path / "three").values()) == {1}


def test_a_run_goes_on_with_more_positions_than_it_began_with(
    weights: Path, clips: Path, tmp_path: Path
) -> None:
    """Unless it went through them again: then it has seen how many there were."""
    from accelerate.state import AcceleratorState

    def go_on(out: str, steps: int, *, positions: int) -> list[dict[str, Any]]:
        AcceleratorState._reset_state(reset_partial_state=True)
        folder = tmp_path / f"features-{out}"
        prepare(tiny(), clips, folder, weights, positions=positions)
        config = tiny(f"run.max_steps={steps}", "run.samples_per_step=2")
        paths = TrainingPaths(out=tmp_path / out, weights=weights, features=folder)
        train(config, paths, resume=True)
        return logged_steps(tmp_path / out)

    expected = go_on("straight", 4, positions=8)
    go_on("grown", 2, positions=4)
    assert go_on("grown", 3, positions=8) == expected[:3]
    assert go_on("grown", 4, positions=8) == expected
    go_on("again", 3, positions=4)
    with pytest.raises(UserError, match=r"other inputs: features\.files .*features\.positions"):
        go_on("again", 4, positions=8)


def test_entries_outside_of_the_folder_are_not_read(weights: Path, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    prepare(tiny(), clips, folder, weights, positions=6)
    for file in folder.rglob("features-*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            notes = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        save_file(tensors, file, notes | {"elsewhere": json.dumps({"text/x": "../secret.safetensors"})})
    with pytest.raises(UserError, match="is damaged: it takes entries from outside of its folder") as caught:
        run(tiny(), tmp_path / "run", weights=weights, features=folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_lost_is_made_again(weights: Path, clips: Path, tmp_path: Path) -> None:
    """What others take from it is in it again."""
    config, folder = tiny(), tmp_path / "features"
    prepare(config, clips, folder, weights, epochs=2)
    whole = files_of(folder)
    next(folder.glob("order-*/features-00000.safetensors")).unlink()
    with pytest.raises(UserError, match=r"lacks 1 of 3 files of features"):
        PreparedSource(folder, config, weights=weights)
    prepare(config, clips, folder, weights, epochs=2)
    names = {name for tensors in whole.values() for name in tensors}
    assert set(entries(folder)) == names
    source = PreparedSource(folder, config, weights=weights)
    stream = source.examples(start=0, rank=0, world_size=1)
    assert len([next(stream) for _ in range(8)]) == 8
    stream.close()


def test_clips_that_changed_since_are_refused(two_teachers: Path, tmp_path: Path) -> None:
    """The lists of clips are the same; what would be added to the features does not fit them any more."""
    clips, folder = write_clips(tmp_path / "clips", broken=False), tmp_path / "features"
    prepare(tiny(), clips, folder, two_teachers, epochs=1)
    for number, other in ((1, 2), (2, 1)):
        shutil.copy(clips.parent / f"{number}.mp4", tmp_path / f"{other}.mp4")
    for name in ("1.mp4", "2.mp4"):
        shutil.copy(tmp_path / name, clips.parent / name)
    shutil.copy(clips.parent / "0-0.png", clips.parent / "1-0.png")
    with pytest.raises(UserError, match=r"was prepared from other pixels of clips/n\d; prepare the features"):
        prepare(tiny(BOTH_TEACHERS), clips, folder, two_teachers, epochs=1)
    # Of the first clip it is seen at once: these are other data, and an order of their own.
    shutil.copy(clips.parent / "1.mp4", clips.parent / "0.mp4")
    shutil.copy(clips.parent / "1-0.png", clips.parent / "0-1.png")
    with pytest.raises(UserError, match=r"come from other data; prepare them again for these"):
        run(tiny(), tmp_path / "out", weights=two_teachers, features=folder, data=clips)
    prepare(tiny(), clips, folder, two_teachers, epochs=1)
    assert len(list(folder.glob("order-*/order.json"))) == 2


def test_the_forecast_is_what_is_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is free on a disk moves while others write to it.
    monkeypatch.setattr(run_module, "free_bytes", lambda folder: 10**12)
    clips, folder = write_clips(tmp_path / "clips", broken=False), tmp_path / "features"
    assert prepare(tiny(), clips, folder, weights, positions=7, dry_run=True) == 0
    forecast = capsys.readouterr().err
    assert not list(folder.rglob("*.safetensors"))
    prepare(tiny(), clips, folder, weights, positions=7)
    assert forecast.splitlines() == capsys.readouterr().err.splitlines()[:3]
    content = [(name, len(value)) for tensors in files_of(folder).values() for name, value in tensors.items()]
    kinds = Counter(name.partition("/")[0] for name, _ in content)
    found = re.search(
        r"^new: (\d+) videos .*, (\d+) pictures .*, (\d+) texts .*, (\d+) pictures' tokens of", forecast, re.M
    )
    assert found is not None
    assert [int(count) for count in found.groups()] == [
        kinds[kind] for kind in ("video", "picture", "text", "teacher")
    ]
    size = re.search(r"^size: ([\d.]+) KiB, [\d.]+ KiB a new position; \S+ \S+ are free in ", forecast, re.M)
    assert size is not None and float(size[1]) == pytest.approx(
        sum(size for _, size in content) / 1024, abs=0.06
    )
    prepare(tiny(), clips, folder, weights, positions=7)
    assert "7 positions, 0 of them not there yet" in capsys.readouterr().err


def test_a_forecast_of_very_many_positions_looks_at_a_part(
    weights: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of three clips of 12 frames, which have 8 windows each, and one that stands for its substitutes."""
    monkeypatch.setattr(forecast_module, "MOST_POSITIONS", 50)
    prepare(tiny(), clips, tmp_path / "features", weights, positions=10**9, dry_run=True)
    said = capsys.readouterr().err
    assert "to prepare: 1,000,000,000 positions, 1,000,000,000 of them not there yet" in said
    assert re.search(r"^new: about 32 videos .*, 4 pictures .*, 5 texts ", said, re.M)


def test_what_does_not_fit_the_disk_is_refused(
    weights: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "free_bytes", lambda folder: 60_000)
    with pytest.raises(
        UserError,
        match=r"^the features take \S+ KiB and 58\.6 KiB are free in .*: about \d+ new positions fit",
    ) as told:
        prepare(tiny(), clips, tmp_path / "features", weights, epochs=2)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert prepare(tiny(), clips, tmp_path / "features", weights, epochs=2, force=True) == 8


def test_how_many_positions_are_prepared(weights: Path, clips: Path, tmp_path: Path) -> None:
    """Without a word what the run takes, at most an epoch."""
    assert prepare(tiny("run.max_steps=1"), clips, tmp_path / "short", weights) == 2
    assert prepare(tiny("run.max_steps=100"), clips, tmp_path / "long", weights) == 4
    with pytest.raises(UserError, match=r"either --epochs or --positions"):
        prepare(tiny(), clips, tmp_path / "none", weights, epochs=1, positions=1)


def test_one_command_at_a_time_prepares_in_a_folder(weights: Path, clips: Path, tmp_path: Path) -> None:
    taken = pytest.raises(UserError, match=r"^another refbench prepare is writing into .*index\.lock")
    with run_module._alone_in(tmp_path), taken:
        prepare(tiny(), clips, tmp_path, weights)
    assert prepare(tiny(), clips, tmp_path, weights) == 4


def test_a_killed_preparation_goes_on(weights: Path, clips: Path, tmp_path: Path) -> None:
    """`kill -9` while files are written: the same command makes the folder that was never interrupted."""
    command = [
        *(
            sys.executable,
            "-m",
            "refbench",
            "prepare",
            "tiny",
            "--data",
            str(clips),
            "--weights",
            str(weights),
        ),
        *("--out", str(tmp_path / "killed"), "--positions", "129", *SHORT_RUN),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = tmp_path / "said.txt"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=stderr, stdout=subprocess.DEVNULL
        )
    try:
        while not list((tmp_path / "killed").glob("order-*/teacher-*-00000.safetensors")):
            assert process.poll() is None, said.read_text()
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "POSITIONS_PER_FILE", 64)
        prepare(tiny(), clips, tmp_path / "killed", weights, positions=129)
        prepare(tiny(), clips, tmp_path / "whole", weights, positions=129)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.partial"))


@pytest.fixture(scope="module")
def by_position(
    weights: Path, clips: Path, small_files: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Features as version 3 wrote them."""
    folder = tmp_path_factory.mktemp("older") / "features"
    write_features_by_position(tiny(), clips, folder, weights, epochs=2, per_shard=3)
    return folder


def test_features_by_position_train_to_the_same_losses(
    weights: Path, clips: Path, by_position: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()
    old = run(config, tmp_path / "old", weights=weights, features=by_position)
    assert old == run(config, tmp_path / "encoded", weights=weights, data=clips)
    without = tiny("alignment.enabled=false", "run.max_steps=2")
    assert len(run(without, tmp_path / "without", weights=weights, features=by_position, data=clips)) == 2
    with pytest.raises(
        UserError, match=r"prepared with data\.dropout\.text=0\.1, not 0\.5; prepare them again"
    ):
        run(tiny("data.dropout.text=0.5"), tmp_path / "no", weights=weights, features=by_position)
    # What they hold needs no preparation; nothing is added to them.
    assert prepare(config, clips, by_position, weights, epochs=1) == 8
    with pytest.raises(UserError, match=r"8 positions of an earlier version, to which nothing is added"):
        prepare(config, clips, by_position, weights, epochs=3)
    assert len(KnownEntries(by_position).files) == 0


def test_an_index_of_version_1_is_read(weights: Path, by_position: Path, tmp_path: Path) -> None:
    """It was written before the sections of `data` were nested."""
    folder = Path(shutil.copytree(by_position, tmp_path / "features"))
    of_this_machine = json.loads((folder / "index.json").read_text())
    older = json.loads((OLDER / "index.json").read_text())
    assert older["schema_version"] == 1 and "width" in older["settings"]["data"]
    (folder / "index.json").write_text(json.dumps(older | {"weights": of_this_machine["weights"]}))
    stream = PreparedSource(folder, tiny(), weights=weights).examples(start=0, rank=0, world_size=1)
    assert len([next(stream) for _ in range(8)]) == 8
    stream.close()
    with pytest.raises(UserError, match=r"were prepared with data\.references\.gpt=0\.0, not 0\.5"):
        PreparedSource(folder, tiny("data.references.gpt=0.5"), weights=weights)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            lambda folder: (folder / "features-00001.safetensors").unlink(),
            r"lacks 1 of 3 shards, the first is",
        ),
        (
            lambda folder: (folder / "features-00001.safetensors").write_bytes(b"x"),
            r"features-00001\.safetensors is damaged: .*; prepare the features again in another folder",
        ),
        (
            lambda folder: shutil.copy(
                folder / "features-00000.safetensors", folder / "features-00001.safetensors"
            ),
            r"00001\.safetensors does not hold all its positions; prepare",
        ),
    ],
)
def test_damaged_features_by_position_are_refused(
    weights: Path, by_position: Path, tmp_path: Path, damage: Any, text: str
) -> None:
    folder = Path(shutil.copytree(by_position, tmp_path / "features"))
    damage(folder)
    with pytest.raises(UserError, match=text) as told:
        run(tiny(), tmp_path / "out", weights=weights, features=folder)
    assert "\n" not in str(told.value)
