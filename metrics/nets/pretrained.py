"""Model folders in the Hugging Face layout: loading that names every key that does not fit, and digests.

Reads only what lies in the folder: nothing is downloaded, no code of a repository is run, pickled weights are
read with `weights_only=True` (the default of transformers 5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.store import file_digests

NAMED_KEYS = 3


def torch_device(name: str) -> torch.device:
    """The device that an environment names; `auto` is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. Raises UserError when it is missing or is no JSON object."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error, 120)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is no JSON object")
    return config


def load_model(
    model_class: Any,
    folder: Path,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    unused_prefixes: tuple[str, ...] = (),
) -> Any:
    """An evaluation-mode model of `model_class` with the folder's weights, on `device`.

    `dtype` is as transformers takes it (`"auto"`: the checkpoint's own); keys with `unused_prefixes` may be
    missing. Raises UserError for a damaged or
    incomplete folder and names the first keys that are missing, unexpected or of another shape.
    """
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported instead, and raised below with their names
            )
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"the model in {folder} cannot be loaded: {one_line(error, 200)}") from None
    missing = [key for key in report["missing_keys"] if not key.startswith(unused_prefixes)]
    faults = [
        f"{len(keys)} {kind} ({_some(keys)})"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", report["unexpected_keys"]),
            ("mismatched", report["mismatched_keys"]),
        )
        if keys
    ]
    if faults:
        raise UserError(f"{folder} does not fit {type(model).__name__}: keys {'; '.join(faults)}")
    return model.eval().requires_grad_(False).to(device)


def load_part(part_class: Any, folder: Path, **settings: Any) -> Any:
    """A tokenizer, image processor or processor of the folder. Raises UserError when it cannot be read."""
    try:
        with quiet_transformers():
            return part_class.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **settings
            )
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{part_class.__name__} of {folder} cannot be read: {one_line(error, 200)}") from None


def weight_files(folder: Path) -> list[Path]:
    """The files with tensors in a model folder, in name order: safetensors, else pickled `.bin`."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def weight_digests(folder: Path, name: str) -> dict[str, str]:
    """`name/file` → SHA-256 of each weight file; prefixed with `tiny:` where the folder is marked as tiny."""
    return file_digests(folder, {f"{name}/{path.name}": path for path in weight_files(folder)})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports of transformers while it lasts: what matters is raised as an
    error.
    """
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _some(keys: Any) -> str:
    ordered = sorted(str(key) for key in keys)
    return ", ".join(ordered[:NAMED_KEYS]) + (", …" if len(ordered) > NAMED_KEYS else "")
