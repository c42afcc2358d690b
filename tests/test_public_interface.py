"""`import refbench`: quick, typed, and what its documentation says."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

import refbench as public
from kit.cli import Run
from refbench import UserError


def test_the_import_is_quick_and_light(tmp_path: Path) -> None:
    """Counted in modules, not in seconds: a machine may be busy."""
    code = "import sys\nbefore = set(sys.modules)\nimport refbench\nprint(len(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert int(done.stdout) < 10


def test_every_public_name_is_there_and_documented() -> None:
    assert set(public.__all__) <= set(dir(public))
    for name in public.__all__:
        assert getattr(public, name).__doc__, name
        assert f"`{name}(" in str(public.__doc__) or name in ("Track", "UserError"), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = public.nothing


def test_the_examples_run() -> None:
    assert doctest.testmod(public).failed == 0


def test_from_generation_to_a_table(dataset: Path, tmp_path: Path) -> None:
    track = public.load_track("open-domain", dataset)
    small = {"width": 64, "height": 48, "num_frames": 3}
    made = public.generate("noise", track=track, options=small, out=tmp_path / "runs", limit=2)
    assert (made.made, made.kept, made.failures) == (2, 0, {})
    done = public.evaluate(
        made.folder, track=track, metrics=["motion-amplitude"], out=tmp_path / "results", limit=2
    )
    assert [record.value is not None for record in done.records] == [True, True]
    with pytest.raises(UserError, match="did you mean"):
        public.generate("noize", track=track)


def test_one_video_is_scored_alike_by_the_function_and_the_command(
    refbench: Run, videos: Path, dataset: Path
) -> None:
    video = videos / "faceobj_2.mp4"
    picture = next(dataset.rglob("*.png"))
    scores = public.score(video, prompt="a woman", references={"woman": picture})
    assert scores["motion-amplitude"].value is not None
    assert scores["facesim"].value is None
    assert str(scores["facesim"].reason).startswith("missing_weights: ")
    words = ("score", video, "--prompt", "a woman", "--reference", f"woman={picture}")
    printed = json.loads(refbench(*words, "--json").stdout)
    assert list(printed) == list(scores)
    for name, outcome in scores.items():
        assert (printed[name]["value"], printed[name]["reason"]) == (outcome.value, outcome.reason)
    table = refbench(*words, "--metrics", "motion-amplitude").stdout
    assert f"{scores['motion-amplitude'].value:.4f}" in table


def test_what_does_not_apply_to_a_video_says_why(videos: Path) -> None:
    scores = public.score(videos / "faceobj_2.mp4", prompt="an empty room", metrics="facesim,nexusscore")
    assert {name: str(one.reason).partition(":")[0] for name, one in scores.items()} == {
        "facesim": "not_applicable",
        "nexusscore": "not_applicable",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.mp4", "--prompt", "p"), "the video nowhere.mp4 does not exist"),
        (("VIDEO", "--prompt", "p", "--reference", "woman"), "--reference takes LABEL=FILE"),
        (("VIDEO", "--prompt", "p", "--reference", "woman=no.png"), "the reference no.png (woman) does not"),
        (("VIDEO", "--prompt", "p", "--metrics", "facesin"), "did you mean facesim"),
    ],
)
def test_bad_input_is_one_line(refbench: Run, videos: Path, words: tuple[str, ...], message: str) -> None:
    given = [str(videos / "faceobj_2.mp4") if word == "VIDEO" else word for word in words]
    done = refbench("score", *given, expect=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
