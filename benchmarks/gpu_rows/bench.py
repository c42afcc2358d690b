"""What all rows share: the device with its sizes and inputs, differences of results, the times of kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gpu_rows import networks
from gpu_rows.rows import Clock, Fact, Measured
from refbench.baselines.wan.execution import chosen_dtype

REFERENCES = 3
RUNS = 3
LISTED_KERNELS = 8
GIB = 2**30
PROMPT = "A woman in a green raincoat walks a spotted dog along a harbour at dusk and laughs."

# Parts of kernels' names: attention, and matrix products of cuBLAS, CUTLASS and cuDNN.
ATTENTION_KERNELS = ("flash", "fmha", "sdpa", "attention")
PRODUCT_KERNELS = ("gemm", "nvjet", "cutlass", "xmma", "conv")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The device, the sizes of everything, and a folder that vanishes."""

    device: torch.device
    sizes: networks.Sizes
    clock: Clock
    folder: Path

    @property
    def dtype(self) -> torch.dtype:
        """The generators' dtype: bfloat16 on a GPU, float32 on a CPU."""
        return chosen_dtype("auto", self.device.type)

    @property
    def half(self) -> torch.dtype:
        """The 7B metrics' dtype on this device: float16 on a GPU, float32 on a CPU."""
        return torch.float16 if self.clock.on_gpu else torch.float32

    def noise(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The same noise at each call."""
        generator = torch.Generator(self.device).manual_seed(1)
        return torch.randn(shape, generator=generator, device=self.device, dtype=torch.float32).to(dtype)

    def subfolder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def make_bench(device: torch.device, *, tiny: bool, folder: Path) -> Bench:
    """The bench of a device."""
    return Bench(
        device=device,
        sizes=networks.TINY if tiny else networks.FULL,
        clock=Clock(device, RUNS),
        folder=folder,
    )


def ceilings(bench: Bench) -> Measured:
    """What a large matrix product and a large copy reach."""
    side = 8192 if bench.clock.on_gpu else 256
    left, right = bench.noise(side, side, dtype=bench.dtype), bench.noise(side, side, dtype=bench.dtype)
    source = bench.noise(2**30 if bench.clock.on_gpu else 2**20)
    target = torch.empty_like(source)
    copied = bench.clock.measure(lambda: target.copy_(source), counted=False)
    assert copied.seconds is not None
    found = bench.clock.measure(lambda: left @ right, tflop=2 * side**3 / 1e12)
    return replace(found, facts={"copy TB/s": 2 * source.nbytes / copied.seconds / 1e12})


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """float32 convolutions without TensorFloat-32, which torch allows on a GPU unless told otherwise."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def relative(found: Any, reference: Any) -> float:
    """Length of the difference over the length of the reference."""
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (found, reference))
    return float((one - other).norm() / other.norm())


def largest(found: Any, reference: Any) -> float:
    """The largest absolute difference."""
    one, other = (torch.as_tensor(each).detach().cpu().double() for each in (found, reference))
    return float((one - other).abs().max())


def kernel_shares(clock: Clock, work: Callable[[], object]) -> dict[str, Fact]:
    """Milliseconds of a run's kernels: attention, matrix products, all others, and the longest of these."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    work()
    clock.synchronise()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        work()
        clock.synchronise()
    shares = dict.fromkeys(("attention ms", "products ms", "other ms"), 0.0)
    others: list[tuple[float, str]] = []
    for event in profiled.key_averages():
        # Ranges that torch names itself span kernels that are counted already.
        if event.device_type != DeviceType.CUDA or event.is_user_annotation:
            continue
        milliseconds, name = event.self_device_time_total / 1e3, event.key.lower()
        if any(part in name for part in ATTENTION_KERNELS):
            shares["attention ms"] += milliseconds
        elif any(part in name for part in PRODUCT_KERNELS):
            shares["products ms"] += milliseconds
        else:
            shares["other ms"] += milliseconds
            others.append((milliseconds, f"{event.count} × {event.key[:90]}"))
    longest = sorted(others, reverse=True)[:LISTED_KERNELS]
    return {**shares, **{f"other {rank}": f"{ms:.1f} ms, {name}" for rank, (ms, name) in enumerate(longest)}}
