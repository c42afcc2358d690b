"""Generation: resumable run folders, failures that stay with their sample, settings that never mix."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.cli import Run
from kit.clips import SMALL_IDS
from refbench.bench.files import replacing
from refbench.bench.runs.folder import read_run
from refbench.bench.video import Video


@pytest.fixture
def refbench(tmp_path: Path) -> Run:
    (tmp_path / "cwd").mkdir()
    return Run(tmp_path / "cwd")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.mp4"))}


def test_a_run_folder_holds_finished_videos_and_its_card(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    refbench(*base, "--seed", 0, "--seed", 3)
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert sorted(contents(folder)) == sorted(f"seed-{s}/{i}.mp4" for s in (0, 3) for i in SMALL_IDS)
    info = read_run(folder / "run.json")
    assert info.card is not None
    assert (info.method, info.track, info.variant) == ("dummy-grey", "open-domain", "plain")
    assert info.card.options["level"] == 100
    assert "refalign-bench" in info.versions
    # Nothing is made twice, and nothing temporary stays.
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")}
    again = refbench(*base, "--seed", 3)
    assert "0 made, 6 there already" in again.stderr
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.mp4")} == times
    assert not list(folder.rglob(".*"))


def test_one_folder_never_mixes_settings(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    refbench(*base)
    done = refbench(*base, "--set", "level=3", expect=2)
    assert "was generated with another card" in done.stderr
    refbench(*base, "--set", "level=3", "--name", "darker")
    assert (refbench.folder / "runs/darker/open-domain/seed-0").is_dir()


def test_a_failing_sample_is_named_kept_and_tried_again(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    done = refbench(*base, "--set", "fail_on=faceobj_2", expect=1)
    assert "faceobj_2, seed 0: asked to fail" in done.stderr
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert (folder / "seed-0/faceobj_2.error.txt").read_text() == "asked to fail\n"
    assert len(contents(folder)) == 5
    # The reason travels into the record.
    refbench("evaluate", folder, "--dataset", dataset)
    store = (refbench.folder / "results/dummy-grey/open-domain.jsonl").read_text()
    assert "missing_video: generation failed: asked to fail" in store


def test_killed_generation_leaves_no_damaged_video(refbench: Run, dataset: Path) -> None:
    arguments = (
        "generate",
        "noise",
        "--dataset",
        dataset,
        "--set",
        "num_frames=40",
        "--set",
        "width=208",
        "--set",
        "height=120",
    )
    refbench(*arguments, "--out", "peaceful")
    generator = random.Random(3)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            refbench.command(*arguments, "--out", "killed"), cwd=refbench.folder, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0.4, 0.9))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        for file in (refbench.folder / "killed").rglob("*.mp4"):
            assert Video(file).probe.frames == 40
    assert killed
    refbench(*arguments, "--out", "killed")
    track = "noise/open-domain"
    assert contents(refbench.folder / "killed" / track) == contents(refbench.folder / "peaceful" / track)


def test_shuffled_references_are_a_run_of_their_own(refbench: Run, dataset: Path) -> None:
    base = (
        "static-reference",
        "--dataset",
        dataset,
        "--set",
        "num_frames=2",
        "--set",
        "width=64",
        "--set",
        "height=64",
    )
    refbench("generate", *base)
    refbench("generate", *base, "--references", "shuffled", "--shuffle-seed", 4)
    runs = refbench.folder / "runs/static-reference"
    info = read_run(runs / "open-domain.generated-shuffled/run.json")
    assert (info.references, info.reference_seed, info.variant) == ("shuffled", 4, "generated-shuffled")
    own = contents(runs / "open-domain")
    shuffled = contents(runs / "open-domain.generated-shuffled")
    assert own.keys() == shuffled.keys()
    assert own != shuffled
    refbench("evaluate", runs / "open-domain.generated-shuffled", "--dataset", dataset)
    records = (refbench.folder / "results/static-reference/open-domain.jsonl").read_text()
    assert '"variant":"generated-shuffled"' in records


def test_finished_videos_are_copied_byte_for_byte(refbench: Run, dataset: Path, videos: Path) -> None:
    refbench("generate", "videos", "--dataset", dataset, "--set", f"folder={videos}", "--name", "imported")
    copied = contents(refbench.folder / "runs/imported/open-domain/seed-0")
    assert copied == contents(videos)


def test_run_does_everything(refbench: Run, dataset: Path) -> None:
    small = [
        f"--set={method}.{option}"
        for method in ("static-reference", "noise")
        for option in ("num_frames=3", "width=64", "height=48")
    ]
    arguments = ("run", "static-reference", "noise", "--dataset", dataset, "--limit", 3, *small)
    done = refbench(*arguments)
    assert done.stdout.startswith("open-domain, opens2v-1.1: ")
    assert [line.partition("†")[0] for line in done.stdout.splitlines()[3:5]] == ["noise", "static-reference"]
    assert (refbench.folder / "report/report.html").is_file()
    boards = json.loads(refbench(*arguments, "--json").stdout)["scoreboards"]
    assert [board["method"] for board in boards] == ["noise", "static-reference"]
    assert all(board["components"]["motion_amplitude"]["scored"] == 3 for board in boards)


def test_run_reports_what_its_folders_hold_and_not_what_the_store_holds_besides(
    refbench: Run, dataset: Path
) -> None:
    small = [f"--set=noise.{option}" for option in ("num_frames=3", "width=64", "height=48")]
    arguments = ("run", "noise", "--dataset", dataset, "--json", "--metrics", "motion-amplitude", *small)

    def expected(*more: object) -> int:
        (board,) = json.loads(refbench(*arguments, *more).stdout)["scoreboards"]
        return int(board["components"]["motion_amplitude"]["expected"])

    samples = expected("--seed", 0, "--seed", 1) // 2
    assert expected("--seed", 0, "--limit", 2) == 4
    shutil.rmtree(refbench.folder / "runs/noise/open-domain/seed-1")
    assert expected("--seed", 0) == samples
    assert expected("--seed", 0, "--limit", 2) == 2


@pytest.mark.parametrize("content", [b"", b"root:x:0:0\n"])
def test_a_file_in_the_place_of_a_finished_video_is_not_counted_as_one(
    refbench: Run, dataset: Path, content: bytes
) -> None:
    small = [f"--set={option}" for option in ("num_frames=3", "width=64", "height=48")]
    arguments = ("generate", "noise", "--dataset", dataset, "--limit", 2, *small)
    refbench(*arguments)
    video = next((refbench.folder / "runs/noise/open-domain/seed-0").glob("*.mp4"))
    made = video.read_bytes()
    video.write_bytes(content)
    again = refbench(*arguments)
    assert "1 made, 1 there already, 0 failed" in again.stderr
    assert f"{video.name} is no finished video and is made again" in again.stderr
    assert video.read_bytes() == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["static-referense"], "did you mean static-reference"),
        (["noise", "--set", "widht=3"], "has no option 'widht'"),
        (["noise", "--seed", "-1"], "must not be negative"),
        (["videos"], "needs --set folder="),
        (["videos", "--set", "folder=nowhere"], "nowhere"),
        (["command", "--set", "template=prog --out x"], "{output}"),
        (["command", "--set", "template=no-such-program-at-all {output}"], "no-such-program-at-all"),
        (["noise", "--name", "a/b"], "may hold letters"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    refbench: Run, dataset: Path, arguments: list[str], message: str
) -> None:
    done = refbench("generate", *arguments, "--dataset", dataset, expect=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_one_worker_two_and_four_make_the_same_videos(refbench: Run, dataset: Path, plugin: Path) -> None:
    made = []
    for workers in (1, 2, 4):
        out = refbench.folder / f"runs-{workers}"
        done = refbench(
            "generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin, "-o", out, "--seed", 0,
            "--seed", 1, "--workers", workers,
        )  # fmt: skip
        assert "12 made, 0 there already, 0 failed" in done.stderr
        assert ("workers on cpu; a job may take 3,600 s (--job-timeout)" in done.stderr) == (workers > 1)
        folder = out / "dummy-grey/open-domain"
        made.append((contents(folder), (folder / "run.json").read_text()))
        assert not list(folder.rglob(".*"))
    assert made[0] == made[1] == made[2]
    assert json.loads(made[0][1])["threads"] == 1


def test_a_worker_that_dies_or_hangs_costs_its_video_only(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    died = "the worker process died (signal SIGKILL), each of 2 times"
    done = refbench(*base, "--workers", 2, "--set", "die_on=faceobj_2", expect=1)
    assert f"faceobj_2, seed 0: {died}" in done.stderr
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert (folder / "seed-0/faceobj_2.error.txt").read_text() == f"{died}\n"
    assert len(contents(folder)) == 5
    assert not list(folder.rglob(".*"))
    # Whether another video takes longer than a limit is the machine's affair: only one is made.
    hangs = (*base, "-o", "hung", "--set", "hang_on=faceobj_2", "--samples", "faceobj_2")
    done = refbench(*hangs, "--job-timeout", 0.2, expect=1)
    assert "faceobj_2, seed 0: it took longer than 0.2 s (--job-timeout) and was ended" in done.stderr
    assert "1 worker on cpu; a job may take" in done.stderr


def test_samples_are_made_scored_and_run_by_name(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("--dataset", dataset, "--plugin", plugin, "--samples", "singleobj_1, faceobj_2")
    refbench("generate", "dummy-grey", *base)
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    assert sorted(contents(folder)) == ["seed-0/faceobj_2.mp4", "seed-0/singleobj_1.mp4"]
    refbench("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin)
    motion = ("--metrics", "motion-amplitude", "--json")
    (board,) = json.loads(refbench("evaluate", folder, *base, *motion, "-o", "scores").stdout)
    assert board["components"]["motion_amplitude"]["expected"] == 2
    done = json.loads(refbench("run", "dummy-grey", *base, *motion).stdout)["scoreboards"]
    assert done[0]["components"]["motion_amplitude"]["expected"] == 2
    wrong = ("--dataset", dataset, "--plugin", plugin, "--samples", "faceobj_22")
    told = refbench("generate", "dummy-grey", *wrong, expect=2).stderr
    assert "--samples: unknown sample 'faceobj_22'; did you mean faceobj_2" in told


def test_wherever_out_is_its_short_form_is() -> None:
    from typer.main import get_command

    from refbench.bench.cli.main import app

    def options(command: Any) -> Iterator[list[str]]:
        for name in getattr(command, "list_commands", lambda _: [])(None):
            yield from options(command.get_command(None, name))
        yield from (parameter.opts for parameter in command.params)

    with_out = [names for names in options(get_command(app)) if "--out" in names]
    assert len(with_out) > 10
    assert all("-o" in names for names in with_out)


MODEL_PLUGIN = '''
"""A method with weights, limits and steps, and no network."""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from refbench.bench.errors import MissingWeights, UserError
from refbench.bench.method import Frames, Generator, Method, MethodCard, silent
from refbench.bench.registry import methods
from refbench.bench.weights.store import weights_fingerprint


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    settings: Literal["native", "matched"] = "native"
    most: int = 1


@methods.register
class Model(Method):
    name = "dummy-model"
    summary = "reads a file and refuses samples"
    Options = ModelOptions

    def card(self):
        frames = 4 if self.options.settings == "native" else 2
        return MethodCard(
            name=self.name,
            summary=self.summary,
            weights={"net": "owner/net"},
            num_frames=frames,
            settings=self.options.settings,
            options=self.option_values(),
        )

    def find_weights(self, environment):
        if environment.weights is None or not (environment.weights / "net.bin").is_file():
            raise MissingWeights("net.bin is not on disk")
        if not (environment.weights / "net.bin").stat().st_size:
            raise UserError("net.bin is empty")
        return {"net": weights_fingerprint(environment.weights, [environment.weights / "net.bin"])}

    def refuses(self, sample):
        count = len(sample.references)
        return f"{count} references, it takes {self.options.most}" if count > self.options.most else None

    def load(self, environment):
        with (environment.weights / "loads").open("a") as log:
            log.write("load\\n")
        return ModelGenerator(self)


class ModelGenerator(Generator):
    def __init__(self, method):
        self.method = method

    def generate(self, sample, seed, on_step=silent):
        assert self.method.refuses(sample) is None
        for step in range(3):
            on_step(step + 1, 3)
        frames = [np.full((16, 16, 3), 40, np.uint8)] * self.method.card().num_frames
        return Frames(images=frames, fps=8, notes=("the prompt was cut",))


@methods.register
class Homeless(Method):
    name = "dummy-homeless"
    summary = "needs a package that nobody has"
    modules = ("json", "no_such_package_at_all")

    def card(self):
        return MethodCard(name=self.name, summary=self.summary)

    def find_weights(self, environment):
        import no_such_package_at_all

    def load(self, environment):
        raise AssertionError
'''
# Of the fixture's six samples those with one reference.
SINGLES = ("singleobj_1", "singlehuman_1", "singleface_1")


@pytest.fixture
def model(refbench: Run, dataset: Path, tmp_path: Path) -> tuple[object, ...]:
    plugin = tmp_path / "model_plugin.py"
    plugin.write_text(MODEL_PLUGIN)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/net.bin").write_bytes(b"weights")
    return (
        "generate",
        "dummy-model",
        "--dataset",
        dataset,
        "--plugin",
        plugin,
        "--weights",
        tmp_path / "weights",
    )


def test_refused_samples_are_said_first_and_recorded(refbench: Run, model: tuple[object, ...]) -> None:
    done = refbench(*model, expect=1)
    first = done.stderr.splitlines()[0]
    assert first.startswith(
        "3 of 6 samples cannot be generated by dummy-model: faceobj_2: 2 references, it takes 1; faceobj_10: "
    )
    folder = refbench.folder / "runs/dummy-model/open-domain"
    assert sorted(contents(folder)) == sorted(f"seed-0/{one}.mp4" for one in SINGLES)
    assert (folder / "seed-0/multiface_1.error.txt").read_text() == "2 references, it takes 1\n"
    assert "singleobj_1: the prompt was cut" in done.stderr
    # The second time only what is refused is left: nothing is loaded, and the run still says so.
    again = refbench(*model, expect=1)
    assert "0 made, 3 there already, 3 failed" in again.stderr
    assert (Path(str(model[-1])) / "loads").read_text() == "load\n"


def test_more_than_three_refusals_are_counted(
    refbench: Run, model: tuple[object, ...], tmp_path: Path
) -> None:
    done = refbench(*model, "--set", "most=0", expect=2)
    assert "none of the 6 samples can be generated by dummy-model: singleobj_1: 1 references" in done.stderr
    assert "; and 3 more" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (refbench.folder / "runs").exists()
    assert not (tmp_path / "weights/loads").exists()


def test_the_card_names_what_was_loaded(refbench: Run, model: tuple[object, ...], tmp_path: Path) -> None:
    everything = (*model, "--set", "most=2")
    refbench(*everything)
    run_file = refbench.folder / "runs/dummy-model/open-domain/run.json"
    info = read_run(run_file)
    assert info.card is not None
    digest = info.card.weights["net"]
    assert digest.startswith("sha256:")
    # Nothing is to be made: what was recorded stands, whatever lies there now or is gone.
    (tmp_path / "weights/net.bin").write_bytes(b"other weights")
    refbench(*everything)
    (tmp_path / "weights/net.bin").unlink()
    assert "0 made, 6 there already" in refbench(*everything).stderr
    assert read_run(run_file) == info
    # Something is to be made: weights must be there, and the same.
    (run_file.parent / "seed-0/faceobj_2.mp4").unlink()
    assert "dummy-model cannot run: net.bin is not on disk" in refbench(*everything, expect=2).stderr
    (tmp_path / "weights/net.bin").write_bytes(b"")
    assert "refbench: net.bin is empty" in refbench(*everything, expect=2).stderr
    (tmp_path / "weights/net.bin").write_bytes(b"other weights")
    assert "with another card (weights)" in refbench(*everything, expect=2).stderr
    (tmp_path / "weights/net.bin").write_bytes(b"weights")
    refbench(*everything)


def test_missing_packages_are_said_before_any_work(refbench: Run, model: tuple[object, ...]) -> None:
    done = refbench("generate", "dummy-homeless", *model[2:], expect=2)
    assert done.stderr == (
        "refbench: dummy-homeless cannot run: needs no_such_package_at_all; "
        "pip install 'refalign-bench[baselines]'\n"
    )
    assert not (refbench.folder / "runs").exists()


@pytest.mark.parametrize(
    ("shuffled", "variant"),
    [((), "tiny-weights"), (("--references", "shuffled"), "generated-shuffled+tiny-weights")],
)
def test_tiny_weights_are_a_run_apart_and_never_official(
    refbench: Run,
    model: tuple[object, ...],
    dataset: Path,
    tmp_path: Path,
    shuffled: tuple[str, ...],
    variant: str,
) -> None:
    (tmp_path / "weights/REFBENCH_TINY").touch()
    # A name that a published row has: it must still not stand beside it.
    refbench(*model, "--set", "most=2", "--name", "vace-14b", *shuffled)
    folder = refbench.folder / f"runs/vace-14b/open-domain.{variant}"
    info = read_run(folder / "run.json")
    assert info.variant == variant and info.card is not None
    assert info.card.weights["net"].startswith("tiny:sha256:")
    done = refbench("evaluate", folder, "--dataset", dataset, "--metrics", "motion-amplitude", "--json")
    (board,) = json.loads(done.stdout)
    assert (board["variant"], board["unofficial"]) == (variant, ["generated with tiny weights"])
    table = refbench("reproduce", "table1", "results", "--json")
    assert all(row["reported_only"] for row in json.loads(table.stdout)["rows"])
    assert "is left out: generated with tiny weights" in table.stderr
    exported = refbench("export", "results", "-o", "official")
    assert "no merged file: generated with tiny weights" in exported.stderr


def test_settings_reach_the_methods_that_have_them(refbench: Run, model: tuple[object, ...]) -> None:
    everything = (*model, "--set", "most=2", "--limit", 1)
    refbench(*everything, "--settings", "matched", "--name", "alike")
    info = read_run(refbench.folder / "runs/alike/open-domain/run.json")
    assert info.card is not None and (info.card.settings, info.card.num_frames) == ("matched", 2)
    refbench(*everything)
    # Native is what stands without it.
    assert "1 there already" in refbench(*everything, "--settings", "native").stderr
    contradiction = refbench(*everything, "--settings", "matched", "--set", "settings=native", expect=2)
    assert "--settings matched contradicts --set settings=native" in contradiction.stderr
    assert "native or matched, not 'equal'" in refbench(*everything, "--settings", "equal", expect=2).stderr


def test_a_method_without_settings_refuses_them(refbench: Run, dataset: Path) -> None:
    small = ("--set", "num_frames=2", "--set", "width=64", "--set", "height=48", "--limit", 1)
    base = ("generate", "noise", "--dataset", dataset, *small)
    refbench(*base, "--settings", "native")
    assert "noise has no matched settings" in refbench(*base, "--settings", "matched", expect=2).stderr
    done = refbench("run", "noise", "--dataset", dataset, "--settings", "matched", expect=2)
    assert "noise has no matched settings" in done.stderr


def test_options_of_a_method_with_a_dot_in_its_name() -> None:
    """`run` and `plan` take NAME.KEY=VALUE, and vace-1.3b is a name."""
    from refbench.bench.errors import UserError
    from refbench.bench.options import assignments_by_owner

    found = assignments_by_owner(["vace-1.3b.steps=4", "vace-1.3b.guidance=text=5.5", "noise.cell_px=4"])
    assert found == {"vace-1.3b": {"steps": "4", "guidance": "text=5.5"}, "noise": {"cell_px": "4"}}
    with pytest.raises(UserError, match="needs the method's or metric's name before it"):
        assignments_by_owner(["steps=4"])


FRAGILE_PLUGIN = '''
"""A method that does not load, or whose disk is full, when it is told so."""
import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refbench.bench.errors import UserError
from refbench.bench.method import Frames, Generator, Method, MethodCard, silent
from refbench.bench.registry import methods


@dataclass(frozen=True, kw_only=True)
class FragileOptions:
    calls: str
    level: int = 40
    fails: str = ""


@methods.register
class Fragile(Method):
    name = "dummy-fragile"
    summary = "breaks on demand"
    Options = FragileOptions

    def card(self):
        return MethodCard(name=self.name, summary=self.summary, options={"level": self.options.level})

    def load(self, environment):
        self.note("load")
        if self.options.fails == "load":
            raise UserError("the weights are damaged")
        if self.options.fails == "memory":
            raise RuntimeError("no memory")
        return FragileGenerator(self)

    def note(self, text):
        with Path(self.options.calls).open("a") as calls:
            print(text, file=calls)


class FragileGenerator(Generator):
    def __init__(self, method):
        self.method = method

    def generate(self, sample, seed, on_step=silent):
        self.method.note(sample.id)
        return Frames(images=self.frames(sample), fps=8)

    def frames(self, sample):
        for _ in range(4):
            yield np.full((16, 16, 3), self.method.options.level, np.uint8)
        if self.method.options.fails == "disk" and sample.id == "singlehuman_1":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.method.options.fails == "file" and sample.id == "singlehuman_1":
            raise OSError(errno.EIO, "Input/output error")

    def close(self):
        self.method.note("close")
'''


@pytest.fixture
def fragile(refbench: Run, dataset: Path, tmp_path: Path) -> tuple[object, ...]:
    (tmp_path / "fragile_plugin.py").write_text(FRAGILE_PLUGIN)
    return (
        *("generate", "dummy-fragile", "--dataset", dataset, "--plugin", tmp_path / "fragile_plugin.py"),
        *("--set", f"calls={tmp_path / 'calls'}"),
    )


@pytest.mark.parametrize("fails", ["load", "memory"])
def test_a_method_that_does_not_load_does_not_take_the_runs_name(
    refbench: Run, fragile: tuple[object, ...], fails: str
) -> None:
    words = refbench.command(*fragile, "--set", f"fails={fails}")
    done = subprocess.run(words, cwd=refbench.folder, capture_output=True, text=True)
    assert done.returncode != 0 and ("weights are damaged" in done.stderr or "no memory" in done.stderr)
    assert not (refbench.folder / "runs/dummy-fragile/open-domain/run.json").exists()
    # Other settings are another run; this name is free for it.
    refbench(*fragile, "--set", "level=90")
    info = read_run(refbench.folder / "runs/dummy-fragile/open-domain/run.json")
    assert info.card is not None and info.card.options == {"level": 90}


def test_another_runs_folder_is_refused_before_anything_is_loaded(
    refbench: Run, fragile: tuple[object, ...], tmp_path: Path
) -> None:
    refbench(*fragile, "--limit", 1)
    assert (tmp_path / "calls").read_text().split() == ["load", SMALL_IDS[0], "close"]
    assert "with another card" in refbench(*fragile, "--set", "level=90", expect=2).stderr
    assert (tmp_path / "calls").read_text().split() == ["load", SMALL_IDS[0], "close"]


def test_a_full_disk_ends_the_run_at_once(refbench: Run, fragile: tuple[object, ...], tmp_path: Path) -> None:
    done = refbench(*fragile, "--set", "fails=disk", expect=2)
    position = SMALL_IDS.index("singlehuman_1")
    assert 0 < position < len(SMALL_IDS) - 1
    assert (tmp_path / "calls").read_text().split() == ["load", *SMALL_IDS[: position + 1], "close"]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("refbench: singlehuman_1, seed 0, cannot be written: [Errno 28] No space left")
    assert last.endswith("; what was finished is kept, and the same command goes on from there")
    folder = refbench.folder / "runs/dummy-fragile/open-domain/seed-0"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{i}.mp4" for i in SMALL_IDS[:position])
    assert f"{position} there already" in refbench(*fragile).stderr


def test_one_file_that_cannot_be_written_is_that_samples_failure(
    refbench: Run, fragile: tuple[object, ...]
) -> None:
    done = refbench(*fragile, "--set", "fails=file", expect=1)
    assert "5 made, 0 there already, 1 failed" in done.stderr


def test_what_killed_runs_left_is_removed_by_the_next_one(refbench: Run, dataset: Path, plugin: Path) -> None:
    base = ("generate", "dummy-grey", "--dataset", dataset, "--plugin", plugin, "--seed", 2)
    refbench(*base)
    folder = refbench.folder / "runs/dummy-grey/open-domain"
    with subprocess.Popen(["true"]) as gone:
        pass
    with replacing(folder / "seed-2/other.mp4") as partial:
        partial.touch()
        own = partial.name
    left = [
        folder / "seed-2" / own.replace(f"-{os.getpid()}.", f"-{gone.pid}."),
        folder / own.replace(f"-{os.getpid()}.", f"-{gone.pid}."),
    ]
    living = folder / "seed-2" / own
    for path in (*left, living):
        path.write_bytes(b"half")
    # Even where everything is there already.
    assert "0 made, 6 there already" in refbench(*base).stderr
    assert [path.exists() for path in (*left, living)] == [False, False, True]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pipe", "folder", "sparse file"])
def test_a_finished_video_is_a_regular_file(refbench: Run, dataset: Path, videos: Path, kind: str) -> None:
    path = videos / "singleobj_1.mp4"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(200 * 2**30)
    done = refbench("generate", "videos", "--dataset", dataset, "--set", f"folder={videos}", expect=1)
    assert "5 made, 0 there already, 1 failed" in done.stderr
    assert not (refbench.folder / "runs/videos/open-domain/seed-0/singleobj_1.mp4").exists()
