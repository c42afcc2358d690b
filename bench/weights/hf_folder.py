"""Model folders as the Hugging Face hub lays them out: `config.json`, weight files, tokenizers, processors.

Everything is read from the folder alone: nothing is downloaded, no code of a repository is run, and pickled
weights are read with `weights_only=True` (the default of transformers 5). Works for the classes of
transformers and of diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_json_object, regular_size, visible
from refbench.bench.weights.checkpoint import (
    LARGEST_WEIGHTS_BYTES,
    TensorHeader,
    check_module_memory,
    key_faults,
    read_header,
)
from refbench.bench.weights.checkpoint import indexed_files as indexed_files
from refbench.bench.weights.store import file_digests

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
LAYERS_KEY = re.compile(r"(?:layers|blocks|depth)$")
# More layers than a checkpoint has tensors are refused, but never this few.
FEW_LAYERS = 1000
# Counters that older releases of transformers stored and newer ones compute.
STORED_COUNTERS = "position_ids"


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder. Raises UserError when it is missing or is no JSON object."""
    return read_json_object(folder / CONFIG_FILE)


def weight_files(folder: Path) -> list[Path]:
    """The files with tensors in a model folder, in name order: safetensors, else pickled `.bin`."""
    return visible(folder, "*.safetensors") or visible(folder, "*pytorch_model*.bin")


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

    Raises UserError for a damaged or incomplete folder, for a configuration that would take much more memory
    than the weights beside it, and for keys that are missing, unexpected or of another shape, of which it
    names the first.
    """
    if model_class.__module__.startswith("transformers."):
        settings["trust_remote_code"] = False
    headers = _headers(folder)
    try:
        with quiet_transformers():
            _check_sizes(model_class, folder, settings.get("config"), headers)
            model, report = model_class.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported instead, and raised below with their names
                **settings,
            )
    except UserError:
        raise
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


def _headers(folder: Path) -> list[dict[str, TensorHeader]]:
    """The headers of a folder's weight files. Raises UserError for those that are damaged, and for what is no
    file, whatever it is for: a named pipe would be waited for.
    """
    for path in visible(folder):
        if not path.is_dir():
            regular_size(path, LARGEST_WEIGHTS_BYTES)
    return [read_header(path) for path in weight_files(folder)]


def _check_sizes(
    model_class: Any, folder: Path, config: Any, headers: Sequence[Mapping[str, TensorHeader]]
) -> None:
    """Raises UserError where the model of a folder's configuration takes more memory than its weights say."""
    import torch

    if not headers:
        # What is missing, the library says.
        return
    tensors = sum(map(len, headers))
    for name, layers in _layer_counts(read_config(folder)):
        if layers > max(tensors, FEW_LAYERS):
            raise UserError(
                f"{folder} does not fit its weights: {name} is {layers:,}, they hold {tensors:,} tensors"
            )
    with torch.device("meta"):
        if not model_class.__module__.startswith("transformers."):
            skeleton = model_class.from_config(model_class.load_config(folder, local_files_only=True))
        else:
            from transformers import AutoConfig

            config_class = getattr(model_class, "config_class", None) or AutoConfig
            config = config or config_class.from_pretrained(folder, local_files_only=True)
            # Automatic classes are made by a method, the others by their name.
            skeleton = getattr(model_class, "from_config", model_class)(config)
    check_module_memory(skeleton, headers, folder)


def _layer_counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The entries of a configuration, at any depth, that count layers."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _layer_counts(value)
        elif LAYERS_KEY.search(name) and isinstance(value, int):
            yield name, value


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
