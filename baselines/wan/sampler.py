"""The one sampling loop of the Wan family: text and references encoded, then guided steps.

What a method does differently comes in as a conditioner, a guidance rule and a scheduler. Encoding and
decoding are the codec's; the loop does not know whether networks are offloaded between uses
(`baselines.wan.execution`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.conditioning import Condition, Conditioner, Geometry, NetworkInput
from refbench.baselines.wan.experts import is_high_noise, low_noise_scales
from refbench.baselines.wan.finite import FiniteSteps
from refbench.baselines.wan.guidance import GuidanceRule, Pass, StepState
from refbench.baselines.wan.step_cache import fresh_states
from refbench.bench.method import OnStep, silent

if TYPE_CHECKING:
    from PIL import Image

# The prompts of the largest track and the negative one; a prompt of 150 tokens takes 1.2 MiB in bfloat16.
MOST_KEPT_TEXTS = 256
BatchPasses = Literal["auto", "yes", "no"]


@dataclass(frozen=True, kw_only=True)
class SampledLatents:
    """`latents` (1,C,F,h,w) before decoding, without leading frames; `notes` are remarks for the user."""

    latents: torch.Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class KeptText:
    """A text's features in the machine's memory, without the `padding` rows of zeros at their end."""

    used_BLD: torch.Tensor
    padding: int
    note: str

    @classmethod
    def of(cls, features_BLD: torch.Tensor, note: str) -> KeptText:
        """What is to be kept of features as the codec returns them."""
        used_rows = features_BLD.ne(0).any(dim=2).any(dim=0).nonzero()
        length = int(used_rows[-1]) + 1 if len(used_rows) else 0
        # A copy: a part of the whole would keep the whole.
        used_BLD = features_BLD[:, :length].to("cpu", copy=True)
        return cls(used_BLD=used_BLD, padding=features_BLD.shape[1] - length, note=note)

    def features(self, device: torch.device) -> torch.Tensor:
        """The features as they were, on `device`."""
        return torch.nn.functional.pad(self.used_BLD.to(device), (0, 0, 0, self.padding))


class WanSampler:
    """The loop over a method's `transformer` and `scheduler`, with the `codec` around them.

    Of two experts `transformer` is the high-noise one; `low_noise_transformer` makes the steps below timestep
    1000·`boundary`.
    `has_step_cache` says that the transformer keeps states between steps (`step_cache.switch_on`).
    `auto_joins` is whether `batch_passes="auto"` joins the passes of a step into one call: on a GPU, until
    memory has run out once. With a step cache it does not: what a cache skips in joined passes differs from
    what it skips in each, and must not depend on the memory that is free.
    """

    def __init__(
        self,
        *,
        codec: WanCodec,
        transformer: Any,
        scheduler: Any,
        low_noise_transformer: Any = None,
        boundary: float | None = None,
        has_step_cache: bool = False,
    ) -> None:
        self.codec = codec
        self.transformer = transformer
        self.low_noise_transformer = low_noise_transformer
        self.boundary = boundary
        self.scheduler = scheduler
        self.has_step_cache = has_step_cache
        self.auto_joins = codec.device.type == "cuda" and not has_step_cache
        self._texts: OrderedDict[str, KeptText] = OrderedDict()

    def __call__(
        self,
        *,
        prompt: str,
        negative_prompt: str,
        references: Sequence[Image.Image],
        conditioner: Conditioner[Any],
        rule: GuidanceRule,
        scales: Mapping[str, float],
        geometry: Geometry,
        steps: int,
        generator: torch.Generator,
        batch_passes: BatchPasses = "auto",
        state_dtype: torch.dtype = torch.float32,
        round_timestep: bool = False,
        on_step: OnStep = silent,
    ) -> SampledLatents:
        """Sample one video's latents.

        Args:
            references: RGB images, opened on white.
            scales: of the guidance rule, by name.
            generator: draws the noise first, then what a conditioner draws.
            state_dtype: of the solver's state between steps.
            round_timestep: hand the network the timestep rounded to its own dtype, as code does that runs
                everything in bfloat16 (731 becomes 732); the solver's step is exact either way.
            on_step: called with (steps done, steps in all), first with 0 when all is encoded.

        Raises SampleError for latents that are not finite, with the step where that began.
        """
        device = self.codec.device
        with torch.no_grad():
            latents = conditioner.draw_noise(geometry, len(references), generator, device).to(state_dtype)
            condition = conditioner.encode(self.codec, references, geometry, generator)
            texts, notes = {}, []
            for name, text in (("prompt", prompt), ("negative", negative_prompt)):
                texts[name], note = self.encoded(text)
                notes += [f"the {name if name == 'prompt' else 'negative prompt'} {note}"] if note else []
            self.scheduler.set_timesteps(steps, device=device)
            latents = self.denoise(
                latents,
                texts,
                condition,
                rule,
                scales,
                batch_passes=batch_passes,
                round_timestep=round_timestep,
                on_step=on_step,
            )
        return SampledLatents(latents=latents[:, :, condition.leading_frames :], notes=tuple(notes))

    def encoded(self, text: str) -> tuple[torch.Tensor, str]:
        """As the codec's `encode_text`; what was encoded lately is not encoded again: the negative prompt is
        that of every video, a prompt that of all its seeds.
        """
        kept = self._texts.get(text)
        if kept is None:
            features_BLD, note = self.codec.encode_text(text)
            kept = self._texts[text] = KeptText.of(features_BLD, note)
            if len(self._texts) > MOST_KEPT_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(text)
        return kept.features(self.codec.device), kept.note

    def denoise(
        self,
        latents: torch.Tensor,
        texts: Mapping[str, torch.Tensor],
        condition: Condition,
        rule: GuidanceRule,
        scales: Mapping[str, float],
        *,
        batch_passes: BatchPasses = "auto",
        round_timestep: bool = False,
        on_step: OnStep = silent,
    ) -> torch.Tensor:
        """Run the scheduler's timesteps from `latents` (1,C,F,h,w) to the final ones of the same shape.

        `texts` are features (1,512,D) by `prompt` and `negative`. Raises SampleError for latents that are not
        finite, with the step where that began.
        """
        total = len(self.scheduler.timesteps)
        # Asked for once: within the loop each question would wait for the GPU.
        sigmas = self.scheduler.sigmas.tolist()
        memory: dict[str, torch.Tensor] = {}
        finite = FiniteSteps(total)
        on_step(0, total)
        with fresh_states(self.transformer) if self.has_step_cache else nullcontext():
            steps = zip(self.scheduler.timesteps, self._high_noise_steps(), strict=True)
            for done, (timestep, high_noise) in enumerate(steps, start=1):
                seen = timestep.to(self.transformer.dtype).float() if round_timestep else timestep
                network = self.transformer if high_noise else self.low_noise_transformer
                scales_now = scales if high_noise else low_noise_scales(scales)
                passes = rule.active_passes(scales_now)
                predictions = self.predict(latents, seen, texts, condition, passes, batch_passes, network)
                # Wan's network hands float32 out, so that guidance does not multiply half-precision rounding.
                predictions = {name: value.to(latents.dtype) for name, value in predictions.items()}
                state = StepState(latents=latents, sigma=sigmas[done - 1], memory=memory)
                guided = rule.guided(predictions, scales_now, state)
                stepped = self.scheduler.step(guided, timestep, latents, return_dict=False)[0]
                latents = stepped.to(latents.dtype)
                finite.see(latents)
                on_step(done, total)
        finite.end()
        return latents

    def _high_noise_steps(self) -> list[bool]:
        """For each step whether the high-noise expert makes it; the one network makes all."""
        if self.boundary is None:
            return [True] * len(self.scheduler.timesteps)
        # Asked for once: within the loop each question would wait for the GPU.
        return [is_high_noise(timestep, self.boundary) for timestep in self.scheduler.timesteps.tolist()]

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        texts: Mapping[str, torch.Tensor],
        condition: Condition,
        passes: Sequence[Pass],
        batch_passes: BatchPasses,
        network: Any = None,
    ) -> dict[str, torch.Tensor]:
        """The prediction (1,C,F,h,w) of `network` (by default the transformer) in each pass, by the pass's
        name.

        Those whose inputs have the same sizes are joined into one call where memory allows: `auto` tries it
        on a GPU and goes back to separate calls, for good, when memory runs out.
        """
        network = self.transformer if network is None else network
        state = latents.to(network.dtype)
        calls = [
            {
                "timestep": timestep.reshape(1),
                "encoder_hidden_states": texts[one.text].to(network.dtype),
                **condition.inputs(state, one.references),
                **condition.text_inputs(one.text),
            }
            for one in passes
        ]
        named = dict(zip([one.name for one in passes], calls, strict=True))
        apart = [[name] for name in named]
        joins = batch_passes == "yes" or (batch_passes == "auto" and self.auto_joins)
        groups = _same_sized(named) if joins else apart
        try:
            return self._predictions(network, named, groups)
        except torch.OutOfMemoryError:
            if batch_passes == "yes" or len(groups) == len(apart):
                raise
            torch.cuda.empty_cache()
            self.auto_joins = False
        return self._predictions(network, named, apart)

    def _predictions(
        self, network: Any, calls: Mapping[str, Mapping[str, NetworkInput]], groups: Sequence[Sequence[str]]
    ) -> dict[str, torch.Tensor]:
        """The prediction of each call by its name; those of a group are made in one call of the network."""
        made: dict[str, torch.Tensor] = {}
        for names in groups:
            inputs = {key: _joined([calls[name][key] for name in names]) for key in calls[names[0]]}
            made |= zip(names, self._call(network, "+".join(names), inputs).split(1), strict=True)
        return {name: made[name] for name in calls}

    def _call(self, network: Any, name: str, inputs: Mapping[str, NetworkInput]) -> torch.Tensor:
        """A network's prediction; a step cache keeps the states of each `name` apart."""
        states = network.cache_context(name) if self.has_step_cache else nullcontext()
        # On a GPU torch rounds float32 convolutions to TensorFloat-32 unless told otherwise: the patch
        # embedding alone moved a float32 network's output by 1.5e-4. The VAE stays as in Wan's code.
        with states, torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            sample: torch.Tensor = network(**inputs).sample
        return sample


def _same_sized(calls: Mapping[str, Mapping[str, NetworkInput]]) -> list[list[str]]:
    """The names of calls in groups whose inputs have equal sizes."""
    groups: dict[Any, list[str]] = {}
    for name, call in calls.items():
        sizes = tuple((key, tuple(one.shape for one in _tensors(call[key]))) for key in sorted(call))
        groups.setdefault(sizes, []).append(name)
    return list(groups.values())


def _joined(values: Sequence[NetworkInput]) -> NetworkInput:
    """One input of several calls along the batch axis, tensor by tensor; that of one call as it is."""
    first = values[0]
    if len(values) == 1:
        return first
    joined = tuple(torch.cat(together) for together in zip(*map(_tensors, values), strict=True))
    return joined[0] if isinstance(first, torch.Tensor) else joined


def _tensors(value: NetworkInput) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else value
