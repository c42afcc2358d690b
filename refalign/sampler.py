"""RefAlign's sampling: which parts of the Wan family's loop it uses, and one call for a video.

Noise from a CPU generator with the seed alone, the plain grid shifted by 5, three passes per step with an
image scale (5.0, the user's `cfg_scale`) and a text scale (7.5, a constant in the authors' code); with an
image scale of 1 only the image-and-text pass is made, and the text scale vanishes as well. References are
letterboxed on white and encoded alone by the VAE's mode. The authors run everything in bfloat16: the network
sees rounded timesteps (731 becomes 732) while the solver's steps are exact, and the state between steps has
the network's dtype; in float32 nothing is rounded, which is what the golden holds.

Source: `diffsynth/pipelines/wan_video_new6.py` of gudaochangsheng/RefAlign@6f91526; golden
`refalign/guidance.npz`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.conditioning import ConcatenatedReferences, Geometry
from refbench.baselines.wan.guidance import IMAGE_AND_TEXT
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.baselines.wan.spec import WanSettings

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

CONDITIONER = ConcatenatedReferences()


def sample_video(
    codec: WanCodec,
    transformer: Any,
    settings: WanSettings,
    *,
    prompt: str,
    references: Sequence[Image.Image],
    seed: int,
) -> Iterator[np.ndarray]:
    """RGB uint8 frames (height, width, 3) of one video, as the registered method makes them.

    For a network that is at hand already: the trainer's validation. `transformer` has `dtype` and answers as
    RefAlign's network does; `references` are RGB images on white.
    """
    scheduler = make_scheduler(settings.solver, settings.shift)
    sampler = WanSampler(codec=codec, transformer=transformer, scheduler=scheduler)
    made = sampler(
        prompt=prompt,
        negative_prompt=settings.negative_prompt,
        references=references,
        conditioner=CONDITIONER,
        rule=IMAGE_AND_TEXT,
        scales=settings.guidance,
        geometry=Geometry(
            width=settings.width,
            height=settings.height,
            num_frames=settings.num_frames,
            latents=codec.latents,
        ),
        steps=settings.steps,
        generator=torch.Generator("cpu").manual_seed(seed),
        state_dtype=transformer.dtype,
        round_timestep=True,
    )
    yield from codec.decode(made.latents)
