"""What a configuration trains with beside the network: its losses, its reference inputs, and their teachers.

RefAlign's own loss, with its settings in `alignment`, comes first; the others, with theirs in `losses.NAME`,
follow in the order of their names.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line
from refbench.refalign.alignment import ReferenceAlignment
from refbench.refalign.losses import AlignmentLoss, LossNeeds, TokenWidths, losses, own_code
from refbench.refalign.reference_inputs import ReferenceInput, reference_inputs
from refbench.refalign.training.settings import TrainingConfig

# Among a run's inputs: the SHA-256 of a plugin's file by its name.
PLUGIN = "plugin."


def other_losses(config: TrainingConfig) -> list[AlignmentLoss]:
    """The enabled losses except RefAlign's own."""
    return [losses.get(name)(config.losses[name]) for name in _enabled(config.losses)]


def active_losses(config: TrainingConfig) -> list[AlignmentLoss]:
    """All losses that the run takes beside flow matching."""
    own = [ReferenceAlignment(config.alignment)] if config.alignment.enabled else []
    return [*own, *other_losses(config)]


def active_inputs(config: TrainingConfig) -> list[ReferenceInput]:
    """The reference inputs that the network takes."""
    chosen = config.reference_inputs
    return [reference_inputs.get(name)(chosen[name]) for name in _enabled(chosen)]


def _enabled(chosen: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, options in chosen.items() if options.enabled)


def needs_of(loss: AlignmentLoss) -> LossNeeds:
    """What a loss asks for. Raises UserError for what its code raises."""
    with own_code(f"the loss {loss.declaration.name!r}", type(loss)):
        return loss.needs()


def teacher_names(config: TrainingConfig) -> tuple[str, ...]:
    """The teachers whose features of the references a run needs, those of RefAlign's own loss first."""
    names = [name for loss in active_losses(config) for name in needs_of(loss).reference_teachers]
    for one in active_inputs(config):
        with own_code(f"the reference input {one.declaration.name!r}", type(one)):
            names += one.teachers()
    return tuple(dict.fromkeys(names))


def frame_teacher_names(config: TrainingConfig) -> tuple[str, ...]:
    """The teachers whose features of the clip's frames a run needs."""
    names = [name for loss in active_losses(config) for name in needs_of(loss).frame_teachers]
    return tuple(dict.fromkeys(names))


def all_teacher_names(config: TrainingConfig) -> tuple[str, ...]:
    """All teachers that a run needs, those of the references first."""
    return tuple(dict.fromkeys([*teacher_names(config), *frame_teacher_names(config)]))


def token_widths(
    config: TrainingConfig, width: int, teacher_widths: Sequence[int], frame_widths: Sequence[int]
) -> TokenWidths:
    """The channels of the generator, and of the teachers in the order of both lists of names."""
    # A source may hold more than the run asks for.
    of_references = dict(zip(teacher_names(config), teacher_widths, strict=False))
    of_frames = dict(zip(frame_teacher_names(config), frame_widths, strict=False))
    return TokenWidths(generator=width, teachers=of_references | of_frames)


def check_blocks(config: TrainingConfig, layers: int) -> None:
    """Raises UserError for a block that a loss asks for and the network does not have."""
    if config.alignment.enabled and config.alignment.blocks[-1] >= layers:
        raise UserError(
            f"alignment.blocks names block {config.alignment.blocks[-1]}, the network has {layers} "
            f"(0..{layers - 1})"
        )
    for loss in other_losses(config):
        needs = needs_of(loss)
        for block in (*needs.reference_blocks, *needs.video_blocks):
            if not 0 <= block < layers:
                raise UserError(
                    f"the loss {loss.declaration.name!r} asks for block {block}, the network has {layers} "
                    f"(0..{layers - 1})"
                )


def code_digests(config: TrainingConfig, plugins: Iterable[Path]) -> dict[str, str]:
    """Path and SHA-256 of each plugin's file, and of other files outside of this project that enabled losses
    and reference inputs come from: `plugin.NAME` and `plugin.NAME.path`.

    Raises UserError for a file that cannot be read.
    """
    files = [Path(file).resolve() for file in plugins]
    for one in (*other_losses(config), *active_inputs(config)):
        source = inspect.getsourcefile(type(one))
        if source is not None:
            files.append(Path(source).resolve())
    found: dict[str, str] = {}
    for file in dict.fromkeys(files):
        try:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"the plugin {file} cannot be read: {one_line(error.strerror)}") from None
        name, number = f"{PLUGIN}{file.name}", 2
        while name in found:
            name, number = f"{PLUGIN}{file.name} ({number})", number + 1
        found |= {name: digest, f"{name}.path": str(file)}
    return found
