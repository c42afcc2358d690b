"""Sharded checkpoints: nothing lost by a kill, a full disk or a damaged file, and one network out of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from kit.training import TEACHER_WIDTH, DrawnSource, files_of, logged_steps, run, small  # noqa: E402
from refbench.baselines.wan.checkpoint import read_checkpoint  # noqa: E402
from refbench.bench.cli.main import app  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.assembly import build_model, read_network, starting_point  # noqa: E402
from refbench.refalign.training.checkpoints import CheckpointStore  # noqa: E402
from refbench.refalign.training.sharded import ShardedState, start_writing, write_index  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SETTINGS = ("checkpoints.sharded=true", "ema.enabled=true", "checkpoints.every=2")
LAST = Path("checkpoints", "step-00000004")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with sharded checkpoints."""
    out = tmp_path_factory.mktemp("sharded")
    run(small(*SETTINGS), out)
    return out


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with gathered ones."""
    out = tmp_path_factory.mktemp("gathered")
    run(small("ema.enabled=true", "checkpoints.every=2"), out)
    return out


@pytest.mark.parametrize("first", ["true", "false"])
def test_a_run_goes_on_from_either_kind_to_the_bit(
    first: str, straight: Path, gathered: Path, tmp_path: Path
) -> None:
    kinds = {"true": straight, "false": gathered}
    other = "false" if first == "true" else "true"
    for background in ("true", "false"):
        out = tmp_path / background
        common = ("ema.enabled=true", f"checkpoints.background={background}")
        run(small(*common, f"checkpoints.sharded={first}", "run.max_steps=2"), out)
        run(small(*common, f"checkpoints.sharded={other}"), out, resume=True)
        assert logged_steps(out) == logged_steps(straight) == logged_steps(gathered)
        assert files_of(out / LAST) == files_of(kinds[other] / LAST)


def test_averages_that_earlier_checkpoints_held_twice_are_read(gathered: Path, tmp_path: Path) -> None:
    first = tmp_path / "checkpoints" / "step-00000002"
    shutil.copytree(gathered / "checkpoints" / "step-00000002", first)
    average = read_checkpoint(first / "ema" / "transformer").tensors
    save_file({f"transformer.{key}": value for key, value in average.items()}, first / "average.safetensors")
    shutil.rmtree(first / "ema")
    run(small("ema.enabled=true", "checkpoints.every=2"), tmp_path, resume=True)
    assert files_of(tmp_path / LAST) == files_of(gathered / LAST)


def test_the_log_says_when_a_checkpoint_is_whole(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    told = [line["event"] for line in lines if "checkpoint" in line.get("event", "")]
    assert [text.partition(": ")[0] for text in told] == [
        f"checkpoint of step {step} is whole" for step in (2, 4)
    ]


# Runs in a process of its own, which ends in the middle of the second checkpoint.
KILLED = """
import os, signal, sys, threading
from pathlib import Path
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from kit.training import run, small
real, calls = HuggingFaceStorageWriter.write_data, []
def write_data(self, plan, planner):
    calls.append(self.path)
    if len(calls) == 2:
        Path(self.path, "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, plan, planner)
HuggingFaceStorageWriter.write_data = write_data
run(small(*sys.argv[2:]), Path(sys.argv[1]))
"""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_one(straight: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), *SETTINGS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"step-00000002", ".step-00000004.partial"}
    run(small(*SETTINGS), tmp_path, resume=True)
    assert files_of(tmp_path / LAST) == files_of(straight / LAST)
    assert CheckpointStore(tmp_path, 3).steps() == [2, 4] and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("fault", ["data", "name"])
def test_a_full_disk_ends_the_run_with_the_last_one(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: str, fault: str
) -> None:
    import safetensors.torch

    config = small(*SETTINGS, f"checkpoints.background={background}")
    real_save, real_complete = safetensors.torch.save, CheckpointStore.complete
    files = 0

    def save(tensors: Any, **settings: Any) -> bytes:
        nonlocal files
        files += 1
        if files == 2 and fault == "data":
            raise OSError(28, "No space left on device")
        return real_save(tensors, **settings)

    def complete(store: CheckpointStore, step: int) -> None:
        if step == 4:
            raise OSError(28, "No space left on device")
        real_complete(store, step)

    monkeypatch.setattr(safetensors.torch, "save", save)
    monkeypatch.setattr(CheckpointStore, "complete", complete)
    with pytest.raises(
        UserError, match=r"step 4 could not be written: No space left.*good checkpoint is \S+2$"
    ) as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    run(config, tmp_path, resume=True)
    assert files_of(tmp_path / LAST) == files_of(straight / LAST)


def test_a_disk_that_cannot_even_be_listed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a callback raises nobody hears: the run would wait for ever."""

    def broken(store: CheckpointStore, *given: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(CheckpointStore, "complete", broken)
    monkeypatch.setattr(CheckpointStore, "newest_text", broken)
    with pytest.raises(UserError, match=r"^the checkpoint of step 2 could not .*: Input/output error$"):
        run(small(*SETTINGS, "run.max_steps=2"), tmp_path)


def test_a_checkpoint_that_fails_in_the_background_ends_the_run_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the next one is due."""

    def complete(store: CheckpointStore, step: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "complete", complete)
    steps = 400
    config = small(*SETTINGS, f"checkpoints.every={steps // 2 + 1}", f"run.max_steps={steps}")
    with pytest.raises(UserError, match=r"could not be written: No space left.*; there is no checkpoint$"):
        run(config, tmp_path)
    assert len(logged_steps(tmp_path)) < steps


@pytest.mark.parametrize("seconds", [0, 600])
def test_a_long_update_is_given_up_for_a_checkpoint_in_time(
    seconds: int, straight: Path, tmp_path: Path
) -> None:
    """The third update has two calls; the signal comes in the first."""

    def ask(place: Any) -> None:
        if (place.epoch, place.position) == (0, 4):
            os.kill(os.getpid(), signal.SIGTERM)

    config = small(*SETTINGS, "checkpoints.every=1000", f"checkpoints.grace_s={seconds}")
    _, result = run(config, tmp_path, source=DrawnSource(on_position=ask))
    assert result.stopped and result.step == (2 if seconds == 0 else 3)
    assert result.checkpoint == tmp_path / "checkpoints" / f"step-{result.step:08d}"
    run(config, tmp_path, resume=True)
    assert logged_steps(tmp_path) == logged_steps(straight)
    assert files_of(tmp_path / LAST) == files_of(straight / LAST)


def test_a_run_that_is_stopped_in_its_first_update_keeps_nothing(tmp_path: Path) -> None:
    config = small(*SETTINGS, "checkpoints.grace_s=0")
    stop = DrawnSource(on_position=lambda place: os.kill(os.getpid(), signal.SIGTERM))
    _, result = run(config, tmp_path, source=stop)
    assert result.stopped and result.checkpoint is None and result.step == 0


def test_convert_writes_what_a_gathered_checkpoint_holds(
    straight: Path, gathered: Path, tmp_path: Path
) -> None:
    for words, part in (((), "transformer"), (("--average",), "ema/transformer")):
        target = tmp_path / part.replace("/", "-")
        command = ["convert", str(straight / LAST), str(target), "--to", "original", *words]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert files_of(target) == files_of(gathered / LAST / part)
        config = json.loads((target / "config.json").read_text())
        assert config == json.loads((gathered / LAST / part / "config.json").read_text())
    half = read_network(straight / LAST / "sharded", dtype=torch.bfloat16)
    expected = read_checkpoint(gathered / LAST / "transformer", dtype=torch.bfloat16)
    assert {key: value.dtype for key, value in half.tensors.items()} == {
        key: value.dtype for key, value in expected.tensors.items()
    }
    assert all(torch.equal(half.tensors[key], value) for key, value in expected.tensors.items())


def test_the_next_stage_starts_from_shards(straight: Path, gathered: Path) -> None:
    started = {}
    for name, network in (("shards", LAST), ("gathered", LAST / "transformer")):
        folder = straight if name == "shards" else gathered
        config = small("run.max_steps=1", f"model.transformer={folder / network}")
        model = build_model(config, starting_point(config, None, None), (TEACHER_WIDTH,))
        started[name] = model.state_dict()
    assert started["shards"].keys() == started["gathered"].keys()
    assert all(torch.equal(value, started["gathered"][key]) for key, value in started["shards"].items())


def test_what_reads_one_network_names_the_command(straight: Path, gathered: Path, tmp_path: Path) -> None:
    network = Path(shutil.copytree(gathered / LAST / "transformer", tmp_path / "network"))
    (network / "index.json").write_text("{}")  # of somebody else
    assert read_checkpoint(network).tensors
    for path in (straight / LAST, straight / LAST / "sharded"):
        with pytest.raises(UserError, match=r"checkpoint in shards; refbench convert \S+ OUT --to original"):
            read_checkpoint(path)
    with pytest.raises(UserError, match="is no sharded checkpoint; its moving average"):
        read_network(straight, average=True)


def _cut(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])


def _without(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def _stranger(folder: Path) -> None:
    save_file({"model/other": torch.ones(1)}, folder / "shard-00009-model-00001-of-00001.safetensors")


def _no_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def _other_index(folder: Path) -> None:
    (folder / "index.json").write_text('{"schema_version": 1, "files": ["../../etc/passwd"]}')


def _half_of_a_tensor(folder: Path) -> None:
    """As if the process that held the other half had never written."""
    file = next(folder.glob("*.safetensors"))
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a mapping
    offsets = json.loads(metadata["DCP_SHARDING_INFO"])
    name = next(key for key, value in tensors.items() if value.ndim == 2)
    half = len(tensors[name]) // 2
    tensors[name] = tensors[name][half:].clone()
    offsets[name] = {"saved_offsets": [half, 0]}
    save_file(tensors, file, metadata | {"DCP_SHARDING_INFO": json.dumps(offsets)})
    write_index(folder, json.loads((folder / "index.json").read_text())["architecture"])


def _no_sharding_info(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    with safe_open(file, framework="pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a mapping
    save_file(tensors, file, {"DCP_SHARDING_INFO": "[1, 2"})
    write_index(folder, json.loads((folder / "index.json").read_text())["architecture"])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_cut, "is missing or cut"),
        (_without, "is missing or cut"),
        (_stranger, "does not belong to it"),
        (_no_index, "cannot be read"),
        (_other_index, "is damaged"),
        (_half_of_a_tensor, "is not whole"),
        (_no_sharding_info, "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(damage: Any, text: str, tmp_path: Path) -> None:
    run(small(*SETTINGS, "run.max_steps=2"), tmp_path)
    damage(tmp_path / "checkpoints" / "step-00000002" / "sharded")
    with pytest.raises(UserError) as caught:
        run(small(*SETTINGS), tmp_path, resume=True)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_shards_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    start_writing(folder, {"model/a": torch.ones(2, 3)}, group=None, background=False).result()
    write_index(folder, {})
    stored = ShardedState(folder)
    target = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"does not fit the network: model/b is missing, not \(2, 3\)"):
        stored.read_into({"model/a": target, "model/b": torch.zeros(2, 3)}, None)
    with pytest.raises(UserError, match=r"model/a is \(2, 3\), not \(3, 2\)"):
        stored.read_into({"model/a": torch.zeros(3, 2)}, None)
    assert not target.any()
    half = torch.zeros(2, 3, dtype=torch.bfloat16)
    stored.read_into({"model/a": half}, None)
    assert half.float().equal(torch.ones(2, 3))
