"""Which devices work runs on, and how a worker process is kept to one of them.

A worker process that is given a GPU sees no other: `CUDA_VISIBLE_DEVICES` is set before the process begins,
so that torch, ONNX Runtime and whatever else asks CUDA for "the first GPU" get the one that was meant.
Within the process it is called `cuda:0`; records name it as the machine does.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec

from refbench.bench.environment import available_gib, resolve_device
from refbench.bench.errors import UserError, one_line

AUTO = "auto"
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
GPU_NAME = re.compile(r"cuda(?::(\d{1,6}))?")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one worker runs: a device as the machine names it, and whether the worker's process is to see no
    other (`alone`). A worker in the driver's own process cannot be alone: torch may have looked at all
    devices.
    """

    device: str = "cpu"
    alone: bool = False

    @property
    def inside(self) -> str:
        """What the device is called within the worker's process."""
        return "cuda:0" if self.alone and is_gpu(self.device) else self.device

    def variables(self) -> dict[str, str]:
        """The environment variables with which the worker's process is to begin."""
        if not self.alone:
            return {}
        if self.device == "cpu":
            return {VISIBLE_GPUS: ""}
        return {VISIBLE_GPUS: _visible_name(gpu_index(self.device))} if is_gpu(self.device) else {}


def use_here(place: Place) -> None:
    """Make the place's GPU the one that torch takes in this process where none is named; others need none."""
    if not place.alone and is_gpu(place.device):
        import torch

        torch.cuda.set_device(place.device)


def is_gpu(device: str) -> bool:
    """Whether a device is one that CUDA counts."""
    return GPU_NAME.fullmatch(device) is not None


def gpu_index(device: str) -> int:
    """The number of a CUDA device: 0 for `cuda`."""
    match = GPU_NAME.fullmatch(device)
    assert match is not None, f"{device} is no CUDA device"
    return int(match[1] or 0)


def _visible_name(index: int) -> str:
    """What `CUDA_VISIBLE_DEVICES` calls the GPU that this process counts as `index`."""
    listed = os.environ.get(VISIBLE_GPUS)
    return str(index) if listed is None else listed.split(",")[index].strip()


def chosen_devices(text: str, *, needs_torch: bool) -> tuple[str, ...]:
    """The devices that `--devices` names: `auto` (every GPU that torch sees, else the CPU), a list
    (`cuda:0,cuda:1`), or how many of `auto`'s.

    Raises UserError for what is not there, is named twice, or does not go together. torch is imported only
    where something that needs it is going to run, and no GPU is touched: that takes memory of it.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError("--devices names no device: auto, cpu, cuda:0,cuda:1 or a number of GPUs")
    if len(names) == 1 and names[0].isdecimal():
        return _first(int(names[0]), needs_torch=needs_torch)
    if names == [AUTO]:
        return auto_devices(needs_torch=needs_torch)
    if not needs_torch or find_spec("torch") is None:
        for name in names:
            resolve_device(name, needs_torch=False)
    found = [_found(name) for name in names]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--devices names {twice} twice; --workers 2 puts two workers on each device")
    if len({name.partition(":")[0] for name in found}) > 1:
        raise UserError(
            f"--devices {one_line(text, 60)}: devices of one kind are taken, because numbers differ between "
            "kinds; score on the CPU in a run of its own"
        )
    return tuple(found)


def one_device(name: str) -> str:
    """What `--devices` calls the one device `name`, where `auto` is the first of what it takes."""
    return "1" if name == AUTO else name


def auto_devices(*, needs_torch: bool = True) -> tuple[str, ...]:
    """What `auto` takes: every GPU that torch sees, else the CPU."""
    count = _gpu_count() if needs_torch else 0
    return tuple(f"cuda:{index}" for index in range(count)) or ("cpu",)


def _first(count: int, *, needs_torch: bool) -> tuple[str, ...]:
    """The first `count` of the devices that `auto` takes."""
    there = auto_devices(needs_torch=needs_torch)
    if not 1 <= count <= len(there):
        what = f"{len(there)} GPUs" if is_gpu(there[0]) else "the CPU alone"
        why = "" if needs_torch else " (nothing that runs needs a GPU)"
        raise UserError(
            f"--devices {count} cannot be used: there is {what}{why}; "
            "--workers N puts N workers on each device"
        )
    return there[:count]


def _found(name: str) -> str:
    """A device by its full name. Raises UserError for one that is not there."""
    if name == AUTO or name.isdecimal():
        raise UserError(f"--devices takes {name} alone, not in a list")
    if not is_gpu(name):
        return resolve_device(name, needs_torch=True)
    index, count = gpu_index(name), _gpu_count()
    if index >= count:
        there = ", ".join(auto_devices()) if count else "no GPU that torch can use"
        raise UserError(f"--devices {name} cannot be used: this machine has {there}")
    return f"cuda:{index}"


def _gpu_count() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def places_of(devices: Sequence[str], workers: int, *, own_process: bool = False) -> tuple[Place, ...]:
    """A place for each of `workers` workers per device, one round of the devices after the other.

    A single worker works in this process, unless `own_process`. Raises UserError for fewer than one.
    """
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    alone = own_process or workers * len(devices) > 1
    return tuple(Place(device=device, alone=alone) for _ in range(workers) for device in devices)


def free_gib(places: Sequence[Place]) -> float:
    """The memory that each worker may plan with, in GiB: its share of the device that has the least."""
    devices = list(dict.fromkeys(place.device for place in places))
    if not any(is_gpu(device) for device in devices) or not places[0].alone:
        free = [available_gib(device) for device in devices]
    else:
        # In a process of its own: to measure makes a context on each GPU, which would stay in the driver's.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            free = list(pool.map(available_gib, devices))
    return min(free) * len(devices) / len(places)


def check_memory(places: Sequence[Place], needs: Sequence[tuple[str, float]], share_gib: float) -> None:
    """See that each of several workers per device has the memory for what it loads.

    `needs` are what is loaded, one after the other, with its GiB. Raises UserError, before anything is
    loaded, that says how many would do. One worker per device is let try: what it needs is an estimate.
    """
    devices = len({place.device for place in places})
    each = len(places) // devices
    if each < 2 or not needs:
        return
    what, most = max(needs, key=lambda need: need[1])
    if most > share_gib:
        fitting = max(int(share_gib * each / most), 1)
        raise UserError(
            f"{each} workers on {places[0].device} leave {share_gib:.1f} GiB to each, and {what} needs about "
            f"{most:.0f}; --workers {fitting}"
        )
