"""Checkpoints of a training run: written whole or not at all, old ones removed, another run's refused.

`<out>/checkpoints/step-00000500/` holds `transformer/` (original Wan naming with the projectors, sharded
safetensors; `--set transformer=…` of the registered methods and `refbench convert` take it), with LoRA
`adapter/` instead, with a moving average `ema/`, with losses of plugins their modules in `losses.safetensors`
(`NAME.…`), the optimiser's state, and `state.json`. With `checkpoints.sharded` all of these but the last are
one folder `sharded/` (`refalign.training.sharded`). A checkpoint is written into a hidden folder that is
renamed when everything is there; older ones are removed only after that.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from refbench.baselines.wan.checkpoint import SHARDED
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.refalign.training.sharded import ShardedState, failure_text
from refbench.refalign.training.stored_settings import (
    SETTINGS_OF_BEFORE,
    flat_settings,
    nested_data_settings,
    without_idle,
)

FOLDER = "checkpoints"
TRANSFORMER, ADAPTER, EMA, OPTIMIZER, PROJECTORS, LOSSES = (
    "transformer",
    "adapter",
    "ema",
    "optimizer.safetensors",
    "projectors.safetensors",
    "losses.safetensors",
)
STATE = "state.json"
# The name, among a run's inputs, of the network that it started from.
NETWORK = "network"
STEP_NAME = re.compile(r"step-(\d{8})")
# DeepSpeed's, which could not run in bfloat16; FSDP2 does its work.
REMOVED_STRATEGY = "zero2"
# May differ between a run and its continuation: neither changes what is computed at a step.
FREE_SECTIONS = frozenset({"validation", "checkpoints", "log"})
FREE_FIELDS = frozenset(
    {
        "run.max_steps",
        "run.samples_per_call",
        "run.strategy",
        "run.timeout_s",
        "run.gradient_checkpointing",
        "run.shard_size",
        "run.recompute",
        "run.encoders",
        "run.attention",
        "run.compile",
        "data.workers",
        "data.skip",
        "model.transformer",
        "model.needs_transformer",
        "optimizer.kernel",
    }
)


class TrainingState(BaseModel):
    """How far a run has come, and its configuration.

    `step` updates have been made; `consumed_positions` of the training order went into them; `average_steps`
    is the moving average's own count. The configuration is the recipe with its overrides. `inputs` are the
    data and weights by name (`refalign.training.inputs`), `commit` the checkout that trained, None outside of
    one. Version 1 called the positions `places` and had a flat section `data`; versions 1 and 2 had neither
    `inputs` nor `commit`; both are still read.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[3] = 3
    step: int
    consumed_positions: int
    average_steps: int | None = None
    processes: int
    config: dict[str, Any]
    versions: dict[str, str]
    inputs: dict[str, str] = {}
    commit: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_older_versions(cls, stored: Any) -> Any:
        if not isinstance(stored, dict) or stored.get("schema_version") not in (1, 2):
            return stored
        if stored["schema_version"] == 2:
            return stored | {"schema_version": 3}
        values = {"consumed_positions" if name == "places" else name: value for name, value in stored.items()}
        return values | {"schema_version": 3, "config": nested_data_settings(stored.get("config"))}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    state: TrainingState

    @property
    def sharded(self) -> bool:
        """Whether each process wrote its own part."""
        return (self.folder / SHARDED).is_dir()

    @cached_property
    def shards(self) -> ShardedState:
        """What a sharded one holds. Raises UserError as `ShardedState`."""
        return ShardedState(self.folder / SHARDED)


class CheckpointStore:
    """The checkpoints below a run's output folder, of which the newest `keep` stay."""

    def __init__(self, out: Path, keep: int) -> None:
        self.folder = out / FOLDER
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of whole checkpoints, ascending."""
        folders = self.folder.iterdir() if self.folder.is_dir() else ()
        found = [(match, folder) for folder in folders if (match := STEP_NAME.fullmatch(folder.name))]
        return sorted(int(match[1]) for match, folder in found if (folder / STATE).is_file())

    def folder_of(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Raises UserError for a damaged state file."""
        steps = self.steps()
        if not steps:
            return None
        return self.read(steps[-1])

    def read(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step, or None where it is not to be seen. Raises UserError for a damaged state
        file.
        """
        folder = self.folder_of(step)
        if not (folder / STATE).is_file():
            return None
        return Checkpoint(folder=folder, state=read_state(folder))

    def newest_text(self) -> str:
        """Which checkpoint is the newest, as the end of an error line."""
        steps = self.steps()
        return (
            f"the last good checkpoint is {self.folder_of(steps[-1])}" if steps else "there is no checkpoint"
        )

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A hidden folder to write into: it becomes the checkpoint of `step` when the block ends without an
        error, and is removed otherwise.
        """
        partial = self.begin(step)
        try:
            yield partial
            self.complete(step)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def partial_of(self, step: int) -> Path:
        """The hidden folder that a checkpoint is written into."""
        return self.folder / f".{self.folder_of(step).name}.partial"

    def failure(self, step: int, error: BaseException) -> str:
        """The line for a checkpoint that could not be written, with the one that stands."""
        text = f"the checkpoint of step {step} could not be written: {failure_text(error)}"
        try:
            return f"{text}; {self.newest_text()}"
        except OSError:
            # A disk may fail so that it cannot even be listed.
            return text

    def begin(self, step: int) -> Path:
        """Make the hidden folder of `step`, empty."""
        partial = self.partial_of(step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def complete(self, step: int) -> None:
        """Make the checkpoint of `step` of its hidden folder."""
        final = self.folder_of(step)
        if final.exists():
            shutil.rmtree(final)
        self.partial_of(step).rename(final)

    def prune(self) -> None:
        """Remove all but the newest `keep`, and what a killed run left half written."""
        for step in self.steps()[: -self.keep]:
            # A folder that loses its name first cannot be taken for a whole one half-way through.
            doomed = self.folder / f".{self.folder_of(step).name}.removed"
            self.folder_of(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def read_state(folder: Path) -> TrainingState:
    """The state of a checkpoint. Raises UserError for one that is missing or damaged."""
    try:
        return TrainingState.model_validate_json((folder / STATE).read_bytes())
    except OSError as error:
        raise UserError(f"{folder / STATE} cannot be read: {one_line(error.strerror, 80)}") from None
    except ValidationError as error:
        raise UserError(f"{folder / STATE} is damaged: {first_fault(error)}") from None


def write_state(folder: Path, state: TrainingState) -> None:
    """Write `state.json`, last of all."""
    text = json.dumps(state.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    (folder / STATE).write_text(text, encoding="utf-8")


def guarded_save(store: CheckpointStore, step: int, write: Callable[[Path], None]) -> str | None:
    """Write the checkpoint of `step` with `write(folder)` and prune; returns why it failed, or None.

    Where it fails, earlier checkpoints stay as they are.
    """
    try:
        with store.writing(step) as folder:
            write(folder)
        store.prune()
    except OSError as error:
        return store.failure(step, error)
    return None


def check_same_run(stored: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError where a run would be resumed with another configuration than it had.

    Settings that do not change what a step computes (length, machine, intervals) may differ.
    """
    before = without_idle(SETTINGS_OF_BEFORE | flat_settings(stored))
    now = without_idle(flat_settings(config))
    if before.get("run.strategy") == REMOVED_STRATEGY:
        raise UserError(
            f"{folder} was trained with run.strategy={REMOVED_STRATEGY}, which is gone: its optimiser's "
            "state cannot be read; start a new run from its network, "
            f"model.transformer={folder / TRANSFORMER}"
        )
    # The timesteps' bounds follow from the expert, which is therefore named first.
    for name in sorted(before.keys() | now.keys(), key=lambda name: (name != "model.expert", name)):
        if name.partition(".")[0] in FREE_SECTIONS or name in FREE_FIELDS:
            continue
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} was trained with {name}={one_line(before.get(name), 60)}, not "
                f"{one_line(now.get(name), 60)}; give the same settings, or start a new run in another --out"
            )
