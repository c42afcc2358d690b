"""Finished videos become runs: copies, measured cards, known models, faults in one line."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from kit.clips import SMALL_IDS
from refbench.baselines.commands import import_videos
from refbench.baselines.external.imported import (
    FOREIGN_MODELS,
    SNAPSHOT,
    foreign_model,
    imported_card,
    method_name,
)
from refbench.bench.dataset import load_track
from refbench.bench.errors import UserError
from refbench.bench.method import MethodCard
from refbench.bench.runs.folder import RunInfo, read_run, scan_videos
from refbench.bench.runs.import_videos import Measured, measure
from refbench.bench.scores.record import plain_name
from refbench.bench.video import Video, VideoError
from refbench.reports.published import published_rows, published_sources

app = typer.Typer(rich_markup_mode=None)
app.command("import-videos")(import_videos)
MEASURED = Measured(width=832, height=480, num_frames=69, fps=15.0, remarks=(), damaged={})


@pytest.fixture
def run(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def invoke(source: Path, method: str = "their-model", *arguments: object, expect: int = 0) -> Result:
        words = [source, "--method", method, "--dataset", dataset, *arguments]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == expect, (result.output, result.exception)
        return result

    return invoke


def complaint(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def info_of(folder: Path) -> tuple[RunInfo, MethodCard]:
    info = read_run(folder / "run.json")
    assert info.card is not None
    return info, info.card


def test_help_teaches_by_an_example() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "refbench import-videos weights/results/Vidu-2.0 --method Vidu-2.0" in text


def test_videos_are_copied_and_measured(run: Callable[..., Result], videos: Path, tmp_path: Path) -> None:
    (videos / "surprise.mp4").write_bytes(b"x")
    (videos / "faceobj_10.mp4").unlink()
    done = run(videos)
    folder = tmp_path / "runs/their-model/open-domain"
    copied = {path.name: path.read_bytes() for path in (folder / "seed-0").iterdir()}
    assert copied == {f"{i}.mp4": (videos / f"{i}.mp4").read_bytes() for i in SMALL_IDS if i != "faceobj_10"}
    assert "5 copied, 0 there already, 0 damaged, 1 of 6 samples without a video" in done.stdout
    assert "left out, no sample of open-domain has this name: surprise.mp4" in done.stderr
    info, card = info_of(folder)
    assert (info.method, info.track, info.variant) == ("their-model", "open-domain", "plain")
    assert (card.width, card.height, card.num_frames, card.fps) == (64, 48, 5, 8.0)
    assert card.options == {"imported_from": "videos"}
    assert (card.base_model, card.licence, card.steps) == (None, None, None)


def test_the_same_command_goes_on(run: Callable[..., Result], videos: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.mp4"
    (videos / "faceobj_2.mp4").rename(late)
    run(videos)
    place = tmp_path / "runs/their-model/open-domain/seed-0"
    # An interruption leaves a partial file, which is no video.
    (place / "singleobj_1.mp4").unlink()
    (place / ".singleobj_1.1.partial").write_bytes(b"half")
    late.rename(videos / "faceobj_2.mp4")
    times = {path: path.stat().st_mtime_ns for path in place.glob("*.mp4")}
    assert "2 copied, 4 there already" in run(videos).stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times
    # Other content is not taken for the same run, nor is a run that was generated.
    shutil.copyfile(videos / "singleobj_1.mp4", videos / "faceobj_2.mp4")
    assert "faceobj_2.mp4 is there with other content (1 of 6 videos)" in complaint(run(videos, expect=1))
    info, card = info_of(place.parent)
    generated = info.model_copy(update={"card": card.model_copy(update={"options": {}})})
    (place.parent / "run.json").write_text(generated.model_dump_json())
    assert "holds another run" in complaint(run(videos, expect=1))


def test_seeds_keep_their_folders(run: Callable[..., Result], videos: Path, tmp_path: Path) -> None:
    source = tmp_path / "seeds"
    shutil.copytree(videos, source / "seed-3")
    shutil.copytree(videos, source / "seed-11")
    assert "12 copied" in run(source).stdout
    folder = tmp_path / "runs/their-model/open-domain"
    assert {path.name for path in folder.iterdir()} == {"seed-3", "seed-11", "run.json"}


def test_a_pattern_says_how_the_files_are_named(
    run: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    source = tmp_path / "others"
    source.mkdir()
    for seed, sample in product((3, 11), SMALL_IDS):
        shutil.copyfile(videos / f"{sample}.mp4", source / f"out-{seed}-{sample}.mp4")
    done = run(source, "their-model", "--pattern", "out-{seed}-{id}.mp4")
    assert "12 copied" in done.stdout
    folder = tmp_path / "runs/their-model/open-domain"
    assert {path.name for path in folder.iterdir()} == {"seed-3", "seed-11", "run.json"}


def test_names_of_one_form_are_read_and_said(
    run: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    source = tmp_path / "others"
    source.mkdir()
    for sample in SMALL_IDS:
        shutil.copyfile(videos / f"{sample}.mp4", source / f"{sample}_seed42.mp4")
    done = run(source)
    assert "file names read as {id}_seed{seed}.mp4: seed 42" in done.stderr
    assert (tmp_path / "runs/their-model/open-domain/seed-42" / f"{SMALL_IDS[0]}.mp4").is_file()


def test_damaged_files_are_named_and_become_reasons(
    run: Callable[..., Result], videos: Path, tmp_path: Path, dataset: Path
) -> None:
    whole = (videos / "faceobj_2.mp4").read_bytes()
    (videos / "faceobj_2.mp4").write_bytes(b"not a video")
    (videos / "singleobj_1.mp4").write_bytes(b"")
    done = run(videos, expect=1)
    assert "left out, damaged: faceobj_2 (the video cannot be decoded" in done.stderr
    assert "singleobj_1 (the video file is empty)" in done.stderr
    folder = tmp_path / "runs/their-model/open-domain"
    assert not (folder / "seed-0/faceobj_2.mp4").exists()
    errors = scan_videos(folder, load_track("open-domain", dataset)).errors
    assert errors["singleobj_1", 0] == "the imported file is damaged: the video file is empty"
    # A repaired file takes its reason away.
    (videos / "faceobj_2.mp4").write_bytes(whole)
    run(videos, expect=1)
    assert (folder / "seed-0/faceobj_2.mp4").read_bytes() == whole
    assert not (folder / "seed-0/faceobj_2.error.txt").exists()


def test_mixed_videos_are_said(
    run: Callable[..., Result], videos: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    make_clip("videos/faceobj_2.mp4", frames=9, width=80)
    make_clip("videos/faceobj_10.mp4", frames=5, fps=12)
    run(videos)
    _, card = info_of(tmp_path / "runs/their-model/open-domain")
    assert (card.width, card.num_frames, card.fps) == (64, 5, 8.0)
    assert card.deviations == (
        "sizes are mixed: 64×48 (5 videos), 80×48 (1 videos)",
        "frame counts are mixed: 5 (5 videos), 9 (1 videos)",
        "frame rates are mixed: 8 (5 videos), 12 (1 videos)",
    )


def test_a_glance_sees_what_a_probe_sees(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("clip.mp4", frames=7, width=80)
    assert Video(clip).glance == Video(clip).probe
    for content in (b"", b"no video", clip.read_bytes()[:200]):
        (tmp_path / "bad.mp4").write_bytes(content)
        with pytest.raises(VideoError):
            _ = Video(tmp_path / "bad.mp4").glance


def test_only_a_few_videos_are_decoded_from_end_to_end(
    videos: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, make_clip: Callable[..., Path]
) -> None:
    decoded: list[str] = []
    whole = Video.probe.func
    monkeypatch.setattr(
        Video, "probe", property(lambda video: decoded.append(video.path.stem) or whole(video))
    )
    measure(scan_videos(videos, load_track("open-domain", dataset)))
    assert len(decoded) == 5


def rename_all(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"x-{path.name}"))


def break_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"x")


def move_below(folder: Path) -> None:
    files = list(folder.iterdir())
    (folder / "Open-Domain").mkdir()
    for path in files:
        path.rename(folder / "Open-Domain" / path.name)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (shutil.rmtree, "does not exist"),
        (empty, "holds no mp4"),
        (rename_all, "is named after a sample of open-domain (such as singleobj_1.mp4); there are: x-face"),
        (break_all, "none of 6 videos can be read; faceobj_10: the video cannot be decoded"),
        (move_below, "videos/Open-Domain"),
    ],
)
def test_what_is_no_folder_of_videos_is_one_line(
    run: Callable[..., Result], videos: Path, change: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    change(videos)
    assert told in complaint(run(videos, expect=1))
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_imported(run: Callable[..., Result], videos: Path, tmp_path: Path) -> None:
    run(videos)
    assert "is a run already" in complaint(run(tmp_path / "runs/their-model/open-domain", "other", expect=1))
    assert "may hold letters" in complaint(run(videos, "../up", expect=1))
    assert "leave --track and --dataset out" in complaint(run(videos, "m", "--suite", "x.jsonl", expect=1))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("vidu2.0", "Vidu-2.0"),
        ("VIDU 2.0", "Vidu-2.0"),
        ("Hailuo S2V-01", "Hailuo-S2V-01"),
        ("Kling1.6(20250503)", "Kling-1.6"),
        ("hunyuan_custom", "HunyuanCustom"),
        ("concat-id-wan-adaln", "Concat-ID-Wan-AdaLN"),
        ("my-model", "my-model"),
    ],
)
def test_names_are_matched_without_case_and_punctuation(spelling: str, name: str) -> None:
    assert method_name(spelling) == name


def test_every_published_row_is_ported_or_known() -> None:
    ported = {"BindWeave"}
    rows = {row.method for source in published_sources() for row in published_rows(source)} - ported
    ours = ("VACE", "Phantom", "SkyReels", "MAGREF", "Kaleido", "RefAlign")
    assert [name for name in sorted(rows) if not name.startswith(ours) and foreign_model(name) is None] == []
    spellings = [
        plain_name(spelling) for model in FOREIGN_MODELS for spelling in (model.name, *model.aliases)
    ]
    # HuMo-17B and HuMo-1.7B alone are told apart by the point.
    assert [name for name, count in Counter(spellings).items() if count > 1] == ["humo17b"]
    assert all(method_name(model.name) == model.name for model in FOREIGN_MODELS)


def test_closed_models_are_snapshots_and_open_ones_name_their_base() -> None:
    for model in FOREIGN_MODELS:
        card = imported_card(model.name, MEASURED)
        assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 69, 15.0)
        assert (SNAPSHOT in card.deviations) == model.closed == (card.licence == "closed service")
        # What the authors do by default is no statement on these videos.
        assert (card.steps, card.shift, card.solver, card.guidance) == (None, None, None, {})
        assert MethodCard.model_validate_json(card.model_dump_json()) == card
    vino = imported_card("vino", MEASURED)
    assert vino.base_model == "HunyuanVideo and Qwen3-VL-4B-Instruct"
    assert "CC BY-NC 4.0" in str(vino.licence)
    (said,) = vino.deviations
    assert said.startswith("the authors' defaults, not verified for these videos: 848×480, 81 frames")
    assert [imported_card(name, MEASURED).max_references for name in ("kling-1.6", "vidu-2.0", "hailuo")] == [
        4,
        3,
        1,
    ]


def test_a_ported_methods_base_is_lent_but_not_its_settings() -> None:
    card = imported_card("Noise", MEASURED)
    assert (card.name, card.licence, card.options) == ("Noise", "Apache-2.0", {})
    # One that needs options to have a card lends nothing.
    assert imported_card("command", MEASURED).licence is None


def test_the_users_card_is_taken_and_measured_values_win(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(json.dumps({"steps": 30, "fps": 24, "num_frames": 69, "deviations": ["as they said"]}))
    card = imported_card("mine", MEASURED, file)
    assert (card.name, card.steps, card.fps) == ("mine", 30, 15.0)
    assert card.deviations == ("as they said", "the card said fps 24, the videos have 15")
    for content, told in (
        ('{"stps": 3}', "is no method card: stps"),
        ("[]", "expected an object"),
        ("{", "broken JSON"),
        ('{"steps": "many"}', "steps"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=told):
            imported_card("mine", MEASURED, file)
