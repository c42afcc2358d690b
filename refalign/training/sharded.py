"""A run's whole state as shards: each process writes and reads what it holds itself.

    index.json                                   files with their sizes, the network's architecture
    shard-00001-model-00001-of-00002.safetensors the first part of what process 0 holds

torch.distributed.checkpoint does the work, with its safetensors files: its usual metadata is a pickle, which
would run code when it is read. Every file names the whole tensors that its parts belong to, so another number
of processes, or one alone, reads what it needs. Tensors by name:

    model/<parameter>             weights, trained or not
    average/<parameter>           their moving average
    optimizer/<parameter>/<name>  AdamW's moments, and its count of updates as one number (1,)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from refbench.baselines.wan.checkpoint import SHARD_INDEX
from refbench.bench.errors import UserError, first_fault, one_line, system_reason
from refbench.bench.files import shortlist, write_json

MODEL_PREFIX, AVERAGE_PREFIX, OPTIMIZER_PREFIX = "model/", "average/", "optimizer/"
# A file is put together in memory, twice, before it is written: small files keep that small.
FILE_BYTES = 256 * 2**20
SUFFIX = ".safetensors"


class ShardIndex(BaseModel):
    """What belongs to a sharded state: sizes of its files in bytes, and the network's configuration."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    files: dict[str, int]
    architecture: dict[str, Any]


def start_writing(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    group: Any,
    background: bool,
) -> Future[None]:
    """Write `tensors`, sharded or whole, in all processes of `group` (None: this one alone).

    Whole tensors are the same in all processes and written once. In the background the tensors are copied to
    the CPU first and may change when this returns; otherwise everything is written by then. The result holds
    torch's CheckpointException, in all processes, where one of them could not write.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, async_save, save
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    settings: dict[str, Any] = {
        "storage_writer": HuggingFaceStorageWriter(
            path=str(folder), fqn_to_index_mapping=_file_numbers(tensors), save_distributed=True
        ),
        "process_group": group,
        "no_dist": group is None,
    }
    state = {name: value.detach() for name, value in tensors.items()}
    finished: Future[None] = Future()
    _quiet()
    if not background:
        try:
            save(state, **settings)
        except CheckpointException as error:
            finished.set_exception(error)
        else:
            finished.set_result(None)
        return finished
    card = torch.cuda.is_available()
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=card,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=card,
        )
    )
    written: Any = async_save(state, async_stager=stager, **settings)

    def end(done: Any) -> None:
        error = done.exception()
        try:
            stager.close()
        except Exception as fault:  # noqa: BLE001 - nobody hears what a callback raises
            error = error or fault
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)

    written.add_done_callback(end)
    return finished


def write_index(folder: Path, architecture: Mapping[str, Any]) -> None:
    """Write the index when all files are there."""
    files = {file.name: file.stat().st_size for file in sorted(folder.glob(f"*{SUFFIX}"))}
    index = ShardIndex(files=files, architecture=dict(architecture))
    write_json(folder / SHARD_INDEX, index.model_dump(mode="json"))


class ShardedState:
    """A state on disk; everything that reading it could stumble over is looked for when it is opened.

    Raises UserError for files that are missing, cut or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = ShardIndex.model_validate_json((folder / SHARD_INDEX).read_bytes())
        except OSError as error:
            raise UserError(
                f"{folder / SHARD_INDEX} cannot be read: {one_line(error.strerror, 80)}"
            ) from None
        except ValidationError as error:
            raise UserError(f"{folder / SHARD_INDEX} is damaged: {first_fault(error)}") from None
        self.architecture = index.architecture
        found = {file.name: file.stat().st_size for file in folder.glob(f"*{SUFFIX}")}
        faults = [name for name, size in index.files.items() if found.get(name) != size]
        strangers = found.keys() - index.files.keys()
        if faults or strangers:
            raise UserError(
                f"{folder} is not whole: {shortlist(sorted(faults) or sorted(strangers))} "
                f"{'is missing or cut' if faults else 'does not belong to it'}"
            )
        self.shapes = self._shapes()

    def _reader(self) -> Any:
        from torch.distributed.checkpoint import HuggingFaceStorageReader

        return HuggingFaceStorageReader(path=str(self.folder))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the whole tensors by name."""
        from safetensors import SafetensorError

        try:
            stored = self._reader().read_metadata().state_dict_metadata
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.folder} is damaged: {one_line(error, 160)}") from None
        for name, tensor in stored.items():
            # Parts never overlap; what no file holds would stay as it is in memory, and nobody would hear.
            if sum(chunk.sizes.numel() for chunk in tensor.chunks) != tensor.size.numel():
                raise UserError(f"{self.folder} is damaged: {one_line(name, 80)} is not whole")
        return {name: tuple(tensor.size) for name, tensor in stored.items()}

    def names(self, prefix: str) -> list[str]:
        """The stored names that begin with `prefix`, without it."""
        return [name.removeprefix(prefix) for name in self.shapes if name.startswith(prefix)]

    def read_into(self, targets: Mapping[str, torch.Tensor], group: Any) -> None:
        """Copy stored tensors into `targets` of the same names, sharded or whole, of any floating-point type.

        All processes of `group` (None: this one alone) take part. Raises UserError, before anything is
        copied, for names that are not stored and other shapes.
        """
        from torch.distributed.checkpoint import load
        from torch.distributed.checkpoint.api import CheckpointException

        for name, target in targets.items():
            if self.shapes.get(name) != tuple(target.shape):
                raise UserError(
                    f"{self.folder} does not fit the network: {one_line(name, 100)} is "
                    f"{self.shapes.get(name, 'missing')}, not {tuple(target.shape)}"
                )
        _quiet()
        try:
            with torch.no_grad():
                load(
                    {name: target.detach() for name, target in targets.items()},
                    storage_reader=self._reader(),
                    process_group=group,
                    no_dist=group is None,
                )
        except CheckpointException as error:
            reason = next(iter(error.failures.values()))[0]
            raise UserError(f"{self.folder} cannot be read: {one_line(reason, 160)}") from None


def failure_text(error: BaseException) -> str:
    """Why writing failed, in one line."""
    failures = getattr(error, "failures", None)
    return system_reason(next(iter(failures.values()))[0] if failures else error)


def _file_numbers(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The number of the file, from 1 on, that a process writes its part of a tensor into.

    The main process decides for all, by what it holds itself.
    """
    numbers, number, size = {}, 1, 0
    for name, value in tensors.items():
        own: Any = value.to_local() if hasattr(value, "to_local") else value
        here = own.numel() * own.element_size()
        if size and size + here > FILE_BYTES:
            number, size = number + 1, 0
        numbers[name] = number
        size += here
    return numbers


def _quiet() -> None:
    """Turn off the remark that one process saves alone, which is what was asked for."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
