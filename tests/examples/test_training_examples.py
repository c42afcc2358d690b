"""The training examples do what they say on OpenS2V-5M's demo clips: trained, resumed, prepared, refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
for package in ("diffusers", "accelerate", "pycocotools"):
    pytest.importorskip(package, reason="RefAlign needs the extra 'refalign'")

from kit.cli import invoke  # noqa: E402
from kit.training import files_of, logged_steps, own_registries, write_clips  # noqa: E402
from refbench.bench.weights.checkpoint import read_state_dict  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = (
    "data.clip.width=64",
    "data.clip.height=48",
    "data.clip.num_frames=5",
    "data.clip.stride=1",
    "alignment.enabled=false",
    "log.tensorboard=false",
    "log.every=1",
)
REPA = ("losses.repa.enabled=true", "losses.repa.block=1", "losses.repa.hidden=32")
VARIANT_D = ("reference_inputs.teacher_features.enabled=true",)
Train = Callable[..., str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from refbench.baselines.small.wan_base import write_small
    from refbench.refalign.small_teacher import write_tiny

    folder = tmp_path_factory.mktemp("weights")
    write_small(folder)
    write_tiny(folder)
    return folder


@pytest.fixture
def train(weights: Path) -> Train:
    """`refbench train tiny` for so many steps, as in a process of its own; what it said on standard error."""
    from accelerate.state import AcceleratorState

    def run(plugin: Path, out: Path, *words: object, steps: int = 2, expect: int = 0) -> str:
        AcceleratorState._reset_state(reset_partial_state=True)
        given = ("--plugin", plugin, "--out", out, "--weights", weights, "--max-steps", steps)
        with own_registries():
            return invoke("train", "tiny", *given, *SHORT, *words, expect=expect).stderr

    return run


def checkpoint(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:08d}"


def test_repa_on_the_demo_clips(train: Train, shared: Path, tmp_path: Path) -> None:
    """Trained straight and in two halves: the same to the bit, and never called RA."""
    plugin, data = EXAMPLES / "repa.py", ("--data", shared / "data" / "opens2v_5m_demo", *REPA)
    said = train(plugin, tmp_path / "straight", *data)
    assert "  repa " in said and "  repa_distance " in said and "RA" not in said
    first, last = logged_steps(tmp_path / "straight")
    assert not {"ra", "ra_positive", "ra_negative"} & first.keys()
    assert first["repa"] == pytest.approx(0.5 * first["repa_distance"])
    assert first["loss"] == pytest.approx(first["flow"] + first["repa"])
    assert last["repa_distance"] < first["repa_distance"]
    train(plugin, tmp_path / "halves", *data, steps=1)
    train(plugin, tmp_path / "halves", *data, "--resume")
    made = checkpoint(tmp_path / "straight", 2)
    assert files_of(made) == files_of(checkpoint(tmp_path / "halves", 2))
    assert logged_steps(tmp_path / "straight") == logged_steps(tmp_path / "halves")
    # The network is a plain one, the MLP stands beside it.
    assert not any("input_mlp" in key or "repa" in key for key in read_state_dict_of(made / "transformer"))
    assert {key.partition(".")[0] for key in read_state_dict(made / "losses.safetensors")} == {"repa"}
    digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
    for record in (tmp_path / "straight" / "inputs.json", made / "state.json"):
        inputs = json.loads(record.read_text())["inputs"]
        assert inputs["plugin.repa.py"] == digest and inputs["plugin.repa.py.path"] == str(plugin)


def read_state_dict_of(folder: Path) -> list[str]:
    return [key for file in folder.glob("*.safetensors") for key in read_state_dict(file)]


def test_other_plugin_code_is_not_resumed(train: Train, tmp_path: Path) -> None:
    plugin = tmp_path / "repa.py"
    shutil.copy(EXAMPLES / "repa.py", plugin)
    data, out = ("--data", write_clips(tmp_path / "clips"), *REPA), tmp_path / "run"
    train(plugin, out, *data, steps=1)
    # The same code in another place is the same code.
    moved = plugin.rename(tmp_path / "moved.py")
    train(moved, out, *data, "--resume", steps=2)
    moved.write_text(moved.read_text().replace("1 - cosine", "2 - 2 * cosine"))
    refused = train(moved, out, *data, "--resume", steps=3, expect=2)
    assert "was trained with other inputs: plugin.moved.py (" in refused and refused.count("\n") == 1
    accepted = train(moved, out, *data, "--resume", "--accept-other-data", steps=3)
    assert "goes on with other inputs: plugin.moved.py (" in accepted and "step 3 is reached" in accepted
    assert hashlib.sha256(moved.read_bytes()).hexdigest() in (out / "inputs.json").read_text()


def test_repa_on_prepared_features(train: Train, weights: Path, tmp_path: Path) -> None:
    """The features of the frames are kept too, and give the losses of encoding on the way."""
    from accelerate.state import AcceleratorState

    plugin, data = EXAMPLES / "repa.py", write_clips(tmp_path / "clips")
    train(plugin, tmp_path / "straight", "--data", data, *REPA)
    AcceleratorState._reset_state(reset_partial_state=True)
    given = ("--plugin", plugin, "--weights", weights, "--data", data, "--out", tmp_path / "features")
    with own_registries():
        invoke("prepare", "tiny", *given, *SHORT, *REPA)
    features = ("--features", tmp_path / "features")
    train(plugin, tmp_path / "prepared", *features, *REPA)
    assert logged_steps(tmp_path / "straight") == logged_steps(tmp_path / "prepared")
    # They serve a run without the loss, and one with another teacher once that is added.
    train(plugin, tmp_path / "plain", *features)
    other = ("losses.repa.teacher=dinov2-base",)
    refused = train(plugin, tmp_path / "other", *features, *REPA, *other, expect=2)
    assert "were prepared with teachers=['dinov3-vitb16'], not ['dinov2-base']; run refbench" in refused
    # The teacher saw the frames alone.
    aligned = train(plugin, tmp_path / "aligned", *features, "alignment.enabled=true", expect=2)
    assert "lacks 1 of 1 files of teacher-dinov3-vitb16" in aligned


def test_variant_d_on_the_demo_clips(train: Train, shared: Path, tmp_path: Path) -> None:
    """The input's weights are the network's: trained, averaged, resumed to the bit, and asked for."""
    plugin, data = EXAMPLES / "vae_and_teacher.py", ("--data", shared / "data" / "opens2v_5m_demo")
    chosen = (*data, *VARIANT_D, "ema.enabled=true", "data.dropout.references=0")
    train(plugin, tmp_path / "straight", *chosen)
    train(plugin, tmp_path / "halves", *chosen, steps=1)
    train(plugin, tmp_path / "halves", *chosen, "--resume")
    made = checkpoint(tmp_path / "straight", 2)
    assert files_of(made) == files_of(checkpoint(tmp_path / "halves", 2))
    name = "reference_inputs.teacher_features.linear.weight"
    for folder in (made / "transformer", made / "ema" / "transformer"):
        (file,) = folder.glob("*.safetensors")
        assert read_state_dict(file)[name].abs().max() > 0
    network = made / "transformer"
    told = "was trained with an extra input (teacher_features), which is not made here"
    converted = ("convert", network, tmp_path / "converted", "--to", "original")
    assert told in invoke(*converted, expect=2).stderr
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    row = {"id": "singleobj_1", "prompt": "a", "references": ["red.png"], "labels": ["square"]}
    (tmp_path / "suite.jsonl").write_text(json.dumps(row) + "\n")
    words = ("generate", "refalign-tiny", "--suite", tmp_path / "suite.jsonl", "--out", tmp_path / "videos")
    assert told in invoke(*words, "--set", f"transformer={network}", expect=2).stderr
    # A run that starts from it has to take the input too.
    plain = train(plugin, tmp_path / "next", *data, f"model.transformer={network}", expect=2)
    assert "give its --plugin and reference_inputs.teacher_features.enabled=true" in plain
    goes_on = train(plugin, tmp_path / "next", *data, *VARIANT_D, f"model.transformer={network}", steps=1)
    assert "step 1 is reached" in goes_on
    validation = ("validation.every=1", "validation.samples=singleobj_1")
    for words, told in (
        (("lora.enabled=true",), "lora.enabled=true trains adapters alone"),
        ((*validation, f"validation.dataset={tmp_path / 'suite.jsonl'}"), "give validation.every=0"),
    ):
        assert told in train(plugin, tmp_path / "no", *data, *VARIANT_D, *words, expect=2)
