"""What two more references cost, as `refbench plan` says it and as torch counts it.

    python benchmarks/plan_flops.py [--methods skyreels-v3-14b phantom-14b] [--references 1 3]

For each method, the tokens and floating point operations of one call of its released network at native
settings, on shapes alone (nothing is computed, no weights are needed): a call of a pass that has the
references. They are pictures of the video's size and go through the method's own conditioner. torch's counter
adds the matrix products; attention is counted by its formula, 4·Q·K·d, because the counter knows no kernel of
it on shapes.
"""

from __future__ import annotations

import argparse
from typing import Any
from unittest.mock import patch

import torch
from machine import describe
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from refbench.baselines.wan.conditioning import Geometry
from refbench.baselines.wan.cost import TEXT_WIDTH, call_flops, tokens_per_call
from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.baselines.wan.spec import WanNetwork
from refbench.bench.registry import methods
from refbench.bench.sample import Sample

METHODS = ("phantom-14b", "refalign-14b", "skyreels-v3-14b", "bernini-r-1.3b", "bernini-r-14b")
SAMPLE = Sample(id="drawn_1", category="drawn", prompt="", references=())


class ShapeCodec:
    """A codec whose latents have shapes and no values."""

    def encode(self, pixels_B3FHW: torch.Tensor, **_: Any) -> torch.Tensor:
        """Latents of one picture."""
        height, width = pixels_B3FHW.shape[-2:]
        return torch.empty(1, 16, 1, height // 8, width // 8, device="meta")


def main() -> None:
    """Print a line for each method and number of references."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME")
    parser.add_argument("--references", nargs="+", type=int, default=(1, 3), metavar="N")
    arguments = parser.parse_args()
    print(describe("torch", "diffusers"))
    for name in arguments.methods:
        method = methods.get(name)()
        assert isinstance(method, WanMethod)
        network = released_network(method.network_class(), method.spec.network)
        first = None
        for references in arguments.references:
            counted = counted_flops(method, network, references)
            tokens = tokens_per_call(method.spec, method.settings, references)
            planned = call_flops(method.spec.network, tokens)
            first = first or (planned, counted)
            print(
                f"{name}, {references} reference(s): {tokens} tokens; planned "
                f"{planned / 1e15:.3f} PFLOP (×{planned / first[0]:.3f}), counted "
                f"{counted / 1e15:.3f} (×{counted / first[1]:.3f}); planned / counted "
                f"{planned / counted:.3f}"
            )


def released_network(network_class: Any, network: WanNetwork) -> Any:
    """The transformer at its released size, without memory."""
    with torch.device("meta"):
        return network_class(
            num_attention_heads=network.heads,
            attention_head_dim=network.width // network.heads,
            in_channels=network.in_channels,
            ffn_dim=network.ffn_width,
            num_layers=network.layers,
        )


def counted_flops(method: WanMethod, network: Any, references: int) -> float:
    """Operations of one call with so many references of the video's size, counted on shapes."""
    settings = method.settings
    geometry = Geometry(width=settings.width, height=settings.height, num_frames=settings.num_frames)
    pictures = [Image.new("RGB", (settings.width, settings.height))] * references
    conditioner = method.conditioner(SAMPLE, 0)
    condition = conditioner.encode(ShapeCodec(), pictures, geometry, torch.Generator())
    attended: list[float] = []

    def attention(query: torch.Tensor, key: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        attended.append(4.0 * query.shape[-2] * key.shape[-2] * query.shape[1] * query.shape[3])
        return torch.empty_like(query)

    state = torch.empty(1, 16, *geometry.latent_shape, device="meta")
    with (
        patch.object(torch.nn.functional, "scaled_dot_product_attention", attention),
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
    ):
        network(
            timestep=torch.empty(1, device="meta"),
            encoder_hidden_states=torch.empty(1, MAX_TEXT_TOKENS, TEXT_WIDTH, device="meta"),
            **condition.inputs(state, "own"),
        )
    return float(counter.get_total_flops()) + sum(attended)


if __name__ == "__main__":
    main()
