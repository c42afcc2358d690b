"""How a training step is computed: attention back-ends and compiled blocks.

Neither changes what a step computes beyond rounding, and neither is known to work before it is tried: a
back-end may have no backward pass, refuse masks (samples of one call with different numbers of references
need one), float32 or the machine. So what is asked for is tried on a network of one block before training,
and refused with the back-end's own reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from refbench.baselines.wan.loading import set_attention_backend
from refbench.bench.errors import UserError, one_line
from refbench.refalign.training.settings import RunConfig
from refbench.refalign.transformer import RefAlignTransformer3DModel

# Of a network of one block: everything but the width of a head, on which back-ends depend.
TRIED_SIZES = {"num_attention_heads": 1, "text_dim": 8, "freq_dim": 8, "ffn_dim": 8, "num_layers": 1}
LATENT_SIZE = 4


def use_kernels(transformer: Any, run: RunConfig) -> None:
    """Have a network attend through `run.attention` and compile its blocks, as sampling does.

    To be called before blocks are sharded. Raises UserError for a back-end that is not there.
    """
    if run.attention is not None:
        set_attention_backend(transformer, run.attention)
    if run.compile:
        transformer.compile_repeated_blocks()


def check_kernels(
    run: RunConfig,
    architecture: Mapping[str, Any],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Try what `run` asks for on `device`, under the `autocast` of training.

    Raises UserError with the reason where it cannot train.
    """
    if run.compile:
        try:
            torch.compile(torch.cos)(torch.zeros(2, device=device))
        except Exception as error:  # noqa: BLE001 - a compiler that is missing has many faces
            raise UserError(f"run.compile=true: torch.compile fails here: {one_line(error, 200)}") from None
    if run.attention is not None:
        masked = run.samples_per_call > 1
        fault = _fault_of_attention(run.attention, architecture, device, autocast, masked=masked)
        if fault is not None:
            mask = f" (run.samples_per_call={run.samples_per_call} needs attention masks)" if masked else ""
            raise UserError(f"run.attention={run.attention} cannot train here{mask}: {fault}")


def _fault_of_attention(
    name: str,
    architecture: Mapping[str, Any],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    *,
    masked: bool,
) -> str | None:
    """Why a step through this back-end fails, or None."""
    kept = ("attention_head_dim", "in_channels", "out_channels", "patch_size")
    sizes = TRIED_SIZES | {name: architecture[name] for name in kept if name in architecture}
    with torch.random.fork_rng(devices=[]):
        network = RefAlignTransformer3DModel(**sizes).to(device)
    channels, batch = network.config.in_channels, 1 + masked
    latents = torch.ones(batch, channels, 1, LATENT_SIZE, LATENT_SIZE, device=device)
    try:
        set_attention_backend(network, name)
        with autocast():
            out = network(
                latents,
                torch.full((batch,), 500.0, device=device),
                torch.ones(batch, 2, TRIED_SIZES["text_dim"], device=device),
                latents.expand(-1, -1, 2, -1, -1),
                torch.tensor([1, 2], device=device) if masked else None,
            )
            out.sample.float().square().mean().backward()
    except Exception as error:  # noqa: BLE001 - each back-end fails in its own way
        return one_line(error, 200)
    query = network.blocks[0].attn1.to_q.weight.grad
    return "it has no backward pass" if query is None or not bool(query.any()) else None
