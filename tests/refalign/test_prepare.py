"""Prepared features: equal losses to the bit, resumable, refused where stale; and the tiny recipe learns."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

from safetensors import SafetensorError, safe_open  # noqa: E402

import refbench.refalign.training.feature_store as feature_store  # noqa: E402
import refbench.refalign.training.prepare as prepare_module  # noqa: E402
from kit.training import CLIP_SIZE, SHORT_RUN, files_of, logged_steps, write_clips  # noqa: E402
from refbench.baselines.wan.spec import WanOptions  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.bench.weights.checkpoint import read_state_dict, write_tensors  # noqa: E402
from refbench.refalign.data.dataset import open_training_data  # noqa: E402
from refbench.refalign.data.sample import EpochPosition, TrainingSample  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402
from refbench.refalign.training.encoder import FeatureEncoder  # noqa: E402
from refbench.refalign.training.examples import guarded_items  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, make_encoder, prepare, train  # noqa: E402
from refbench.refalign.training.settings import TrainingConfig  # noqa: E402
from refbench.refalign.training.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "small_shards")


TEACHER = "dinov3-vitb16"
NO_DROPOUT = tuple(f"data.dropout.{what}=0" for what in ("text", "references", "both"))


@pytest.fixture(scope="module")
def small_shards() -> Iterator[None]:
    """Files of three positions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store, "POSITIONS_PER_FILE", 3)
        yield


@pytest.fixture(scope="module")
def encoder(weights: Path) -> FeatureEncoder:
    return make_encoder(build_config("tiny", CLIP_SIZE), weights, "cpu")


@pytest.fixture(scope="module")
def prepared_once(
    weights: Path, clips: Path, small_shards: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "features"
    prepare(build_config("tiny", SHORT_RUN), clips, folder, weights, epochs=2)
    return folder


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Path:
    """Features of two epochs, which a test may damage."""
    return Path(shutil.copytree(prepared_once, tmp_path / "features"))


def run(config: TrainingConfig, out: Path, **places: Path) -> list[dict[str, Any]]:
    train(config, TrainingPaths(out=out, **places), resume=False)
    return logged_steps(out)


def sample_of(clips: Path) -> TrainingSample:
    data = open_training_data(clips, build_config("tiny", CLIP_SIZE).data.clip, seed=0, cache=None)
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
    config = build_config("tiny", SHORT_RUN)
    encoded = run(config, tmp_path / "encoded", weights=weights, data=clips)
    features = run(config, tmp_path / "prepared", weights=weights, features=prepared)
    assert encoded == features and len(encoded) == 4
    assert encoded[-1]["skipped"] == 1
    last = "checkpoints/step-00000004/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "encoded" / last).read_bytes() == (tmp_path / "prepared" / last).read_bytes()


def test_features_serve_a_run_that_needs_no_teacher(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path
) -> None:
    config = build_config("tiny", [*SHORT_RUN, "alignment.enabled=false"])
    encoded = run(config, tmp_path / "encoded", weights=weights, data=clips)
    assert encoded == run(config, tmp_path / "prepared", weights=weights, features=prepared)


def test_device_data_and_parameters_are_said_before_the_first_step(
    weights: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = build_config("tiny", [*SHORT_RUN, "run.max_steps=1", "lora.enabled=true", "lora.rank=2"])
    run(config, tmp_path, weights=weights, data=clips)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"device: cpu, float32; data: 4 clips in {clips.resolve()}"
    found = re.fullmatch(r"parameters: ([\d,]+) trained of ([\d,]+); steps 1 to 1, 2 samples each", said[1])
    assert found is not None and 0 < int(found[1].replace(",", "")) < int(found[2].replace(",", ""))
    assert any(line.startswith("step 1/1") for line in said[2:])


def test_decoding_in_worker_processes_changes_nothing(
    weights: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for workers in (0, 2):
        run(
            build_config("tiny", [*SHORT_RUN, f"data.workers={workers}"]),
            tmp_path / str(workers),
            weights=weights,
            data=clips,
        )
    assert logged_steps(tmp_path / "0") == logged_steps(tmp_path / "2")
    named = [
        line for line in (tmp_path / "2" / "log.jsonl").read_text().splitlines() if 'skipped": "' in line
    ]
    assert len(named) == 1 and "clips.jsonl:4" in named[0] and "absent.mp4 is missing" in named[0]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("skipped in all: 1 (") and last.endswith("log.jsonl names each with its reason")


def test_data_that_vanishes_is_one_line_from_a_worker_too(weights: Path, tmp_path: Path) -> None:
    file = write_clips(tmp_path / "clips", broken=False)
    config = build_config("tiny", [*SHORT_RUN, "data.workers=1"])
    data = open_training_data(file, config.data.clip, seed=0, cache=None)
    for video in file.parent.glob("*.mp4"):
        video.unlink()
    with pytest.raises(UserError, match=r"none of 3 samples tried can be used") as caught:
        next(iter(guarded_items(data, [EpochPosition(epoch=0, position=0)], 1)))
    assert "\n" not in str(caught.value)


def test_the_registered_method_samples_with_a_trained_network(
    weights: Path, clips: Path, tmp_path: Path
) -> None:
    run(build_config("tiny", [*SHORT_RUN, "run.max_steps=1"]), tmp_path, weights=weights, data=clips)
    options = WanOptions(
        transformer=tmp_path / "checkpoints" / "step-00000001" / "transformer",
        width=64,
        height=48,
        num_frames=5,
        steps=2,
    )
    generator = RefAlignTiny(options).load(Environment(device="cpu"))
    reference = Reference(path="0-0.png", root=clips.parent, label="square", kind="object")
    sample = Sample(id="singleobj_1", category="singleobj", prompt="a square", references=(reference,))
    assert [frame.shape for frame in generator.generate(sample, 0).images] == [(48, 64, 3)] * 5
    generator.close()


def test_prepared_epochs_are_gone_through_again_with_new_noise(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = build_config(
        "tiny", [*SHORT_RUN, "run.max_steps=6", "optimizer.learning_rate=1e-30", *NO_DROPOUT]
    )
    rows = run(config, tmp_path / "out", weights=weights, features=prepared)
    assert "the run takes 12 samples" in capsys.readouterr().err
    assert len({row["flow"] for row in rows}) == 6
    assert [row["tokens"] for row in rows[:2]] == [row["tokens"] for row in rows[4:]]


def test_an_interrupted_preparation_goes_on(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = build_config("tiny", SHORT_RUN), tmp_path / "again"
    real = prepare_module.write_tensors
    written = []

    def fails_at_the_third(path: Path, *arguments: Any) -> None:
        written.append(path.name)
        real(path, *arguments)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_tensors", fails_at_the_third)
    with pytest.raises(
        UserError, match=r"00001\.safetensors could not be written: No space left on device; "
    ):
        prepare(config, clips, folder, weights, epochs=2)
    first = ["features-00000.safetensors", f"teacher-{TEACHER}-00000.safetensors"]
    (order,) = folder.glob("order-*")
    assert sorted(path.name for path in order.glob("*.safetensors")) == first
    assert not list(order.glob(".*"))
    with pytest.raises(
        UserError, match=r"lacks 2 of 3 files of features, the first is features-00001\.safetensors; run"
    ):
        run(config, tmp_path / "out", weights=weights, features=folder)
    assert prepare(config, clips, folder, weights, epochs=2) == 8
    names = [f"{kind}-0000{number}" for number in (1, 2) for kind in ("features", f"teacher-{TEACHER}")]
    assert [name[1:].partition(".")[0] for name in written[3:]] == names
    assert files_of(prepared) == files_of(folder) and len(files_of(folder)) == 6
    # One epoch more: what is there stays, but for the file that was not full.
    before = len(written)
    assert prepare(config, clips, folder, weights, epochs=3) == 12
    names = [f"{kind}-0000{number}" for number in (2, 3) for kind in ("features", f"teacher-{TEACHER}")]
    assert [name[1:].partition(".")[0] for name in written[before:]] == names
    # Fewer are there already.
    assert prepare(config, clips, folder, weights, positions=5) == 12 and len(written) == before + 4


def edit(folder: Path) -> None:
    next(folder.glob("order-*/features-00001.safetensors")).write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("overrides", "damage", "text"),
    [
        (
            ("run.seed=1",),
            None,
            r"were prepared with seed=0, not 1; prepare them again with this setting",
        ),
        (
            ("data.clip.stride=2",),
            None,
            r"prepared with data\.clip\.stride=1, not 2; prepare them again",
        ),
        (
            ("model.patch=1",),
            None,
            r"prepared with model\.patch=2, not 1; prepare .* in another folder",
        ),
        (
            ("alignment.teachers=dinov3-vitb16,dinov3-vitl16",),
            None,
            r"prepared with teachers=\['dinov3-vitb16'\], not \['dinov3-vitb16', 'dinov3-vitl16'\]; run",
        ),
        (("data.workers=1", "run.max_steps=1"), None, None),
        (
            (),
            lambda folder: next(folder.glob("order-*/teacher-*-00001*")).unlink(),
            r"lacks 1 of 3 files of teacher-dinov3-vitb16, the first is \S+00001\.safetensors; run refbench",
        ),
        ((), edit, r"features-00001\.safetensors is damaged: .*; remove it and run refbench prepare again"),
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
    config = build_config("tiny", [*SHORT_RUN, *overrides])
    if text is None:
        assert run(config, tmp_path / "out", weights=weights, features=prepared)
        return
    with pytest.raises(UserError, match=text) as caught:
        run(config, tmp_path / "out", weights=weights, features=prepared)
    assert "\n" not in str(caught.value)


def test_features_of_other_data_and_weights_are_refused(
    weights: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config("tiny", SHORT_RUN)
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


def test_a_run_on_two_data_sets_is_mixed_and_resumed(weights: Path, clips: Path, tmp_path: Path) -> None:
    second = write_clips(tmp_path / "second", broken=False)
    both = {"weights": weights, "data": (clips, second)}
    with pytest.raises(UserError, match=r"^2 data sets need a share each, data\.mixture=3,1"):
        train(build_config("tiny", SHORT_RUN), TrainingPaths(out=tmp_path / "no", **both), resume=False)
    alone = build_config("tiny", [*SHORT_RUN, "data.mixture=6,4"])
    with pytest.raises(UserError, match=r"^data\.mixture=6,4 is for 2 data sets and 1 is given: give the"):
        train(alone, TrainingPaths(out=tmp_path / "no", weights=weights, data=(clips,)), resume=False)
    config = build_config("tiny", [*SHORT_RUN, "data.mixture=1,1"])
    straight, halves = (TrainingPaths(out=tmp_path / name, **both) for name in ("straight", "halves"))
    train(config, straight, resume=False)
    train(replace(config, run=replace(config.run, max_steps=2)), halves, resume=False)
    train(config, halves, resume=True)
    assert logged_steps(straight.out) == logged_steps(halves.out)


def other_data(folder: Path) -> Path:
    """Clips of which the last line's prompt is another one."""
    file = write_clips(folder)
    file.write_text(file.read_text().replace("nothing", "notting"))
    return file


@pytest.mark.parametrize("adapter", [False, True])
def test_a_run_is_not_resumed_on_other_data(
    adapter: bool, weights: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("lora.enabled=true", "lora.rank=2") if adapter else ()
    out, places = tmp_path / "out", {"out": tmp_path / "out", "weights": weights}
    short = build_config("tiny", [*SHORT_RUN, *changes, "run.max_steps=2"])
    train(short, TrainingPaths(**places, data=clips), resume=False)
    state = json.loads((out / "checkpoints/step-00000002/state.json").read_text())
    recorded = json.loads((out / "inputs.json").read_text())
    assert state["inputs"] == recorded["inputs"] and state["commit"] == recorded["commit"]
    names = {"data.path", "data.files", "data.length", "data.first_sample", "network"}
    assert recorded["inputs"].keys() == names | {
        f"weights.{each}" for each in ("vae", "text_encoder", "dinov3-vitb16")
    }
    other = TrainingPaths(**places, data=other_data(tmp_path / "others"))
    whole = build_config("tiny", [*SHORT_RUN, *changes, "run.max_steps=3"])
    with pytest.raises(UserError, match=r"step-00000002 was trained with other inputs: data\.files") as told:
        train(whole, other, resume=True)
    assert "--accept-other-data" in str(told.value) and "\n" not in str(told.value)
    moved = shutil.copytree(clips.parent, tmp_path / "moved") / clips.name
    train(whole, TrainingPaths(**places, data=moved), resume=True)
    further = build_config("tiny", [*SHORT_RUN, *changes])
    capsys.readouterr()
    train(further, other, resume=True, accept_other_data=True)
    said = "--accept-other-data: goes on with other inputs: data.files ("
    assert said in capsys.readouterr().err and said in (out / "log.jsonl").read_text()
    train(build_config("tiny", [*SHORT_RUN, *changes, "run.max_steps=5"]), other, resume=True)


def test_a_run_is_not_resumed_on_other_features_or_networks(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path
) -> None:
    config = build_config("tiny", SHORT_RUN)
    out = tmp_path / "out"
    train(
        build_config("tiny", [*SHORT_RUN, "run.max_steps=2"]),
        TrainingPaths(out=out, features=prepared, weights=weights),
        resume=False,
    )
    prepare(config, other_data(tmp_path / "others"), tmp_path / "other", weights, epochs=2)
    prepare(config, clips, tmp_path / "fewer", weights, epochs=1)
    for name, what in (("other", "data"), ("fewer", "features")):
        with pytest.raises(UserError, match=rf"with other inputs: {what}\.files \("):
            train(config, TrainingPaths(out=out, features=tmp_path / name, weights=weights), resume=True)
    with pytest.raises(UserError, match=r"with other inputs: data\.files \("):
        train(
            config, TrainingPaths(out=out, data=tmp_path / "others/clips.jsonl", weights=weights), resume=True
        )
    changed = Path(shutil.copytree(weights, tmp_path / "weights"))
    file = next(changed.rglob("vae/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"with other inputs: weights\.vae \("):
        train(config, TrainingPaths(out=out, data=clips, weights=changed), resume=True)
    train(config, TrainingPaths(out=out, data=clips, weights=weights), resume=True)


def test_an_adapter_is_not_resumed_on_another_network(weights: Path, clips: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        changes = ("run.max_steps=1", f"run.seed={seed}")
        run(build_config("tiny", [*SHORT_RUN, *changes]), tmp_path / name, weights=weights, data=clips)
    network = "checkpoints/step-00000001/transformer"
    for name in ("first", "first", "second"):
        changes = ("lora.enabled=true", "lora.rank=2", f"model.transformer={tmp_path / name / network}")
        resume = (tmp_path / "adapter").exists()
        config = build_config("tiny", [*SHORT_RUN, *changes, f"run.max_steps={1 + resume}"])
        paths = TrainingPaths(out=tmp_path / "adapter", weights=weights, data=clips)
        if name == "second":
            with pytest.raises(UserError, match=r"was trained with other inputs: network \("):
                train(config, paths, resume=True)
        else:
            train(config, paths, resume=resume)


def test_what_is_missing_is_one_line(weights: Path, clips: Path, tmp_path: Path) -> None:
    config = build_config("tiny", SHORT_RUN)
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
        # The data is looked at before the networks, which take long to read.
        ({"weights": no_teacher, "data": tmp_path / "none"}, r"^the training data \S+none does not exist$"),
        ({"weights": no_teacher, "features": tmp_path / "none"}, r"none holds no prepared features"),
    ):
        with pytest.raises(UserError, match=text) as caught:
            run(config, tmp_path / "out", **places)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()
    with pytest.raises(
        UserError, match=r"validation\.every=1 needs a data set: give validation\.dataset=DIR"
    ):
        run(build_config("tiny", ["validation.every=1"]), tmp_path / "new", weights=no_teacher, data=clips)
    with pytest.raises(UserError, match=r"the training data \S+none does not exist"):
        prepare(config, tmp_path / "none", tmp_path / "new", no_teacher, epochs=1)
    assert not (tmp_path / "new").exists()


def test_validation_videos_do_not_disturb_training(
    weights: Path, clips: Path, dataset: Path, tmp_path: Path
) -> None:
    short = (*SHORT_RUN, "run.max_steps=2")
    plain = run(build_config("tiny", short), tmp_path / "plain", weights=weights, data=clips)
    names = ("singleobj_1", "faceobj_2")
    watched = (f"validation.dataset={dataset}", f"validation.samples={','.join(names)}", "validation.every=1")
    config = build_config("tiny", [*short, *watched, "validation.steps=2", "ema.enabled=true"])
    assert run(config, tmp_path / "one", weights=weights, data=clips) == plain
    run(config, tmp_path / "two", weights=weights, data=clips)
    videos = {
        out: {path.relative_to(tmp_path / out).as_posix(): path.read_bytes() for path in place.rglob("*.mp4")}
        for out in ("one", "two")
        for place in (tmp_path / out / "validation",)
    }
    expected = {f"validation/step-0000000{step}/{name}.mp4" for step in (1, 2) for name in names}
    assert videos["one"].keys() == expected
    assert videos["one"] == videos["two"]
    with pytest.raises(UserError, match=r"validation\.samples: open-domain has no sample 'singleobj_99'"):
        absent = build_config("tiny", [*short, *watched, "validation.samples=singleobj_99"])
        run(absent, tmp_path / "three", weights=weights, data=clips)


def test_a_picture_of_validation_that_cannot_be_read_does_not_end_a_run(
    weights: Path,
    clips: Path,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is found before the first step; one that is damaged later is logged."""
    watched = (f"validation.dataset={dataset}", "validation.samples=singleobj_1,faceobj_2")
    config = build_config("tiny", [*SHORT_RUN, *watched, "validation.every=2", "validation.steps=1"])
    picture = next((dataset / "Images").rglob("cup/1.png"))
    good, bad = picture.read_bytes(), picture.read_bytes()[:40]
    picture.write_bytes(bad)
    with pytest.raises(UserError, match=r"^validation\.samples: singleobj_1: .*1\.png cannot be read"):
        run(config, tmp_path / "refused", weights=weights, data=clips)
    assert not (tmp_path / "refused").exists()
    picture.write_bytes(good)
    real = Trainer.update

    def damages(trainer: Trainer, *arguments: Any) -> bool:
        picture.write_bytes(bad)
        return real(trainer, *arguments)

    monkeypatch.setattr(Trainer, "update", damages)
    steps = run(config, tmp_path / "out", weights=weights, data=clips)
    assert len(steps) == 4 and (tmp_path / "out/checkpoints/step-00000004/state.json").is_file()
    assert capsys.readouterr().err.count("validation at step 2 failed: singleobj_1: ") == 1
    assert "validation at step 4 failed: singleobj_1: " in (tmp_path / "out/log.jsonl").read_text()
    made = sorted(path.name for path in (tmp_path / "out/validation").rglob("*.mp4"))
    assert made == ["faceobj_2.mp4"] * 2


def test_a_clip_that_breaks_a_run_is_skipped_by_name(
    weights: Path, clips: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On resume, in prepared features and in data; a later resume remembers it."""
    file = next(prepared.glob("order-*/features-00000.safetensors"))
    with safe_open(file, framework="pt") as stored:
        notes = stored.metadata()
    described = json.loads(notes["samples"])["0"]
    bad = described["key"]
    tensors = read_state_dict(file)
    tensors[f"video/{described['video']}"] = torch.full_like(
        tensors[f"video/{described['video']}"], torch.nan
    )
    write_tensors(file, tensors, notes)
    short = build_config("tiny", [*SHORT_RUN, "run.max_steps=1"])
    paths = TrainingPaths(out=tmp_path / "out", weights=weights, features=prepared)
    with pytest.raises(UserError, match=rf"step 1 is not finite \(samples {bad}; --resume --skip NAME"):
        train(short, paths, resume=False)
    skipping = replace(short, data=replace(short.data, skip=(bad,)))
    train(skipping, paths, resume=True)
    assert (
        f'{{"skipped": "{bad}", "reason": "left out by data.skip"}}'
        in (tmp_path / "out/log.jsonl").read_text()
    )
    stored_config = json.loads((tmp_path / "out/checkpoints/step-00000001/state.json").read_text())["config"]
    assert stored_config["data"]["skip"] == [bad]
    train(build_config("tiny", [*SHORT_RUN, "run.max_steps=2"]), paths, resume=True)
    data = open_training_data(clips, short.data.clip, seed=0, cache=None, skip=[bad])
    samples = [data.sample(0, position) for position in range(4)]
    assert bad not in {sample.clip.key for sample in samples}
    assert bad in {skip.key for sample in samples for skip in sample.skipped}


def test_an_adapter_names_its_base(weights: Path, clips: Path, tmp_path: Path) -> None:
    config = build_config("tiny", [*SHORT_RUN, "run.max_steps=1", "lora.enabled=true", "lora.rank=2"])
    train(config, TrainingPaths(out=tmp_path, weights=weights, data=clips), resume=False)
    (file,) = tmp_path.rglob("pytorch_lora_weights.safetensors")
    with safe_open(file, framework="pt") as stored:
        notes = stored.metadata()
    assert (notes["base_model"], notes["base_digest"]) == ("wan2.1-t2v-1.3b", "random, seed 0")


def test_validation_takes_a_suite_of_ones_own(
    weights: Path, clips: Path, dataset: Path, tmp_path: Path
) -> None:
    image = next((dataset / "Images").rglob("*.png")).relative_to(dataset)
    line = {"id": "mine_1", "prompt": "a prompt", "references": [str(image)], "labels": ["Man"]}
    (dataset / "mine.jsonl").write_text(json.dumps(line) + "\n")
    chosen = (f"validation.dataset={dataset / 'mine.jsonl'}", "validation.samples=mine_1")
    config = build_config("tiny", [*SHORT_RUN, *chosen, "validation.every=4", "validation.steps=1"])
    run(config, tmp_path / "out", weights=weights, data=clips)
    assert [path.name for path in (tmp_path / "out/validation").rglob("*.mp4")] == ["mine_1.mp4"]


# A training of 200 steps; on a busy machine it takes several times as long as on a quiet one.
@pytest.mark.timeout(1800)
def test_the_tiny_recipe_learns(weights: Path, tmp_path: Path) -> None:
    """On the real demo clip where it is at hand: both losses fall, alignment far below a run without it."""
    shared = os.environ.get("REFBENCH_SHARED")
    data = (
        Path(shared) / "data" / "opens2v_5m_demo" if shared else write_clips(tmp_path / "clips", broken=False)
    )
    prepare(build_config("tiny"), data, tmp_path / "features", weights, epochs=1)
    ends = {}
    for weight in (1, 0):
        changes = [
            "run.max_steps=100",
            "run.samples_per_call=2",
            f"alignment.weight={weight}",
            "log.tensorboard=false",
            "log.every=1000",
            "checkpoints.every=1000",
        ]
        config = build_config("tiny", changes)
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
