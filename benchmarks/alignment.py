"""The alignment loss: time against its own matrix products, memory against the direct form, share of a step.

    python benchmarks/alignment.py [--threads 1] [--runs 9] [--device cuda]

Time: forward and backward of one block with three references of 1560 tokens and 1024 channels, in turn with
nothing but its matrix products (cosines and gradient of the six pairs of different references); by default on
one thread, since on a machine that does other work several threads wait for each other. Memory: the
peak of a process above its inputs, nine blocks, beside the formula written down directly under autograd
(a matrix of tokens × tokens). Share: FLOPs of matrix products (1 multiply-add = 2), counted while the real
code runs, of the loss and its projectors over a training step of 81 frames of 832×480 with three references,
which is 3 × the forward pass (backward = 2 × forward; recomputed activations would add to the step alone).
The teacher's forward pass, which a prepared data set saves, stands by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from machine import alternating, describe, peak_mib
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from refbench.refalign.alignment import AlignmentConfig, AlignmentProjectors, alignment_terms
from refbench.refalign.transformer import RefAlignTransformer3DModel

REFERENCES, ROWS, COLUMNS, WIDTH = 3, 30, 52, 1024
TOKENS = REFERENCES * ROWS * COLUMNS
LATENT_FRAMES, TEXT_ROWS, TEXT_WIDTH = 21, 512, 4096
CONFIG = AlignmentConfig()
TRAINING_PASSES = 3
CHILD = "--memory-of"
# Wan2.1's sizes and the width of the teacher that RefAlign takes for each.
MODELS: dict[str, tuple[dict[str, int], int]] = {
    "1.3B": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, 768),
    "14B": ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, 1024),
}
# DINOv3's layers by width.
TEACHER_LAYERS = {768: 12, 1024: 24}


def subject_numbers() -> torch.Tensor:
    """(1,N): the number of each token's reference."""
    return torch.arange(REFERENCES).repeat_interleave(TOKENS // REFERENCES)[None]


def inputs(blocks: int, width: int, device: str = "cpu") -> tuple[list[torch.Tensor], torch.Tensor]:
    """Random projections of some blocks, which want a gradient, and a teacher."""
    generator = torch.Generator(device).manual_seed(0)
    made = [torch.randn(1, TOKENS, width, generator=generator, device=device) for _ in range(blocks + 1)]
    return [tokens.requires_grad_() for tokens in made[1:]], made[0]


def loss_step(students: Sequence[torch.Tensor], teacher: torch.Tensor) -> float:
    """The loss as it is trained with, forward and backward."""
    subjects = subject_numbers().to(teacher.device)
    total = alignment_terms(students, teacher, subjects, CONFIG).total(CONFIG).sum()
    torch.autograd.grad(total, students)
    return float(total.detach())


def direct_step(students: Sequence[torch.Tensor], teacher: torch.Tensor) -> float:
    """The same from a whole matrix of cosines for each block, left to autograd."""
    subjects = subject_numbers()[0].to(teacher.device)
    different = subjects[:, None] != subjects[None]
    directions = normalize(teacher[0], dim=1)
    totals = []
    for student in students:
        cosines = normalize(student[0], dim=1) @ directions.T
        positive = (1 - cosines.diagonal()).relu().mean()
        totals.append(positive + cosines[different].relu().mean())
    total = torch.stack(totals).mean()
    torch.autograd.grad(total, students)
    return float(total.detach())


STEPS: dict[str, Callable[[Sequence[torch.Tensor], torch.Tensor], float]] = {
    "here": loss_step,
    "direct": direct_step,
}


def products(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Nothing but the loss's matrix products, whole for each pair of references."""
    students, teachers = (tokens.detach()[0].chunk(REFERENCES) for tokens in (student, teacher))
    for one, own in enumerate(students):
        for other, others in enumerate(teachers):
            if one != other:
                (own @ others.T) @ others


def report_time(device: str, runs: int) -> None:
    """Print seconds of one block, of its products, and their ratio."""
    students, teacher = inputs(1, WIDTH, device)

    def settled(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    loss = settled(lambda: loss_step(students, teacher))
    bare = settled(lambda: products(students[0], teacher))
    alternating(loss, bare, 1)
    loss_s, bare_s, ratio = alternating(loss, bare, runs)
    print(f"time of a block, {TOKENS}×{WIDTH}, {REFERENCES} references, {device}, median of {runs}:")
    print(f"  loss {loss_s:.3f} s, its matrix products {bare_s:.3f} s: {ratio:.2f}x")


def memory_of(step: str) -> None:
    """In a process of its own: the peak above the inputs in MiB, and the loss."""
    students, teacher = inputs(len(CONFIG.blocks), WIDTH)
    # The first product starts threads and their buffers.
    teacher[0, :8] @ teacher[0, :8].T
    before = peak_mib()
    total = STEPS[step](students, teacher)
    print(json.dumps({"peak_mib": peak_mib() - before, "loss": total}))


def report_memory(threads: int) -> None:
    """Print both peaks and how far the losses are apart."""
    results = {}
    for step in STEPS:
        command = [sys.executable, __file__, "--threads", str(threads), CHILD, step]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{step}: {done.stderr}")
        results[step] = json.loads(done.stdout.splitlines()[-1])
    here, direct = (results[step]["peak_mib"] for step in ("here", "direct"))
    difference = abs(results["here"]["loss"] - results["direct"]["loss"])
    print(f"peak memory above the inputs, {len(CONFIG.blocks)} blocks, float32, cpu:")
    print(
        f"  here {here:.0f} MiB, direct {direct:.0f} MiB: {direct / here:.1f}x; losses {difference:.0e} apart"
    )


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of the matrix products and attentions in `work`."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def generator_flops(sizes: dict[str, int]) -> tuple[float, int]:
    """FLOPs of one forward pass of the generator with references, and its width."""
    with torch.device("meta"):
        model = RefAlignTransformer3DModel(
            **sizes, attention_head_dim=128, text_dim=TEXT_WIDTH, freq_dim=256, rope_max_seq_len=1024
        ).requires_grad_(False)
        arguments = (
            torch.empty(1, 16, LATENT_FRAMES, 2 * ROWS, 2 * COLUMNS),
            torch.empty(1),
            torch.empty(1, TEXT_ROWS, TEXT_WIDTH),
            torch.empty(1, 16, REFERENCES, 2 * ROWS, 2 * COLUMNS),
        )
        return counted(lambda: model(*arguments)), 128 * sizes["num_attention_heads"]


def teacher_flops(width: int) -> float:
    """FLOPs of DINOv3 over the references."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=TEACHER_LAYERS[width],
        num_attention_heads=width // 64,
        num_register_tokens=4,
    )
    with torch.device("meta"):
        model = DINOv3ViTModel(config).eval().requires_grad_(False)
        return counted(lambda: model(torch.empty(REFERENCES, 3, 16 * ROWS, 16 * COLUMNS)))


def report_share(name: str) -> None:
    """Print what the loss, its projectors and the teacher add to a training step of one model."""
    sizes, teacher_width = MODELS[name]
    forward, width = generator_flops(sizes)
    step = TRAINING_PASSES * forward
    with torch.device("meta"):
        projectors = AlignmentProjectors(CONFIG, width=width, teacher_widths=[teacher_width])
        tokens = [torch.empty(1, TOKENS, width, requires_grad=True) for _ in CONFIG.blocks]
    projection = counted(lambda: sum(projected.sum() for projected in projectors(tokens)[0]).backward())
    students, teacher = inputs(1, teacher_width)
    loss = len(CONFIG.blocks) * counted(lambda: loss_step(students, teacher))
    features = teacher_flops(teacher_width)
    print(f"share of a training step of {name}, {step / 1e12:.0f} TFLOPs = {TRAINING_PASSES} × forward:")
    for title, flops in (
        (f"loss, {len(CONFIG.blocks)} blocks", loss),
        ("projectors", projection),
        ("loss and projectors", loss + projection),
        ("teacher (apart)", features),
    ):
        print(f"  {title:20} {flops / 1e12:7.2f} TFLOPs  {100 * flops / step:6.3f} %")


def main() -> None:
    """Print the machine and the three claims."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument(CHILD, choices=STEPS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.memory_of:
        memory_of(chosen.memory_of)
        return
    print(f"{describe('torch', 'diffusers', 'transformers')}; {chosen.threads} threads")
    report_time(chosen.device, chosen.runs)
    report_memory(chosen.threads)
    for name in MODELS:
        report_share(name)


if __name__ == "__main__":
    main()
