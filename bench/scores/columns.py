"""The seven components of OpenS2V-Eval: files, keys, ranges, and which samples they apply to.

What a protocol decides (clips, weights) stands in `protocol.py`.

Source: `eval/` of PKU-YuanGroup/OpenS2V-Nexus at v1.1 (commit 210eb08): the file and key each script writes,
and the inclusion rules of get_facesim.py and get_nexusscore.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refbench.bench.sample import Sample

# FaceSim scores only videos whose file name holds one of these words.
FACESIM_CATEGORIES = ("singlehuman", "singleface", "faceobj", "humanobj")
CATEGORIES_WITHOUT_FACESIM = ("singleobj", "multiobject", "multiface", "multihuman")
# NexusScore leaves out references with these exact labels in samples whose id holds "face".
NEXUS_FACE_LABELS = ("Man", "Woman")

# By metric, the reason of a video in which nothing of the references was found. NexusScore: the official
# script divides by zero there. subject-confusion: the presence of the references is then 0.
NOTHING_FOUND = {
    "nexusscore": "the detector found no reference in any frame",
    "subject-confusion": "none of the references was found in any frame",
}


def facesim_not_applicable(sample: Sample) -> str | None:
    """Why FaceSim does not apply to a sample, or None.

    Official samples: the category decides, and a reference from a person folder must be there. A suite's
    sample of another category counts when exactly one of its references is of kind `person` (with several the
    protocol's "largest face" would compare strangers).
    """
    if sample.category in CATEGORIES_WITHOUT_FACESIM:
        return f"FaceSim leaves out {sample.category}"
    people = [reference for reference in sample.references if reference.kind == "person"]
    if not people:
        return "no reference shows a person"
    if any(word in sample.category for word in FACESIM_CATEGORIES) or len(people) == 1:
        return None
    return "FaceSim compares one person; this sample has several"


def nexus_not_applicable(sample: Sample) -> str | None:
    """Why NexusScore does not apply to a sample, or None: only faces, which NexusScore leaves to FaceSim."""
    if not sample.references:
        return "no references"
    in_face_sample = "face" in sample.category
    if all(in_face_sample and reference.label in NEXUS_FACE_LABELS for reference in sample.references):
        return "every reference is a face, which NexusScore leaves out"
    return None


def category_not_applicable(component: Component, category: str) -> str | None:
    """Why a component can never apply to an official category, where only the id is known; or None."""
    if component.name == "facesim" and category in CATEGORIES_WITHOUT_FACESIM:
        return f"FaceSim leaves out {category}"
    if component.name == "nexusscore" and category == "singleface":
        return "every reference is a face, which NexusScore leaves out"
    return None


def always_applies(sample: Sample) -> str | None:
    """The rule of the components that every sample has."""
    return None


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component: `name` in code and files, `label` in print (`short` where there is no room for it),
    `metric` whose records fill it.

    `official_files` and `official_key` say where the official scripts write it (several files: one per judge
    run; an empty key: the bare value). `worst` and `best` are the raw scores that become 0 and 1.
    `not_applicable` says why a sample has no such score, or None, from the sample alone. `licence_note` is
    said where a TotalScore that holds the component is printed.
    """

    name: str
    label: str
    short: str
    metric: str
    official_files: tuple[str, ...]
    official_key: str
    worst: float
    best: float
    meaning: str
    not_applicable: Callable[[Sample], str | None] = always_applies
    licence_note: str = ""


COMPONENTS = {
    component.name: component
    for component in (
        Component(
            name="aesthetics",
            label="Aesthetics",
            short="Aes",
            metric="aesthetics",
            official_files=("aesthetic_score.json",),
            official_key="aes_score",
            worst=4.0,
            best=7.0,
            meaning="how pleasing the frames look (LAION predictor on CLIP ViT-L/14)",
        ),
        Component(
            name="motion_smoothness",
            label="MotionSmoothness",
            short="MSm",
            metric="motion-smoothness",
            official_files=("motion_smoothness.json",),
            official_key="motion_smoothness",
            worst=0.0,
            best=1.0,
            meaning="share of 3-frame windows without a quality artefact (OneAlign)",
        ),
        Component(
            name="motion_amplitude",
            label="MotionAmplitude",
            short="MAm",
            metric="motion-amplitude",
            official_files=("motion_amplitude.json",),
            official_key="motion_fb",
            worst=0.0,
            best=1.0,
            meaning="size of the mean signed optical flow (Farneback)",
        ),
        Component(
            name="facesim",
            label="FaceSim",
            short="Face",
            metric="facesim",
            official_files=("facesim.json",),
            official_key="cur_score",
            worst=0.0,
            best=1.0,
            meaning="likeness of the largest face to the reference (CurricularFace)",
            not_applicable=facesim_not_applicable,
            licence_note=(
                "FaceSim rests on InsightFace's model packs, licensed for non-commercial research only"
            ),
        ),
        Component(
            name="gmescore",
            label="GmeScore",
            short="Gme",
            metric="gmescore",
            official_files=("gmescore.json",),
            official_key="gme_score",
            worst=0.0,
            best=1.0,
            meaning="agreement of prompt and frames (GME-Qwen2-VL-7B)",
        ),
        Component(
            name="nexusscore",
            label="NexusScore",
            short="Nexus",
            metric="nexusscore",
            official_files=("nexusscore.json",),
            official_key="nexus_score",
            worst=0.0,
            best=0.05,
            meaning="likeness of detected subjects to their references (YOLO-World and GME)",
            not_applicable=nexus_not_applicable,
        ),
        Component(
            name="naturalscore",
            label="NaturalScore",
            short="Nat",
            metric="naturalscore",
            official_files=("naturalscore_1.json", "naturalscore_2.json", "naturalscore_3.json"),
            official_key="",
            worst=1.0,
            best=5.0,
            meaning="how natural a vision-language judge finds the video (1 to 5)",
        ),
    )
}
