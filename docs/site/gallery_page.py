"""The gallery, made at each build: pictures of the drawn world, of control methods' videos and their report.

Everything is as small as it gets: 64×64 pixels, nine frames, one component (the one without weights).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

# The first two samples of each of the eight categories.
SAMPLES = 16
SIZE = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0}
METHODS: dict[str, dict[str, float]] = {
    "world-truth": {},
    "static-reference": SIZE,
    "pan-reference": SIZE,
    "noise": SIZE,
}
SHOWN_FRAMES = 3
# How many screen pixels a pixel of a frame gets.
ENLARGED = 2
GAP_PX = 4
PLOTS = {
    "total": (
        "TotalScore with intervals",
        "95 % bootstrap intervals. Where no method has a TotalScore, as here, the components' means.",
    ),
    "radar": (
        "Radar",
        "The seven components of each method. What was not scored is named, never drawn as 0.",
    ),
    "categories": ("Heat map", "Each component by category of samples."),
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What the gallery shows of one sample (prompt, references, frames by method) and of the report (plots by
    kind), pictures as PNG.
    """

    prompt: str
    references: bytes
    frames: dict[str, bytes]
    plots: dict[str, str | bytes]


@cache
def gallery_page() -> dict[str, str | bytes]:
    """`gallery.md` and its pictures."""
    drawn = _drawn()
    pictures: dict[str, str | bytes] = {"references.png": drawn.references}
    pictures |= {f"{name}.png": png for name, png in drawn.frames.items()}
    pictures |= {f"plot-{name}.png": png for name, png in drawn.plots.items()}
    methods = "\n".join(
        f"| `{name}` | ![First, middle and last frame of {name}](gallery/{name}.png) |"
        for name in drawn.frames
    )
    plots = "\n".join(
        f"### {title}\n\n{text}\n\n![Plot: {text}](gallery/plot-{name}.png){{ .picture }}\n"
        for name, (title, text) in PLOTS.items()
    )
    text = f"""\
# Gallery

All pictures are made by the project while this site is built: the [drawn world](mini.md), control methods and
the one component that needs no weights. They show what things look like; their figures say nothing about real
videos.

## A sample: references and prompt

The references of one sample of the track `mini`, whose prompt is: “{drawn.prompt}”

<div class="picture" markdown>
![The references of the sample](gallery/references.png)
</div>

## Its video by four methods

First, middle and last frame. `world-truth` is the renderer itself, the other three are
[controls](controls.md): rows that say what a score is worth.

| method | frames |
|---|---|
{methods}

## Their report

The plots that `refbench report` writes, as PNG and PDF, of these methods on {SAMPLES} samples.

<div class="picture" markdown>

{plots}
</div>

The page around them is `report.html`; `refbench demo --quick` makes one in half a minute, without torch.
"""
    return {"gallery.md": text, **{f"gallery/{name}": png for name, png in pictures.items()}}


def _drawn() -> Drawn:
    import refbench
    from refbench.bench.console import VIEW, View
    from refbench.bench.video import Video, uniform_frames
    from refbench.mini.benchmark import mini_samples, write_mini_dataset

    VIEW.set(View(quiet=True))
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_mini_dataset(folder / "dataset")
        track = refbench.load_track("mini", folder / "dataset")
        track = replace(track, samples=track.samples[:SAMPLES])
        shown = next(sample for sample in track.samples if len(sample.references) > 1)
        frames = {}
        for name, options in METHODS.items():
            made = refbench.generate(name, track=track, options=options, out=folder / "runs")
            refbench.evaluate(made.folder, track=track, metrics=["motion-amplitude"], out=folder / "results")
            video = Video(next(made.folder.rglob(f"{shown.id}.mp4")))
            frames[name] = _strip(list(video.frames(uniform_frames(SHOWN_FRAMES))))
        report = refbench.report(folder / "results").contents()
    references = [reference.picture() for reference in mini_samples()[shown.id].references]
    return Drawn(
        prompt=shown.prompt,
        references=_strip(references),
        frames=frames,
        plots={name: report[f"plots/mini.{name}.png"] for name in PLOTS},
    )


def _strip(pictures_HWC: list[np.ndarray]) -> bytes:
    """Pictures beside each other on white, enlarged, as PNG."""
    height = max(len(picture) for picture in pictures_HWC)
    width = sum(picture.shape[1] + GAP_PX for picture in pictures_HWC) - GAP_PX
    canvas_HWC = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for picture in pictures_HWC:
        canvas_HWC[: len(picture), left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP_PX
    buffer = BytesIO()
    size = (width * ENLARGED, height * ENLARGED)
    Image.fromarray(canvas_HWC).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()
