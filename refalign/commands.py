"""The commands of training: train, prepare, convert. torch is imported when one of them runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from refbench.bench.errors import UserError

RecipeArgument = Annotated[
    str,
    typer.Argument(help="stage1_1_3b, stage2_1_3b, stage1_14b, stage2_14b, tiny, or one of a --plugin."),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.FIELD=VALUE]...",
        help="Changes to the recipe: run.max_steps=1000, data.clip.width=480, … "
        "(refbench train RECIPE --show prints them all).",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", metavar="DIR", help="Folder of weights. Default: $REFBENCH_WEIGHTS."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Python file that registers recipes, losses, reference inputs, teachers or data sources; "
        "repeatable (docs/training.md).",
    ),
]
PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "ftfy", "safetensors", "pycocotools")
# A launcher ends all processes when it sees one end: the main one has to get its line out first.
GRACE_S = 2.0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")] = Path("training"),
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="OpenS2V-5M's layout, JSONL (video, prompt, references), or NAME:PATH of a plugin's data "
            "source; several with data.mixture=3,1.",
        ),
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="What refbench prepare made; --data is then optional.")
    ] = None,
    weights: WeightsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out, exactly.")
    ] = False,
    accept_other_data: Annotated[
        bool,
        typer.Option(
            "--accept-other-data",
            help="Resume with other data, weights or plugin code than the run had; the log says so.",
        ),
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", help="Leave out a clip by the name that the log gives it; repeatable."),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Short for run.max_steps=N.")
    ] = None,
    plugin: PluginOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the whole configuration as JSON and stop.")
    ] = False,
) -> None:
    """Train RefAlign by a recipe; settings are changed as SECTION.FIELD=VALUE.

    In OUT: checkpoints/step-N (network in Wan's original naming), log.jsonl, curves/ for TensorBoard,
    validation/step-N/*.mp4. Ctrl-C writes a checkpoint first. Many GPUs: accelerate launch --num_processes 8
    -m refbench train …, or torchrun --nproc_per_node 8 -m refbench train …

    Example: refbench train tiny --data clips.jsonl --out run, then --resume --max-steps 600
    """
    check_packages()
    from refbench.bench.console import note, print_json
    from refbench.bench.registry import load_plugins
    from refbench.refalign.training.recipes import build_config

    load_plugins(plugin or [])
    changes = [*(overrides or []), *([] if max_steps is None else [f"run.max_steps={max_steps}"])]
    config = build_config(recipe, changes)
    config = replace(config, data=replace(config.data, skip=(*config.data.skip, *(skip or []))))
    if show:
        print_json(config.plain())
        return

    def work() -> None:
        from refbench.refalign.training.checkpoints import CheckpointStore
        from refbench.refalign.training.run import TrainingPaths, train

        paths = TrainingPaths(
            out=out,
            data=data or None,
            features=features,
            weights=weights,
            plugins=tuple(plugin or ()),
        )
        try:
            result = train(config, paths, resume=resume, accept_other_data=accept_other_data)
        except KeyboardInterrupt:
            _stop(CheckpointStore(out, config.checkpoints.keep).newest_text())
        if result.stopped:
            kept = result.checkpoint
            _stop("there is no checkpoint yet" if kept is None else f"{kept} is whole")
        if _rank() == 0:
            note(f"step {result.step} is reached: {result.checkpoint}")

    _in_all_processes(work)


def prepare(
    recipe: RecipeArgument,
    data: Annotated[list[Path], typer.Option("--data", help="The training data, as for refbench train.")],
    overrides: OverridesArgument = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.")] = Path("features"),
    positions: Annotated[
        int | None,
        typer.Option(
            "--positions",
            min=1,
            help="Samples to prepare, in training order. Default: what the recipe's run takes, at most an "
            "epoch; a longer run goes through them again.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Whole epochs to prepare, instead of --positions.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how much space the features take and stop.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Prepare though it does not fit the disk.")] = False,
    weights: WeightsOption = None,
    plugin: PluginOption = None,
) -> None:
    """Compute VAE latents, text and teacher features once, for refbench train --features.

    Training steps then run the transformer alone, with equal losses. The size is said first. What is in OUT
    stays: an interrupted preparation goes on, and more positions, teachers, seeds or data sets are added, of
    which only what is new is encoded. Dropped conditions and noise are drawn when training.

    Example: refbench prepare stage1_1_3b --data OpenS2V-5M --out features --positions 128000
    """
    check_packages()
    from refbench.bench.console import print_text
    from refbench.bench.registry import load_plugins
    from refbench.refalign.training.recipes import build_config

    load_plugins(plugin or [])
    config = build_config(recipe, overrides or [])

    def work() -> None:
        from refbench.refalign.training.run import prepare

        prepared = prepare(
            config, data, out, weights, epochs=epochs, positions=positions, force=force, dry_run=dry_run
        )
        if _rank() == 0 and not dry_run:
            print_text(f"{prepared:,} samples are prepared: refbench train … --features {out}")

    _in_all_processes(work)


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A file or folder of either naming, shards too, or a run's sharded checkpoint."),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write; must not hold anything yet.")],
    to: Annotated[str, typer.Option("--to", help="original or diffusers.")],
    dtype: Annotated[str, typer.Option("--dtype", help="keep, bfloat16, float16 or float32.")] = "keep",
    drop_projectors: Annotated[
        bool, typer.Option("--drop-projectors", help="Leave out the projectors of the alignment loss.")
    ] = False,
    average: Annotated[
        bool, typer.Option("--average", help="Of a sharded checkpoint: the moving average of the weights.")
    ] = False,
) -> None:
    """Convert a Wan or RefAlign network between original and diffusers naming, or write a training run's.

    Known prefixes (module., dit., model.pipe., …) are dropped; what half precision needs in float32 stays so.
    A diffusers folder has no place for projectors: convert with --drop-projectors. A sharded checkpoint
    (checkpoints.sharded=true) is read without the optimiser's state, in the --dtype at once.

    Example: refbench convert run/checkpoints/step-00001000/transformer out --to diffusers --drop-projectors
    Example: refbench convert run14b/checkpoints/step-00003000 refalign-14b --to original --dtype bfloat16
    """
    check_packages()
    from refbench.bench.console import print_text
    from refbench.bench.registry import unknown_name
    from refbench.refalign.conversion import DTYPES, NAMINGS, convert_checkpoint

    if to not in NAMINGS:
        raise UserError(unknown_name("naming", to, NAMINGS))
    if dtype not in DTYPES:
        raise UserError(unknown_name("dtype", dtype, DTYPES))
    files, projectors = convert_checkpoint(
        source, target, naming=to, dtype=dtype, drop_projectors=drop_projectors, average=average
    )
    kept = "none" if not projectors else "left out" if drop_projectors else "kept"
    print_text(f"{len(files)} file(s) in {target}, {to} naming; projectors: {kept}")


def check_packages() -> None:
    """Raises UserError where the extra `refalign` is not installed."""
    from refbench.bench.environment import missing_packages

    absent = missing_packages(PACKAGES, "refalign")
    if absent is not None:
        raise UserError(absent)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _in_all_processes(work: Callable[[], None]) -> None:
    """Do `work`; of a UserError that all launched processes raise, the main process alone prints the line."""
    try:
        work()
    except UserError:
        if _rank() == 0:
            raise
        try:
            time.sleep(GRACE_S)
        except KeyboardInterrupt:
            # The main process failed as well and has said why.
            raise typer.Exit(EXIT_USER_ERROR) from None
        raise
    finally:
        _leave_group()


def _stop(what_is_kept: str) -> NoReturn:
    """End an interrupted training with what the main process says."""
    from refbench.bench.console import note

    if _rank() == 0:
        note(f"refbench: stopped; {what_is_kept}; the same command with --resume goes on from there")
    raise typer.Exit(EXIT_INTERRUPTED)


def _leave_group() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
