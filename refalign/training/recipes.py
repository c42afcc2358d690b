"""Recipes: complete training configurations as plain functions, and overrides `section.field=value`.

What is public of RefAlign's training: AdamW with torch's defaults, learning rate 5e-5 in stage 1 and 1e-5
in stage 2, no gradient clipping, batch 1 per process, 81 frames of 832×480 at every third source frame, RA of
weight 1 at blocks 0 to 8 with the gate (t/1000)³, DINOv3 ViT-B/16 as the teacher of 1.3B and ViT-L/16 of
14B; stage 2 starts from the network that stage 1 made. The paper (read in secondary text) adds: 128 samples
an update, 3,000 iterations, weight decay 0.01; stage 1 on regular pairs of OpenS2V-5M, stage 2 on those and
cross pairs of Phantom-Data, 6 to 4; references of regular pairs augmented; ablations of 1,800 iterations.

Ours, since they are not public: 3,000 iterations for each stage rather than for both, the strengths of the
augmentation, and the intervals. The byte code draws a linked clip's references with probability 0.23, which
the paper does not name; stage 1 keeps it, stage 2 has its cross pairs from the second data set.

Source: arXiv 2603.25743; gudaochangsheng/RefAlign@6f91526 (byte code of its trainer).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.registry import Registry, unknown_name
from refbench.refalign.alignment import AlignmentConfig, ReferenceAlignment
from refbench.refalign.bases import check_clip, check_expert, latent_space
from refbench.refalign.data.augmentation import ReferenceAugmentation
from refbench.refalign.data.sample import ClipRule
from refbench.refalign.data.source import ReferenceRates
from refbench.refalign.losses import losses as known_losses
from refbench.refalign.losses import own_code, place_of
from refbench.refalign.reference_inputs import reference_inputs as known_inputs
from refbench.refalign.training.settings import (
    CheckpointConfig,
    DataConfig,
    EmaConfig,
    FlowConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)
from refbench.refalign.training.stored_settings import MOVED_DATA_SETTINGS, PLUGIN_SECTIONS, flat_settings

# What other trainers call our settings.
OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "eps": "optimizer.epsilon",
    "betas": "optimizer.beta1",
    "max_grad_norm": "optimizer.max_gradient_norm",
    "grad_clip": "optimizer.max_gradient_norm",
    "clip_grad_norm": "optimizer.max_gradient_norm",
    "lr_warmup_steps": "optimizer.warmup_steps",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "min_lr": "optimizer.final_rate",
    "weighting_scheme": "flow.sampling",
    "torch_compile": "run.compile",
    "batch_size": "run.samples_per_step",
    "micro_batch_size": "run.samples_per_call",
    "steps": "run.max_steps",
    "max_train_steps": "run.max_steps",
    "mixed_precision": "run.precision",
    "num_workers": "data.workers",
    "save_every": "checkpoints.every",
    "save_steps": "checkpoints.every",
}
# Of the paper; whether the iterations are those of one stage or of both it does not say.
PAPER_ITERATIONS = 3000
PAPER_SAMPLES_PER_STEP = 128
# Regular pairs to cross pairs in stage 2, in the order of --data.
PAPER_MIXTURE = (6, 4)
# The kinds are the paper's, the strengths are ours.
AUGMENTATION = ReferenceAugmentation(
    rotation_degrees=15.0, scale=0.1, flip=0.5, shear_degrees=5.0, blur_px=1.0, colour=0.1
)
# The one loss whose settings are a section of their own, `alignment`.
RA = ReferenceAlignment.declaration.name


def stage1_1_3b() -> TrainingConfig:
    """RefAlign 1.3B, stage 1: from Wan2.1-T2V-1.3B, on regular pairs; whole network in every process."""
    return TrainingConfig(
        recipe="stage1_1_3b",
        model=ModelConfig(base="wan2.1-t2v-1.3b"),
        data=DataConfig(references=ReferenceRates(augmentation=AUGMENTATION)),
        alignment=AlignmentConfig(teachers=("dinov3-vitb16",)),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        run=RunConfig(max_steps=PAPER_ITERATIONS, samples_per_step=PAPER_SAMPLES_PER_STEP),
    )


def stage2_1_3b() -> TrainingConfig:
    """RefAlign 1.3B, stage 2: a fifth of the learning rate, from the network that stage 1 made.

    `model.transformer` has to name it. The data are two sets, first of regular pairs, then of cross pairs,
    of which 6 and 4 are taken in turn.
    """
    return _second_stage(stage1_1_3b(), "stage2_1_3b")


def stage1_14b() -> TrainingConfig:
    """RefAlign 14B, stage 1: from Wan2.1-T2V-14B, sharded over all processes (FSDP2), checkpoints too, blocks
    recomputed, encoders off the card while the network trains.
    """
    return TrainingConfig(
        recipe="stage1_14b",
        model=ModelConfig(base="wan2.1-t2v-14b"),
        data=DataConfig(references=ReferenceRates(augmentation=AUGMENTATION)),
        alignment=AlignmentConfig(teachers=("dinov3-vitl16",)),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        run=RunConfig(
            max_steps=PAPER_ITERATIONS,
            samples_per_step=PAPER_SAMPLES_PER_STEP,
            strategy="fsdp2",
            encoders="offloaded",
        ),
        checkpoints=CheckpointConfig(sharded=True),
    )


def stage2_14b() -> TrainingConfig:
    """RefAlign 14B, stage 2: as `stage2_1_3b`, sharded like stage 1."""
    return _second_stage(stage1_14b(), "stage2_14b")


def tiny() -> TrainingConfig:
    """A network of 4 blocks of 96 channels on clips of 96×64 and 9 frames, with random VAE, text encoder and
    teacher made on the spot: the whole trainer on a laptop's CPU in a minute or two, without any weights.
    """
    return TrainingConfig(
        recipe="tiny",
        model=ModelConfig(base="wan2.1-t2v-1.3b", random=True),
        data=DataConfig(clip=ClipRule(width=96, height=64, num_frames=9), workers=0),
        alignment=AlignmentConfig(blocks=(0, 1, 2)),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        run=RunConfig(max_steps=300, samples_per_step=2, precision="float32", gradient_checkpointing=False),
        validation=ValidationConfig(steps=4),
        checkpoints=CheckpointConfig(every=100),
    )


def mini_stage1() -> TrainingConfig:
    """RefAlign in the drawn world of the track `mini`, stage 1: from its text-to-video base of 3 million
    parameters, on clips of 64×64 and 9 frames, with its own small teacher in DINOv3's place.

    RA at a third of the blocks, as in the paper (9 of 30); regular and cross pairs 6 to 4. The rest is ours.
    """
    return TrainingConfig(
        recipe="mini_stage1",
        model=ModelConfig(base="mini-base", text_rows=64, patch=1),
        data=DataConfig(
            clip=ClipRule(width=64, height=64, num_frames=9, stride=1),
            references=ReferenceRates(cross_pair=0.4),
            workers=0,
        ),
        alignment=AlignmentConfig(blocks=(0, 1), teachers=("dinov3-vitb16",)),
        flow=FlowConfig(shift=3.0),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=100, max_gradient_norm=1.0),
        run=RunConfig(
            max_steps=1500,
            samples_per_step=8,
            samples_per_call=8,
            precision="float32",
            gradient_checkpointing=False,
        ),
        ema=EmaConfig(enabled=True, decay=0.999),
        checkpoints=CheckpointConfig(every=200, keep=1),
        log=LogConfig(every=50, tensorboard=False),
    )


def mini_stage2() -> TrainingConfig:
    """RefAlign in the drawn world, stage 2: a fifth of the learning rate, from the network of stage 1."""
    first = mini_stage1()
    return replace(
        first,
        recipe="mini_stage2",
        model=replace(first.model, needs_transformer=True),
        optimizer=replace(first.optimizer, learning_rate=first.optimizer.learning_rate / 5),
        run=replace(first.run, max_steps=375),
    )


def _second_stage(first: TrainingConfig, name: str) -> TrainingConfig:
    return replace(
        first,
        recipe=name,
        model=replace(first.model, needs_transformer=True),
        data=replace(
            first.data,
            references=replace(first.data.references, cross_pair=0.0),
            mixture=PAPER_MIXTURE,
        ),
        optimizer=replace(first.optimizer, learning_rate=1e-5),
    )


RECIPES: dict[str, Callable[[], TrainingConfig]] = {
    recipe.__name__: recipe
    for recipe in (stage1_1_3b, stage2_1_3b, stage1_14b, stage2_14b, mini_stage1, mini_stage2, tiny)
}


def register_recipe(recipe: Callable[[], TrainingConfig]) -> Callable[[], TrainingConfig]:
    """Decorator: make a recipe known by its function's name. Raises UserError for a name that is taken."""
    existing = RECIPES.setdefault(recipe.__name__, recipe)
    if existing is not recipe:
        raise UserError(
            f"two recipes are called {recipe.__name__!r}: {place_of(existing)} and {place_of(recipe)}"
        )
    return recipe


def _made(recipe: str) -> TrainingConfig:
    """A recipe's configuration, with the options of all known losses and inputs: idle where it names none."""
    make = RECIPES[recipe]
    with own_code(f"the recipe {recipe!r}", make):
        config = make()
    if not isinstance(config, TrainingConfig) or config.recipe != recipe:
        found = config.recipe if isinstance(config, TrainingConfig) else type(config).__name__
        raise UserError(
            f"the recipe {recipe!r} ({place_of(make)}) returns {found!r}, not a TrainingConfig with "
            f"recipe={recipe!r}"
        )
    return replace(
        config,
        losses=_with_idle(known_losses, config.losses),
        reference_inputs=_with_idle(known_inputs, config.reference_inputs),
    )


def _with_idle(registry: Registry[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen options, and the default ones of everything else that has settings of its own."""
    for name, options in chosen.items():
        if not isinstance(options, registry.get(name).Options):
            raise UserError(f"the options of the {registry.kind} {name!r} are a {type(options).__name__}")
    others = [name for name in registry.names() if name != RA]
    return {name: chosen.get(name) or registry.get(name).Options() for name in others}


def build_config(recipe: str, overrides: Iterable[str] = ()) -> TrainingConfig:
    """A recipe with overrides `section.field=value` (`none` for None, `0,1,2` for several values).

    Raises UserError for an unknown recipe, section or field, with the nearest known name, for a value of the
    wrong type or out of range, and for a recipe that lacks the network it starts from.
    """
    if recipe not in RECIPES:
        raise UserError(unknown_name("recipe", recipe, RECIPES))
    config = _made(recipe)
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or "." not in key:
            meant = OTHER_NAMES.get(key.lower())
            hint = f"; did you mean {meant}?" if meant is not None and equals else ""
            raise UserError(f"an override is section.field=value, not {one_line(override, 80)!r}{hint}")
        changes[key] = _parsed(key, text, _setting_type(config, key))
    changed: TrainingConfig = _changed(config, changes)
    if changed.model.needs_transformer and changed.model.transformer is None:
        raise UserError(
            f"{changed.recipe} starts from the network that stage 1 made; name it: "
            "model.transformer=OUT/checkpoints/step-N"
            + ("" if changed.checkpoints.sharded else "/transformer")
        )
    space, patch = latent_space(changed.model.base), changed.model.patch
    check_clip(changed.data.clip, space, patch)
    for text, rule in zip(changed.data.buckets, changed.data.bucket_rules, strict=True):
        check_clip(rule, space, patch, where=f"data.buckets, {text}: ")
    check_expert(changed.model.base, changed.model.expert)
    if changed.model.expert is not None and changed.validation.every:
        raise UserError(
            f"validation.every={changed.validation.every}: videos need both experts, a run trains one; make "
            f"them with refbench generate refalign-14b --set base={changed.model.base}"
        )
    return _bounded_to_expert(changed)


def _bounded_to_expert(config: TrainingConfig) -> TrainingConfig:
    """The configuration with the timesteps of the expert that is trained. Raises UserError where none is
    left.
    """
    lowest, highest = config.model.timestep_bounds
    try:
        flow = replace(
            config.flow,
            lowest_timestep=max(config.flow.lowest_timestep, lowest),
            highest_timestep=min(config.flow.highest_timestep, highest),
        )
    except ValueError as error:
        raise UserError(f"model.expert={config.model.expert}: {one_line(error, 200)}") from None
    return replace(config, flow=flow)


def _setting_type(config: TrainingConfig, key: str) -> Any:
    """The type of a setting by its dotted name. Raises UserError for a name that is none."""
    known = [name for name in flat_settings(asdict(config)) if "." in name]
    if key not in known:
        section, _, name = key.partition(".")
        if section == "data" and name in MOVED_DATA_SETTINGS:
            raise UserError(f"the setting {key} is called data.{MOVED_DATA_SETTINGS[name]} now")
        meant = OTHER_NAMES.get(name.lower())
        if meant is not None:
            raise UserError(f"unknown setting {one_line(key, 60)!r}; did you mean {meant}?")
        if section in PLUGIN_SECTIONS:
            _check_plugin_name(PLUGIN_SECTIONS[section], name.partition(".")[0])
        in_section = [each for each in known if each.startswith(f"{section}.")]
        if not in_section:
            sections = dict.fromkeys(each.partition(".")[0] for each in known)
            raise UserError(unknown_name("section", section, sections))
        within = [each for each in known if each.startswith(f"{key}.")]
        raise UserError(unknown_name("setting", key, within or in_section))
    owner: Any = config
    *sections_of_key, field_name = key.split(".")
    for section in sections_of_key:
        owner = owner[section] if isinstance(owner, Mapping) else getattr(owner, section)
    return typing.get_type_hints(type(owner))[field_name]


def _check_plugin_name(registry: Registry[Any], name: str) -> None:
    """Raises UserError for a loss or input that nothing registered."""
    known = [each for each in registry.names() if each != RA]
    if name not in known:
        told = unknown_name(registry.kind, name, known, registry.problems)
        raise UserError(f"{told}; --plugin FILE.py registers one")


def _changed(config: Any, changes: Mapping[str, Any], name: str = "") -> Any:
    """The configuration, or its section `name`, with new values by their dotted names in it."""
    values: dict[str, Any] = {}
    of_sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, dot, rest = key.partition(".")
        if dot:
            of_sections.setdefault(section, {})[rest] = value
        else:
            values[key] = value
    for section, inner in of_sections.items():
        owner = config[section] if isinstance(config, Mapping) else getattr(config, section)
        values[section] = _changed(owner, inner, f"{name}.{section}".lstrip("."))
    if isinstance(config, Mapping):
        return {**config, **values}
    try:
        return replace(config, **values)
    except ValueError as error:
        raise UserError(f"{name}: {one_line(error, 200)}") from None


def _parsed(key: str, text: str, hint: Any) -> Any:
    """The text as the field's type; several values are separated by commas."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in options and text.lower() == "none":
        return None
    several = any(typing.get_origin(option) is tuple for option in options)
    value = [part.strip() for part in text.split(",") if part.strip()] if several else text
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{key}={one_line(text, 60)}: {first_fault(error)}") from None
