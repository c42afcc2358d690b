"""copy-paste on three references against SIFT on the same frames at full size, both on one thread.

Claim: at most 1 s for 32 frames of 832×480 without decoding. Uses the real video and crops below
$REFBENCH_SHARED, which must be set.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
from machine import alternating, describe

from refbench.bench.sample import Reference
from refbench.bench.video import Video, uniform_frames
from refbench.metrics.copy_paste import FRAMES, copied_shares, reference_features

RUNS = 5
REFERENCES = (
    "humanobj/human/crop_woman/celebrity/4.jpg",
    "humanobj/thing/clothes/2.jpg",
    "humanobj/environment/special/14.jpg",
)


def main() -> None:
    folder = Path(os.environ["REFBENCH_SHARED"]) / "data/opens2v_eval"
    references = [
        Reference(path=path, root=folder / "Images", label="", kind="object") for path in REFERENCES
    ]
    frames = list(Video(folder / "videos/faceobj_14.mp4").frames(uniform_frames(FRAMES)))
    cv2.setNumThreads(1)

    def ours() -> None:
        measured = [found for one in references if (found := reference_features(one)) is not None]
        for frame in frames:
            copied_shares(frame, measured)

    def full_size() -> None:
        for frame in frames:
            cv2.SIFT.create().detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None)

    print(describe("opencv-python", "numpy"))
    seconds, bare, ratio = alternating(ours, full_size, RUNS)
    print(
        f"{seconds:.2f} s (claim ≤ 1.00) against {bare:.2f} s of SIFT at full size, ratio {ratio:.2f} "
        f"(median of {RUNS})"
    )


if __name__ == "__main__":
    main()
