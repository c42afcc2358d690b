"""The commands on weights: refbench weights list, pull, verify, licences, make-tiny."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from refbench.bench.weights.entry import WeightEntry
    from refbench.bench.weights.store import Manifest

UNVERIFIED = "unverified"
TITLES = {
    "metric": "Weights of metrics",
    "generator": "Weights of generators",
    "teacher": "Teachers of RefAlign's training",
}
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Catalogue names or repositories; default: all."),
]


def add_commands(app: typer.Typer) -> None:
    """Add the group `weights`."""
    group = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        help="List, download, check and try the weights of metrics and generators.",
    )
    group.command("list")(list_weights)
    group.command()(pull)
    group.command()(verify)
    group.command()(licences)
    group.command("make-tiny")(make_tiny)
    app.add_typer(group, name="weights")


def list_weights(
    weights: o.WeightsOption = None, plugin: o.PluginOption = None, json: o.JsonOption = False
) -> None:
    """List the catalogue and what of it is on disk.

    Looked for in --weights, then $REFBENCH_WEIGHTS, then the hub cache. Example:

    refbench weights list --weights weights
    """
    from refbench.bench.console import print_json, print_table, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.weights.catalogue import catalogue
    from refbench.bench.weights.kind import kind_of_folder
    from refbench.bench.weights.store import is_tiny, locate, missing_files, read_manifest, weights_folder

    load_plugins(plugin or [])
    listed: dict[str, dict[str, Any]] = {}
    for row in catalogue().values():
        entry = row.entry
        found = locate(entry, weights_folder(weights))
        manifest = read_manifest(found) if found else None
        listed[entry.name] = {
            "repository": entry.repository,
            "kind": entry.kind,
            "used_by": list(row.used_by),
            "holds": entry.holds,
            "memory_gib": entry.memory_gib,
            "revision": manifest.revision if manifest else entry.revision or UNVERIFIED,
            "place": str(found) if found else None,
            "tiny": bool(found and is_tiny(found)),
            "mini": bool(found and kind_of_folder(found) == "mini"),
            "lacks": missing_files(entry, found) if found else [],
        }
    if json:
        print_json(listed)
        return
    columns = ["name", "repository", "used by", "GiB in use", "revision", "on disk"]
    for kind, title in TITLES.items():
        rows = [
            [
                name,
                str(shown["repository"]),
                ", ".join(shown["used_by"]),
                f"{shown['memory_gib']:g}",
                str(shown["revision"])[:12],
                _state(shown),
            ]
            for name, shown in listed.items()
            if shown["kind"] == kind
        ]
        texts = ["used by", "on disk"]
        print_table(title, columns, rows, words=True, texts=texts, drop=["revision", "GiB in use", "used by"])
        print_text("")


def _state(row: dict[str, Any]) -> str:
    """`missing`, or the folder with what is to be said of it."""
    if row["place"] is None:
        return "missing"
    remarks = ["tiny"] * row["tiny"] + ["mini"] * row["mini"] + [f"lacks {name}" for name in row["lacks"]]
    return ", ".join([*remarks, row["place"]])


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Catalogue names, repositories, or results/<MODEL>: that model's official videos.",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What this metric needs instead of names.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="What this method needs instead of names.")
    ] = None,
    weights: o.WeightsOption = None,
    plugin: o.PluginOption = None,
) -> None:
    """Download weights, or a model's official videos, and record what came.

    Into --weights DIR (or $REFBENCH_WEIGHTS), a folder per repository; sizes, SHA-256, revision and licence
    go into a manifest there. An interrupted download goes on. Examples:

    refbench weights pull --method phantom-1.3b --weights weights

    refbench weights pull results/VACE-14B --weights weights
    """
    from refbench.bench.console import print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.runs.official_videos import RESULTS_PREFIX
    from refbench.bench.weights.store import pull as download
    from refbench.bench.weights.store import weights_folder

    load_plugins(plugin or [])
    folder = weights_folder(weights)
    if folder is None:
        raise UserError("say where weights are kept: --weights DIR or REFBENCH_WEIGHTS")
    if not names and metric is None and method is None:
        raise UserError(
            "name what to pull, or say --metric NAME or --method NAME; "
            "refbench weights list shows the catalogue"
        )
    results = [name for name in names or [] if name.startswith(RESULTS_PREFIX)]
    others = [name for name in names or [] if not name.startswith(RESULTS_PREFIX)]
    wanted = _entries(others, metric, method) if others or metric or method else []
    for entry in wanted:
        manifest = download(entry, folder)
        licence = manifest.licence or entry.licence or UNVERIFIED
        print_text(f"{_pulled(entry.repository, manifest)}, licence {licence}")
    for name in results:
        _pull_results(name.removeprefix(RESULTS_PREFIX), folder)


def _pull_results(model: str, folder: Path) -> None:
    """Download a model's official videos and say how they become a run."""
    import shlex

    from refbench.bench.console import print_text
    from refbench.bench.runs.official_videos import pull_results

    found, manifest = pull_results(model, folder)
    command = shlex.join(["refbench", "import-videos", str(found), "--method", found.name])
    print_text(f"{_pulled(str(found), manifest)}\nnow: {command} --track open-domain --dataset …")


def _pulled(what: str, manifest: Manifest) -> str:
    gib = sum(file.bytes for file in manifest.files.values()) / 2**30
    return f"{what}@{manifest.revision[:12]}: {len(manifest.files)} files, {gib:.2f} GiB"


def verify(
    names: NamesArgument = None, weights: o.WeightsOption = None, plugin: o.PluginOption = None
) -> None:
    """Check weights on disk against their pull.

    Required files, then sizes and SHA-256 as the pull recorded them; every file is read. Exit code 2 when one
    is missing, truncated or another one. Example:

    refbench weights verify --weights weights
    """
    from refbench.bench.console import note, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.weights.store import locate, read_manifest, weights_folder
    from refbench.bench.weights.store import verify as check

    load_plugins(plugin or [])
    wrong = 0
    for entry in _entries(names):
        found = locate(entry, weights_folder(weights))
        if found is None:
            print_text(f"{entry.repository}: not on disk")
            continue
        faults = check(entry, found)
        wrong += len(faults)
        for fault in faults:
            note(fault)
        if not faults:
            manifest = read_manifest(found)
            state = (
                f"{len(manifest.files)} files as pulled" if manifest else f"{UNVERIFIED}: no pull recorded"
            )
            print_text(f"{entry.repository}: {state} ({found})")
    if wrong:
        raise UserError(f"{wrong} file{'s' if wrong > 1 else ''} missing or not as pulled; pull again")


def licences(weights: o.WeightsOption = None, plugin: o.PluginOption = None) -> None:
    """List the licences of weights and model packs.

    As the hub's card stated them at the pull; what was not pulled is unverified here. Example:

    refbench weights licences --weights weights
    """
    from refbench.bench.console import print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.scores.columns import COMPONENTS
    from refbench.bench.weights.catalogue import catalogue
    from refbench.bench.weights.store import locate, read_manifest, weights_folder

    load_plugins(plugin or [])
    for row in catalogue().values():
        entry = row.entry
        found = locate(entry, weights_folder(weights))
        manifest = read_manifest(found) if found else None
        licence = (manifest.licence if manifest else "") or entry.licence or UNVERIFIED
        print_text(f"{entry.repository}: {licence}; used by {', '.join(row.used_by)}")
    for component in COMPONENTS.values():
        if component.licence_note:
            print_text(f"{component.label}: {component.licence_note}")


def make_tiny(
    folder: Annotated[Path, typer.Argument(help="Where the tiny checkpoints go; use it as --weights.")],
    plugin: o.PluginOption = None,
) -> None:
    """Write tiny random checkpoints in the real formats.

    For trying the whole pipeline without a download: every video and score made with them is marked and means
    nothing. A plugin's function `write_tiny(folder)` writes those of its own metrics and methods. Example:

    refbench weights make-tiny tiny, then refbench evaluate … --weights tiny
    """
    from refbench.bench.console import note, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.weights.tiny import write_tiny_weights

    written = write_tiny_weights(folder, load_plugins(plugin or []))
    if written.lacking:
        packages = ", ".join(sorted(set(written.lacking.values())))
        note(f"not written, {packages} not installed: {', '.join(written.lacking)}")
    if not written.sets:
        raise UserError("nothing was written; pip install 'refalign-bench[metrics,baselines]'")
    print_text(
        f"tiny random weights, {written.sets} sets: refbench generate … or evaluate … --weights {folder}"
    )


def _entries(
    names: list[str] | None, metric: str | None = None, method: str | None = None
) -> list[WeightEntry]:
    """The catalogue's entries by name, and what a metric or method needs; all of them for neither."""
    from refbench.bench.registry import methods, metrics
    from refbench.bench.weights.catalogue import catalogue, get_entry

    if not names and metric is None and method is None:
        return [row.entry for row in catalogue().values()]
    needed = [get_entry(name) for name in names or []]
    for kind, name, weights in (
        ("metric", metric, metrics.get(metric).declaration.weights if metric else ()),
        ("method", method, methods.get(method).weights if method else ()),
    ):
        if name is not None and not weights:
            raise UserError(f"the {kind} {name} needs no weights")
        needed += weights
    return list({entry.name: entry for entry in needed}.values())
