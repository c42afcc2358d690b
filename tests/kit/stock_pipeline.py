"""diffusers' own pipeline of Wan over a loaded generator's networks, and the latents that each ends with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kit.tiny_runs import frames_of
from refbench.baselines.wan.method import WanGenerator
from refbench.bench.sample import Sample


def stock_latents(
    generator: WanGenerator, sample: Sample, seed: int, *, pipeline: dict[str, Any], call: dict[str, Any]
) -> np.ndarray:
    """The final latents (1,16,F,h,w) of `WanPipeline` with stock networks of the same values and our
    scheduler. `pipeline` and `call` are further settings of it.
    """
    import torch
    from diffusers import WanPipeline, WanTransformer3DModel

    sampler = generator.sampler
    networks = [sampler.transformer, sampler.low_noise_transformer]
    stock = []
    for network in networks:
        if network is not None:
            model = WanTransformer3DModel(**{k: v for k, v in network.config.items() if k[0] != "_"})
            model.load_state_dict(network.state_dict())
            stock.append(model.eval())
    made = WanPipeline(
        tokenizer=sampler.codec.tokenizer,
        text_encoder=sampler.codec.text_encoder,
        vae=sampler.codec.vae,
        scheduler=sampler.scheduler,
        **dict(zip(("transformer", "transformer_2"), stock, strict=False)),
        **pipeline,
    )
    made.set_progress_bar_config(disable=True)
    latents = made(
        prompt=sample.prompt,
        negative_prompt=generator.method.settings.negative_prompt,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="latent",
        **call,
    ).frames
    return np.asarray(latents)


def own_latents(generator: WanGenerator, sample: Sample, seed: int) -> Any:
    """The final latents (1,16,F,h,w) of the generator's own loop."""
    last: list[Any] = []
    step = generator.sampler.scheduler.step

    def watched(*arguments: Any, **settings: Any) -> Any:
        made = step(*arguments, **settings)
        last[:] = made
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator.sampler.scheduler, "step", watched)
        frames_of(generator, sample, seed)
    return last[0]
