"""How much space features take, said before anything is encoded.

A position needs a video's latents, a text, and of each reference latents and the teachers' tokens. What of
that is new follows from the windows that the positions draw and from what the folder holds. It is exact where
the data set tells of its entries (`ClipSource.outline`) and they are few; of more than `MOST_CLIPS` clips a
part, spread evenly over the order, stands for all. References are counted as new wherever they may be:
augmented ones and those of linked clips at each position, others once a clip.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refbench.baselines.wan.loading import find_base
from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS, cleaned_prompt
from refbench.baselines.wan.t5 import load_tokenizer
from refbench.bench.errors import SampleError
from refbench.bench.weights.catalogue import get_entry
from refbench.bench.weights.hf_folder import read_config
from refbench.bench.weights.store import is_small, require_model_folder
from refbench.refalign.bases import latent_space
from refbench.refalign.data.dataset import TrainingData
from refbench.refalign.data.draws import Draws
from refbench.refalign.data.source import ClipOutline, ReferenceRates
from refbench.refalign.teacher import get_teacher_spec
from refbench.refalign.training.encoder import latent_shape
from refbench.refalign.training.feature_store import (
    FEATURES,
    FeatureFile,
    KnownEntries,
    OrderIndex,
    SampleEntries,
    frames_name,
    read_orders,
    text_digest,
    text_name,
)
from refbench.refalign.training.parts import frame_teacher_names, teacher_names
from refbench.refalign.training.settings import TrainingConfig
from refbench.refalign.training.stored_settings import flat_settings

MOST_CLIPS, MOST_POSITIONS = 1000, 100_000
FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
# What tells of the same pictures at the same clip.
PICTURE_SETTINGS = ("data.clip.", "data.references.")


@dataclass(frozen=True, kw_only=True)
class EntrySizes:
    """Bytes of what is kept: the latents of a video and of a picture, the text of a prompt, and of each
    teacher the tokens of a picture, or (`frames`) of a video's frames.
    """

    video: int
    picture: int
    text: Callable[[str], int]
    teachers: Mapping[str, int]
    frames: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """New entries of a kind, how many and how many bytes."""

    name: str
    count: float
    size_bytes: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the first `positions` positions of an order need, `new_positions` of which are not prepared.

    `parts`: what is new by kind; `unreadable`: the share of positions whose entries cannot be used and are
    replaced by others; `is_exact`: whether each clip was looked at.
    """

    positions: int
    new_positions: int
    parts: Sequence[Part]
    unreadable: float
    is_exact: bool

    @property
    def size_bytes(self) -> float:
        """Bytes of all that is new."""
        return sum(part.size_bytes for part in self.parts)

    def lines(self, folder: Path, free_bytes: int) -> list[str]:
        """The forecast for people."""
        about = "" if self.is_exact else "about "
        each = ", ".join(f"{part.count:,.0f} {part.name} {size_text(part.size_bytes)}" for part in self.parts)
        a_sample = self.size_bytes / max(self.new_positions, 1)
        lines = [
            f"to prepare: {self.positions:,} positions, {self.new_positions:,} of them not there yet",
            f"new: {about}{each}",
            f"size: {about}{size_text(self.size_bytes)}, {size_text(a_sample)} a new position; "
            f"{size_text(free_bytes)} are free in {folder}",
        ]
        if self.unreadable:
            lines.append(
                f"{100 * self.unreadable:.1f} % of positions have clips that cannot be used: others stand in"
            )
        return lines


def size_text(size_bytes: float) -> str:
    """A size to read: `512 B`, `3.4 MiB`, `1.2 TiB`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size_bytes >= 1024**power:
            return f"{size_bytes / 1024**power:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return int(shutil.disk_usage(there).free)


def entry_sizes(config: TrainingConfig, weights: Path | None) -> EntrySizes:
    """The sizes of a recipe's entries, out of the configurations of its frozen networks; none is read.

    Raises MissingWeights for one that is not on disk, and UserError.
    """
    base = find_base(get_entry(config.model.base), weights, image_branch=False)
    tokenizer = load_tokenizer(base / "tokenizer")
    width = int(read_config(base / "text_encoder")["d_model"])
    most_rows = min(MAX_TEXT_TOKENS, tokenizer.model_max_length)
    each = BFLOAT16_BYTES if config.run.precision == "bfloat16" else FLOAT32_BYTES
    channels, frames, rows, columns = latent_shape(config.data.clip, latent_space(config.model.base))
    tokens = (rows // config.model.patch) * (columns // config.model.patch)

    def text(prompt: str) -> int:
        length = len(tokenizer(cleaned_prompt(prompt), verbose=False).input_ids)
        return int(min(length, most_rows)) * width * each

    picture = channels * rows * columns * FLOAT32_BYTES
    return EntrySizes(
        video=picture * frames,
        picture=picture,
        text=text,
        teachers={name: tokens * _teacher_width(name, weights) * each for name in teacher_names(config)},
        frames={
            name: frames * tokens * _teacher_width(name, weights) * each
            for name in frame_teacher_names(config)
        },
    )


def _teacher_width(name: str, weights: Path | None) -> int:
    spec = get_teacher_spec(name)
    folder = require_model_folder(spec.repository, weights)
    return int(read_config(folder).get("hidden_size", spec.width)) if is_small(folder) else spec.width


@dataclass(frozen=True, kw_only=True)
class _There:
    """What a folder holds: the names of its entries, windows and clips with the pictures of a recipe, and
    what the positions of its order are made of.
    """

    names: KnownEntries
    windows: frozenset[tuple[str, int]]
    pictured: frozenset[str]
    positions: Mapping[int, SampleEntries]

    @classmethod
    def in_folder(cls, folder: Path, own: str, order: OrderIndex) -> _There:
        """Read the descriptions of a folder's positions. Raises UserError for a damaged file."""
        names = KnownEntries(folder)
        names.refresh()
        windows: set[tuple[str, int]] = set()
        pictured: set[str] = set()
        positions: dict[int, SampleEntries] = {}
        for name, other in read_orders(folder).items():
            for path in sorted((folder / name).glob(f"{FEATURES}-*.safetensors")):
                samples = FeatureFile(path).samples
                if _alike(other, order, "data.clip."):
                    windows |= {(each.key, each.first_frame) for each in samples.values()}
                if _alike(other, order, *PICTURE_SETTINGS):
                    pictured |= {each.key for each in samples.values()}
                if name == own:
                    positions |= samples
        return cls(names=names, windows=frozenset(windows), pictured=frozenset(pictured), positions=positions)


def _alike(one: OrderIndex, other: OrderIndex, *prefixes: str) -> bool:
    """Whether two orders have the same settings, of those whose names start with one of the prefixes."""
    settings = [
        {name: value for name, value in flat_settings(each.settings).items() if name.startswith(prefixes)}
        for each in (one, other)
    ]
    return settings[0] == settings[1]


def forecast(
    config: TrainingConfig,
    data: TrainingData,
    folder: Path,
    name: str,
    order: OrderIndex,
    sizes: EntrySizes,
) -> Forecast:
    """What an order in `folder / name` will take that is not there. Raises UserError for a damaged file."""
    there = _There.in_folder(folder, name, order)
    new_positions = order.positions - sum(each < order.positions for each in there.positions)
    found = _look_at_clips(config, data, order, there)
    texts = [sizes.text(each) for each in found.prompts if text_name(text_digest(each)) not in there.names]
    scale = new_positions / found.readable if found.readable else 0.0
    # More than one of each window, prompt and kept picture of all clips there cannot be.
    all_clips = order.length / max(found.clips, 1)
    videos = min(len(found.windows - there.windows) * scale, found.starts * all_clips)
    prompts = min(len(texts) * scale, order.length + 1)
    pictures = found.always_new * scale + min(found.kept * scale, found.references * all_clips)
    parts = [
        Part(name="videos", count=videos, size_bytes=videos * sizes.video),
        Part(name="pictures", count=pictures, size_bytes=pictures * sizes.picture),
        Part(name="texts", count=prompts, size_bytes=sum(texts) * prompts / max(len(texts), 1)),
    ]
    for teacher, size in sizes.teachers.items():
        names = {each for entries in there.positions.values() for each in entries.teacher_names(teacher)}
        count = pictures + sum(each not in there.names for each in names)
        parts.append(Part(name=f"pictures' tokens of {teacher}", count=count, size_bytes=count * size))
    for teacher, size in sizes.frames.items():
        names = {frames_name(teacher, entries.video) for entries in there.positions.values()}
        count = videos + sum(each not in there.names for each in names)
        parts.append(Part(name=f"videos' tokens of {teacher}", count=count, size_bytes=count * size))
    return Forecast(
        positions=order.positions,
        new_positions=new_positions,
        parts=parts,
        unreadable=1 - found.readable / found.looked if found.looked else 0.0,
        is_exact=found.readable == new_positions,
    )


@dataclass(kw_only=True)
class _Found:
    """What the clips that were looked at need.

    `looked`: their positions, `readable`: those of clips that can be used, `clips`: how many these are, of
    `starts` windows and `references` references together; `always_new`: pictures that are others at each
    position, `kept`: pictures that are kept once and not there yet.
    """

    looked: int = 0
    readable: int = 0
    clips: int = 0
    starts: int = 0
    references: int = 0
    always_new: int = 0
    kept: int = 0
    windows: set[tuple[str, int]] = field(default_factory=set)
    prompts: set[str] = field(default_factory=set)


def _look_at_clips(config: TrainingConfig, data: TrainingData, order: OrderIndex, there: _There) -> _Found:
    """Look at up to `MOST_CLIPS` of the clips at up to `MOST_POSITIONS` positions, spread evenly."""
    by_entry: dict[tuple[int, int, int], list[Draws]] = {}
    sets: dict[int, TrainingData] = {}
    for number in range(0, order.positions, math.ceil(order.positions / MOST_POSITIONS)):
        if number not in there.positions:
            epoch, position = divmod(number, order.length)
            one, entry = data.placed(epoch, position)
            sets[id(one)] = one
            draws = Draws(seed=config.run.seed, epoch=epoch, position=position)
            by_entry.setdefault((id(one), *entry), []).append(draws)
    found = _Found()
    if by_entry:
        found.prompts.add("")
    for (which, shard, number), draws_each in list(by_entry.items())[
        :: math.ceil(len(by_entry) / MOST_CLIPS) or 1
    ]:
        found.looked += len(draws_each)
        try:
            outline = sets[which].source.outline(shard, number, config.data.clip)
        except SampleError:
            continue
        found.readable += len(draws_each)
        found.clips += 1
        if outline is None:
            names = [(f"{which}/{shard}/{number}", index) for index in range(len(draws_each))]
            found.windows.update(names)
            found.starts += len(names)
            found.always_new += config.data.clip.max_references * len(names)
            continue
        found.windows.update(
            (outline.key, outline.first_frame + _start(outline, each)) for each in draws_each
        )
        found.starts += outline.starts
        found.references += outline.references
        found.prompts.add(outline.prompt)
        always = sum(_is_always_new(outline, config.data.references, each) for each in draws_each)
        found.always_new += outline.references * always
        if always < len(draws_each) and outline.key not in there.pictured:
            found.kept += outline.references
    return found


def _start(outline: ClipOutline, draws: Draws) -> int:
    """The window that a position draws, counted from the clip's first."""
    return draws.below(outline.starts, "start")


def _is_always_new(outline: ClipOutline, rates: ReferenceRates, draws: Draws) -> bool:
    """Whether a position's references are augmented or drawn from elsewhere, so that no other has them."""
    elsewhere = draws.uniform("gpt") < rates.gpt or draws.uniform("cross pair") < rates.cross_pair
    return outline.own_references and (elsewhere or not rates.augmentation.is_off)
