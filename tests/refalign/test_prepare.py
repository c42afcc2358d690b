"""Prepared features: equal losses to the bit, resumable, refused where stale; and the tiny recipe on a
clip.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

from safetensors import SafetensorError  # noqa: E402

import refbench.refalign.training.prepare as prepare_module  # noqa: E402
from kit.clips import moving_square  # noqa: E402
from kit.training import files_of  # noqa: E402
from refbench.baselines.small.wan_base import write_tiny as write_base  # noqa: E402
from refbench.baselines.wan.spec import WanOptions  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.bench.video import write_video  # noqa: E402
from refbench.refalign.data.dataset import open_training_data  # noqa: E402
from refbench.refalign.data.sample import EpochPosition, TrainingSample  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402
from refbench.refalign.small_teacher import write_tiny as write_teacher  # noqa: E402
from refbench.refalign.training.encoder import FeatureEncoder  # noqa: E402
from refbench.refalign.training.examples import guarded_items  # noqa: E402
from refbench.refalign.training.prepare import PreparedSource  # noqa: E402
from refbench.refalign.training.recipes import TrainingConfig, build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, make_encoder, prepare, train  # noqa: E402

OLDER = Path(__file__).parents[1] / "files" / "version_0.1" / "training"
SIZE = ("data.clip.width=64", "data.clip.height=48", "data.clip.num_frames=5", "data.clip.stride=1")
SHORT = (*SIZE, "run.max_steps=4", "log.every=1000", "log.tensorboard=false", "alignment.blocks=0,1")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_base(folder)
    write_teacher(folder)
    return folder


def write_clips(folder: Path, *, broken: bool = True) -> Path:
    """Four lines: two references, one, none, and a video that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(3):
        frames = list(moving_square(frames=12, speed=2, seed=number))
        write_video(folder / f"{number}.mp4", frames, 8)
        references = []
        for which in range(2 - number):
            references.append(f"{number}-{which}.png")
            Image.fromarray(frames[6 * which][10:40, 5:50]).save(folder / references[-1])
        prompt = "a square moves" * (number + 1)
        lines.append(
            {"video": f"{number}.mp4", "prompt": prompt, "references": references, "id": f"n{number}"}
        )
    if broken:
        lines.append({"video": "absent.mp4", "prompt": "nothing", "references": [], "id": "n3"})
    file = folder / "clips.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of three positions; and no state of accelerate from another run in this process."""
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(prepare_module, "POSITIONS_PER_SHARD", 3)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def encoder(weights: Path) -> FeatureEncoder:
    return make_encoder(build_config("tiny", SIZE), weights, "cpu")


@pytest.fixture
def prepared(weights: Path, clips: Path, tmp_path: Path) -> Path:
    prepare(build_config("tiny", SHORT), clips, tmp_path / "features", weights, epochs=2)
    return tmp_path / "features"


def steps(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows if "step" in row]


def run(config: TrainingConfig, out: Path, **places: Path) -> list[dict[str, Any]]:
    train(config, TrainingPaths(out=out, **places), resume=False)
    return steps(out)


def sample_of(clips: Path) -> TrainingSample:
    data = open_training_data(clips, build_config("tiny", SIZE).data.clip, seed=0, cache=None)
    found = next(
        sample
        for sample in (data.sample(0, position) for position in range(4))
        if len(sample.clip.references_NHWC) == 2
    )
    return replace(found, dropped="nothing")


def test_features_of_a_sample(encoder: FeatureEncoder, clips: Path) -> None:
    sample = sample_of(clips)
    both = encoder.encode(sample)
    assert both.latents_CFhw.shape == (16, 2, 6, 8) and both.latents_CFhw.dtype == torch.float32
    assert both.references_CNhw.shape == (16, 2, 6, 8)
    assert both.teachers[0].shape == (2, 12, 40)
    assert both.text_LD.shape[1] == 32 and both.text_LD[-1].any()
    # Each reference is encoded alone: the first is the same without the second.
    one = replace(sample.clip, references_NHWC=sample.clip.references_NHWC[:1])
    alone = encoder.encode(replace(sample, clip=one))
    torch.testing.assert_close(alone.references_CNhw[:, 0], both.references_CNhw[:, 0])
    torch.testing.assert_close(alone.teachers[0][0], both.teachers[0][0])


def test_references_are_prepared_as_in_sampling(encoder: FeatureEncoder, clips: Path) -> None:
    from refbench.baselines.wan.conditioning import encode_each

    sample = sample_of(clips)
    images = [Image.fromarray(picture) for picture in sample.clip.references_NHWC]
    found = encoder.encode(sample).references_CNhw
    with torch.no_grad():
        expected = encode_each(encoder.codec, images)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dropped", "references", "text"),
    [("text", 2, False), ("references", 0, True), ("both", 0, False)],
)
def test_dropped_conditions(
    encoder: FeatureEncoder, clips: Path, dropped: Any, references: int, text: bool
) -> None:
    sample = sample_of(clips)
    both, found = encoder.encode(sample), encoder.encode(replace(sample, dropped=dropped))
    assert found.references_CNhw.shape[1] == len(found.teachers[0]) == references
    assert torch.equal(found.text_LD, both.text_LD) == text
    if not text:
        unprompted = replace(sample, clip=replace(sample.clip, prompt=""))
        assert torch.equal(found.text_LD, encoder.encode(unprompted).text_LD)
    assert torch.equal(found.latents_CFhw, both.latents_CFhw)


def test_prepared_features_give_the_same_run_to_the_bit(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path
) -> None:
    config = build_config("tiny", SHORT)
    encoded = run(config, tmp_path / "encoded", weights=weights, data=clips)
    features = run(config, tmp_path / "prepared", weights=weights, features=prepared)
    assert encoded == features and len(encoded) == 4
    assert encoded[-1]["skipped"] == 1
    last = "checkpoints/step-00000004/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "encoded" / last).read_bytes() == (tmp_path / "prepared" / last).read_bytes()


def test_decoding_in_worker_processes_changes_nothing(
    weights: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for workers in (0, 2):
        run(
            build_config("tiny", [*SHORT, f"data.workers={workers}"]),
            tmp_path / str(workers),
            weights=weights,
            data=clips,
        )
    assert steps(tmp_path / "0") == steps(tmp_path / "2")
    named = [
        line for line in (tmp_path / "2" / "log.jsonl").read_text().splitlines() if 'skipped": "' in line
    ]
    assert len(named) == 1 and "clips.jsonl:4" in named[0] and "absent.mp4 is missing" in named[0]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("skipped in all: 1 (") and last.endswith("log.jsonl names each with its reason")


def test_data_that_vanishes_is_one_line_from_a_worker_too(weights: Path, tmp_path: Path) -> None:
    file = write_clips(tmp_path / "clips", broken=False)
    config = build_config("tiny", [*SHORT, "data.workers=1"])
    data = open_training_data(file, config.data.clip, seed=0, cache=None)
    for video in file.parent.glob("*.mp4"):
        video.unlink()
    with pytest.raises(UserError, match=r"none of 3 samples tried can be used") as caught:
        next(iter(guarded_items(data, [EpochPosition(epoch=0, position=0)], 1)))
    assert "\n" not in str(caught.value)


def test_the_registered_method_samples_with_a_trained_network(
    weights: Path, clips: Path, tmp_path: Path
) -> None:
    run(build_config("tiny", [*SHORT, "run.max_steps=1"]), tmp_path, weights=weights, data=clips)
    options = WanOptions(
        transformer=tmp_path / "checkpoints" / "step-00000001" / "transformer",
        width=64,
        height=48,
        num_frames=5,
        steps=2,
    )
    method = RefAlignTiny(options)
    method.load(Environment(device="cpu"))
    reference = Reference(path="0-0.png", root=clips.parent, label="square", kind="object")
    sample = Sample(id="singleobj_1", category="singleobj", prompt="a square", references=(reference,))
    assert [frame.shape for frame in method.generate(sample, 0).images] == [(48, 64, 3)] * 5
    method.close()


def test_prepared_epochs_are_gone_through_again_with_new_noise(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = build_config("tiny", [*SHORT, "run.max_steps=6", "optimizer.learning_rate=1e-30"])
    rows = run(config, tmp_path / "out", weights=weights, features=prepared)
    assert "the run takes 12 samples" in capsys.readouterr().err
    assert len({row["flow"] for row in rows}) == 6
    assert [row["tokens"] for row in rows[:2]] == [row["tokens"] for row in rows[4:]]


def test_an_interrupted_preparation_goes_on(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = build_config("tiny", SHORT), tmp_path / "again"
    real = prepare_module.write_tensors
    written = []

    def fails_at_the_second(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        real(path, *arguments)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_tensors", fails_at_the_second)
    with pytest.raises(
        UserError, match=r"00001\.safetensors could not be written: No space left on device; "
    ):
        prepare(config, clips, folder, weights, epochs=2)
    assert sorted(path.name for path in folder.glob("*feat*")) == ["features-00000.safetensors"]
    with pytest.raises(UserError, match=r"lacks 2 of 3 shards, the first is features-00001\.safetensors"):
        run(config, tmp_path / "out", weights=weights, features=folder)
    prepare(config, clips, folder, weights, epochs=2)
    assert written[2:] == [".features-00001.safetensors.partial", ".features-00002.safetensors.partial"]
    assert files_of(prepared) == files_of(folder) and len(files_of(folder)) == 3
    # One epoch more: what is there stays, but for the shard that was not full.
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"epochs": 3}))
    shutil.copy(folder / "features-00002.safetensors", folder / "features-00003.safetensors")
    source = PreparedSource(folder, config, weights=weights)
    with pytest.raises(UserError, match=r"00002\.safetensors does not hold all its positions; run refbench"):
        list(itertools.islice(source.examples(start=0, rank=0, world_size=1), 9))
    (folder / "features-00003.safetensors").unlink()
    (folder / "index.json").write_text(json.dumps(index))
    prepare(config, clips, folder, weights, epochs=3)
    assert [name[10:15] for name in written[4:]] == ["00002", "00003"]


def edit(folder: Path) -> None:
    (folder / "features-00001.safetensors").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("overrides", "damage", "text"),
    [
        (("run.seed=1",), None, r"were prepared with seed=0, not 1; prepare them again"),
        (("data.dropout.text=0.5",), None, r"were prepared with data\.dropout\.text=0\.1, not 0\.5"),
        (("data.workers=1", "run.max_steps=1"), None, None),
        ((), edit, r"features-00001\.safetensors is damaged: .*; remove it and prepare again"),
        (
            (),
            lambda folder: (folder / "index.json").unlink(),
            r"holds no prepared features .*prepare$",
        ),
        ((), lambda folder: (folder / "index.json").write_text("{}"), r"index\.json is damaged: settings"),
    ],
)
def test_stale_and_damaged_features_are_refused(
    weights: Path,
    prepared: Path,
    tmp_path: Path,
    overrides: tuple[str, ...],
    damage: Callable[[Path], None] | None,
    text: str | None,
) -> None:
    if damage is not None:
        damage(prepared)
    config = build_config("tiny", [*SHORT, *overrides])
    if text is None:
        assert run(config, tmp_path / "out", weights=weights, features=prepared)
        return
    with pytest.raises(UserError, match=text) as caught:
        run(config, tmp_path / "out", weights=weights, features=prepared)
    assert "\n" not in str(caught.value)


def test_an_index_of_version_1_is_read(weights: Path, prepared: Path) -> None:
    """It was written before the sections of `data` were nested."""
    of_this_machine = json.loads((prepared / "index.json").read_text())
    older = json.loads((OLDER / "index.json").read_text())
    assert older["schema_version"] == 1 and "width" in older["settings"]["data"]
    (prepared / "index.json").write_text(json.dumps(older | {"weights": of_this_machine["weights"]}))
    source = PreparedSource(prepared, build_config("tiny", SHORT), weights=weights)
    assert len(list(itertools.islice(source.examples(start=0, rank=0, world_size=1), 8))) == 8
    with pytest.raises(UserError, match=r"were prepared with data\.references\.gpt=0\.0, not 0\.5"):
        PreparedSource(prepared, build_config("tiny", [*SHORT, "data.references.gpt=0.5"]), weights=weights)


def test_features_of_other_data_and_weights_are_refused(
    weights: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config("tiny", SHORT)
    other = write_clips(tmp_path / "other", broken=False)
    with pytest.raises(UserError, match=r"come from other data"):
        run(config, tmp_path / "out", weights=weights, features=prepared, data=other)
    changed = tmp_path / "weights"
    shutil.copytree(weights, changed)
    file = next(changed.rglob("vae/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for folder in (changed, Path("weights")):
        with pytest.raises(UserError, match=r"come from other weights of vae; prepare them again"):
            run(config, tmp_path / "out", weights=folder, features=prepared)


def test_what_is_missing_is_one_line(weights: Path, clips: Path, tmp_path: Path) -> None:
    config = build_config("tiny", SHORT)
    no_teacher = tmp_path / "weights"
    shutil.copytree(weights / "Wan-AI", no_teacher / "Wan-AI")
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("")
    useless = tmp_path / "useless.jsonl"
    useless.write_text('{"video": "absent.mp4", "prompt": "x", "references": []}\n')
    for places, text in (
        (
            {"weights": no_teacher, "data": clips},
            r"^teacher dinov3-vitb16: facebook/\S+ is not on disk; ",
        ),
        (
            {"weights": tmp_path / "none", "data": clips},
            r"Wan-AI/Wan2\.1\S* is not on disk; refbench",
        ),
        ({"weights": weights, "data": nothing}, r"holds no training sample"),
        (
            {"weights": weights, "data": useless},
            r"none of 1 samples tried can be used \(\S+: the video a",
        ),
        ({"weights": weights}, r"training needs --data, or --features"),
    ):
        with pytest.raises(UserError, match=text) as caught:
            run(config, tmp_path / "out", **places)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_validation_videos_do_not_disturb_training(
    weights: Path, clips: Path, dataset: Path, tmp_path: Path
) -> None:
    plain = run(build_config("tiny", SHORT), tmp_path / "plain", weights=weights, data=clips)
    names = ("singleobj_1", "faceobj_2")
    watched = (f"validation.dataset={dataset}", f"validation.samples={','.join(names)}", "validation.every=2")
    config = build_config("tiny", [*SHORT, *watched, "validation.steps=2", "ema.enabled=true"])
    assert run(config, tmp_path / "one", weights=weights, data=clips) == plain
    run(config, tmp_path / "two", weights=weights, data=clips)
    videos = {
        out: {path.relative_to(tmp_path / out).as_posix(): path.read_bytes() for path in place.rglob("*.mp4")}
        for out in ("one", "two")
        for place in (tmp_path / out / "validation",)
    }
    expected = {f"validation/step-0000000{step}/{name}.mp4" for step in (2, 4) for name in names}
    assert videos["one"].keys() == expected
    assert videos["one"] == videos["two"]
    with pytest.raises(UserError, match=r"validation\.samples: open-domain has no sample 'singleobj_99'"):
        absent = build_config("tiny", [*SHORT, *watched, "validation.samples=singleobj_99"])
        run(absent, tmp_path / "three", weights=weights, data=clips)


def test_validation_takes_a_suite_of_ones_own(
    weights: Path, clips: Path, dataset: Path, tmp_path: Path
) -> None:
    image = next((dataset / "Images").rglob("*.png")).relative_to(dataset)
    line = {"id": "mine_1", "prompt": "a prompt", "references": [str(image)], "labels": ["Man"]}
    (dataset / "mine.jsonl").write_text(json.dumps(line) + "\n")
    chosen = (f"validation.dataset={dataset / 'mine.jsonl'}", "validation.samples=mine_1")
    config = build_config("tiny", [*SHORT, *chosen, "validation.every=4", "validation.steps=1"])
    run(config, tmp_path / "out", weights=weights, data=clips)
    assert [path.name for path in (tmp_path / "out/validation").rglob("*.mp4")] == ["mine_1.mp4"]


def test_the_commands_alone_and_under_a_launcher(weights: Path, clips: Path, tmp_path: Path) -> None:
    """refbench train in two processes that accelerate launches, then resumed in one; refbench prepare."""
    refbench = Path(sys.executable).with_name("refbench")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    common = ["--weights", str(weights), "--out", str(tmp_path / "out"), *SHORT]
    launcher = [
        str(Path(sys.executable).with_name("accelerate")),
        "launch",
        "--multi_gpu",
        "--num_processes=2",
    ]

    def call(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)

    done = call(*launcher, refbench, "train", "tiny", "--data", clips, *common, "--max-steps", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    state = json.loads((tmp_path / "out" / "checkpoints" / "step-00000002" / "state.json").read_text())
    assert state["processes"] == 2
    assert done.stderr.count("step 2/2") == 1 and done.stderr.count("step 2 is reached") == 1
    done = call(refbench, "train", "tiny", "--data", clips, *common, "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    alone = run(build_config("tiny", SHORT), tmp_path / "alone", weights=weights, data=clips)
    for one, other in zip(steps(tmp_path / "out"), alone, strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    done = call(refbench, "train", "tiny", "--data", clips, *common)
    assert done.returncode == 2 and done.stderr.startswith("refbench: ") and done.stderr.count("\n") == 1


def test_the_tiny_recipe_learns(weights: Path, tmp_path: Path) -> None:
    """On the real demo clip where it is at hand: both losses fall, alignment far below a run without it."""
    shared = os.environ.get("REFBENCH_SHARED")
    data = (
        Path(shared) / "data" / "opens2v_5m_demo" if shared else write_clips(tmp_path / "clips", broken=False)
    )
    prepare(build_config("tiny"), data, tmp_path / "features", weights, epochs=4)
    ends = {}
    for weight in (1, 0):
        changes = [
            "run.max_steps=150",
            f"alignment.weight={weight}",
            "log.tensorboard=false",
            "log.every=1000",
        ]
        config = build_config("tiny", [*changes, "checkpoints.every=1000"])
        rows = run(config, tmp_path / str(weight), weights=weights, features=tmp_path / "features")
        firsts, lasts = rows[:20], rows[-40:]

        def mean(rows: list[dict[str, Any]], *names: str) -> float:
            return statistics.mean(
                sum(row[name] for name in names) for row in rows if row[names[0]] is not None
            )

        assert mean(lasts, "flow") < 0.4 * mean(firsts, "flow")
        ends[weight] = mean(lasts, "ra_positive", "ra_negative")
    assert ends[1] < 0.6 * ends[0]


def test_a_full_disk_is_named_by_safetensors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refbench.bench.weights.checkpoint import write_tensors

    def full(*arguments: Any, **settings: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "x.safetensors", {})
