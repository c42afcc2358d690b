"""Generators whose videos are imported and not made here: closed services, and open ones.

No method is registered here. The facts are data: what is known of a model's base, licence and inputs goes
into the card of an imported run. Of a model that is a registered method too, they are read from that method's
card. How the imported videos were made is known only to who made them, so the authors' defaults are said as
what they are, and size, length and rate are measured (`bench.runs.import_videos`).

Sources: the repositories VINO@7302741, HunyuanCustom@abffb8f, Stand-In@cceec58, Concat-ID@b15cb95,
lynx@3a6a91a, HuMo@17094e9, and those of FantasyID, EchoVideo, VideoMaker and ID-Animator; the services'
public documentation, which was read and never called; OpenS2V-Nexus v1.1 for the date of the closed models'
rows.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import read_json
from refbench.bench.method import MethodCard
from refbench.bench.registry import methods
from refbench.bench.runs.import_videos import Measured
from refbench.bench.scores.record import plain_name
from refbench.bench.scores.store import checked_name

SNAPSHOT = "API snapshot of 2025-05-03; new calls do not reproduce it"
UNVERIFIED_DEFAULTS = "the authors' defaults, not verified for these videos"
# As `refbench weights list` says it.
UNVERIFIED_LICENCE = "unverified"
UNKNOWN = "not known"
CLOSED_LICENCE = "closed service"
ONE_FACE = "one face"
STAND_IN_SUMMARY = "face tokens with low-rank adapters, which the video attends to"
STAND_IN_PREPARATION = "the face, cut out 1.5 times as large, its background white, 512×512"
LYNX_LICENCE = "Apache-2.0, the repository's; the hub's not verified"
LYNX_WITHHELD = "the authors' code withholds videos that its two NSFW classifiers flag"
LYNX_SHIFT = "the default shift stands in the hub's scheduler file, which was not seen"
HUMO_PREPARATION = "Lanczos fit on white, each encoded alone"
HUMO_SETTINGS = "1280×720 or 832×480, 97 frames, 25 fps, 50 UniPC steps, shift 5"
HUMO_SILENT = "made for audio; without it the authors' code sets the audio features to zero"
# In these words wherever it is said: sources contradict each other.
BINDWEAVE_OPENNESS = (
    "closed on the OpenS2V leaderboard, open in RefAlign's Table 1; licence of the weights not verified"
)
MEASURED_FIELDS = ("width", "height", "num_frames", "fps")


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """What is known of a model whose videos are imported. What is not known stays None or empty.

    `aliases` are other spellings; `defaults` the authors' default settings in words; `closed` a service whose
    videos are a snapshot. `method` is the registered method that the model is; the facts then stand on that
    method's card, and here only what is said of the videos.
    """

    name: str
    aliases: tuple[str, ...] = ()
    method: str = ""
    summary: str = ""
    base_model: str | None = None
    licence: str | None = None
    max_references: int | None = None
    reference_preparation: str | None = None
    defaults: str = ""
    notes: tuple[str, ...] = ()
    closed: bool = False

    @property
    def card(self) -> MethodCard:
        """The card before anything is measured."""
        facts = MethodCard(
            name=self.name,
            summary=self.summary,
            base_model=self.base_model,
            licence=CLOSED_LICENCE if self.closed else self.licence,
            max_references=self.max_references,
            reference_preparation=self.reference_preparation,
        )
        defaults = self.defaults
        if self.method:
            own = methods.get(self.method)().card()
            facts, defaults = with_model_facts(facts, own), defaults_text(own)
        said = [f"{UNVERIFIED_DEFAULTS}: {defaults}"] if defaults else []
        return facts.model_copy(
            update={"deviations": (*([SNAPSHOT] if self.closed else []), *self.notes, *said)}
        )


def with_model_facts(card: MethodCard, own: MethodCard) -> MethodCard:
    """An imported run's card with what a registered method's card says of the model itself: base, licence and
    most references, and the summary where there is none.
    """
    return card.model_copy(
        update={
            "summary": card.summary or own.summary,
            "base_model": own.base_model,
            "licence": own.licence or UNVERIFIED_LICENCE,
            "max_references": own.max_references,
        }
    )


def defaults_text(card: MethodCard) -> str:
    """A method's settings in words: `832×480, 81 frames, 16 fps, 50 unipc steps, guidance text 5`."""
    parts = [
        f"{card.width}×{card.height}",
        f"{card.generated_frames} frames",
        f"{card.fps:g} fps",
        f"{card.steps} {card.solver} steps",
    ]
    parts += [] if card.shift is None else [f"shift {card.shift:g}"]
    parts += [f"guidance {name} {scale:g}" for name, scale in card.guidance.items()]
    return ", ".join(parts)


FOREIGN_MODELS = (
    ForeignModel(
        name="Vidu-2.0",
        aliases=("Vidu2.0(20250503)",),
        summary="closed service of Vidu, reference to video, model vidu2.0",
        max_references=3,
        closed=True,
    ),
    ForeignModel(
        name="Vidu-Q1",
        summary="closed service of Vidu, reference to video, model q1",
        max_references=7,
        closed=True,
    ),
    ForeignModel(
        name="Pika-2.1",
        aliases=("Pika2.1(20250503)",),
        summary="closed service of Pika, model 2.1",
        notes=("2.1 is no longer the documented version",),
        closed=True,
    ),
    ForeignModel(
        name="Kling-1.6",
        aliases=("Kling1.6(20250503)",),
        summary="closed service of Kling, several images to video, model kling-v1-6",
        max_references=4,
        closed=True,
    ),
    ForeignModel(
        name="Hailuo-S2V-01",
        aliases=("Hailuo", "Hailuo(20250503)", "MiniMax S2V-01", "S2V-01"),
        summary="closed service of MiniMax (Hailuo), subject reference, model S2V-01",
        max_references=1,
        reference_preparation="one character only",
        notes=("the service rewrites prompts unless told not to",),
        closed=True,
    ),
    ForeignModel(
        name="Saber-14B",
        aliases=("Saber",),
        summary="Saber of Meta; known from RefAlign's Table 1 alone",
        notes=("no code, weights or service were found",),
    ),
    ForeignModel(
        name="VINO",
        summary="references as prefix tokens and 256 learned queries of a vision-language model",
        base_model="HunyuanVideo and Qwen3-VL-4B-Instruct",
        licence="code Apache-2.0, weights CC BY-NC 4.0",
        reference_preparation="letterboxed on white at their own aspect",
        defaults="848×480, 81 frames, 24 fps, 50 Euler steps, shift 7, guidance text 7, image 3, no negative",
    ),
    ForeignModel(
        name="HunyuanCustom",
        summary="reference latent as token prefix, and its image in the text encoder",
        base_model="HunyuanVideo 13B and LLaVA",
        licence="Tencent Hunyuan Community License (excludes the EU, the UK and South Korea)",
        max_references=1,
        reference_preparation="segmented, padded with white",
        defaults="1280×720 or 896×512, 129 frames, 25 fps, 30 Euler steps, shift 13, guidance 7.5, DeepCache",
    ),
    ForeignModel(
        name="Stand-In",
        aliases=("Stand-In-2.2", "Stand-In-Wan2.2"),
        summary=STAND_IN_SUMMARY,
        base_model="Wan2.2-T2V-A14B, an adapter for each of its two networks",
        licence="Apache-2.0",
        max_references=1,
        reference_preparation=STAND_IN_PREPARATION,
        defaults="832×480, 81 frames, 16 fps, 20 Euler steps, shift 5, guidance 5, switch at t = 875",
        notes=("the Wan2.2 version of 22 December 2025; videos made before are of the Wan2.1 version",),
    ),
    ForeignModel(
        name="Stand-In-Wan2.1",
        aliases=("Stand-In-2.1",),
        summary=STAND_IN_SUMMARY,
        base_model="Wan2.1-T2V-14B",
        licence="Apache-2.0",
        max_references=1,
        reference_preparation=STAND_IN_PREPARATION,
        defaults="832×480, 81 frames, 25 fps, 20 Euler steps, shift 5, guidance 5",
    ),
    ForeignModel(
        name="Lynx",
        aliases=("Lynx-Full",),
        summary="identity tokens in every text attention, the face's states in every self-attention",
        base_model="Wan2.1-T2V-14B",
        licence=LYNX_LICENCE,
        max_references=1,
        reference_preparation="the largest face, and its aligned picture of 256×256",
        defaults="832×480, 81 frames, 16 fps, 50 UniPC steps, guidance image 2, text 5",
        notes=(LYNX_WITHHELD, LYNX_SHIFT),
    ),
    ForeignModel(
        name="Lynx-Lite",
        summary="identity tokens in every text attention",
        base_model="Wan2.1-T2V-14B",
        licence=LYNX_LICENCE,
        max_references=1,
        reference_preparation="the largest face",
        defaults="832×480, 121 frames, 24 fps, 50 UniPC steps, guidance text 5",
        notes=(LYNX_WITHHELD, LYNX_SHIFT),
    ),
    ForeignModel(
        name="HuMo-17B",
        summary="references as the last frames of the condition's channels, audio attention in every block",
        base_model="Wan2.1 14B with 36 input channels and audio attention",
        licence="Apache-2.0",
        reference_preparation=HUMO_PREPARATION,
        defaults=f"{HUMO_SETTINGS}, guidance text 5 while t > 980, then text and image 3",
        notes=(HUMO_SILENT,),
    ),
    ForeignModel(
        name="HuMo-1.7B",
        summary="references as clean latents in the place of the last frames, audio attention in every block",
        base_model="Wan2.1 1.3B with audio attention",
        licence="Apache-2.0",
        reference_preparation=HUMO_PREPARATION,
        defaults=f"{HUMO_SETTINGS}, guidance text 7.5, image 4",
        notes=(HUMO_SILENT,),
    ),
    ForeignModel(
        name="SkyReels-V3",
        aliases=("SkyReels-V3-R2V-14B",),
        method="skyreels-v3-14b",
    ),
    ForeignModel(
        name="BindWeave",
        method="bindweave-14b",
        notes=(BINDWEAVE_OPENNESS, "the leaderboard's row was submitted by the authors"),
    ),
    ForeignModel(
        name="ConsisID",
        method="consisid",
    ),
    ForeignModel(
        name="Concat-ID",
        summary="identity-preserving text to video; CogVideoX-5B or Wan2.1-1.3B, the name does not say which",
        licence="no licence file",
        max_references=1,
        reference_preparation=ONE_FACE,
    ),
    ForeignModel(
        name="Concat-ID-CogVideoX",
        summary="identity-preserving text to video",
        base_model="CogVideoX-5B",
        licence="no licence file",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="720×480, 49 frames, 8 fps",
    ),
    ForeignModel(
        name="Concat-ID-Wan-AdaLN",
        summary="the reference at the sequence's tail with a modulation of its own",
        base_model="Wan2.1-1.3B",
        licence="no licence file",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="832×480, 81 frames, 50 steps, guidance 5",
    ),
    ForeignModel(
        name="FantasyID",
        summary="identity-preserving text to video with a 3D face",
        base_model="CogVideoX-5B",
        licence="code Apache-2.0",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="49 frames, 8 fps, 50 steps, guidance 6",
    ),
    ForeignModel(
        name="EchoVideo",
        summary="identity-preserving text to video",
        base_model="CogVideoX-5B",
        licence="code Apache-2.0, weights CC BY-NC",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="848×480, 49 frames, 16 fps, 50 steps, guidance 6",
    ),
    ForeignModel(
        name="VideoMaker",
        summary="identity-preserving text to video",
        base_model="Stable Diffusion 1.5 with AnimateDiff",
        licence="Tencent's, not for the EU",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="512×512, 16 frames, 30 steps, guidance 8",
    ),
    ForeignModel(
        name="ID-Animator",
        summary="identity-preserving text to video",
        base_model="Stable Diffusion 1.5 with AnimateDiff",
        licence="Apache-2.0 (the hub's tag)",
        max_references=1,
        reference_preparation=ONE_FACE,
        defaults="512×512, 16 frames, 30 steps, guidance 8, adapter scale 0.8",
    ),
)


def foreign_model(name: str) -> ForeignModel | None:
    """The model of that name or alias, without case and punctuation, or None.

    Where that leaves several (HuMo-17B, HuMo-1.7B), the one whose numbers are parted as in `name`.
    """
    same = [model for model in FOREIGN_MODELS if plain_name(name) in map(plain_name, _spellings(model))]
    parted = [model for model in same if _parted_name(name) in map(_parted_name, _spellings(model))]
    return next(iter(parted or same), None)


def _spellings(model: ForeignModel) -> tuple[str, ...]:
    return (model.name, *model.aliases)


def _parted_name(name: str) -> str:
    """A name without case and punctuation, but with a point for what stands between two digits."""
    pointed = re.sub(r"(?<=[0-9])[^a-z0-9]+(?=[0-9])", ".", name.lower())
    return re.sub(r"[^a-z0-9.]|(?<![0-9])\.|\.(?![0-9])", "", pointed)


def method_name(name: str) -> str:
    """The name that an imported run goes by: a known model's own, else as given. Raises UserError."""
    known = foreign_model(name)
    return known.name if known is not None else checked_name(name, "--method")


def imported_card(name: str, measured: Measured, file: Path | None = None) -> MethodCard:
    """The card of imported videos: what is known of the model, what `file` says, and what was measured.

    `file` is JSON with fields of a method card. A size, length or rate that it states is replaced by the
    measured one, and a contradiction is said. Raises UserError for a file that is no card.
    """
    known = foreign_model(name)
    card = known.card if known is not None else _unknown_card(name)
    # Whoever made the videos may have rewritten the prompts, or changed the defaults.
    fields_of = card.model_dump(mode="json") | {"prompt_set": UNKNOWN, "settings": UNKNOWN}
    if file is not None:
        given = read_json(file)
        if not isinstance(given, dict):
            raise UserError(f"{file}: expected an object with fields of a method card")
        fields_of |= given
    fields_of["name"] = card.name
    found = {field: getattr(measured, field) for field in MEASURED_FIELDS}
    contradictions = [
        f"the card said {field} {one_line(json.dumps(fields_of[field]), 40)}, the videos have {value:g}"
        for field, value in found.items()
        if fields_of[field] is not None and fields_of[field] != value
    ]
    checked = _validated({**fields_of, **found}, file)
    deviations = (*checked.deviations, *contradictions, *measured.remarks)
    return checked.model_copy(update={"deviations": deviations})


def _validated(content: dict[str, Any], file: Path | None) -> MethodCard:
    from pydantic import ValidationError

    try:
        return MethodCard.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file} is no method card: {first_fault(error)}") from None


def _unknown_card(name: str) -> MethodCard:
    """The bare card of a name that is not in the list, with the facts of a registered method of that name."""
    bare = MethodCard(name=name, summary="imported videos; how they were made is not known here")
    same = [found for found in methods.names() if plain_name(found) == plain_name(name)]
    if not same:
        return bare
    method_class = methods.get(same[0])
    if any(f.default is MISSING and f.default_factory is MISSING for f in fields(method_class.Options)):
        # Without its options it has no card.
        return bare
    return with_model_facts(bare, method_class().card())
