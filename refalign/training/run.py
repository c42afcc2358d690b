"""From a configuration and folders to a finished run: what `refbench train` and `refbench prepare` do."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from refbench.baselines.wan.loading import find_base, load_base
from refbench.bench.console import note
from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.files import lock_for_writing, scratch_folder, shortlist
from refbench.bench.weights.catalogue import get_entry
from refbench.refalign.data.buckets import BucketedData
from refbench.refalign.data.dataset import MixedData, TrainingData, open_training_data
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training.checkpoints import CheckpointStore
from refbench.refalign.training.encoder import FeatureEncoder, load_teachers
from refbench.refalign.training.examples import EncodedSource, ExampleSource
from refbench.refalign.training.feature_store import INDEX, stored_version
from refbench.refalign.training.forecast import entry_sizes, forecast, free_bytes, size_text
from refbench.refalign.training.inputs import PATH_SUFFIX, continued_inputs, describe_inputs, grown_features
from refbench.refalign.training.optimizer import schedule_text
from refbench.refalign.training.parallel import Parallel, lost_process
from refbench.refalign.training.parts import (
    active_inputs,
    all_teacher_names,
    code_digests,
    frame_teacher_names,
    teacher_names,
)
from refbench.refalign.training.prepare import (
    folder_index,
    order_index,
    prepare_features,
)
from refbench.refalign.training.prepared import BY_POSITION, PreparedSource, stored_order
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer, TrainingResult, find_resumed, read_start
from refbench.refalign.training.validation import Validation, validation_track
from refbench.refalign.training.validation_scores import ValidationScores

CACHE_FOLDER = "data-index"


@dataclass(frozen=True, kw_only=True)
class TrainingPaths:
    """Folders of a run. `data` may be None where `features` are prepared; `weights` None: where weights are
    looked for always. Several data sets are mixed by the shares of `data.mixture`. `plugins`: files whose
    code the run takes, loaded already.
    """

    out: Path
    data: Path | Sequence[Path] | None = None
    features: Path | None = None
    weights: Path | None = None
    plugins: Sequence[Path] = ()


def train(
    config: TrainingConfig, paths: TrainingPaths, *, resume: bool, accept_other_data: bool = False
) -> TrainingResult:
    """Train a recipe, in as many processes as were launched.

    A resumed run with other data or weights than it had is refused unless `accept_other_data`.
    Raises UserError for everything that the user can mend, missing weights included, before the first step
    where that is possible.
    """
    _quiet()
    with made_weights(config, paths.weights) as weights:
        try:
            parallel = Parallel(config, paths.out)
            result = _run(
                config, paths, parallel, weights, resume=resume, accept_other_data=accept_other_data
            )
        except MissingWeights as missing:
            raise UserError(str(missing)) from None
        except RuntimeError as error:
            lost = lost_process(error, config.run.timeout_s)
            if lost is None:
                raise
            raise UserError(lost) from None
        parallel.accelerator.wait_for_everyone()
        # DDP's module keeps the group of processes, whose threads abort an interpreter that ends first.
        parallel.accelerator.free_memory()
        gc.collect()
        parallel.accelerator.end_training()
        return result


def _run(
    config: TrainingConfig,
    paths: TrainingPaths,
    parallel: Parallel,
    weights: Path | None,
    *,
    resume: bool,
    accept_other_data: bool,
) -> TrainingResult:
    store = CheckpointStore(paths.out, config.checkpoints.keep)
    wanted_order = config.data.open_shards
    if paths.features is not None:
        config = stored_order(config, paths.features)
    config, resumed = find_resumed(store, config, parallel, resume=resume)
    if config.data.open_shards != wanted_order and parallel.is_main:
        note("going through one shard after the other, as before data.open_shards was a setting")
    if resume and resumed is None and parallel.is_main:
        note(f"nothing to resume in {paths.out}: starting at step 0")
    # Reading the frozen networks takes long: everything else that may be missing is looked for before.
    track = validation_track(config)
    if track is not None and active_inputs(config):
        name = active_inputs(config)[0].declaration.name
        raise UserError(
            f"validation makes videos without reference_inputs.{name}, which the network is trained with; "
            "give validation.every=0"
        )
    scores = None
    if track is not None and config.validation.metrics:
        scores = ValidationScores(config.validation.metrics, track, paths.out, weights, parallel.device)
    data = None if paths.data is None else open_data(config, paths.data, paths.out / CACHE_FOLDER)
    features = None
    if paths.features is not None:
        refuse_buckets(config)
        features = _prepared_source(config, paths.features, weights, data, tell=parallel.is_main)
    elif data is None:
        raise UserError("training needs --data, or --features that refbench prepare made")
    check_same_everywhere(parallel, data, features, code_digests(config, paths.plugins))
    inputs, accepted = parallel.from_main(
        lambda: continued_inputs(
            resumed,
            describe_inputs(config, weights, data, features, paths.plugins),
            adapter=config.lora.enabled,
            accept=accept_other_data,
            grown=grown_features(resumed, features, config.data.skip),
        )
    )
    encoder = (
        make_encoder(config, weights, parallel.device) if features is None or track is not None else None
    )
    source: ExampleSource
    if features is not None:
        source = features
    else:
        assert data is not None and encoder is not None
        together = parallel.accumulation * config.run.samples_per_call
        source = EncodedSource(
            data,
            encoder,
            workers=config.data.workers,
            together=together if config.run.encoders == "offloaded" else 1,
        )
    paths.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        config,
        parallel,
        source,
        paths.out,
        start=read_start(config, parallel, weights, resumed),
        resumed=resumed,
        inputs=inputs,
        validation=Validation(config, track.samples, encoder) if track and encoder is not None else None,
        scores=scores,
    )
    trainer.log.say(_opening(parallel, source, inputs))
    trainer.log.say(trainer.parameters_text())
    for name, reason in ({} if scores is None else scores.lacking).items():
        trainer.log.event(f"validation.metrics: {name} cannot run and is left out: {reason}")
    if (text := schedule_text(config)) is not None:
        trainer.log.event(text)
    if accepted:
        trainer.log.event(f"--accept-other-data: goes on with other inputs: {', '.join(accepted)}")
    parallel.accelerator.wait_for_everyone()
    return trainer.run()


def _opening(parallel: Parallel, source: ExampleSource, inputs: Mapping[str, str]) -> str:
    """The line about device and data."""
    device = str(parallel.device)
    if parallel.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(parallel.device)})"
    if parallel.world_size > 1:
        device += f", {parallel.world_size} processes ({parallel.strategy})"
    where = inputs.get("features.path") or inputs.get("data.path")
    precision = "bfloat16" if parallel.accelerator.mixed_precision == "bf16" else "float32"
    return f"device: {device}, {precision}; data: {source.length:,} clips in {where}"


def check_same_everywhere(
    parallel: Parallel,
    data: TrainingData | None,
    features: PreparedSource | None,
    code: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises UserError, in all processes, where one sees other data or plugins than the main process."""
    mark = (
        None if data is None else (len(data), data.content_digest()),
        None if features is None else features.mark(),
    )
    marks = parallel.gather_objects([mark])
    others = [f"process {rank}" for rank, each in enumerate(marks) if each != marks[0]]
    if others:
        raise UserError(
            f"{shortlist(others)} does not see the training data that process 0 sees; --data and --features "
            "have to be the same for all processes"
        )
    digests = sorted(value for name, value in code.items() if not name.endswith(PATH_SUFFIX))
    if any(each != digests for each in parallel.gather_objects([digests])):
        raise UserError(
            "the files of --plugin differ between the processes; they have to be the same for all"
        )


def prepare(
    config: TrainingConfig,
    data: Path | Sequence[Path],
    folder: Path,
    weights: Path | None,
    *,
    epochs: int | None = None,
    positions: int | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> int:
    """Prepare the features of a recipe, in as many processes as were launched; how many positions are
    prepared.

    `epochs` or `positions` of the recipe's order; without either what the recipe's run takes, but no more
    than one epoch. The size is said first: what does not fit the disk is refused unless `force`, and with
    `dry_run` that is all. Raises UserError.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    _quiet()
    refuse_buckets(config)
    if epochs is not None and positions is not None:
        raise UserError("give either --epochs or --positions, not both")
    by_position = stored_version(folder) in BY_POSITION
    if by_position:
        config = stored_order(config, folder)
    with made_weights(config, weights) as found:
        state = PartialState(
            cpu=not torch.cuda.is_available(), timeout=timedelta(seconds=config.run.timeout_s)
        )
        # Reading the networks takes long: what is wrong with the data is found before.
        # Features hold every clip: which of them are left out is each run's choice.
        every = replace(config, data=replace(config.data, skip=()))
        opened = open_data(every, data, folder / CACHE_FOLDER)
        if epochs is not None:
            positions = epochs * len(opened)
        elif positions is None:
            positions = min(config.run.max_steps * config.run.samples_per_step, len(opened))
        if by_position:
            return _whole_by_position(PreparedSource(folder, config, weights=found, data=opened), positions)
        prepared = 0
        with ExitStack() as held:
            refused: list[str | None] = [None]
            if state.is_main_process:
                try:
                    if not dry_run:
                        held.enter_context(_alone_in(folder))
                    refused = [_forecast_fault(config, opened, folder, found, positions, force=force)]
                except (MissingWeights, UserError) as error:
                    refused = [str(error)]
            broadcast_object_list(refused)
            if refused[0] is not None:
                raise UserError(refused[0])
            if not dry_run:
                prepared = _prepare_in(config, opened, folder, found, positions, state)
                state.wait_for_everyone()
        state.destroy_process_group()
        return prepared


def _prepare_in(
    config: TrainingConfig, data: TrainingData, folder: Path, weights: Path | None, positions: int, state: Any
) -> int:
    """Encode this process's share and say how far it is; how many positions are prepared in the end."""
    try:
        encoder = make_encoder(config, weights, state.device)
    except MissingWeights as missing:
        raise UserError(str(missing)) from None
    started = time.perf_counter()

    def report(done: int, total: int) -> None:
        if state.is_main_process:
            minutes = (time.perf_counter() - started) / done * (total - done) / 60
            note(f"file {done}/{total} of this process, {minutes:.0f} min left")

    with encoder.at_work():
        order = prepare_features(
            config,
            data,
            encoder,
            folder,
            positions=positions,
            weights=weights,
            rank=state.process_index,
            world_size=state.num_processes,
            on_file=report,
        )
    return order.positions


def _forecast_fault(
    config: TrainingConfig,
    data: TrainingData,
    folder: Path,
    weights: Path | None,
    positions: int,
    *,
    force: bool,
) -> str | None:
    """Say how much space the features take; why they do not fit the disk, or None.

    Raises MissingWeights, and UserError for a folder of other settings.
    """
    folder_index(config, folder, weights, {})
    name, order = order_index(config, data, folder, positions=positions)
    found = forecast(config, data, folder, name, order, entry_sizes(config, weights))
    free = free_bytes(folder)
    for line in found.lines(folder, free):
        note(line)
    if found.size_bytes <= free or force:
        return None
    fitting = int(found.new_positions * free / found.size_bytes)
    return (
        f"the features take {size_text(found.size_bytes)} and {size_text(free)} are free in {folder}: about "
        f"{fitting:,} new positions fit (--positions); give another --out, or --force"
    )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Inside the block no other command prepares in the folder. Raises UserError where one does."""
    lock = lock_for_writing(
        folder / INDEX, lambda lock_file: f"another refbench prepare is writing into {folder} ({lock_file})"
    )
    try:
        yield
    finally:
        lock.release()


def _whole_by_position(source: PreparedSource, positions: int) -> int:
    """Positions of features of an earlier version. Raises UserError where more are wanted."""
    if source.positions < positions:
        raise UserError(
            f"{source.folder} holds {source.positions} positions of an earlier version, to which nothing is "
            "added; train on them as they are, or prepare in another folder"
        )
    return source.positions


def make_encoder(config: TrainingConfig, weights: Path | None, device: torch.device | str) -> FeatureEncoder:
    """Load the frozen networks of a recipe.

    Raises MissingWeights for one that is not on disk and UserError for one that cannot be read.
    """
    base = find_base(get_entry(config.model.base), weights, image_branch=False)
    dtype = torch.bfloat16 if config.run.precision == "bfloat16" else torch.float32
    # Teachers first: a missing one should not be found out after reading a text encoder of 11 GB.
    offloaded = config.run.encoders == "offloaded"
    teachers = load_teachers(
        all_teacher_names(config), weights, device="cpu" if offloaded else device, dtype=dtype
    )
    return FeatureEncoder(
        load_base(base, dtype=dtype),
        {name: teachers[name] for name in teacher_names(config)},
        frame_teachers={name: teachers[name] for name in frame_teacher_names(config)},
        rule=config.data.clip,
        patch=config.model.patch,
        device=device,
        dtype=dtype,
        offloaded=offloaded,
    )


def _prepared_source(
    config: TrainingConfig, folder: Path, weights: Path | None, data: TrainingData | None, *, tell: bool
) -> PreparedSource:
    source = PreparedSource(folder, config, weights=weights, data=data)
    used = config.run.max_steps * config.run.samples_per_step
    if tell and used > source.positions:
        note(
            f"the run takes {used} samples, {folder} holds {source.positions}: they are gone through again "
            "with new noise"
        )
    return source


def open_data(config: TrainingConfig, paths: Path | Sequence[Path], cache: Path) -> TrainingData:
    """The training data as a recipe cuts and mixes it; its index is kept in `cache`. Raises UserError."""
    sets = [
        open_training_data(
            path,
            config.data.clip,
            seed=config.run.seed,
            cache=cache,
            rates=config.data.references,
            dropout=config.data.dropout,
            skip=config.data.skip,
            open_shards=config.data.open_shards,
        )
        for path in ([paths] if isinstance(paths, Path) else paths)
    ]
    data = sets[0] if len(sets) == 1 and not config.data.mixture else MixedData(sets, config.data.mixture)
    if not config.data.buckets:
        return data
    bucketed = BucketedData(data, config.data.bucket_rules, together=config.run.samples_per_step)
    # What cannot be dealt to buckets is found here.
    bucketed.sample(0, 0)
    return bucketed


def refuse_buckets(config: TrainingConfig) -> None:
    """Raises UserError where prepared features are wanted of clips in buckets."""
    if config.data.buckets:
        raise UserError(
            "data.buckets does not go together with prepared features, which have one size; train on --data"
        )


@contextmanager
def made_weights(config: TrainingConfig, folder: Path | None) -> Iterator[Path | None]:
    """The weights folder; for the `tiny` recipe without one, a temporary folder of random weights."""
    if config.recipe != "tiny" or folder is not None:
        yield folder
        return
    from refbench.baselines.small.wan_base import TEXT_BASES, write_small
    from refbench.refalign.small_teacher import write_tiny as write_teacher

    base = config.model.base if config.model.base in TEXT_BASES else next(iter(TEXT_BASES))
    writers: list[Callable[[Path], None]] = [lambda folder: write_small(folder, base)]
    for name in dict.fromkeys([*config.alignment.teachers, *all_teacher_names(config)]):
        if get_teacher_spec(name).kind == "dinov3_vit":
            writers.append(lambda folder, name=name: write_teacher(folder, name))  # type: ignore[misc]
    with scratch_folder("tiny") as made:
        for write in writers:
            write(Path(made))
        yield Path(made)


def _quiet() -> None:
    """Turn off progress bars and repeated advice of libraries, which would drown the run's own lines."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    # Norms keep float32 weights under autocast; that torch then takes its plain kernel is known.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
