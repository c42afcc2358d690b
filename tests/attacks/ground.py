"""Good inputs of every kind, and the commands that read them."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from attacks.child import Done, run
from kit.clips import moving_square
from kit.records import record
from refbench.bench.registry import methods, metrics
from refbench.bench.scores.noise_floor import Cause, FloorCell, NoiseFloor, ScoredBy
from refbench.bench.scores.store import read_records
from refbench.bench.video import write_video
from refbench.metrics.small.aesthetics import write_tiny

REFERENCES = ("a.png", "b.jpg", "c.webp")
IDS = ("a_1", "b_1", "c_1")
# The sample whose video and reference no mutant or special file touches.
UNTOUCHED = "c_1"
HEAVY = (
    "av", "cv2", "torch", "transformers.models.clip.modeling_clip", "refbench.bench.cli.main",
    "refbench.bench.cli.work", "refbench.bench.runner.evaluate", "refbench.bench.runner.generate",
    "refbench.bench.scores.official_files", "refbench.metrics.aesthetics", "refbench.metrics.nets.embedders",
    "refbench.reports.commands", "refbench.reports.audit", "refbench.reports.compared",
)  # fmt: skip
SMALL = ("--set", "width=64", "--set", "height=48", "--set", "num_frames=4")
EVALUATE = ["evaluate", "videos", "--suite", "suite.jsonl", "--name", "m", "--metrics", "motion-amplitude"]
GENERATE = ["generate", "pan-reference", "--suite", "suite.jsonl", "--out", "runs", *SMALL]
RESULTS = "results/m"
RUNS = "runs/pan-reference"
WEIGHTS = "weights"
# Of a printed table; the components of the second row do not give its total.
TABLE_CSV = (
    "Method,TotalScore,Aesthetics,MotionSmoothness,MotionAmplitude,FaceSim,GmeScore,NexusScore,NaturalScore\n"
    "mine,50.00,50.00,50.00,50.00,50.00,50.00,50.00,50.00\n"
    "yours,51.00,40.00,60.00,30.00,20.00,70.00,45.00,65.00\n"
)
TABLE_TEX = (
    "\\begin{tabular}{lcccccccc}\n"
    + "".join(line.replace(",", " & ") + " \\\\\n" for line in TABLE_CSV.splitlines())
    + "\\end{tabular}\n"
)


@dataclass(frozen=True, kw_only=True)
class Input:
    """A kind of input: a good file of it, the command that reads that file, and where it leaves records.

    `untouched` asks whether what does not depend on the file came out as without an attack.
    """

    kind: str
    file: str
    words: list[str]
    results: str | None = None
    untouched: Callable[[Path], bool] | None = None
    needs_weights: bool = False


def make_ground(folder: Path) -> Path:
    """A folder with videos, references, a suite, a store, a run, official score files and tiny weights."""
    # Children are forked: what all of them import is imported once, here.
    metrics.names()
    methods.names()
    for name in HEAVY:
        importlib.import_module(name)
    (folder / "videos").mkdir(parents=True)
    for number, sample_id in enumerate(IDS):
        write_video(folder / f"videos/{sample_id}.mp4", moving_square(frames=6, seed=number), 8)
    rows = []
    for number, (sample_id, name) in enumerate(zip(IDS, REFERENCES, strict=True)):
        Image.new("RGB", (24, 32), (40 * number, 80, 120)).save(folder / name)
        reference = {"path": name, "label": "cup", "kind": "object"}
        rows.append({"id": sample_id, "prompt": "a cup", "references": [reference], "category": sample_id[0]})
    (folder / "suite.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scores").mkdir()
    (folder / "scores/facesim.json").write_text(json.dumps({"faceobj_1": {"cur_score": 0.5}}))
    (folder / "scores/naturalscore_1.json").write_text(json.dumps({"faceobj_1": "4", "faceobj_2": "5"}))
    (folder / "stores/other").mkdir(parents=True)
    lines = [record("facesim", f"faceobj_{number}", number / 7).model_dump_json() for number in range(4)]
    (folder / "stores/other/open-domain.jsonl").write_text("".join(f"{line}\n" for line in lines))
    lines = [record("facesim", f"faceobj_{number}", number / 9, method="n") for number in range(4)]
    (folder / "stores/third").mkdir()
    (folder / "stores/third/open-domain.jsonl").write_text(
        "".join(f"{line.model_dump_json()}\n" for line in lines)
    )
    (folder / "table.csv").write_text(TABLE_CSV)
    (folder / "table.tex").write_text(TABLE_TEX)
    cell = FloorCell(n=24, shift=0.01, interval=(0.0, 0.02), standard_error=0.001)
    NoiseFloor(
        protocol="opens2v-1.1",
        track="open-domain",
        method="m",
        variant="plain",
        samples=["faceobj_1"],
        metrics={"facesim": ScoredBy(version="1")},
        causes=[Cause(name="reencode:23", family="reencode", label="re-encoding", cells={"facesim": cell})],
        python="CPython",
        system="Linux",
    ).write(folder / "floor.json")
    write_tiny(folder / WEIGHTS)
    for words in (EVALUATE, GENERATE):
        done = run(words, folder)
        assert done.exit_code == 0, (words, done.out, done.err)
    return folder


def inputs(ground: Path) -> list[Input]:
    """All kinds of input, judged against what the ground's own run gave."""
    store = next((ground / RESULTS).glob("*.jsonl")).relative_to(ground).as_posix()
    run_folder = next((ground / RUNS).iterdir()).relative_to(ground).as_posix()
    score = _values(ground / store)[UNTOUCHED]
    video = (ground / run_folder / f"seed-0/{UNTOUCHED}.mp4").read_bytes()

    def same_score(folder: Path) -> bool:
        return _values(folder / store).get(UNTOUCHED) == score

    def same_video(folder: Path) -> bool:
        return (folder / run_folder / f"seed-0/{UNTOUCHED}.mp4").read_bytes() == video

    aesthetics = [*EVALUATE[:-1], "aesthetics", "--weights", WEIGHTS]
    weights = sorted(
        path.relative_to(ground).as_posix()
        for path in (ground / WEIGHTS).rglob("*")
        if path.suffix in (".safetensors", ".pth") or path.name == "config.json"
    )
    return [
        Input(kind="mp4", file="videos/a_1.mp4", words=EVALUATE, results=RESULTS, untouched=same_score),
        Input(kind="png", file="a.png", words=GENERATE, untouched=same_video),
        Input(kind="jpg", file="b.jpg", words=GENERATE, untouched=same_video),
        Input(kind="webp", file="c.webp", words=GENERATE),
        Input(kind="suite", file="suite.jsonl", words=EVALUATE, results=RESULTS),
        Input(kind="store", file=store, words=EVALUATE, results=RESULTS),
        Input(
            kind="store, read",
            file="stores/other/open-domain.jsonl",
            words=["export", "stores", "--out", "official"],
        ),
        Input(
            kind="run.json",
            file=f"{run_folder}/run.json",
            words=["evaluate", run_folder, *EVALUATE[2:4], *EVALUATE[-2:]],
        ),
        Input(kind="run.json, gone on", file=f"{run_folder}/run.json", words=GENERATE),
        *(
            Input(
                kind="scores",
                file=f"scores/{name}.json",
                words=["import-scores", "scores", "--name", "n", "--track", "open-domain"],
            )
            for name in ("facesim", "naturalscore_1")
        ),
        *(Input(kind="table", file=file, words=["audit", file]) for file in ("table.csv", "table.tex")),
        Input(
            kind="noise floor",
            file="floor.json",
            words=["compare", "stores/other", "stores/third", "--noise-floor", "floor.json"],
        ),
        *(
            Input(kind="weights", file=file, words=aesthetics, results=RESULTS, needs_weights=True)
            for file in weights
        ),
    ]


def copy_ground(ground: Path, folder: Path, one: Input) -> None:
    """A copy in which the command of an input has everything to do again."""
    left_out = {".out", ".err"} | (set() if one.needs_weights else {WEIGHTS})
    if not one.file.startswith("results"):
        left_out.add("results")
    if not one.file.startswith("runs"):
        left_out.add("runs")
    shutil.copytree(ground, folder, ignore=lambda place, names: left_out & set(names))


def run_input(one: Input, folder: Path) -> Done:
    """The command of an input, in a copy of the ground."""
    return run(one.words, folder, environment={"OPENAI_API_KEY": ""})


def _values(store: Path) -> dict[str, float | None]:
    return {one.sample: one.value for one in read_records(store)}
