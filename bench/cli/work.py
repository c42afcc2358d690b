"""The commands that work: generate, evaluate, run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refbench.bench import FRAME_MEMORY_GIB
from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from refbench.bench.prompts import PromptSet
    from refbench.bench.runner.evaluate import Evaluated, PreparedEvaluation
    from refbench.bench.runner.run_config import RunConfig
    from refbench.bench.scores.record import Record

EXIT_SAMPLE_FAILED = 1
NAMED_FAILURES = 10


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(evaluate)
    app.command()(score)
    app.command()(generate)
    app.command()(run)


def evaluate(
    videos: Annotated[Path, typer.Argument(help="Run folder, or a flat folder of <sample id>.mp4.")],
    name: o.NameOption = None,
    pattern: o.PatternOption = None,
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    metrics: o.MetricsOption = None,
    set_: o.SetOption = None,
    samples: o.SamplesOption = None,
    limit: o.LimitOption = None,
    shard: o.ShardOption = None,
    workers: o.WorkersOption = 1,
    devices: o.DevicesOption = "auto",
    job_timeout: o.JobTimeoutOption = None,
    executor: o.ExecutorOption = "local",
    ray_address: o.RayAddressOption = None,
    weights: o.WeightsOption = None,
    memory_gib: o.MemoryOption = None,
    frame_memory_gib: o.FrameMemoryOption = FRAME_MEMORY_GIB,
    judge_model: o.JudgeModelOption = None,
    judge_url: o.JudgeUrlOption = None,
    judge_budget: o.JudgeBudgetOption = None,
    plugin: o.PluginOption = None,
    references: o.ReferencesOption = "own",
    shuffle_seed: o.ShuffleSeedOption = 0,
    out: o.ResultsOption = Path("results"),
    protocol: o.ProtocolOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Headline the strict TotalScore; exit 1 if any expected score is missing."
        ),
    ] = False,
    json: o.JsonOption = False,
) -> None:
    """Score a folder of videos and print the table.

    Finished scores are kept in DIR/<method>/<track>.jsonl; the same command after an interruption goes on
    where it stopped, and scores a video again only when it changed. Example:

    refbench evaluate my_videos/ --name my-method --track open-domain --dataset OpenS2V-Eval
    """
    from refbench.bench.registry import load_plugins
    from refbench.bench.runner.evaluate import Evaluation, PreparedEvaluation, Shard
    from refbench.bench.runner.run_config import JUDGED_METRIC
    from refbench.bench.scores.protocol import protocol_of

    load_plugins(plugin or [])
    chosen_track = o.chosen_track(track, suite, dataset)
    protocol_of(chosen_track.name, protocol)
    given = {"model": judge_model, "url": judge_url, "budget": judge_budget}
    judge = [f"{JUDGED_METRIC}.{key}={value}" for key, value in given.items() if value is not None]
    prepared = PreparedEvaluation(
        Evaluation(
            videos=videos,
            track=chosen_track,
            name=name,
            pattern=pattern,
            metrics=metrics,
            options=metric_options([*(set_ or []), *judge], metrics),
            memory_gib=memory_gib,
            frame_memory_gib=frame_memory_gib,
            samples=_ids(samples),
            limit=limit,
            shard=Shard.parse(shard),
            workers=workers,
            devices=devices,
            job_timeout_s=job_timeout,
            executor=executor,
            ray_address=ray_address,
            weights=weights,
            plugins=tuple(plugin or ()),
            out=out,
            shuffled_references=_shuffle(references, shuffle_seed),
        )
    )
    _report_unknown(prepared)
    if dry_run:
        _print_plan(prepared, json=json)
        return
    done = prepared.run()
    _print_boards(done, protocol, strict=strict, json=json)
    exit_on_failure([done], strict=strict)


def score(
    video: Annotated[Path, typer.Argument(help="One video file.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What the video was to show.")],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="LABEL=FILE",
            help="A reference picture with its class label (woman=a.png); may be given several times.",
        ),
    ] = None,
    metrics: o.MetricsOption = None,
    set_: o.SetOption = None,
    device: o.DeviceOption = "auto",
    weights: o.WeightsOption = None,
    plugin: o.PluginOption = None,
    json: o.JsonOption = False,
) -> None:
    """Score one video with its prompt and references.

    Prints the raw score of each metric, or the reason why there is none; nothing is kept. Example:

    refbench score a.mp4 --prompt 'a woman with a hat' --reference woman=a.png --reference hat=b.png
    """
    from refbench.bench.console import print_json, print_table
    from refbench.bench.registry import load_plugins
    from refbench.bench.runner.score import score as score_video
    from refbench.bench.scores.record import FAILED

    load_plugins(plugin or [])
    outcomes = score_video(
        video,
        prompt=prompt,
        references=_references(reference or []),
        metrics=metrics,
        options=metric_options(set_, metrics),
        weights=weights,
        device=device,
    )
    if json:
        print_json(
            {
                name: {"value": one.value, "reason": one.reason, "details": dict(one.details)}
                for name, one in outcomes.items()
            }
        )
    else:
        rows = [
            [name, "–" if one.value is None else f"{one.value:.4f}", one.reason or ""]
            for name, one in outcomes.items()
        ]
        columns = ["metric", "raw score", "why there is none"]
        print_table(video.name, columns, rows, words=True, texts=columns[2:])
    if any((one.reason or "").startswith(FAILED) for one in outcomes.values()):
        raise typer.Exit(EXIT_SAMPLE_FAILED)


def _references(assignments: list[str]) -> list[tuple[str, Path]]:
    """`["LABEL=FILE", …]` as pairs; anything else is a UserError."""
    pairs = []
    for text in assignments:
        label, equals, file = text.partition("=")
        if not (equals and label.strip() and file):
            raise UserError(f"--reference takes LABEL=FILE (woman=a.png), not {text!r}")
        pairs.append((label.strip(), Path(file)))
    return pairs


def generate(
    method: Annotated[str, typer.Argument(help="A registered method (refbench methods lists them).")],
    track: o.TrackOption = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    seed: o.SeedOption = None,
    set_: o.SetOption = None,
    settings: o.SettingsOption = None,
    prompts: o.PromptsOption = None,
    name: o.NameOption = None,
    references: o.ReferencesOption = "own",
    shuffle_seed: o.ShuffleSeedOption = 0,
    samples: o.SamplesOption = None,
    limit: o.LimitOption = None,
    shard: o.ShardOption = None,
    workers: o.WorkersOption = 1,
    devices: o.DevicesOption = "auto",
    job_timeout: o.JobTimeoutOption = None,
    executor: o.ExecutorOption = "local",
    ray_address: o.RayAddressOption = None,
    weights: o.WeightsOption = None,
    plugin: o.PluginOption = None,
    out: o.VideosOutOption = Path("runs"),
) -> None:
    """Generate a method's videos for a track.

    What is finished is not made again: the same command goes on after an interruption. Examples:

    refbench generate refalign-1.3b --dataset OpenS2V-Eval --weights weights --limit 3 --set steps=30

    refbench generate static-reference --track open-domain --dataset OpenS2V-Eval

    refbench generate command --name mine --set template='python gen.py --prompt {prompt} --out {output}'
    """
    from refbench.bench.leaderboard_settings import default_seeds
    from refbench.bench.options import parse_assignments
    from refbench.bench.registry import load_plugins
    from refbench.bench.runner.evaluate import Shard
    from refbench.bench.runner.generate import Generation, check_seeds
    from refbench.bench.runner.run import generate_and_say

    load_plugins(plugin or [])
    options = parse_assignments(set_ or [])
    done = generate_and_say(
        Generation(
            method=method,
            track=o.chosen_track(track, suite, dataset),
            name=name,
            options=options,
            settings=settings,
            prompts=_prompts(prompts),
            seeds=check_seeds(seed or default_seeds(settings, options)),
            shuffled_references=_shuffle(references, shuffle_seed),
            samples=_ids(samples),
            limit=limit,
            shard=Shard.parse(shard),
            workers=workers,
            devices=devices,
            job_timeout_s=job_timeout,
            executor=executor,
            ray_address=ray_address,
            weights=weights,
            plugins=tuple(plugin or ()),
            out=out,
        )
    )
    if done.failures:
        raise typer.Exit(EXIT_SAMPLE_FAILED)


def run(
    context: typer.Context,
    methods: Annotated[list[str] | None, typer.Argument(help="Registered methods.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.yaml",
            help="A run from a file; what the command line says as well wins over it.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the run as a file for --config, and stop.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            help="open-domain (default), human-domain or single-domain; may be given several times.",
        ),
    ] = None,
    dataset: o.DatasetOption = None,
    suite: o.SuiteOption = None,
    seed: o.SeedOption = None,
    metrics: o.MetricsOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME.KEY=VALUE", help="An option of the method or metric NAME."),
    ] = None,
    settings: o.SettingsOption = None,
    prompts: o.PromptsOption = None,
    references: o.ReferencesOption = "own",
    shuffle_seed: o.ShuffleSeedOption = 0,
    samples: o.SamplesOption = None,
    limit: o.LimitOption = None,
    workers: o.WorkersOption = 1,
    devices: o.DevicesOption = "auto",
    job_timeout: o.JobTimeoutOption = None,
    executor: o.ExecutorOption = "local",
    ray_address: o.RayAddressOption = None,
    weights: o.WeightsOption = None,
    judge_model: o.JudgeModelOption = None,
    judge_url: o.JudgeUrlOption = None,
    judge_budget: o.JudgeBudgetOption = None,
    plugin: o.PluginOption = None,
    runs: o.RunsOption = Path("runs"),
    out: o.ResultsOption = Path("results"),
    report: Annotated[Path, typer.Option("--report", metavar="DIR", help="Where the report goes.")] = Path(
        "report"
    ),
    protocol: o.ProtocolOption = None,
    json: o.JsonOption = False,
) -> None:
    """Generate, evaluate and report one or several methods.

    Resumable like its parts. The run as it was resolved is kept as run.yaml beside the scores, and
    --config gives it again. Examples:

    refbench run static-reference noise --dataset OpenS2V-Eval --limit 10

    refbench run noise --dataset OpenS2V-Eval --print-config > run.yaml

    refbench run --config run.yaml --limit 3
    """
    from refbench.bench.console import note, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.runner.generate import check_seeds
    from refbench.bench.runner.run import check_names
    from refbench.bench.runner.run_config import options_by_owner, read_run_file, resolved

    values = {
        "methods": methods,
        "tracks": track,
        "dataset": dataset,
        "suite": suite,
        "seeds": seed,
        "metrics": metrics,
        "options": options_by_owner(set_ or []),
        "settings": settings,
        "prompts": prompts,
        "references": references,
        "shuffle_seed": shuffle_seed,
        "samples": _ids(samples),
        "limit": limit,
        "workers": workers,
        "devices": devices,
        "job_timeout": job_timeout,
        "executor": executor,
        "ray_address": ray_address,
        "weights": weights,
        "judge": {
            key: value
            for key, value in (("model", judge_model), ("url", judge_url), ("budget", judge_budget))
            if value is not None
        },
        "plugins": plugin,
        "runs": runs,
        "out": out,
        "report": report,
        "protocol": protocol,
        "json": json,
    }
    typed = {RUN_KEYS.get(name, name) for name in context.params if _was_typed(context, name)}
    given = {key: value for key, value in values.items() if key in typed}
    file = read_run_file(config) if config is not None else {}
    chosen, won = resolved(file, given, str(config) if config is not None else "the command line")
    if won:
        note(f"the command line wins over {config}: {', '.join(won)}")
    if not chosen.methods:
        raise UserError("name a method to run (refbench methods lists them), or give --config FILE.yaml")
    load_plugins(chosen.plugins)
    _shuffle(chosen.references, chosen.shuffle_seed)
    check_seeds(chosen.seeds)
    if print_config:
        check_names(chosen.methods, chosen.assignments, chosen.settings, chosen.metrics)
        print_text(chosen.text().rstrip("\n"))
        return
    _run(chosen)


# The keys of a run's file whose options of the command line are called otherwise.
RUN_KEYS = {
    "track": "tracks",
    "seed": "seeds",
    "set_": "options",
    "plugin": "plugins",
    "judge_model": "judge",
    "judge_url": "judge",
    "judge_budget": "judge",
}


def _was_typed(context: typer.Context, name: str) -> bool:
    """Whether the user gave this option or argument, be it with its default's value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _run(config: RunConfig) -> None:
    """Generate, evaluate and report what a configuration says; it is kept beside the scores."""
    from refbench.bench.runner.executors import connection
    from refbench.bench.runner.run import MethodsRun, check_run, run_methods
    from refbench.bench.scores.protocol import protocol_of

    tracks = [
        o.chosen_track(track, config.suite, config.dataset)
        for track in dict.fromkeys(config.tracks or (None,))
    ]
    for track in tracks:
        protocol_of(track.name, config.protocol)
    planned = [
        MethodsRun(
            methods=config.methods,
            track=track,
            seeds=config.seeds,
            assignments=config.assignments,
            settings=config.settings,
            prompts=_prompts(config.prompts),
            shuffled_references=_shuffle(config.references, config.shuffle_seed),
            metrics=config.metrics,
            samples=config.samples,
            limit=config.limit,
            workers=config.workers,
            devices=config.devices,
            job_timeout_s=config.job_timeout,
            executor=config.executor,
            ray_address=config.ray_address,
            weights=config.weights,
            plugins=config.plugins,
            runs=config.runs,
            out=config.out,
        )
        for track in tracks
    ]
    for one in planned:
        check_run(one)
    config.write(config.out)
    with connection(config.executor, config.ray_address):
        done = [run_methods(one) for one in planned]
    other_command("report")(
        stores=[store for one in done for store in one.stores],
        out=config.report,
        protocol=config.protocol,
        runs=config.runs,
        dataset=config.dataset,
        suite=config.suite,
        json=config.json_output,
    )
    evaluated = [evaluated for one in done for evaluated in one.evaluated]
    exit_on_failure(evaluated, failed=any(one.generation_failed for one in done))


def _ids(text: str | None) -> tuple[str, ...]:
    """The ids of `--samples`; none without it. Raises UserError for a list that names none."""
    if text is None:
        return ()
    ids = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not ids:
        raise UserError("--samples names no sample: --samples faceobj_14,singleobj_1, say")
    return ids


def _prompts(path: Path | None) -> PromptSet | None:
    from refbench.bench.prompts import read_prompts

    return read_prompts(path) if path is not None else None


def _shuffle(references: str, seed: int) -> int | None:
    if references not in ("own", "shuffled"):
        raise UserError(f"--references is own or shuffled, not {references!r}")
    return seed if references == "shuffled" else None


def metric_options(assignments: list[str] | None, metrics: str | None) -> dict[str, dict[str, str]]:
    """As `assignments_by_owner`; with one metric selected its name may be left out."""
    from refbench.bench.options import assignments_by_owner

    alone = metrics if metrics and "," not in metrics and metrics not in ("all", "components") else None
    prefixed = [
        f"{alone}.{text}" if alone and "." not in text.partition("=")[0] else text
        for text in assignments or []
    ]
    return assignments_by_owner(prefixed)


def _report_unknown(prepared: PreparedEvaluation) -> None:
    """Say how names were read and which videos are not used."""
    from refbench.bench.console import note, shortened
    from refbench.bench.runs.video_names import named_with_near

    for text in prepared.folder.remarks:
        note(text)
    unknown = prepared.folder.unknown
    if unknown:
        ids = [sample.id for sample in prepared.evaluation.track.samples]
        named = shortened(named_with_near(unknown, ids))
        note(f"not scored, no sample of {prepared.run_key.track} has this name: {named}")


def _print_plan(prepared: PreparedEvaluation, *, json: bool) -> None:
    from dataclasses import asdict

    from refbench.bench.console import print_json, print_lines, print_table, print_text

    plan = prepared.plan()
    if json:
        print_json(
            {
                "store": str(prepared.store),
                **plan.run_key._asdict(),
                "metrics": {name: asdict(counts) for name, counts in plan.per_metric.items()},
                "not_installed": plan.unregistered,
                "turns": plan.turns,
                "workers": [place.device for place in prepared.places],
                "threads": prepared.environment.threads,
                "job_limits_s": plan.limits_s,
                "forecasts": plan.forecasts,
                "remarks": plan.remarks,
                "unknown_videos": list(prepared.folder.unknown),
            }
        )
        return
    columns = ["metric", "to score", "current", "reused", "not applicable", "no video", "cannot run"]
    rows = [
        [
            name,
            *map(str, (c.to_score, c.cached, c.reused, c.not_applicable, c.missing_video)),
            str(c.lacking) if c.cannot else "–",
        ]
        for name, c in plan.per_metric.items()
    ]
    title = f"Plan: {plan.run_key.method} on {plan.run_key.track} ({plan.run_key.variant}) → {prepared.store}"
    print_table(title, columns, rows)
    print_lines(f"{name} cannot run: {c.cannot}" for name, c in plan.per_metric.items() if c.cannot)
    for number, turn in enumerate(plan.turns, start=1):
        print_text(f"turn {number}: {', '.join(turn)}")
    if plan.jobs:
        print_text(f"workers: {prepared.workers_text(plan)}")
    for text in (*plan.forecasts, *plan.remarks):
        print_text(text)
    for label in plan.unregistered:
        print_text(f"{label}: cannot be scored, no metric of that name is installed")


def _print_boards(done: Evaluated, protocol: str | None, *, strict: bool, json: bool) -> None:
    from refbench.bench.console import inform, note, print_json, print_scoreboards, scoreboard_json
    from refbench.bench.scores.aggregate import scoreboards

    boards = scoreboards(done.records, protocol)
    if json:
        print_json([scoreboard_json(board) for board in boards])
    else:
        print_scoreboards(boards, strict=strict)
        inform(f"records: {done.store}")
    if done.left_out:
        note(done.left_out)


def exit_on_failure(done: list[Evaluated], *, strict: bool = False, failed: bool = False) -> None:
    """Name what failed; exit with 1 if anything did (for `strict`: if any expected score is missing)."""
    from refbench.bench.console import VIEW, note

    for one in done:
        lines = failure_lines(one.failures, each=VIEW.get().verbose)
        named = lines if VIEW.get().verbose else lines[:NAMED_FAILURES]
        for line in named:
            note(line)
        if len(lines) > len(named):
            note(f"… and {len(lines) - len(named)} more lines of failures; all reasons are in {one.store}")
    if failed or any(one.unscored if strict else one.failures for one in done):
        raise typer.Exit(EXIT_SAMPLE_FAILED)


def failure_lines(failures: Sequence[Record], *, each: bool = False) -> list[str]:
    """What failed and why, a line for each metric and reason, or for `each` failure."""
    from refbench.bench.console import shortened

    alike: dict[tuple[object, ...], list[Record]] = {}
    for record in failures:
        alike.setdefault((record.metric, record.reason, *([record.key] if each else [])), []).append(record)
    lines = []
    for records in alike.values():
        names = [f"{record.sample} seed {record.seed}" for record in records]
        what = names[0] if len(names) == 1 else f"({len(names)}: {shortened(names)})"
        lines.append(f"{records[0].metric} {what}: {records[0].reason}")
    return lines


def other_command(name: str) -> Any:
    """A command of another package, found as the command line finds it."""
    from importlib.metadata import entry_points

    point = next((point for point in entry_points(group="refbench.commands") if point.name == name), None)
    if point is None:
        raise UserError(f"the command {name} is not installed")
    return point.load()
