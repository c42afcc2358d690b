"""A finished video that a method returns is looked at before it takes its place in the run folder."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from refbench.bench.runner.generate import Generated, generate

READERS = Path(__file__).parents[2] / "files/readers"
SAMPLE = "singleobj_1"

PLUGIN = '''
"""A method that returns a finished file, and whose card says how large its videos are."""
from dataclasses import dataclass
from pathlib import Path

from refbench.bench.method import Generator, Method, MethodCard
from refbench.bench.registry import methods


@dataclass(frozen=True, kw_only=True)
class PromisingOptions:
    file: Path
    width: int = 64
    height: int = 48
    num_frames: int = 6


@methods.register
class Promising(Method):
    name = "dummy-promising"
    summary = "finished files of a promised size"
    Options = PromisingOptions

    def card(self):
        o = self.options
        sizes = {"width": o.width, "height": o.height, "num_frames": o.num_frames}
        return MethodCard(name=self.name, summary=self.summary, options=self.option_values(), **sizes)

    def load(self, environment):
        return PromisingGenerator(self.options.file)


class PromisingGenerator(Generator):
    def __init__(self, file):
        self.file = file

    def generate(self, sample, seed, on_step=None):
        return self.file
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all tests: a copy of it would register the method twice."""
    file = tmp_path_factory.mktemp("plugin") / "promising_plugin.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture
def make(dataset: Path, tmp_path: Path, plugin: Path) -> Callable[..., Generated]:
    """make(method, **options) generates the first sample."""

    def made(method: str, **options: Any) -> Generated:
        plugins = [plugin] if method == "dummy-promising" else []
        out = tmp_path / "runs"
        return generate(method, dataset=dataset, options=options, limit=1, plugins=plugins, out=out)

    return made


def contents(done: Generated) -> list[bytes]:
    """Every mp4 of the run."""
    return [file.read_bytes() for file in sorted(done.folder.rglob("*.mp4"))]


@pytest.mark.parametrize(
    ("promise", "reason"),
    [
        ({}, None),
        # What 4:2:0 cannot hold is padded by one.
        ({"width": 63, "height": 47}, None),
        ({"width": 832}, "the finished video has 64 columns, and not 832 as the method says"),
        ({"width": 62}, "the finished video has 64 columns, and not 62 as the method says"),
        ({"height": 49}, "the finished video has 48 rows, and not 49 as the method says"),
        ({"num_frames": 5}, "the finished video has 6 frames, and not 5 as the method says"),
        ({"num_frames": 81}, "the finished video has 6 frames, and not 81 as the method says"),
    ],
)
def test_a_finished_video_is_what_its_card_promises(
    make: Callable[..., Generated],
    make_clip: Callable[..., Path],
    promise: dict[str, int],
    reason: str | None,
) -> None:
    clip = make_clip(width=64, height=48, frames=6)
    done = make("dummy-promising", file=clip, **promise)
    assert dict(done.failures) == ({} if reason is None else {(SAMPLE, 0): reason})
    assert contents(done) == ([clip.read_bytes()] if reason is None else [])


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _half_with_a_header(content: bytes) -> bytes:
    """Half of an mp4 that opens and whose first frames can be decoded."""
    packed = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"}
    with av.open(io.BytesIO(content)) as source, av.open(packed, "w", "mp4", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return packed.getvalue()[: len(packed.getvalue()) * 2 // 3]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: b"root:x:0:0:root:/root:/bin/bash\n", "the video cannot be decoded"),
        (lambda content: b"", "is empty"),
        (_half, "the video cannot be decoded"),
        (_half_with_a_header, "the video cannot be decoded"),
        (lambda content: (READERS / "cut.mkv").read_bytes(), "is not whole: the frames end at 0.83 s of the"),
    ],
    ids=["text", "empty", "half", "half that opens", "cut Matroska"],
)
@pytest.mark.parametrize("method", ["videos", "command"])
def test_what_is_no_finished_video_is_a_failed_sample(
    make: Callable[..., Generated],
    make_clip: Callable[..., Path],
    tmp_path: Path,
    method: str,
    spoil: Callable[[bytes], bytes],
    reason: str,
) -> None:
    """A program that ends well, or a folder of videos, is believed for no more than what can be decoded."""
    whole = make_clip(f"whole/{SAMPLE}.mp4", frames=20, height=96, width=128).read_bytes()
    given = tmp_path / f"given/{SAMPLE}.mp4"
    given.parent.mkdir()
    given.write_bytes(spoil(whole))
    options = {"folder": given.parent} if method == "videos" else {"template": f"cp {given} {{output}}"}
    done = make(method, **options)
    assert (done.made, list(done.failures)) == (0, [(SAMPLE, 0)])
    assert reason in done.failures[SAMPLE, 0]
    assert (done.folder / f"seed-0/{SAMPLE}.error.txt").read_text() == done.failures[SAMPLE, 0] + "\n"
    assert [file.name for file in (done.folder / "seed-0").iterdir()] == [f"{SAMPLE}.error.txt"]
    # It is tried again, and what is whole is taken.
    given.write_bytes(whole)
    again = make(method, **options)
    assert (again.made, dict(again.failures), contents(again)) == (1, {}, [whole])
    assert not (done.folder / f"seed-0/{SAMPLE}.error.txt").exists()


def test_a_finished_video_is_a_regular_file(make: Callable[..., Generated], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    done = make("dummy-promising", file=tmp_path / "pipe.mp4")
    assert done.failures[SAMPLE, 0].endswith("pipe.mp4 is a named pipe, not a file")
