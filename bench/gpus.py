"""GPUs that `refbench plan` knows: memory, peak and sustained throughput. No torch here.

Peaks are the makers' dense figures; data sheets that quote structured sparsity ("with sparsity", twice as
much) are halved. bfloat16 is the tensor cores' rate with float32 accumulation, float32 that of the plain
cores: the generators run float32 without TensorFloat-32.

Nothing sustains its peak. What is assumed is one share of it, `SUSTAINED_SHARE`: RefAlign-1.3B and 14B
sustained 46 % and 51 % of an H200's bfloat16 peak (docs/measured-gpu.md). No other card was measured here.

Memory is the data sheet's number read as 10^9 bytes, below what the driver counts for any of them
(an "80 GB" card has 79 to 80 GiB of 2^30), so that something is left for the driver and for others.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name

SUSTAINED_SHARE = 0.455
GB_IN_GIB = 1e9 / 2**30
BFLOAT16_BYTES = 2
# Words that makers, shops and drivers put around a card's name.
NOISE = frozenset({"nvidia", "geforce", "rtx", "gpu", "sxm", "sxm4", "sxm5", "80gb", "generation"})


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card: its data sheet's memory in GB (10^9 bytes), its dense peaks in TFLOP/s, and where they stand.

    `sustained_share` of a peak is what a plan counts with.
    """

    name: str
    title: str
    memory_gb: float
    bfloat16_tflops: float
    float32_tflops: float
    source: str
    sustained_share: float = SUSTAINED_SHARE

    @property
    def memory_gib(self) -> float:
        """Memory to plan with, in GiB (2^30 bytes)."""
        return self.memory_gb * GB_IN_GIB

    def peak_tflops(self, parameter_bytes: int = BFLOAT16_BYTES) -> float:
        """The dense peak for networks with parameters of two bytes (bfloat16, float16) or four (float32)."""
        return self.bfloat16_tflops if parameter_bytes == BFLOAT16_BYTES else self.float32_tflops

    def sustained_tflops(self, parameter_bytes: int = BFLOAT16_BYTES) -> float:
        """What a plan counts with in TFLOP/s."""
        return self.sustained_share * self.peak_tflops(parameter_bytes)


HOPPER = "NVIDIA H100 Tensor Core GPU data sheet, https://www.nvidia.com/en-us/data-center/h100/"
AMPERE = "NVIDIA A100 Tensor Core GPU data sheet, https://www.nvidia.com/en-us/data-center/a100/"
GA102 = (
    "NVIDIA Ampere GA102 GPU Architecture, whitepaper, "
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
)
ADA = (
    "NVIDIA Ada GPU Architecture, whitepaper, "
    "https://images.nvidia.com/aem-dam/Solutions/Data-Center/l4/nvidia-ada-gpu-architecture-whitepaper-v2.1.pdf"
)
RTX_BLACKWELL = (
    "NVIDIA RTX Blackwell GPU Architecture, whitepaper, "
    "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
)
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="b200", title="B200", memory_gb=180, bfloat16_tflops=2250, float32_tflops=75,
            source="NVIDIA HGX B200 (an eighth of its figures), https://www.nvidia.com/en-us/data-center/hgx/",
        ),
        Gpu(
            name="h200", title="H200 SXM", memory_gb=141, bfloat16_tflops=989, float32_tflops=67,
            source="NVIDIA H200 Tensor Core GPU data sheet, https://www.nvidia.com/en-us/data-center/h200/",
        ),
        Gpu(
            name="h100", title="H100 SXM", memory_gb=80, bfloat16_tflops=989, float32_tflops=67,
            source=HOPPER,
        ),
        Gpu(
            name="h100-pcie", title="H100 PCIe", memory_gb=80, bfloat16_tflops=756, float32_tflops=51,
            source=HOPPER,
        ),
        Gpu(
            name="h100-nvl", title="H100 NVL", memory_gb=94, bfloat16_tflops=835, float32_tflops=60,
            source=HOPPER,
        ),
        Gpu(
            name="a100", title="A100 80GB", memory_gb=80, bfloat16_tflops=312, float32_tflops=19.5,
            source=AMPERE,
        ),
        Gpu(
            name="a100-40gb", title="A100 40GB", memory_gb=40, bfloat16_tflops=312, float32_tflops=19.5,
            source=AMPERE,
        ),
        Gpu(
            name="l40s", title="L40S", memory_gb=48, bfloat16_tflops=362, float32_tflops=91.6,
            source="NVIDIA L40S data sheet, https://www.nvidia.com/en-us/data-center/l40s/",
        ),
        Gpu(
            name="l40", title="L40", memory_gb=48, bfloat16_tflops=181, float32_tflops=90.5,
            source="NVIDIA L40 data sheet, https://www.nvidia.com/en-us/data-center/l40/",
        ),
        Gpu(
            name="l4", title="L4", memory_gb=24, bfloat16_tflops=121, float32_tflops=30.3,
            source="NVIDIA L4 data sheet, https://www.nvidia.com/en-us/data-center/l4/",
        ),
        Gpu(
            name="a40", title="A40", memory_gb=48, bfloat16_tflops=149.7, float32_tflops=37.4,
            source="NVIDIA A40 data sheet, https://www.nvidia.com/en-us/data-center/a40/",
        ),
        Gpu(
            name="a10", title="A10", memory_gb=24, bfloat16_tflops=125, float32_tflops=31.2,
            source="NVIDIA A10 data sheet, https://www.nvidia.com/en-us/data-center/products/a10-gpu/",
        ),
        Gpu(
            name="a6000", title="RTX A6000", memory_gb=48, bfloat16_tflops=154.8, float32_tflops=38.7,
            source=GA102,
        ),
        Gpu(
            name="5090", title="GeForce RTX 5090", memory_gb=32, bfloat16_tflops=209.5, float32_tflops=104.8,
            source=RTX_BLACKWELL,
        ),
        Gpu(
            name="4090", title="GeForce RTX 4090", memory_gb=24, bfloat16_tflops=165.2, float32_tflops=82.6,
            source=ADA,
        ),
        Gpu(
            name="3090", title="GeForce RTX 3090", memory_gb=24, bfloat16_tflops=71, float32_tflops=35.6,
            source=GA102,
        ),
    )
}  # fmt: skip
DEFAULT_GPU = "h100"


@dataclass(frozen=True, kw_only=True)
class AssumedGpu:
    """The card that a plan counts with: a known one, whose memory (GiB) and sustained throughput (TFLOP/s)
    the user may replace. Raises UserError for a throughput that the card cannot reach.
    """

    gpu: Gpu
    given_gib: float | None = None
    given_tflops: float | None = None

    def __post_init__(self) -> None:
        peak = self.gpu.peak_tflops()
        if self.given_gib is not None and not math.isfinite(self.given_gib):
            raise UserError(f"--gpu-memory {self.given_gib:g} is no memory in GiB")
        if self.given_tflops is not None and self.given_tflops > peak:
            raise UserError(
                f"--tflops {self.given_tflops:g} is above the peak of the {self.gpu.title}, {peak:g} TFLOP/s "
                "(dense bfloat16); --gpu names another card"
            )

    @property
    def memory_gib(self) -> float:
        """Memory to plan with, in GiB."""
        return self.gpu.memory_gib if self.given_gib is None else self.given_gib

    def tflops(self, parameter_bytes: int) -> float:
        """Sustained throughput for parameters of two bytes or four; what was given, up to the card's peak."""
        if self.given_tflops is None:
            return self.gpu.sustained_tflops(parameter_bytes)
        return min(self.given_tflops, self.gpu.peak_tflops(parameter_bytes))

    def opening(self, *, named: bool) -> str:
        """The card and its memory, as the beginning of a line; whether the user `named` it or it is the
        default.
        """
        memory = f"{plain(self.memory_gib)} GiB" + (
            f" ({self.gpu.memory_gb:g} GB)" if self.given_gib is None else " (--gpu-memory)"
        )
        return f"GPU: {self.gpu.title}{'' if named else ' (assumed; --gpu names another)'}, {memory}"

    def sentence(self, *, named: bool) -> str:
        """What is assumed, with its source; `named` as in `opening`."""
        gpu = self.gpu
        tflops = self.tflops(2)
        share = "--tflops" if self.given_tflops is not None else f"{100 * tflops / gpu.peak_tflops():.1f} %"
        return (
            f"{self.opening(named=named)}, {plain(tflops)} TFLOP/s sustained ({share}) of a peak of "
            f"{gpu.peak_tflops():g} (dense bfloat16); source: {gpu.source}"
        )


def plain(number: float) -> str:
    """With one decimal, or none where that is 0."""
    return f"{number:.1f}".removesuffix(".0")


def get_gpu(name: str) -> Gpu:
    """The card of that name; case and words like `RTX` do not matter. UserError, with the nearest names, for
    an unknown one.
    """
    words = [word for word in _words(name) if word not in NOISE]
    found = GPUS.get("-".join(words))
    if found is None:
        raise UserError(unknown_name("GPU", name, GPUS))
    return found


def gpu_of_device(device_name: str) -> Gpu | None:
    """The card that a driver calls so (`NVIDIA H100 80GB HBM3`), or None where it is not in the table."""
    words = set(_words(device_name))
    if words & {"laptop", "mobile", "d"}:
        return None
    fitting = [gpu for gpu in GPUS.values() if set(gpu.name.split("-")) <= words]
    return max(fitting, key=lambda gpu: len(gpu.name), default=None)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
