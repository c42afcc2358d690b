"""The baselines as methods: found by name, light to import, honest cards; and finished videos."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refbench.baselines.external.command import CommandOptions
from refbench.baselines.external.videos import VideosOptions
from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError
from refbench.bench.method import Generator
from refbench.bench.options import build_options
from refbench.bench.registry import methods
from refbench.bench.sample import Sample

NAMES = ("command", "noise", "pan-reference", "static-reference", "videos")


def sample(sample_id: str = "singleobj_1") -> Sample:
    return Sample(id=sample_id, category="singleobj", prompt="a cup", references=())


def videos_generator(folder: Path) -> Generator:
    method_class = methods.get("videos")
    options = build_options(method_class.Options, {"folder": str(folder)}, "videos")
    return method_class(options).load(Environment())


def test_every_baseline_is_found_by_name() -> None:
    assert set(NAMES) <= set(methods.names())


def test_importing_the_baselines_loads_no_heavy_library(tmp_path: Path) -> None:
    modules = (
        *(f"controls.{name}" for name in ("canvas", "noise", "pan_reference", "static_reference")),
        *(f"external.{name}" for name in ("command", "videos")),
    )
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module('refbench.baselines.' + name)\n"
        "print([name for name in ('PIL', 'av', 'cv2', 'torch', 'matplotlib') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["noise", "pan-reference", "static-reference"])
def test_a_controls_card_tells_its_options(name: str) -> None:
    method_class = methods.get(name)
    given = {"width": "64", "height": "48", "num_frames": "5", "fps": "8"}
    card = method_class(build_options(method_class.Options, given, name)).card()
    assert (card.name, card.base_model, card.licence) == (name, None, "Apache-2.0")
    assert (card.width, card.height, card.num_frames, card.fps) == (64, 48, 5, 8.0)
    assert card.reference_preparation
    assert card.options["width"] == 64
    assert type(card).model_validate_json(card.model_dump_json()) == card


def test_the_cards_of_foreign_videos_name_where_they_come_from(tmp_path: Path) -> None:
    videos = methods.get("videos")(VideosOptions(folder=tmp_path))
    assert videos.card().options == {"folder": str(tmp_path)}
    command = methods.get("command")(CommandOptions(template="prog {output}"))
    assert command.card().options == {"template": "prog {output}", "timeout_s": 3600.0}


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("noise", {"width": "0"}, "width must be 16 to 8192 pixels, 0 is not"),
        ("noise", {"height": "9000"}, "height"),
        ("noise", {"num_frames": "0"}, "num_frames"),
        ("noise", {"fps": "0"}, "fps"),
        ("noise", {"fps": "nan"}, "fps"),
        ("noise", {"cell_px": "0"}, "cell_px"),
        ("noise", {"cell_px": "481"}, "cell_px"),
        ("noise", {"cell": "8"}, "has no option 'cell'"),
        ("noise", {"width": "wide"}, "width"),
        ("static-reference", {"cell_px": "8"}, "has no option"),
        ("pan-reference", {"zoom": "0.5"}, "zoom"),
        ("pan-reference", {"travel": "1.5"}, "travel"),
        ("pan-reference", {"num_frames": "-1"}, "num_frames"),
        ("videos", {}, "needs --set folder=…"),
        ("command", {}, "needs --set template=…"),
        ("command", {"template": ""}, "the template is empty"),
        ("command", {"template": "prog"}, "needs {output}"),
        ("command", {"template": "prog {output} 'half"}, "cannot be split: No closing quotation"),
        ("command", {"template": "prog {output} {promt}"}, "unknown placeholder {promt}; known: {prompt}"),
        ("command", {"template": "prog {output} {}"}, "unknown placeholder {}"),
        ("command", {"template": "{output}"}, "must begin with a program"),
        ("command", {"template": "prog {output}\0"}, "NUL"),
        ("command", {"template": "prog {output}", "timeout_s": "0"}, "timeout_s"),
        ("command", {"template": "prog {output}", "timeout_s": "inf"}, "timeout_s"),
        ("command", {"template": "prog {output}", "timeout_s": "nan"}, "timeout_s"),
    ],
)
def test_a_wrong_option_is_one_line(name: str, given: dict[str, str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        build_options(methods.get(name).Options, given, name)
    text = str(caught.value)
    assert text.startswith(name)
    assert told in text
    assert "\n" not in text


def test_videos_are_taken_from_the_flat_folder_and_from_seed_folders(tmp_path: Path) -> None:
    for name in ("singleobj_1.mp4", "seed-3/singleobj_1.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"video")
    generator = videos_generator(tmp_path)
    assert generator.generate(sample(), 0) == tmp_path / "singleobj_1.mp4"
    assert generator.generate(sample(), 3) == tmp_path / "seed-3" / "singleobj_1.mp4"


def test_a_seed_folder_alone_counts_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "singleobj_1.mp4").write_bytes(b"video")
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(SampleError, match=r"seed-0 has no singleobj_1\.mp4"):
        videos_generator(tmp_path).generate(sample(), 0)


def test_missing_videos_say_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "singleobj_1.mp4").write_bytes(b"video")
    (tmp_path / "singleobj_3.mp4").mkdir()
    generator = videos_generator(tmp_path)
    with pytest.raises(SampleError, match=r"has no singleobj_2\.mp4"):
        generator.generate(sample("singleobj_2"), 0)
    with pytest.raises(SampleError, match=r"has no singleobj_3\.mp4"):
        generator.generate(sample("singleobj_3"), 0)
    with pytest.raises(SampleError, match="has no folder seed-1; files directly in it are seed 0 only"):
        generator.generate(sample(), 1)


def test_a_missing_folder_of_videos_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="does not exist"):
            videos_generator(folder)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "singleobj_1.mp4").write_bytes(b"video")
    found = videos_generator(Path("~/clips")).generate(sample(), 0)
    assert isinstance(found, Path) and found.read_bytes() == b"video"
