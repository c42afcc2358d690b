"""Parts of published models, read from their Hugging Face folders on disk. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError, one_line


def from_folder(part_class: Any, folder: Path, **settings: Any) -> Any:
    """A part of a model by its class, from a folder on disk. Raises UserError when it cannot be read."""
    from transformers.utils import logging

    # What matters of a load is raised; a bar per part only disturbs the runner's own.
    logging.disable_progress_bar()
    try:
        return part_class.from_pretrained(folder, local_files_only=True, **settings)
    except Exception as error:  # noqa: BLE001 - readers of damaged files raise many kinds
        raise UserError(f"{folder} cannot be loaded: {one_line(error, 200)}") from None


def load_tokenizer(folder: Path) -> Any:
    """T5's or UMT5's tokenizer, from `tokenizer.json` as it is where the folder has one.

    The class that UMT5's folder names (T5's) is rebuilt by transformers 5 with T5's own rules, which loses
    UMT5's byte fallback: a character outside of the vocabulary becomes unknown instead of its bytes.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    return from_folder(PreTrainedTokenizerFast if whole else AutoTokenizer, folder)


def load_text_encoder(encoder_class: Any, folder: Path, *, dtype: Any) -> Any:
    """A T5 or UMT5 encoder from the part `text_encoder` of a folder, in `dtype`.

    Raises UserError for one that cannot be read or was not read whole.
    """
    encoder = from_folder(encoder_class, folder / "text_encoder", dtype=dtype)
    # A regression of transformers 5 (issue 43992) once left the tied embedding at zero, which gives the same
    # features for every prompt and no error.
    if not bool(encoder.get_input_embeddings().weight.any()):
        raise UserError(f"the text encoder in {folder} has an embedding of zeros: it was not read whole")
    return encoder
