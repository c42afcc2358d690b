"""The models that RefAlign may be trained on: their networks, and the two experts of Wan2.2-T2V-A14B.

No torch here. The authors train on Wan2.1. Wan2.2-TI2V-5B (a VAE of its own) and Wan2.2-T2V-A14B (two
experts, trained one at a time) are ours. A base that is not named here, a plugin's for example, is one
network in `transformer/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from refbench.baselines.wan.experts import EXPERTS, TRAINING_TIMESTEPS, Expert
from refbench.baselines.wan.latents import WAN21_LATENTS, LatentSpace
from refbench.baselines.wan.spec import (
    WAN22_5B,
    WAN22_T2V_BOUNDARY,
    WAN_1_3B,
    WAN_14B,
    WanNetwork,
    WanSpec,
    WanWeights,
)
from refbench.baselines.wan.weights import (
    HIGH_NOISE_FILES,
    LOW_NOISE_FILES,
    WAN21_T2V_1_3B,
    WAN21_T2V_14B,
    WAN22_T2V_A14B,
    WAN22_TI2V_5B,
)
from refbench.bench.errors import UserError
from refbench.bench.registry import unknown_name
from refbench.bench.weights.entry import WeightEntry
from refbench.refalign.data.sample import ClipRule

# What `model.expert` calls the two.
ExpertName = Literal["high", "low"]
EXPERT_OF: dict[ExpertName, Expert] = {"high": EXPERTS[0], "low": EXPERTS[1]}
# The boundary itself is the high-noise expert's; neighbouring levels are much further apart.
JUST_BELOW = 1e-3
ONE_NETWORK = ("transformer/*.safetensors",)
FILES_OF: dict[ExpertName, tuple[str, ...]] = {"high": HIGH_NOISE_FILES, "low": LOW_NOISE_FILES}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model: its repository, its network's sizes, and where its two experts take turns (None: one
    network).
    """

    entry: WeightEntry
    network: WanNetwork
    boundary: float | None = None


BASES = {
    base.entry.name: base
    for base in (
        Base(entry=WAN21_T2V_1_3B, network=WAN_1_3B),
        Base(entry=WAN21_T2V_14B, network=WAN_14B),
        Base(entry=WAN22_T2V_A14B, network=WAN_14B, boundary=WAN22_T2V_BOUNDARY),
        Base(entry=WAN22_TI2V_5B, network=WAN22_5B),
    )
}


def known_base(name: str) -> Base | None:
    """The base model of that name in the catalogue or repository; None for one that is not named here."""
    return next((base for base in BASES.values() if name in (base.entry.name, base.entry.repository)), None)


def latent_space(name: str) -> LatentSpace:
    """The space of a base model's latents, without its VAE; of a base that is not named here Wan2.1's."""
    base = known_base(name)
    return WAN21_LATENTS if base is None else base.network.latents


def check_clip(rule: ClipRule, space: LatentSpace, patch: int, where: str = "data.clip.") -> None:
    """Raises UserError for a width, height or number of frames that the VAE and the network cannot hold;
    `where` stands before the name of the size.
    """
    multiple = space.stride_px * patch
    for name, side in (("width", rule.width), ("height", rule.height)):
        if side % multiple:
            near = max(multiple, round(side / multiple) * multiple)
            raise UserError(
                f"{where}{name}={side} is no multiple of {multiple}, which the base model's VAE needs "
                f"({space.stride_px} pixels to a latent, {patch}×{patch} latents to a token); {near} is"
            )
    if (rule.num_frames - 1) % space.stride_frames:
        raise UserError(
            f"{where}num_frames={rule.num_frames} is not {space.stride_frames}k + 1, which the base "
            "model's VAE needs"
        )


def has_experts(name: str) -> bool:
    """Whether a base model, by its name in the catalogue or its repository, has two experts."""
    base = known_base(name)
    return base is not None and base.boundary is not None


def check_expert(base: str, expert: ExpertName | None) -> None:
    """Raises UserError where a base of two experts is to be trained as one network, or one network as an
    expert.
    """
    if has_experts(base) and expert is None:
        raise UserError(
            f"{base} has two experts, which are trained one at a time: give model.expert=high (timesteps "
            "from the boundary up) or model.expert=low (those below it)"
        )
    if expert is not None and not has_experts(base):
        known = ", ".join(name for name in BASES if has_experts(name))
        raise UserError(
            f"model.expert={expert}: {base} has one network; two experts has {known} (model.base={known})"
        )


def expert_timesteps(expert: ExpertName | None, boundary: float) -> tuple[float, float]:
    """The lowest and the highest timestep, of 0..1000, that an expert, or (None) a whole network, is asked
    at.
    """
    changes_at = TRAINING_TIMESTEPS * boundary
    return (
        changes_at if expert == "high" else 0.0,
        changes_at - JUST_BELOW if expert == "low" else float(TRAINING_TIMESTEPS),
    )


def network_files(expert: ExpertName | None) -> tuple[str, ...]:
    """Patterns of the files of a base's network, or of one of its experts."""
    return ONE_NETWORK if expert is None else FILES_OF[expert]


def spec_on_base(spec: WanSpec, name: str) -> WanSpec:
    """The spec of a RefAlign method whose networks were trained on another base model.

    Its networks are those of the base until the user names others. Raises UserError for an unknown base.
    """
    if name not in BASES:
        raise UserError(f"the method {spec.name}: {unknown_name('base', name, BASES)}")
    base = BASES[name]
    experts = base.boundary is not None
    weights = WanWeights(
        transformer=base.entry,
        transformer_files=HIGH_NOISE_FILES if experts else ONE_NETWORK,
        low_noise_files=LOW_NOISE_FILES if experts else (),
        base=base.entry,
    )
    return replace(
        spec,
        base_model=base.entry.name,
        weights=weights,
        network=base.network,
        boundary=base.boundary,
        deviations=(*spec.deviations, f"no RefAlign network was released on {base.entry.name}"),
    )
