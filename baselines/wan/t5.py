"""T5 and UMT5, the text encoders of the generators, read from model folders on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.bench.errors import UserError
from refbench.bench.weights.hf_folder import load_model, load_part

if TYPE_CHECKING:
    import torch


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, from `tokenizer.json` as it is where the folder has one.

    The class that UMT5's folder names (T5's) is rebuilt by transformers 5 with T5's own rules, which loses
    UMT5's byte fallback: a character outside of the vocabulary becomes unknown instead of its bytes.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    whole = (folder / "tokenizer.json").is_file()
    return load_part(PreTrainedTokenizerFast if whole else AutoTokenizer, folder)


def load_text_encoder(encoder_class: Any, folder: Path, *, dtype: torch.dtype) -> Any:
    """The encoder in `dtype`, on the CPU.

    Raises UserError for one that cannot be read or was not read whole.
    """
    encoder = load_model(encoder_class, folder, dtype=dtype)
    # A regression of transformers 5 (issue 43992) once left the tied embedding at zero, which gives the same
    # features for every prompt and no error.
    if not bool(encoder.get_input_embeddings().weight.any()):
        raise UserError(f"the text encoder {folder} has an embedding of zeros: it was not read whole")
    return encoder
