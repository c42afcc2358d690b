"""Options that several commands share, each described once, and what follows from a combination of them.

Commands of every wing use them: `from refbench.bench.cli import options as o`. Importing this is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench import DEFAULT_TRACK as DEFAULT_TRACK
from refbench.bench.errors import UserError
from refbench.bench.scores import DEFAULT_PROTOCOL

if TYPE_CHECKING:
    from refbench.bench.dataset import Track

DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="DIR|hub",
        help="Copy of BestWishYsh/OpenS2V-Eval, or 'hub' to download it. Default: $REFBENCH_DATASET.",
    ),
]
TrackOption = Annotated[
    str | None, typer.Option("--track", help="open-domain (default), human-domain or single-domain.")
]
SuiteOption = Annotated[
    Path | None,
    typer.Option("--suite", metavar="FILE.jsonl", help="Your own samples instead of an official track."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="Python file that registers metrics or methods."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N samples.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Only part I of N (several machines; join with refbench merge)."
    ),
]
DevicesOption = Annotated[
    str,
    typer.Option(
        "--devices",
        "--device",
        metavar="auto|cpu|cuda:0,cuda:1|N",
        help="Where models run: every GPU (auto; without one the CPU), those named, or the first N.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, …: where models run.")]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", metavar="DIR", help="Folder of weights. Default: $REFBENCH_WEIGHTS."),
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", metavar="CARD", help="The card to plan for: h100 (default), h200, a100, 4090, …"),
]
GpuMemoryOption = Annotated[
    float | None,
    typer.Option("--gpu-memory", min=1, metavar="GIB", help="Memory of one GPU. Default: the card's."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print unrounded numbers as JSON for programs instead of tables.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="How records become scores: opens2v-1.1 or opens2v-1.0. Default: the track's own, of official "
        f"tracks and suites {DEFAULT_PROTOCOL}.",
    ),
]
StoresArgument = Annotated[
    list[Path], typer.Argument(metavar="STORE...", help="Score stores: folders or .jsonl files.")
]
ReferencesOption = Annotated[
    str,
    typer.Option(
        "--references",
        help="own, or shuffled: each sample gets another sample's references (a control).",
    ),
]
ShuffleSeedOption = Annotated[
    int, typer.Option("--shuffle-seed", min=0, help="Seed of --references shuffled.")
]
ResultsOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Score store: DIR/<method>/<track>.jsonl.")
]
VideosOutOption = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="DIR", help="Videos go to DIR/<method>/<track>/seed-<n>/."),
]
RunsOption = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Where videos go: DIR/<method>/<track>/seed-<n>/.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the method or metric.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="NAMES",
        help="Comma-separated names; 'components' (default: those in TotalScore) or 'all'.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", min=1, help="Worker processes per device; one alone works in this process."),
]
JobTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--job-timeout",
        min=0,
        metavar="SECONDS",
        help="Longest time of one job, after which its worker process is ended and the job has failed; "
        "0: no limit. Default: as the metric or method declares, where workers have processes of their own.",
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Where workers run: processes of this machine, or actors of a Ray cluster.",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster: HOST:PORT, auto (this machine's) or local (started for the run). Default: "
        "$RAY_ADDRESS or this machine's, else local.",
    ),
]
SamplesOption = Annotated[
    str | None, typer.Option("--samples", metavar="ID,…", help="Only the samples of these ids.")
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory-gib",
        min=1,
        help="Device memory to plan with; metrics that do not fit together run in turns. Default: measured.",
    ),
]
FrameMemoryOption = Annotated[
    float,
    typer.Option(
        "--frame-memory-gib",
        min=0,
        help="Memory in which each worker holds decoded frames, so that a video is decoded once for all "
        "metrics of a turn; 0: each metric decodes for itself.",
    ),
]
JudgeModelOption = Annotated[
    str | None, typer.Option("--judge-model", help="NaturalScore's judge, as the endpoint names it.")
]
JudgeUrlOption = Annotated[
    str | None, typer.Option("--judge-url", help="OpenAI-compatible endpoint; its key is $OPENAI_API_KEY.")
]
JudgeBudgetOption = Annotated[
    float | None,
    typer.Option(
        "--judge-budget",
        min=0,
        help="Dollars after which no more is asked; needs --set naturalscore.price_in=… and price_out.",
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", help="The method's name in records and tables.")]
PatternOption = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="FORM",
        help="How videos are named, where not after the sample alone: '{id}_seed{seed}.mp4', '*/{id}.mp4'.",
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="Generate from these prompts (JSON id → prompt, or JSONL with id and prompt); "
        "scoring keeps the benchmark's.",
    ),
]
SeedOption = Annotated[
    list[int] | None,
    typer.Option("--seed", help="Seed; may be given several times. Default: 0; the leaderboard's is 42."),
]
SettingsOption = Annotated[
    str | None,
    typer.Option(
        "--settings",
        metavar="NAME",
        help="native: the authors' defaults, as without it; matched: one size and length for all methods; "
        "leaderboard: size, frames, rate and seed behind the OpenS2V leaderboard's rows.",
    ),
]


def chosen_track(track: str | None, suite: Path | None, dataset: str | None) -> Track:
    """The samples that --track (default: open-domain), --suite and --dataset choose.

    What a suite leaves open is said on standard error. Raises UserError for --suite together with one of the
    others, and as reading the samples does.
    """
    from refbench.bench.console import note
    from refbench.bench.dataset import load_suite, load_track

    if suite is None:
        return load_track(track or DEFAULT_TRACK, dataset)
    if track is not None or dataset is not None:
        raise UserError("--suite is a track of its own: leave --track and --dataset out")
    chosen = load_suite(suite)
    for text in chosen.notes:
        note(text)
    return chosen
