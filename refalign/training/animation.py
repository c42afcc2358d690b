"""A small moving picture for TensorBoard, which shows animated GIFs among its images.

torch's `SummaryWriter.add_video` makes one too, but only with moviepy.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from refbench.bench.video import ALL_FRAMES, Video

LONGEST_SIDE_PX = 320


def add_animation(writer: Any, name: str, file: Path, step: int) -> None:
    """Show a video under `name` at a step of torch's SummaryWriter. Raises VideoError for a damaged file."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    encoded, (width, height) = animated_gif(file)
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=encoded)
    summary = Summary(value=[Summary.Value(tag=name, image=image)])
    writer._get_file_writer().add_summary(summary, step)


def animated_gif(file: Path) -> tuple[bytes, tuple[int, int]]:
    """A video as an endless GIF of at most 320 pixels a side, and its width and height.

    A GIF counts hundredths of a second, so its rate is the nearest of those. Raises VideoError.
    """
    video = Video(file)
    pictures = []
    for frame_HWC in video.frames(ALL_FRAMES):
        picture = Image.fromarray(frame_HWC)
        picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
        pictures.append(picture)
    buffer = io.BytesIO()
    hundredths = max(round(100 / video.probe.fps), 1)
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=10 * hundredths, loop=0
    )
    return buffer.getvalue(), pictures[0].size
