"""The text that a judge gets with a video's frames.

Ours, in our own words, asks for the five levels and the aspects that the official instruction of OpenS2V-Eval
(`eval/get_naturalscore.py`, OpenS2V-Nexus v1.1, commit 210eb08) asks for. Scores under another instruction
are not the official ones: a user's copy of the official text can be given as a file and is known by its
digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_bytes

OFFICIAL_SHA256 = "de20a5c3ca22397ca8f667b5e3d2dad7b0dd00fafac838cf3ee3fff45a99aa33"
LARGEST_FILE_BYTES = 128 * 2**10

OURS = """\
You are shown frames of one short video, in order of time and evenly spaced. The video was made by a
generative model that was given pictures of one or more subjects (people, animals, things, a place) and a
sentence to act out. Judge one thing only: how natural the video is, that is, how easily a careful viewer
would take it for footage that was really filmed. Do not judge how beautiful it is, what it is about, or
whether you like it.

Look through all frames before you decide, and consider:

1. Physical plausibility. Do bodies, objects, liquids, cloth and light behave as in the real world? Do things
   touch, carry, hide and shadow one another properly, without floating, sinking in, or passing through?
2. Consistency over time. Does every subject keep its identity, shape, size, colours and number of parts from
   frame to frame? Does the background stay the same place?
3. Freedom from artefacts. Are faces, hands, limbs and lettering well formed? Is the picture free of melting,
   smearing, flicker, doubled contours and unexplained blur?
4. Belonging to the scene. Do subjects share the scene's light, perspective, scale, focus and grain, or do
   they look cut out and pasted in, with hard edges, a frozen pose, or the same picture in every frame?
5. Motion. Is there movement where the scene calls for it, and does it flow as a person, animal or camera
   would move, without jumps or jitter? A still picture is not natural video.
6. Common sense. Do the actions, and the places of things relative to each other, make sense together?

Then choose one level:

5 - Entirely natural: nothing gives the video away; it could be real footage.
4 - Largely natural: small flaws that show only on close inspection.
3 - Half natural: flaws that most viewers notice, though the scene as a whole holds together.
2 - Largely unnatural: plain errors in several aspects or frames; clearly artificial.
1 - Entirely unnatural: broken, incoherent, or a pasted picture throughout.

Between two levels take the lower one. A serious fault in any one aspect allows at most a 3.

Answer with that one number and nothing else: no words, no punctuation, no explanation.
"""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A judge's text, its SHA-256 as UTF-8, and whose it is."""

    text: str
    digest: str
    label: str

    @property
    def is_official(self) -> bool:
        """Whether it is, byte for byte, the text of the official script."""
        return self.digest == OFFICIAL_SHA256


def read_instruction(path: Path | None) -> Instruction:
    """The text of a UTF-8 file, or ours without one.

    A copy of the official text that only lost or gained line ends around it is restored. Raises UserError for
    what is no regular file, cannot be read, is empty, or is larger than 128 KiB.
    """
    if path is None:
        return Instruction(text=OURS, digest=_digest(OURS), label="instruction of refbench")
    try:
        text = read_bytes(path, LARGEST_FILE_BYTES).decode("utf-8-sig")
        # Line ends as in any text file: a copy from another system is the same text.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except UserError as error:
        raise UserError(f"the instruction {error}") from None
    except ValueError as error:
        raise UserError(f"the instruction {path} cannot be read: {one_line(error, 120)}") from None
    if not text.strip():
        raise UserError(f"the instruction {path} is empty")
    for candidate in (text, f"\n{text.strip()}\n"):
        if _digest(candidate) == OFFICIAL_SHA256:
            return Instruction(text=candidate, digest=OFFICIAL_SHA256, label="official instruction")
    return Instruction(text=text, digest=_digest(text), label=f"instruction from {path.name}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
