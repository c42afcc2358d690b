"""The commands that show what there is: methods, metrics, tracks, doctor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError

if TYPE_CHECKING:
    from refbench.bench.options import OptionDescription


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(methods)
    app.command()(metrics)
    app.command()(tracks)
    app.command()(doctor)


def methods(
    action: Annotated[str | None, typer.Argument(metavar="[show NAME]", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(hidden=True)] = None,
    set_: o.SetOption = None,
    plugin: o.PluginOption = None,
    json: o.JsonOption = False,
) -> None:
    """List the methods, or show one's card and options.

    Example: refbench methods show pan-reference
    """
    from refbench.bench.console import print_json
    from refbench.bench.registry import load_plugins
    from refbench.bench.registry import methods as registry

    load_plugins(plugin or [])
    if action is not None:
        _show_method(_shown(action, name, "methods"), set_ or [], json=json)
        return
    listed = {found: registry.get(found).summary for found in registry.names()}
    _report_problems(registry.problems)
    if json:
        print_json(listed)
    else:
        _print_list(listed)


def _shown(action: str, name: str | None, command: str) -> str:
    """The name in `COMMAND show NAME`; anything else is a UserError."""
    if action != "show" or name is None:
        raise UserError(f"say refbench {command}, or refbench {command} show NAME")
    return name


def _show_method(name: str, assignments: list[str], *, json: bool) -> None:
    from refbench.bench.console import print_json
    from refbench.bench.options import describe_options, parse_assignments
    from refbench.bench.registry import methods as registry
    from refbench.bench.runner.generating import make_method

    method_class = registry.get(name)
    options = describe_options(method_class.Options)
    given = parse_assignments(assignments)
    if all(option.name in given for option in options if option.required):
        card = make_method(name, given).card().model_dump(mode="json")
    else:
        # A card depends on the options; without the required ones only the declaration can be shown.
        card = {"name": method_class.name, "summary": method_class.summary}
    if json:
        print_json({"card": card, "options": _options_json(options)})
        return
    _print_fields(f"Method card: {method_class.name}", card)
    _print_options(options, "KEY=VALUE")


def metrics(
    action: Annotated[str | None, typer.Argument(metavar="[show NAME]", show_default=False)] = None,
    name: Annotated[str | None, typer.Argument(hidden=True)] = None,
    plugin: o.PluginOption = None,
    json: o.JsonOption = False,
) -> None:
    """List the installed metrics, or show what one measures, needs and can be told.

    Components of TotalScore that no metric fills are listed after them. Example:

    refbench metrics show facesim
    """
    from refbench.bench.console import print_json, print_text
    from refbench.bench.registry import load_plugins
    from refbench.bench.registry import metrics as registry
    from refbench.bench.scores.columns import COMPONENTS

    load_plugins(plugin or [])
    if action is not None:
        _show_metric(_shown(action, name, "metrics"), json=json)
        return
    declared = [registry.get(found).declaration for found in registry.names()]
    _report_problems(registry.problems)
    filled = {declaration.component for declaration in declared}
    absent = {
        component.metric: component.meaning
        for component in COMPONENTS.values()
        if component.name not in filled
    }
    if json:
        listed = {
            d.name: {"summary": d.summary, "version": d.version, "component": d.component} for d in declared
        }
        print_json({"installed": listed, "not_installed": absent})
        return
    _print_list({declaration.name: declaration.summary for declaration in declared})
    if absent:
        print_text("\nComponents of TotalScore without an installed metric:")
        _print_list(absent)


def _show_metric(name: str, *, json: bool) -> None:
    from refbench.bench.console import print_json
    from refbench.bench.options import describe_options
    from refbench.bench.registry import metrics as registry

    metric_class = registry.get(name)
    declaration = metric_class.declaration
    shown = {
        "name": declaration.name,
        "version": declaration.version,
        "summary": declaration.summary,
        "component": declaration.component or "none: supplementary, outside of TotalScore",
        "source": declaration.source,
        "uses": sorted(declaration.uses),
        "weights": [entry.repository for entry in declaration.weights],
        "optional_weights": [entry.repository for entry in declaration.optional_weights],
        "packages": list(declaration.packages),
    }
    options = describe_options(metric_class.Options)
    if json:
        print_json({"metric": shown, "options": _options_json(options)})
        return
    texts = {
        key.replace("_", " "): ", ".join(value) if isinstance(value, list) else value
        for key, value in shown.items()
    }
    _print_fields(f"Metric: {declaration.name}", texts)
    _print_options(options, f"{declaration.name}.KEY=VALUE")


def _options_json(options: Sequence[OptionDescription]) -> dict[str, dict[str, str]]:
    return {
        option.name: {"type": option.type, "default": option.default, "meaning": option.meaning}
        for option in options
    }


def _print_fields(title: str, fields: Mapping[str, object]) -> None:
    from refbench.bench.console import print_table

    rows = [[key, str(value)] for key, value in fields.items() if value not in (None, {}, [], (), "")]
    print_table(title, ["field", "value"], rows, words=True, texts=["value"])


def _print_options(options: Sequence[OptionDescription], form: str) -> None:
    from refbench.bench.console import print_table, print_text

    if not options:
        return
    rows = [[option.name, option.type, option.default, option.meaning] for option in options]
    columns = ["option", "type", "default", "meaning"]
    print_text("")
    print_table(f"Options (--set {form})", columns, rows, words=True, texts=columns[1:], drop=["type"])
    needs = [option.name for option in options if option.required]
    if needs:
        print_text(f"required: {', '.join(needs)}")


def tracks(dataset: o.DatasetOption = None, json: o.JsonOption = False) -> None:
    """List the tracks: the official ones and those of other packages.

    With --dataset also how many samples and reference images are there. Example:

    refbench tracks --dataset OpenS2V-Eval
    """
    from refbench.bench import DEFAULT_TRACK
    from refbench.bench.console import print_json
    from refbench.bench.dataset import dataset_folder, declared_tracks, load_track, tracks_in

    there: list[str] = []
    if dataset is not None:
        folder = dataset_folder(dataset)
        # Without any list, the fault that reading the first one is.
        there = tracks_in(folder) or [load_track(DEFAULT_TRACK, dataset).name]
    listed: dict[str, dict[str, object]] = {}
    for name, declared in declared_tracks().items():
        listed[name] = {"summary": declared.summary, "official_samples": len(declared.sample_ids)}
        if name in there:
            samples = load_track(name, dataset).samples
            images = [reference.file for sample in samples for reference in sample.references]
            listed[name] |= {
                "samples": len(samples),
                "references": len(images),
                "references_found": sum(image.is_file() for image in images),
            }
    if json:
        print_json(listed)
        return
    _print_list(
        {
            name: f"{row['official_samples']} samples: {row['summary']}"
            + (
                f" — here {row['samples']} samples, {row['references_found']} of {row['references']} images"
                if "samples" in row
                else ""
            )
            for name, row in listed.items()
        }
    )


PACKAGES = (
    "refalign-bench",
    "numpy",
    "pandas",
    "av",
    "opencv-python",
    "matplotlib",
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "insightface",
    "diffusers",
    "accelerate",
    "ray",
)


def doctor(
    weights: o.WeightsOption = None,
    dataset: o.DatasetOption = None,
    json: o.JsonOption = False,
) -> None:
    """Say what this machine has and lacks.

    Versions, devices, codecs, data set, weights (and how to get them), free disk. Example:

    refbench doctor --weights weights
    """
    from refbench.bench.console import print_json, print_text

    found = {
        "software": _software(),
        "devices": _devices(),
        "video": _video_support(),
        "dataset": _dataset_state(dataset),
        "weights": _weights_state(weights),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }
    if json:
        print_json(found)
        return
    for section, content in found.items():
        print_text(section.replace("_", " "))
        if isinstance(content, dict):
            for key, value in content.items():
                print_text(f"  {key}: {value}")
        else:
            print_text(f"  {content}")


def _software() -> dict[str, str]:
    from refbench.bench.provenance import package_version, python_version

    versions = {name: package_version(name) or "not installed" for name in PACKAGES}
    return {"python": python_version(), **versions}


def _devices() -> dict[str, str]:
    from importlib.util import find_spec

    from refbench.bench.devices import auto_devices
    from refbench.bench.environment import usable_cores

    devices = {"cpu": f"{usable_cores()} cores usable"}
    if find_spec("torch") is None:
        devices["gpu"] = "unknown: torch is not installed (pip install 'refalign-bench[metrics]')"
        return devices
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if len(devices) == 1:
        devices["gpu"] = "none that torch can use"
    devices["auto"] = f"{', '.join(auto_devices())} (what --devices auto takes, one worker each)"
    return devices


def _video_support() -> dict[str, str]:
    import av

    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    encoder = "yes" if "libx264" in av.codecs_available else "no: generate cannot write H.264"
    return {
        "PyAV": av.__version__,
        "libavcodec": libraries.get("libavcodec", "?"),
        "H.264 encoder": encoder,
        "ffmpeg program": shutil.which("ffmpeg") or "not found (not needed)",
    }


def _dataset_state(dataset: str | None) -> str:
    import os

    from refbench.bench.dataset import DATASET_VARIABLE, HUB_DATASET, tracks_in

    given = dataset or os.environ.get(DATASET_VARIABLE)
    if not given:
        return f"not set: --dataset DIR or {DATASET_VARIABLE}; hf download --repo-type dataset {HUB_DATASET}"
    folder = Path(given)
    there = tracks_in(folder)
    return f"{given}: {', '.join(there) if there else 'no sample list found'}"


def _weights_state(weights: Path | None) -> dict[str, str]:
    from refbench.bench.weights.catalogue import catalogue
    from refbench.bench.weights.store import how_to_get, locate, weights_folder

    folder = weights_folder(weights)
    state = {}
    for row in catalogue().values():
        entry = row.entry
        found = locate(entry, folder)
        users = ", ".join(row.used_by)
        state[entry.repository] = (
            f"found at {found}" if found else f"missing; for {users} ({entry.holds}); {how_to_get(entry)}"
        )
    return state


def _print_list(listed: dict[str, str]) -> None:
    from refbench.bench.console import print_lines

    width = max(map(len, listed), default=0)
    print_lines((f"{name:<{width}}  {text}" for name, text in listed.items()), indent=width + 2)


def _report_problems(problems: list[str]) -> None:
    from refbench.bench.console import note

    for problem in problems:
        note(f"not loaded: {problem}")
