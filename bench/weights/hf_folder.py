"""Model folders as the Hugging Face hub lays them out: `config.json`, weight files, tokenizers, processors.

Everything is read from the folder alone: nothing is downloaded, no code of a repository is run, and pickled
weights are read with `weights_only=True` (the default of transformers 5). Works for the classes of
transformers and of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json, read_json_object
from refbench.bench.weights.checkpoint import key_faults
from refbench.bench.weights.store import file_digests

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
# Counters that older releases of transformers stored and newer ones compute.
STORED_COUNTERS = "position_ids"


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. Raises UserError when it is missing or is no JSON object."""
    return read_json_object(folder / CONFIG_FILE)


def weight_files(folder: Path) -> list[Path]:
    """The files with tensors in a model folder, in name order: safetensors, else pickled `.bin`."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def indexed_files(index: Path) -> list[Path]:
    """The weight files that an index (`*.index.json`) names, in name order; they need not be there.

    Raises UserError for a file that is no index and for one that names files outside of its folder.
    """
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} is no shard index: it has no weight_map")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if name in ("", "..") or Path(name).name != name:
            raise UserError(f"{index} names {one_line(name, 80)!r}, which lies outside of its folder")
    return [index.parent / name for name in files]


def weight_digests(folder: Path, name: str) -> dict[str, str]:
    """`name/file` → SHA-256 of each weight file; prefixed with `tiny:` where the folder is marked as tiny."""
    return file_digests(folder, {f"{name}/{path.name}": path for path in weight_files(folder)})


def load_model(
    model_class: Any,
    folder: Path,
    *,
    dtype: torch.dtype | str,
    device: torch.device | str = "cpu",
    may_lack: tuple[str, ...] = (),
    may_hold: tuple[str, ...] = (),
    **settings: Any,
) -> Any:
    """A model with the folder's weights, in evaluation mode, without gradients, on `device`.

    Args:
        model_class: a class of transformers or diffusers with `from_pretrained`.
        folder: where `config.json` and the weight files are.
        dtype: as `from_pretrained` takes it; `"auto"` is the checkpoint's own (transformers alone).
        device: where the model goes after it was read.
        may_lack: keys with these prefixes may be missing in the checkpoint.
        may_hold: keys with these prefixes may be there beside the model's own, and are left out.
        settings: further arguments of `from_pretrained`, such as another `config`.

    Raises UserError for a damaged or incomplete folder, and for keys that are missing, unexpected or of
    another shape, of which it names the first.
    """
    if model_class.__module__.startswith("transformers."):
        settings["trust_remote_code"] = False
    if "config" not in settings:
        # Without one transformers would take the sizes of its own default.
        read_config(folder)
    try:
        with quiet_transformers():
            model, report = model_class.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported instead, and raised below with their names
                **settings,
            )
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{folder} cannot be loaded: {one_line(error, 200)}") from None
    faults = key_faults(
        {
            "missing": [key for key in report["missing_keys"] if not key.startswith(may_lack)],
            "unexpected": [
                key
                for key in report["unexpected_keys"]
                if not key.startswith(may_hold) and not key.endswith(STORED_COUNTERS)
            ],
            "mismatched": report["mismatched_keys"],
        }
    )
    if faults:
        raise UserError(f"{folder} does not fit {type(model).__name__}: keys {faults}")
    return model.eval().requires_grad_(False).to(device)


def load_part(part_class: Any, folder: Path, **settings: Any) -> Any:
    """A tokenizer, image processor, processor or scheduler of the folder.

    `settings` are further arguments of `from_pretrained`. Raises UserError when it cannot be read, and for a
    tokenizer without a vocabulary on disk, which transformers would make up.
    """
    if part_class.__module__.startswith("transformers."):
        settings["trust_remote_code"] = False
    try:
        with quiet_transformers():
            part = part_class.from_pretrained(folder, local_files_only=True, **settings)
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{part_class.__name__} of {folder} cannot be read: {one_line(error, 200)}") from None
    vocabularies = getattr(getattr(part, "tokenizer", part), "vocab_files_names", {}).values()
    if vocabularies and not any((folder / name).is_file() for name in vocabularies):
        raise UserError(f"{folder} lacks its tokenizer ({' or '.join(sorted(vocabularies))})")
    return part


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither progress bars nor load reports of transformers while the block runs.

    What matters in them is raised as an error.
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
