"""The trainer: a run is a function of its configuration, however it was interrupted or spread out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

import refbench.refalign.training.checkpoints as checkpoints  # noqa: E402
import refbench.refalign.training.parallel as parallel  # noqa: E402
from kit.training import ARCHITECTURE, DrawnSource, files_of, logged_steps, run, small  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.bench.cli.main import app  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.weights.checkpoint import read_state_dict, write_tensors  # noqa: E402
from refbench.refalign.data.sample import DropoutRates  # noqa: E402
from refbench.refalign.training.optimizer import learning_rate  # noqa: E402
from refbench.refalign.training.recipes import AUGMENTATION, RECIPES, build_config  # noqa: E402
from refbench.refalign.training.settings import OptimizerConfig  # noqa: E402
from refbench.refalign.training.trainer import TrainingResult  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

OLDER = Path(__file__).parents[1] / "files" / "version_0.1" / "training"


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in logged_steps(out)]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    run(small("ema.enabled=true"), out)
    return out


def test_a_resumed_run_equals_a_straight_one_to_the_bit(straight: Path, tmp_path: Path) -> None:
    run(small("ema.enabled=true", "run.max_steps=2"), tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 9.9}\n{"step": ')
    torch.manual_seed(1234)
    run(small("ema.enabled=true"), tmp_path, resume=True)
    expected, found = (files_of(out / "checkpoints" / "step-00000004") for out in (straight, tmp_path))
    assert expected.keys() == found.keys() and len(found) == 3
    assert expected == found
    assert losses(straight) == losses(tmp_path) and len(losses(tmp_path)) == 4
    assert expected != files_of(tmp_path / "checkpoints" / "step-00000002")


def test_a_run_of_version_1_is_resumed(straight: Path, tmp_path: Path) -> None:
    """Its state file, written before the sections of `data` were nested, names the same run."""
    run(small("ema.enabled=true", "run.max_steps=2"), tmp_path)
    folder = tmp_path / "checkpoints" / "step-00000002"
    shutil.copy(OLDER / "state.json", folder)
    with pytest.raises(UserError, match=r"was trained with data\.clip\.stride=3, not 2; give the same"):
        run(small("ema.enabled=true", "data.clip.stride=2"), tmp_path, resume=True)
    run(small("ema.enabled=true"), tmp_path, resume=True)
    expected, found = (files_of(out / "checkpoints" / "step-00000004") for out in (straight, tmp_path))
    assert expected == found
    newest = checkpoints.CheckpointStore(tmp_path, 3).newest()
    assert newest is not None and newest.state.consumed_positions == 8
    # Its order of clips, one shard after the other, stays, and is a setting from here on.
    assert newest.state.config["data"]["open_shards"] == 1
    with pytest.raises(UserError, match=r"was trained with data\.open_shards=1, not 16; give the same"):
        run(small("ema.enabled=true", "run.max_steps=5"), tmp_path, resume=True)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"schema_version": 1, "config": 5}',
        '{"schema_version": 1, "config": {"data": {"clip": 5, "width": 1}}}',
        '{"schema_version": 3}',
        '{"schema_version": 4}',
    ],
)
def test_a_state_file_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-00000002"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(text)
    with pytest.raises(UserError, match=r"state\.json is damaged: ") as caught:
        checkpoints.CheckpointStore(tmp_path, 3).newest()
    assert "\n" not in str(caught.value)


def test_the_log_and_the_saved_network(straight: Path) -> None:
    steps = logged_steps(straight)
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    first = steps[0]
    # Of samples 0 and 1 the second has one reference, so there is no negative.
    assert first["loss"] == pytest.approx(first["flow"] + first["ra"])
    assert 0.5 < first["ra_positive"] < 1.5 and first["ra_negative"] == 0
    assert first["tokens"] == 2 * (12 + 6) and first["samples"] == 2
    assert steps[-1]["skipped"] == 1 and {"skipped": "bad clip", "reason": "it is broken"} in lines(straight)
    place = straight / "checkpoints" / "step-00000004" / "transformer"
    checkpoint = read_checkpoint(place)
    assert checkpoint.config["num_attention_heads"] == 2
    assert len(checkpoint.projectors) == 4 and "blocks.1.input_mlp.proj.0.weight" in checkpoint.projectors
    network = load_transformer(RefAlignTransformer3DModel, checkpoint)
    average = read_checkpoint(straight / "checkpoints" / "step-00000004" / "ema" / "transformer")
    assert not torch.equal(network.state_dict()["proj_out.weight"], average.tensors["proj_out.weight"])


def test_accumulation_equals_one_larger_call(straight: Path, tmp_path: Path) -> None:
    run(small("ema.enabled=true", "run.samples_per_call=2"), tmp_path)
    np.testing.assert_allclose(losses(straight), losses(tmp_path), rtol=1e-5)


def test_gradient_checkpointing_changes_nothing(straight: Path, tmp_path: Path) -> None:
    run(small("ema.enabled=true", "run.gradient_checkpointing=true"), tmp_path)
    np.testing.assert_allclose(losses(straight), losses(tmp_path), rtol=1e-6)


@pytest.mark.parametrize("ema", ["true", "false"])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights(tmp_path: Path, ema: str) -> None:
    config = small("checkpoints.every=1", f"ema.enabled={ema}")
    with pytest.raises(UserError) as caught:
        run(config, tmp_path, source=DrawnSource(broken=5))
    text = str(caught.value)
    assert "the loss of step 3 is not finite (samples clip 5; --resume --skip NAME leaves one out)" in text
    assert text.endswith("step-00000002") and "\n" not in text
    assert checkpoints.CheckpointStore(tmp_path, 3).steps() == [1, 2]
    trainer, _ = run(config, tmp_path, resume=True)
    assert trainer.step == 4 and len(losses(tmp_path)) == 4


@pytest.mark.parametrize("fault", ["optimizer", "transformer", "state"])
def test_a_full_disk_leaves_the_earlier_checkpoints(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    config = small("ema.enabled=true", "checkpoints.every=2")
    real_save, real_state = safetensors.torch.save_file, checkpoints.write_state
    part = {"optimizer": "optimizer", "transformer": "diffusion", "state": "none"}[fault]
    full = False

    def save(tensors: Any, path: Any, **settings: Any) -> None:
        if full and part in Path(path).name:
            Path(path).write_bytes(b"half of it")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real_save(tensors, path, **settings)

    def state(folder: Path, value: Any) -> None:
        if full and fault == "state":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_state(folder, value)

    def fill(place: Any) -> None:
        nonlocal full
        full = place.epoch * 5 + place.position >= 6

    monkeypatch.setattr(safetensors.torch, "save_file", save)
    monkeypatch.setattr("refbench.refalign.training.saving.write_state", state)
    with pytest.raises(
        UserError, match=r"step 4 could not be written: .*No space left.*good checkpoint is \S+2$"
    ):
        run(config, tmp_path, source=DrawnSource(on_position=fill))
    folder = tmp_path / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    full = False
    run(config, tmp_path, resume=True)
    assert files_of(folder / "step-00000004") == files_of(straight / "checkpoints" / "step-00000004")


def test_old_checkpoints_and_leftovers_are_pruned(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".step-00000009.partial"
    leftover.mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000007").mkdir()  # without its state: not a checkpoint
    run(small("checkpoints.every=1", "checkpoints.keep=2"), tmp_path)
    assert checkpoints.CheckpointStore(tmp_path, 2).steps() == [3, 4]
    assert not leftover.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_first(straight: Path, tmp_path: Path, number: int) -> None:
    def ask(place: Any) -> None:
        if (place.epoch, place.position) == (0, 2):
            os.kill(os.getpid(), number)

    config = small("ema.enabled=true")
    before = signal.getsignal(number)
    _, result = run(config, tmp_path, source=DrawnSource(on_position=ask))
    assert result.stopped and result.step == 2 and result.checkpoint.is_dir()
    assert signal.getsignal(number) is before
    run(config, tmp_path, resume=True)
    last = "checkpoints/step-00000004"
    assert files_of(tmp_path / last) == files_of(straight / last)


def test_a_run_is_not_overwritten_nor_resumed_as_another(straight: Path) -> None:
    with pytest.raises(UserError, match=r"holds a run at step 4; add --resume"):
        run(small("ema.enabled=true"), straight)
    with pytest.raises(UserError, match=r"was trained with optimizer\.learning_rate=0\.002, not 0\.1; give"):
        run(small("ema.enabled=true", "optimizer.learning_rate=0.1"), straight, resume=True)
    free = ("run.max_steps=4", "log.every=7", "checkpoints.keep=1", "data.workers=1", "validation.seed=4")
    trainer, result = run(small("ema.enabled=true", *free), straight, resume=True)
    assert result.step == trainer.step == 4


@pytest.mark.parametrize(
    ("kind", "summary"),
    [
        ((), "rank 4, alpha 8, scale 2"),
        (("lora.rslora=true",), "rank 4, alpha 16, scale 4"),
        (("lora.dora=true",), "rank 4, alpha 8, scale 2, DoRA"),
    ],
    ids=["plain", "rslora", "dora"],
)
def test_lora_trains_adapters_and_projectors_alone(
    tmp_path: Path, kind: tuple[str, ...], summary: str
) -> None:
    from refbench.baselines.wan.adapters import read_adapter
    from refbench.baselines.wan.added_adapters import AddedAdapter, add_adapters

    lora = ("lora.enabled=true", "lora.rank=4", "lora.alpha=8", *kind)
    trainer, _ = run(small(*lora), tmp_path / "straight")
    trained = [name for name, value in trainer.model.named_parameters() if value.requires_grad]
    assert all(".lora_" in name or name.startswith("projectors.") for name in trained)
    place = tmp_path / "straight" / "checkpoints" / "step-00000004"
    assert not (place / "transformer").exists()
    fresh = DrawnSource()
    plain = run(small(*lora, "run.max_steps=1"), tmp_path / "one", source=fresh)[0].model.transformer
    base = RefAlignTransformer3DModel(**ARCHITECTURE)
    own = {
        key.replace(".base_layer", ""): value
        for key, value in plain.state_dict().items()
        if "lora_" not in key
    }
    base.load_state_dict(own)
    inputs = (
        torch.randn(1, 16, 2, 4, 6),
        torch.tensor([500.0]),
        torch.randn(1, 3, 8),
        torch.randn(1, 16, 1, 4, 6),
    )
    with torch.no_grad():
        before = base(*inputs).sample
        adapter = read_adapter(place / "adapter")
        assert adapter.summary().endswith(summary)
        add_adapters(base, [AddedAdapter(adapter=adapter)])
        after = base(*inputs).sample
        expected = trainer.model.transformer(*inputs).sample
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-6)
    assert (after - before).abs().max() > 1e-4
    run(small(*lora, "run.max_steps=2"), tmp_path / "halves")
    run(small(*lora), tmp_path / "halves", resume=True)
    assert files_of(place) == files_of(tmp_path / "halves" / "checkpoints" / "step-00000004")


def test_bfloat16_stays_near_float32(straight: Path, tmp_path: Path) -> None:
    trainer, _ = run(small("ema.enabled=true", "run.precision=bfloat16"), tmp_path)
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(losses(tmp_path), losses(straight), rtol=0.05)
    assert losses(tmp_path) != losses(straight)


def test_alignment_can_be_left_out(tmp_path: Path) -> None:
    run(small("alignment.enabled=false"), tmp_path)
    assert all(line["ra_positive"] is None and line["ra"] == 0 for line in lines(tmp_path) if "step" in line)
    assert not read_checkpoint(tmp_path / "checkpoints" / "step-00000004" / "transformer").projectors


def test_clipping_and_logged_curves(tmp_path: Path) -> None:
    run(
        small("optimizer.max_gradient_norm=1e-9", "log.tensorboard=true", "optimizer.weight_decay=0"),
        tmp_path,
    )
    assert all(line["gradient_norm"] > 0.01 for line in lines(tmp_path) if "step" in line)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (event,) = (tmp_path / "curves").rglob("events*")
    curves = EventAccumulator(str(event))
    curves.Reload()
    stored = [item.value for item in curves.Scalars("loss/ra_positive")]
    assert stored == pytest.approx([line["ra_positive"] for line in lines(tmp_path) if "step" in line])


def test_curves_of_a_resumed_run_have_each_step_once(tmp_path: Path) -> None:
    """Steps after the newest checkpoint are made again, here with a broken sample at the first attempt."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small("log.tensorboard=true", "checkpoints.every=2")
    with pytest.raises(UserError, match="the loss of step 4 is not finite"):
        run(config, tmp_path, source=DrawnSource(broken=7))
    # The writer of a killed process flushed its steps.
    run(config, tmp_path, resume=True)
    (folder,) = {path.parent for path in (tmp_path / "curves").rglob("events*")}
    curves = EventAccumulator(str(folder))
    curves.Reload()
    assert [item.step for item in curves.Scalars("loss/loss")] == [1, 2, 3, 4]


def test_files_of_a_checkpoint_have_one_mode(straight: Path) -> None:
    place = straight / "checkpoints" / "step-00000004"
    modes = {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()}
    assert modes == {place.stat().st_mode & 0o666} and len(list(place.rglob("*.safetensors"))) == 3


def test_the_line_of_a_stop_names_the_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import refbench.refalign.training.run as module

    done = TrainingResult(step=2, checkpoint=tmp_path / "step-2", stopped=True)
    for answer in (lambda: done, lambda: (_ for _ in ()).throw(KeyboardInterrupt)):
        monkeypatch.setattr(module, "train", lambda *_, answer=answer, **__: answer())
        ended = CliRunner().invoke(app, ["train", "tiny", "--out", str(tmp_path)])
        assert ended.exit_code == 130 and ended.stderr.count("\n") == 1
        assert "the same command with --resume goes on from there" in ended.stderr


def test_learning_rates() -> None:
    plain = OptimizerConfig(learning_rate=3.0)
    assert [learning_rate(plain, step, 4) for step in range(3)] == [3.0] * 3
    authors = OptimizerConfig(learning_rate=3.0, authors_warmup=True)
    for processes, reduced in ((1, 5), (2, 3), (4, 2), (5, 1), (8, 1)):
        rates = [learning_rate(authors, step, processes) for step in range(7)]
        assert rates == pytest.approx([1.0] * reduced + [3.0] * (7 - reduced))
    warm = OptimizerConfig(learning_rate=3.0, warmup_steps=3)
    assert [learning_rate(warm, step, 1) for step in range(4)] == pytest.approx([1.0, 2.0, 3.0, 3.0])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_whole(name: str) -> None:
    second = "stage2" in name
    config = build_config(name, ["model.transformer=stage1"] if second else [])
    assert config.recipe == name and json.dumps(config.plain())
    if name.startswith("mini"):
        assert config.optimizer.learning_rate == pytest.approx(1e-4 if second else 5e-4)
        assert config.data.references.cross_pair == 0.4 and config.model.base == "mini-base"
        assert config.model.patch == 1
    elif name != "tiny":
        assert config.optimizer.learning_rate == (1e-5 if second else 5e-5)
        large = name.endswith("14b")
        assert config.alignment.teachers == (("dinov3-vitl16",) if large else ("dinov3-vitb16",))
        assert config.alignment.blocks == tuple(range(9)) and config.alignment.weight == 1
        assert config.run.strategy == ("fsdp2" if large else "ddp") and config.run.gradient_checkpointing
        assert config.optimizer.max_gradient_norm is None and not config.flow.round_timesteps
        assert (config.run.max_steps, config.run.samples_per_step) == (3000, 128)
        adam = config.optimizer
        assert (adam.weight_decay, adam.beta1, adam.beta2) == (0.01, 0.9, 0.999)
        assert config.data.dropout == DropoutRates(text=0.1, references=0.1, both=0.1)
        assert config.data.mixture == ((6, 4) if second else ())
        assert config.data.references.augmentation == AUGMENTATION
        assert not second or config.data.references.cross_pair == 0
    else:
        assert config.data.references.augmentation.is_off and config.data.mixture == ()


def test_overrides() -> None:
    config = build_config("tiny", ["alignment.blocks=0,2", "optimizer.max_gradient_norm=1", "run.seed=7"])
    assert config.alignment.blocks == (0, 2) and config.optimizer.max_gradient_norm == 1.0
    assert config.run.seed == 7
    assert build_config("tiny", ["optimizer.max_gradient_norm=none"]).optimizer.max_gradient_norm is None
    nested = build_config("tiny", ["data.clip.width=64", "data.dropout.text=0.2", "data.clip.stride=2"]).data
    assert (nested.clip.width, nested.clip.height, nested.clip.stride) == (64, 64, 2)
    assert nested.dropout == DropoutRates(text=0.2)


@pytest.mark.parametrize(
    ("recipe", "override", "text"),
    [
        ("stage3", "", r"unknown recipe 'stage3'; did you mean stage"),
        ("tiny", "run.max_step=3", r"unknown setting 'run\.max_step'; did you mean run\.max_steps"),
        ("tiny", "runs.seed=3", r"unknown section 'runs'; did you mean run"),
        ("tiny", "seed", r"an override is section\.field=value, not 'seed'"),
        ("tiny", "optimizer.lr=1", r"'optimizer\.lr'; did you mean optimizer\.learning_rate\?"),
        ("tiny", "lr=1", r"not 'lr=1'; did you mean optimizer\.learning_rate\?"),
        ("tiny", "run.batch_size=1", r"'run\.batch_size'; did you mean run\.samples_per_step\?"),
        ("tiny", "recipe=mine", r"an override is section\.field=value, not 'recipe=mine'"),
        ("tiny", "data.width=64", r"^the setting data\.width is called data\.clip\.width now$"),
        ("tiny", "data.clip=64", r"unknown setting 'data\.clip'; did you mean data\.clip\.\w+"),
        ("tiny", "data.clip.with=64", r"unknown setting 'data\.clip\.with'; did you mean data\.clip\.width"),
        ("tiny", "run.seed.low=1", r"unknown setting 'run\.seed\.low'; did you mean run\.seed"),
        ("tiny", "run.max_steps=many", r"run\.max_steps=many: .*valid integer"),
        ("tiny", "data.clip.width=97", r"data\.clip: width must be a multiple of 16"),
        ("tiny", "data.dropout.text=0.95", r"data\.dropout: dropout rates"),
        ("tiny", "alignment.weight=-1", r"alignment weight must be 0 or positive"),
        ("tiny", "run.samples_per_call=3", r"samples_per_step 2 is no multiple of samples_per_call 3"),
        ("stage2_1_3b", "", r"starts from the network that stage 1 made; name it: model\.transformer="),
    ],
)
def test_overrides_that_are_refused(recipe: str, override: str, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        build_config(recipe, [override] if override else [])
    assert "\n" not in str(caught.value)


def test_the_whole_configuration_can_be_shown() -> None:
    done = CliRunner().invoke(app, ["train", "stage1_14b", "run.seed=7", "--max-steps", "12", "--show"])
    assert done.exit_code == 0
    expected = build_config("stage1_14b", ["run.seed=7", "run.max_steps=12"]).plain()
    assert json.loads(done.stdout) == expected and expected["run"]["max_steps"] == 12


def test_what_cannot_run_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"log\.wandb=true needs the package wandb"):
        run(small("log.wandb=true"), tmp_path)
    with pytest.raises(UserError, match=r"blocks names block 5, the network has 3 \(0\.\.2\)"):
        run(small("alignment.blocks=0,5"), tmp_path)
    with pytest.raises(UserError, match=r"makes a token of 1×2×2 latents; give model.patch=2"):
        run(small("model.patch=1"), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"step=2 does not divide into 3 processes .* multiple of 3"):
        run(small(), tmp_path)


def test_the_strategy_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^run\.strategy=zero2: Input should be 'ddp', 'fsdp2' or 'hsdp'$"):
        small("run.strategy=zero2")
    run(small("run.max_steps=1"), tmp_path)
    file = tmp_path / "checkpoints" / "step-00000001" / "state.json"
    state = json.loads(file.read_text())
    state["config"]["run"]["strategy"] = "zero2"
    file.write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"with run\.strategy=zero2, which is gone: .*1/transformer$") as told:
        run(small(), tmp_path, resume=True)
    assert "\n" not in str(told.value)


def test_optimizer_state_of_another_network_is_refused(straight: Path, tmp_path: Path) -> None:
    trainer, _ = run(small("run.max_steps=1"), tmp_path)
    file = straight / "checkpoints" / "step-00000004" / "optimizer.safetensors"
    state = read_state_dict(file)
    trainer.parallel.load_optimizer_state(trainer.model, trainer.optimizer, file)
    state.pop("transformer.proj_out.bias/exp_avg")
    write_tensors(tmp_path / "less.safetensors", state)
    with pytest.raises(
        UserError, match=r"less\.safetensors does not fit the network: no state of transf\S+bias$"
    ):
        trainer.parallel.load_optimizer_state(trainer.model, trainer.optimizer, tmp_path / "less.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.safetensors is damaged"):
        trainer.parallel.load_optimizer_state(trainer.model, trainer.optimizer, tmp_path / "cut.safetensors")
