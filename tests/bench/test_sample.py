"""References: what is opened at all, within which bounds, and what becomes of deep grey."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refbench.bench.errors import SampleError
from refbench.bench.sample import PICTURE_FORMATS, Reference

HOSTILE = Path(__file__).parents[1] / "files/hostile"


@pytest.fixture
def reference(tmp_path: Path) -> Callable[[str], Reference]:
    """A reference to a file of the temporary folder."""
    return lambda name: Reference(path=name, root=tmp_path, label="Cup", kind="object")


def hostile(name: str) -> Reference:
    return Reference(path=name, root=HOSTILE, label="Cup", kind="object")


RAMP_16 = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
RAMP_8 = np.rint(RAMP_16 / 257).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "values", "mode"),
    [
        ("grey.png", RAMP_16, "I;16"),
        ("grey.tif", RAMP_16, "I;16"),
        ("big_endian.tif", RAMP_16.astype(">u2"), "I;16B"),
        ("wide.tif", RAMP_16.astype(np.int32), "I"),
        ("wide_8.tif", RAMP_8.astype(np.int32), "I"),
        ("unit.tif", (RAMP_16 / 65535).astype(np.float32), "F"),
        ("float_8.tif", RAMP_8.astype(np.float32), "F"),
        ("float_16.tif", RAMP_16.astype(np.float32), "F"),
    ],
)
def test_deep_grey_is_scaled_for_generators_and_cut_for_metrics(
    tmp_path: Path, reference: Callable[[str], Reference], name: str, values: np.ndarray, mode: str
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode
        official = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(reference(name).open_plain_rgb()), official)
    scaled = np.asarray(reference(name).open_on_white())
    assert np.array_equal(scaled, np.repeat(RAMP_8[..., None], 3, axis=2))
    assert "cut at 255 as the official scripts do" in str(reference(name).remark)


def test_a_clear_value_of_sixteen_bits_lies_on_white(
    tmp_path: Path, reference: Callable[[str], Reference]
) -> None:
    Image.fromarray(RAMP_16).save(tmp_path / "clear.png", transparency=int(RAMP_16[0, 3]))
    expected = RAMP_8.copy()
    expected[0, 3] = 255
    assert np.array_equal(np.asarray(reference("clear.png").open_on_white())[..., 0], expected)


@pytest.mark.parametrize("values", [[-3.0, 9.0], [0.0, np.nan], [0.0, 1e9]])
def test_grey_whose_range_cannot_be_told_is_refused_by_generators(
    tmp_path: Path, reference: Callable[[str], Reference], values: list[float]
) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(SampleError, match="save it with 8 or 16 bits"):
        reference("odd.tif").open_on_white()
    assert reference("odd.tif").open_plain_rgb().mode == "RGB"


def test_an_ordinary_reference_has_no_remark(tmp_path: Path, reference: Callable[[str], Reference]) -> None:
    Image.fromarray(RAMP_8).save(tmp_path / "grey.png")
    assert reference("grey.png").remark is None
    assert reference("absent.png").remark is None


@pytest.mark.parametrize("name", PICTURE_FORMATS)
def test_the_named_formats_are_read(tmp_path: Path, reference: Callable[[str], Reference], name: str) -> None:
    Image.new("RGB", (8, 6), (200, 30, 40)).save(tmp_path / "picture", name)
    assert reference("picture").open_plain_rgb().size == (8, 6)
    assert reference("picture").open_on_white().size == (8, 6)


def test_no_other_program_is_started_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would give an EPS file to Ghostscript, whatever its name."""
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **_: started.append(arguments))
    monkeypatch.setattr(subprocess, "check_call", lambda *arguments, **_: started.append(arguments))
    for look in (hostile("eps-as-png.png").open_plain_rgb, hostile("eps-as-png.png").open_on_white):
        with pytest.raises(SampleError, match=r"cannot be read: it is damaged, or none of PNG, JPEG, WEBP"):
            look()
    assert not started


def test_a_small_file_of_a_huge_picture_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: object, **_: object) -> None:
        raise AssertionError("the header alone must tell")

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", opened)
        with pytest.raises(SampleError, match="more than 67 million pixels; make it smaller"):
            hostile("webp-34-bytes.png").open_plain_rgb()


@pytest.mark.parametrize("side", [9000, 10_000, 20_000])
def test_no_warning_of_pillow_reaches_the_terminal(
    tmp_path: Path, reference: Callable[[str], Reference], side: int
) -> None:
    """It warns of 89 million pixels and raises at 179; we refuse at 67."""
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look in (reference("huge.png").open_plain_rgb, reference("huge.png").open_on_white):
            with pytest.raises(SampleError, match="more than 67 million pixels"):
                look()


def test_only_regular_files_of_a_pictures_size_are_opened(
    tmp_path: Path, reference: Callable[[str], Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of these may be waited for, read to its end, or hashed."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(200 * 10**9)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("it must not be hashed"))
    for name, message in (
        ("pipe.png", "reference image pipe.png is a named pipe, not a file"),
        ("zero.png", "reference image zero.png is a device, not a file"),
        ("folder.png", "reference image folder.png is a folder, not a file"),
        ("sparse.png", "reference image sparse.png is larger than 512 MiB"),
        ("absent.png", "reference image absent.png is missing"),
    ):
        for look in (reference(name).open_plain_rgb, reference(name).open_on_white):
            with pytest.raises(SampleError, match=message):
                look()
        assert reference(name).content_digest() == "missing"
        assert reference(name).remark is None


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited by setrlimit")
def test_hostile_files_are_refused_within_a_gigabyte_of_address_space(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import av, numpy, PIL.Image, PIL.WebPImagePlugin\n"
        "from refbench.bench.errors import SampleError\n"
        "from refbench.bench.sample import Reference\n"
        "from refbench.bench.video import ALL_FRAMES, Video\n"
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))\n"
        "folder = Path(sys.argv[1])\n"
        "video = Video(folder / '8000x8000.mp4')\n"
        "looks = [lambda: list(video.frames(ALL_FRAMES)), lambda: video.probe, lambda: video.remarks]\n"
        "for name in ('eps-as-png.png', 'webp-34-bytes.png'):\n"
        "    one = Reference(path=name, root=folder, label='', kind='object')\n"
        "    looks += [one.open_plain_rgb, one.open_on_white]\n"
        "for look in looks:\n"
        "    try:\n"
        "        look()\n"
        "    except SampleError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-X", "utf8", "-c", code, str(HOSTILE)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["frames of 8000×8000 pixels are too large; scale the video down"] * 3
    assert ["cannot be read: it is damaged" in line for line in lines[3:5]] == [True, True]
    assert ["more than 67 million pixels" in line for line in lines[5:]] == [True, True]
    assert done.stderr == ""
