"""Memory of a training step: what `refbench plan train` says, and what is alive in one.

    python benchmarks/training_memory.py                  # 1.3B at full size, and the tiny recipe
    python benchmarks/training_memory.py --recipe stage1_14b --gpus 8 --blocks 4 8
    python benchmarks/training_memory.py run.recompute=without_attention --blocks 4

At full width tensors have shapes and no values (torch's FakeTensorMode), processes exchange nothing (its fake
process group), and every storage is followed from its allocation to its end: forward and backward of two
calls that are accumulated, and an update. With `--blocks` the network has so many blocks; two numbers show
that the plan holds for each. Two updates of the tiny recipe run for real on this machine's processor.

What differs from a GPU: nothing is allocated in pieces, and the processor's kernels run; the norms of queries
and keys are taken in one kernel where a GPU has one. Encoders, the CUDA context and communication buffers are
left out on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import describe
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_step import DrawnSource

from refbench.baselines.wan.cost import GIB
from refbench.refalign import alignment
from refbench.refalign.training.assembly import StartingPoint, empty_model
from refbench.refalign.training.batch import Batch
from refbench.refalign.training.encoder import latent_shape
from refbench.refalign.training.parallel import Parallel
from refbench.refalign.training.plan import TrainingPlan, planned_architecture
from refbench.refalign.training.recipes import build_config
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.trainer import Trainer

CALLS, REAL_UPDATES = 2, 2
QUIET = ("log.tensorboard=false", "log.every=1000000")


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that are alive: every storage is followed until it is freed or resized."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def follow(self, tensor: Any) -> None:
        """Count a tensor's storage, once."""
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known[key] = 0
            weakref.finalize(storage, self._freed, key)
            self.resized(storage)

    def resized(self, storage: Any) -> None:
        """Count a storage's new size."""
        before = self._known.get(storage._cdata)
        if before is not None:
            self._known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes() - before
            self.peak = max(self.peak, self.now)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and follow what it makes."""
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return made

    def peak_of(self, work: Any) -> int:
        """The most bytes that are alive while `work` runs."""
        self.peak = self.now
        work()
        return self.peak


class TinySource(DrawnSource):
    """Random features as the tiny encoders make them, with narrower teachers."""

    def __init__(self, config: TrainingConfig, plan: TrainingPlan) -> None:
        super().__init__(config, plan.sizes.text_width)
        self.teacher_widths = plan.teacher_widths
        each = zip(self._features.teachers, plan.teacher_widths, strict=True)
        self._features = replace(
            self._features, teachers=tuple(tokens[..., :width] for tokens, width in each)
        )


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most bytes alive in a call (forward and backward) and in an update."""

    call: float
    update: float

    @property
    def total(self) -> float:
        """The larger of both."""
        return max(self.call, self.update)


class _OneKernelNorm(torch.autograd.Function):
    """The RMS norm as a GPU's kernel keeps tensors for backward: its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, weight, values.new_empty((*values.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(values)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        values, weight, _ = ctx.saved_tensors
        return torch.empty_like(values), torch.empty_like(weight)


def _norm_of_a_gpu(norm: Any) -> Any:
    def normed(
        values: torch.Tensor, shape: Any, weight: torch.Tensor | None = None, eps: float | None = None
    ) -> Any:
        if weight is not None and weight.dtype == values.dtype:
            return _OneKernelNorm.apply(values, weight)
        return norm(values, shape, weight, eps)

    return normed


def _terms_of_shapes(
    projected: Sequence[torch.Tensor], teacher_BTD: torch.Tensor, subject_BT: Any, config: Any
) -> Any:
    """`alignment_terms` without looking at values: every sample has the same references."""
    spans = tuple((start, stop, number) for number, (start, stop) in enumerate(subject_BT))
    runs = [alignment._ReferenceRuns(spans=spans)] * len(teacher_BTD)
    teacher_BTD = teacher_BTD.float()
    norm_BT = torch.linalg.vector_norm(teacher_BTD, dim=-1)
    directions_BTD = teacher_BTD / norm_BT[..., None]
    shift = config.negative_margin - 1 if config.negative_weight else None
    found = [
        alignment._Cosines.apply(tokens, directions_BTD, runs, shift, torch.is_grad_enabled())
        for tokens in projected
    ]
    distances_KBT = 1 - torch.stack([cosines for cosines, _ in found])
    return alignment.AlignmentTerms.of_blocks(
        distances_KBT.relu().mean(dim=-1), torch.stack([sums for _, sums in found])
    )


@contextmanager
def _fake_processes(count: int) -> Iterator[Any]:
    """A mesh of processes that exchange nothing; None for one process."""
    if count == 1:
        yield None
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        torch.distributed.destroy_process_group()


def _shaped_model(config: TrainingConfig, plan: TrainingPlan) -> nn.Module:
    """The training model with parameters that have shapes alone, frozen ones in the run's precision."""
    with torch.device("meta"):
        model = empty_model(config, plan.architecture, plan.teacher_widths)
    half = config.run.precision == "bfloat16"
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            dtype = torch.bfloat16 if half and not value.requires_grad else torch.float32
            empty = torch.empty(value.shape, dtype=dtype)
            setattr(module, name, nn.Parameter(empty, requires_grad=value.requires_grad))
    return model


def _shaped_batch(config: TrainingConfig, plan: TrainingPlan) -> Batch:
    samples = config.run.samples_per_call
    channels, frames, rows, columns = latent_shape(config.data.clip, plan.space)
    references = config.data.clip.max_references
    each = (rows // config.model.patch) * (columns // config.model.patch)
    features = {"dtype": torch.bfloat16 if config.run.precision == "bfloat16" else torch.float32}
    return Batch(
        latents_BCFhw=torch.empty(samples, channels, frames, rows, columns),
        noise_BCFhw=torch.empty(samples, channels, frames, rows, columns),
        timesteps_B=torch.empty(samples),
        sigmas_B=torch.empty(samples),
        weights_B=torch.empty(samples),
        text_BLD=torch.empty(samples, config.model.text_rows, plan.sizes.text_width, **features),
        references_BCNhw=torch.empty(samples, channels, references, rows, columns),
        counts_B=None,
        # The bounds of each reference stand for its tokens' numbers, which would be values.
        subject_BT=[(number * each, (number + 1) * each) for number in range(references)],
        teachers=tuple(
            torch.empty(samples, references * each, width, **features) for width in plan.teacher_widths
        ),
    )


def shaped_peaks(plan: TrainingPlan) -> Peaks:
    """Peaks of the plan's run on shapes alone, of the process that has rank 0."""
    config = plan.config
    half = config.run.precision == "bfloat16"
    shards = plan.layout.shards
    live = LiveBytes()
    resize = torch.UntypedStorage.resize_

    def resized(storage: Any, size: int) -> Any:
        resize(storage, size)
        live.resized(storage)
        return storage

    with ExitStack() as stack:
        mesh = stack.enter_context(_fake_processes(shards))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(patch.object(torch.UntypedStorage, "resize_", resized))
        stack.enter_context(patch.object(alignment, "alignment_terms", _terms_of_shapes))
        stack.enter_context(
            patch.object(
                alignment.AlignmentProjectors,
                "applies",
                lambda own, inputs: torch.ones_like(inputs.timesteps_B, dtype=torch.bool),
            )
        )
        norms = torch.nn.modules.normalization.F
        stack.enter_context(patch.object(norms, "rms_norm", _norm_of_a_gpu(norms.rms_norm)))
        model = _shaped_model(config, plan)
        if mesh is not None:
            _shard(model, mesh, half=half)
        for parameter in model.parameters():
            live.follow(parameter.data)
        trained = [value for value in model.parameters() if value.requires_grad]
        kernel = config.optimizer.kernel
        optimizer = torch.optim.AdamW(
            trained, lr=1e-3, foreach=kernel == "foreach", fused=kernel in ("auto", "fused")
        )
        averages = [value.detach().clone() for value in trained] if config.ema.enabled else []
        for average in averages:
            live.follow(average)
        stack.enter_context(live)
        batch = _shaped_batch(config, plan)

        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                losses = model(batch)
            losses.total.mean().backward()

        # The moments are there from the first update on.
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter, requires_grad=False)
        optimizer.step()
        optimizer.zero_grad()
        calls = [live.peak_of(call) for _ in range(min(CALLS, plan.accumulation))]
        return Peaks(call=float(max(calls)), update=float(live.peak_of(optimizer.step)))


def _shard(model: Any, mesh: Any, *, half: bool) -> None:
    """As `Parallel` does."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    for block in model.transformer.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def real_peak(plan: TrainingPlan) -> float:
    """The most bytes alive in two real updates of the trainer in this process, on its processor."""
    config = plan.config
    live = LiveBytes()
    with tempfile.TemporaryDirectory() as folder:
        source = TinySource(config, plan)
        start = StartingPoint(architecture=plan.architecture, network=None, projectors=None)
        trainer = Trainer(config, Parallel(config, Path(folder)), source, Path(folder), start=start)
        for parameter in trainer.model.parameters():
            live.follow(parameter.data)
        examples = source.examples(start=0, rank=0, world_size=1)
        with live:
            return float(live.peak_of(lambda: [trainer.update(examples) for _ in range(REAL_UPDATES)]))


def planned_peaks(plan: TrainingPlan) -> Peaks:
    """The same two peaks as the plan has them, without encoders and the CUDA context."""
    bare = replace(plan, features=True)
    moments = {moment.name: moment.total for moment in bare.moments}
    update = moments.pop("update")
    return Peaks(call=max(moments.values()), update=update)


def planned(recipe: str, gpus: int, overrides: Sequence[str], blocks: int | None = None) -> TrainingPlan:
    """The plan of a recipe, with so many blocks."""
    config = build_config(recipe, [*QUIET, *overrides])
    architecture: dict[str, Any] = planned_architecture(config, None)
    if blocks is not None:
        architecture = {**architecture, "num_layers": blocks}
        kept = tuple(block for block in config.alignment.blocks if block < blocks)
        config = replace(config, alignment=replace(config.alignment, blocks=kept))
    return TrainingPlan(config=config, architecture=architecture, gpus=gpus)


def compare(name: str, plan: TrainingPlan) -> Mapping[str, float]:
    """Print a line with planned and measured GiB; the ratios."""
    started = time.perf_counter()
    measured, said = shaped_peaks(plan), planned_peaks(plan)
    ratios = {part: getattr(said, part) / getattr(measured, part) for part in ("call", "update", "total")}
    print(
        f"{name}: call {said.call / GIB:.2f} planned, {measured.call / GIB:.2f} measured "
        f"(×{ratios['call']:.3f}); update {said.update / GIB:.2f}, {measured.update / GIB:.2f} "
        f"(×{ratios['update']:.3f}); {time.perf_counter() - started:.0f} s",
        flush=True,
    )
    return ratios


def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="stage1_1_3b")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--blocks", type=int, nargs="+", default=[30])
    parser.add_argument("--no-tiny", action="store_true")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(describe("torch", "diffusers"))
    for blocks in chosen.blocks:
        plan = planned(chosen.recipe, chosen.gpus, chosen.overrides, blocks)
        settings = " ".join(chosen.overrides)
        compare(f"{chosen.recipe}, {blocks} blocks, {chosen.gpus} GPUs {settings}", plan)
    if not chosen.no_tiny:
        tiny = replace(planned("tiny", 1, ()), on_gpu=False)
        measured, said = real_peak(tiny), planned_peaks(tiny).call
        print(
            f"tiny, for real: {said / 2**20:.1f} MiB planned, {measured / 2**20:.1f} measured "
            f"(×{said / measured:.3f})"
        )


if __name__ == "__main__":
    main()
