"""RefAlign's trainer: flow matching with reference alignment, on one process or many.

Update s uses the positions [s·B, (s+1)·B) of the training order, B = `run.samples_per_step`, whatever the
number of processes; noise, noise level and dropped conditions follow from (seed, epoch, position). So a run
is a function of its configuration, its data and its weights: it may be interrupted and resumed at a
checkpoint (on a CPU to the bit), or spread over other machines (up to the order of sums). A loss or gradient
that is not finite ends the run before it reaches the weights.
"""

from __future__ import annotations

import json
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import shortlist, write_json, write_text
from refbench.bench.provenance import source_commit
from refbench.refalign.training.assembly import (
    StartingPoint,
    build_model,
    empty_model,
    starting_point,
)
from refbench.refalign.training.batch import Example, collate
from refbench.refalign.training.checkpoints import (
    Checkpoint,
    CheckpointStore,
    check_same_run,
)
from refbench.refalign.training.examples import ExampleSource
from refbench.refalign.training.flops import StepMeter
from refbench.refalign.training.kernels import check_kernels
from refbench.refalign.training.log import StepReport, TrainingLog, check_columns, error_by_timestep
from refbench.refalign.training.model import Losses, applies_column
from refbench.refalign.training.optimizer import learning_rate, make_optimizer, with_schedule_steps
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.profiling import UpdateProfiler
from refbench.refalign.training.saving import Saver
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.stored_settings import in_stored_order
from refbench.refalign.training.validation import Validation
from refbench.refalign.training.validation_scores import ValidationScores

CONFIG_FILE = "config.json"
INPUTS_FILE = "inputs.json"
VALIDATION_FOLDER = "validation"
NAMED_KEYS = 4
# What is gathered of each sample beside its losses.
OTHER_COLUMNS = ("tokens", "skips", "timesteps", "tflop")


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended: `step` updates were made in all; its newest checkpoint, None where there is none yet;
    `stopped`: by a signal, before its last step.
    """

    step: int
    checkpoint: Path | None
    stopped: bool


class Trainer:
    """One training run, made of parts that are given to it: processes, examples, starting point, validation.

    Args:
        out: the run's folder: checkpoints, `log.jsonl`, `curves`, validation videos.
        start: read in the main process; under FSDP2 other processes give only its architecture.
        resumed: the checkpoint to go on from, or None.
        inputs: the data and weights of the run by name, to be kept with its checkpoints.
    """

    def __init__(
        self,
        config: TrainingConfig,
        parallel: Parallel,
        source: ExampleSource,
        out: Path,
        *,
        start: StartingPoint,
        resumed: Checkpoint | None = None,
        inputs: Mapping[str, str] | None = None,
        validation: Validation | None = None,
        scores: ValidationScores | None = None,
    ) -> None:
        self.config = config
        self.parallel = parallel
        self.source = source
        self.out = out
        self.validation = validation
        self.scores = scores
        self.inputs = dict(inputs or {})
        self.store = CheckpointStore(out, config.checkpoints.keep)
        self.schedule = config.flow.make_schedule()
        self.step = 0 if resumed is None else resumed.state.step
        check_kernels(config.run, start.architecture, parallel.device, parallel.accelerator.autocast)
        widths = source.teacher_widths
        filled_later = resumed is not None and resumed.sharded
        elsewhere = parallel.sharded and not parallel.is_main
        self.model, self.wrapped_model, self.optimizer = parallel.wrap(
            None if elsewhere or filled_later else build_model(config, start, widths, source.frame_widths),
            lambda: empty_model(config, start.architecture, widths, source.frame_widths),
            lambda model: make_optimizer(model, config.optimizer),
            filled_later=filled_later,
        )
        self.averaged = [value for value in self.model.transformer.parameters() if value.requires_grad]
        self.average = _make_average(config, self.averaged)
        self.saver = Saver(
            config,
            parallel,
            self.store,
            self.model,
            self.optimizer,
            average=self.average,
            averaged=self.averaged,
            inputs=self.inputs,
        )
        # Before its first update a run has nothing to keep.
        self._saved_step = self.step
        self.meter = StepMeter(
            self.model.transformer.config,
            parallel.device,
            half=parallel.accelerator.mixed_precision == "bf16",
            adapters=config.lora.enabled,
            processes=parallel.world_size,
        )
        if resumed is not None:
            self.saver.restore(resumed)
        check_columns(self.model.other_losses)
        self.log = TrainingLog(config, out, parallel, after_step=self.step)

    def parameters_text(self) -> str:
        """One line: how many parameters are trained, of how many, and the updates that are to come."""
        counts = [(value.numel(), value.requires_grad) for value in self.model.parameters()]
        trained = sum(count for count, trains in counts if trains)
        run = self.config.run
        todo = f"steps {self.step + 1} to {run.max_steps}, {run.samples_per_step} samples each"
        if self.step >= run.max_steps:
            todo = f"step {self.step} is reached, run.max_steps={run.max_steps} asks for no more"
        return f"parameters: {trained:,} trained of {sum(count for count, _ in counts):,}; {todo}"

    def run(self) -> TrainingResult:
        """Train up to `run.max_steps`, or until SIGINT or SIGTERM; either way a checkpoint stands at the end.

        Raises UserError for data that cannot be used, losses that are not finite, and a checkpoint that
        cannot be written.
        """
        run, batch = self.config.run, self.config.run.samples_per_step
        examples = self.source.examples(
            start=self.step * batch, rank=self.parallel.rank, world_size=self.parallel.world_size
        )
        if self.parallel.is_main:
            text = json.dumps(self.config.plain(), indent=1, ensure_ascii=False) + "\n"
            write_text(self.out / CONFIG_FILE, text)
            write_json(self.out / INPUTS_FILE, {"commit": source_commit(), "inputs": self.inputs})
        stopped = False
        profiler = UpdateProfiler(
            self.config.log.profile if self.parallel.is_main else 0, self.out, self.log.event
        )
        try:
            with _stop_signals() as stop_requested:

                def ends() -> bool:
                    return stop_requested() or self.saver.failed()

                while self.step < run.max_steps and not stopped:
                    with profiler.update(self.step + 1):
                        stopped = self.update(examples, ends)
                    if stopped:
                        self.log.say(
                            f"stopping at step {self.step}; until all is written, {self.store.newest_text()}"
                        )
                    every = self.config.checkpoints.every
                    if self.step % every == 0 or self.step == run.max_steps or stopped:
                        self.save()
                    if self._validates() and not stopped:
                        self.validate()
                    self._tell_of_checkpoint()
                self.saver.wait()
                self._tell_of_checkpoint()
                self.saver.settle()
            profiler.end()
            self.log.say_skipped()
        except UserError:
            self.saver.wait()
            raise
        finally:
            examples.close()
            self.log.close()
        newest = self.parallel.from_main(self.store.newest)
        return TrainingResult(
            step=self.step, checkpoint=None if newest is None else newest.folder, stopped=stopped
        )

    def _tell_of_checkpoint(self) -> None:
        line = self.saver.finished()
        if line is not None:
            self.log.event(line)

    def update(self, examples: Iterator[Example], stop_requested: Callable[[], bool] = lambda: False) -> bool:
        """Update the weights once with the next examples; returns whether any process was told to stop.

        An update that would go on for longer than `checkpoints.grace_s` after that is given up: the weights
        stay those of the last one. Raises UserError for a loss or gradient that is not finite, before the
        weights are touched.
        """
        started = time.perf_counter()
        self.meter.start()
        config, parallel = self.config, self.parallel
        rate = learning_rate(config.optimizer, self.step, parallel.world_size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rows: list[torch.Tensor] = []
        used: list[Example] = []
        gathered = None
        first_call = started
        for call in range(1, parallel.accumulation + 1):
            chosen = [next(examples) for _ in range(config.run.samples_per_call)]
            used += chosen
            if call == 1:
                # Encoders that visit the device may have encoded all samples of the update by now.
                first_call = time.perf_counter()
            batch = collate(
                chosen, self.schedule, config.run.seed, config.model.text_rows, config.model.patch
            )
            batch = batch.to(parallel.device)
            with parallel.micro_step(self.wrapped_model) as last:
                with parallel.accelerator.autocast():
                    losses: Losses = self.wrapped_model(batch)
                tokens = torch.full_like(losses.flow, batch.tokens / len(chosen))
                tflop = torch.full_like(losses.flow, self.meter.tflop_of_sample(batch))
                timesteps = batch.timesteps_B.to(tokens)
                skips = torch.tensor([float(len(example.skipped)) for example in chosen]).to(tokens)
                further = torch.stack([tokens, skips, timesteps, tflop], dim=1)
                rows.append(torch.cat([losses.table(), further], dim=1))
                if last:
                    flag = torch.full_like(rows[0][:1], float(stop_requested()))
                    gathered = parallel.gather(torch.cat([*rows, flag]))
                    finite = torch.cat(rows)[:, 0].isfinite().tolist()
                    bad = [example for example, good in zip(used, finite, strict=True) if not good]
                    all_finite = bool(gathered[:, 0].isfinite().all())
                    what = "loss" if all_finite else self._broken_part(gathered)
                    self._check_finite(all_finite, what, bad)
                parallel.accelerator.backward(losses.total.mean())
            if not last:
                left_s = (time.perf_counter() - first_call) / call * (parallel.accumulation - call)
                if parallel.any(stop_requested() and left_s > config.checkpoints.grace_s):
                    self.optimizer.zero_grad()
                    parallel.forget_calls()
                    return True
        assert gathered is not None
        norm = self._descend(used)
        self.step += 1
        flags = gathered[-parallel.world_size :]
        self._report(gathered[: -parallel.world_size], norm, rate, used, time.perf_counter() - started)
        return bool(flags.any())

    def _descend(self, used: list[Example]) -> float:
        """Check the gradient, then update weights and average; the gradient's norm."""
        self.model.check_gradients()
        norm = self._gradient_norm()
        self._check_finite(math.isfinite(norm), "gradient", used)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.averaged)
        return norm

    def _gradient_norm(self) -> float:
        parameters = [value for value in self.model.parameters() if value.grad is not None]
        limit = self.config.optimizer.max_gradient_norm
        if limit is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        else:
            norm = torch.nn.utils.get_total_norm([value.grad for value in parameters])
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _check_finite(self, finite: bool, what: str, suspects: list[Example]) -> None:
        """Raises UserError with the suspects' keys unless `finite`, which is the same in all processes."""
        if finite:
            return
        keys = self.parallel.gather_objects([example.key for example in suspects])
        self.saver.wait()
        named = shortlist((one_line(key, 80) for key in keys), NAMED_KEYS)
        raise UserError(
            f"the {what} of step {self.step + 1} is not finite (samples {named}; --resume --skip NAME leaves "
            f"one out); the weights were not touched by it, {self.store.newest_text()}"
        )

    def _broken_part(self, rows: torch.Tensor) -> str:
        """What to call the loss that is not finite: a plugin's, with its place, where flow matching is."""
        broken = [
            name
            for name, column in zip(self.model.columns, rows.isfinite().all(dim=0).tolist(), strict=False)
            if not column
        ]
        return "loss" if "flow" in broken or "ra" in broken else self.model.told_of(broken)

    def _report(
        self, rows: torch.Tensor, norm: float, rate: float, used: list[Example], seconds: float
    ) -> None:
        """Record an update out of its samples' losses."""
        names = (*self.model.columns, *OTHER_COLUMNS)
        columns = dict(zip(names, rows.double().cpu().T, strict=True))
        found = [skip for example in used for skip in example.skipped]
        if self.parallel.world_size > 1 and bool(columns["skips"].any()):
            found = self.parallel.gather_objects(found)
        skipped = self.log.skipped(found)
        tflop = float(columns["tflop"].sum())

        def among(chosen: torch.Tensor, name: str) -> float | None:
            return float(columns[name][chosen > 0].mean()) if bool((chosen > 0).any()) else None

        def of_aligned(name: str) -> float | None:
            return among(columns["aligned"], name)

        others: dict[str, float | None] = {}
        for loss in self.model.other_losses:
            added, *terms = loss.columns
            others[added] = float(columns[added].mean())
            others |= {name: among(columns[applies_column(added)], name) for name in terms}
        self.log.step(
            StepReport(
                step=self.step,
                loss=float(columns["total"].mean()),
                flow=float(columns["flow"].mean()),
                ra=float(columns["ra"].mean()),
                squared_error=float(columns["squared_error"].mean()),
                ra_positive=of_aligned("ra_positive"),
                ra_negative=of_aligned("ra_negative"),
                gradient_norm=norm,
                learning_rate=rate,
                samples=len(rows),
                tokens=round(float(columns["tokens"].sum())),
                seconds=seconds,
                skipped=skipped,
                squared_error_by_timestep=error_by_timestep(
                    columns["timesteps"].tolist(), columns["squared_error"].tolist()
                ),
                tflop=tflop,
                share_of_peak=self.meter.share_of_peak(tflop, seconds),
                peak_gib=self.meter.peak_gib(),
                data_wait_s=self.source.take_waited(),
                others=others,
            )
        )

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one or nothing to keep.

        Raises UserError when it, or one that is being written, cannot be written.
        """
        self.saver.wait()
        self._tell_of_checkpoint()
        if self.step == self._saved_step:
            self.saver.settle()
            return
        self.saver.save(self.step)
        self._saved_step = self.step

    def _validates(self) -> bool:
        return self.validation is not None and self.step % self.config.validation.every == 0

    def validate(self) -> None:
        """Make the validation videos with the averaged weights, or the trained ones where there is no
        average. What cannot be made is logged; the run goes on.
        """
        assert self.validation is not None
        folder = self.out / VALIDATION_FOLDER / f"step-{self.step:08d}"
        others = None if self.average is None else self.average.shadow_params
        try:
            with _swapped(self.averaged, others):
                faults = self.validation.run(self.model, self.parallel, folder)
        finally:
            self.parallel.reshard(self.model)
        for fault in faults:
            self.log.event(f"validation at step {self.step} failed: {fault}")
        if len(faults) < len(self.validation.samples):
            self.log.say(f"validation videos: {folder}")
            self.log.videos(folder, self.step)
            self.parallel.together(lambda: self._score(folder))

    def _score(self, videos: Path) -> None:
        """Score the validation videos of this step; the main process does. Whatever happens is logged."""
        if self.scores is None:
            return
        try:
            figures = self.scores.score(videos)
        except Exception as error:  # noqa: BLE001 - training goes on without the scores
            self.log.event(f"validation scores at step {self.step} failed: {one_line(error, 200)}")
        else:
            self.log.scores(figures, self.step)


def _make_average(config: TrainingConfig, parameters: list[torch.nn.Parameter]) -> Any:
    if not config.ema.enabled:
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(parameters, decay=config.ema.decay)


@contextmanager
def _swapped(parameters: list[torch.nn.Parameter], others: list[torch.Tensor] | None) -> Iterator[None]:
    """Parameters with the values of `others` (None: their own) inside of the block, and those with theirs."""
    if others is None:
        yield
        return
    _exchange(parameters, others)
    try:
        yield
    finally:
        _exchange(parameters, others)


def _exchange(parameters: list[torch.nn.Parameter], others: list[torch.Tensor]) -> None:
    """One after the other, so that no third copy of the network is needed."""
    with torch.no_grad():
        for parameter, other in zip(parameters, others, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(own)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Inside the block SIGINT and SIGTERM request a stop; a second one raises KeyboardInterrupt.

    Yields a function that says whether a stop was requested.
    """
    requested = False

    def request(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: requested
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find_resumed(
    store: CheckpointStore, config: TrainingConfig, parallel: Parallel, *, resume: bool
) -> tuple[TrainingConfig, Checkpoint | None]:
    """The checkpoint that a run goes on from: what the main process finds, in all processes; and the
    configuration with what the run keeps of its own: the clips that it left out, and its order of clips where
    that was no setting yet.

    Raises UserError, in all of them, for a run in a folder that holds another one, for other settings than it
    had, and where a process does not see that checkpoint.
    """
    found = parallel.from_main(lambda: _newest_of_run(store, config, resume=resume))
    if found is None:
        return with_schedule_steps(config), None
    seen = store.read(found.state.step) == found
    blind = [] if seen else [f"process {parallel.rank} on {socket.gethostname()}"]
    named = parallel.gather_objects(blind)
    if named:
        raise UserError(
            f"{found.folder} is not to be seen by {shortlist(named, NAMED_KEYS)}; --out has to be a folder "
            "that all processes share"
        )
    return _continued(config, found.state.config), found


def _continued(config: TrainingConfig, stored: Mapping[str, Any]) -> TrainingConfig:
    config = with_schedule_steps(in_stored_order(config, stored), stored)
    left_out = tuple(dict.fromkeys([*stored.get("data", {}).get("skip", []), *config.data.skip]))
    return replace(config, data=replace(config.data, skip=left_out))


def _newest_of_run(store: CheckpointStore, config: TrainingConfig, *, resume: bool) -> Checkpoint | None:
    newest = store.newest()
    if newest is None:
        return None
    if not resume:
        raise UserError(
            f"{store.folder.parent} holds a run at step {newest.state.step}; add --resume to go on with it, "
            "or choose another --out"
        )
    stored = newest.state.config
    check_same_run(stored, _continued(config, stored).plain(), newest.folder)
    return newest


def read_start(
    config: TrainingConfig, parallel: Parallel, weights: Path | None, resumed: Checkpoint | None
) -> StartingPoint:
    """The starting point: read by the main process alone where weights are sharded; of a sharded checkpoint
    only the architecture, since each process reads its part later.
    """
    if resumed is not None and resumed.sharded:
        return StartingPoint(architecture=resumed.shards.architecture, network=None, projectors=None)
    if not parallel.sharded:
        return starting_point(config, weights, resumed)
    from accelerate.utils import broadcast_object_list

    start = starting_point(config, weights, resumed) if parallel.is_main else None
    architecture = [dict(start.architecture) if start is not None else None]
    broadcast_object_list(architecture)
    return start or StartingPoint(architecture=architecture[0] or {}, network=None, projectors=None)
