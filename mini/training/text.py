"""The text side of the small generators: a tokenizer of the world's words, and a small UMT5 encoder.

Formats are those of the Wan repositories (`tokenizer/`, `text_encoder/`). Words of the world's prompts are
one token each; any other text falls into characters and bytes, as with the released tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refbench.baselines.small.pipelines import WORD_START, vocabulary
from refbench.bench.weights.tiny import save_tensors
from refbench.mini.world.prompts import words_of_prompts

TEXT_WIDTH = 96
WORD_SCORE = -1.0
# No prompt of the world has as many tokens.
MOST_TOKENS = 56


def pieces() -> list[tuple[str, float]]:
    """The tokenizer's pieces with their scores: the tiny one's, and whole words of the world."""
    return [*vocabulary(), *((WORD_START + word, WORD_SCORE) for word in words_of_prompts())]


def write_encoder(encoder: Any, folder: Path) -> None:
    """Write the encoder as a Wan repository's `text_encoder/` has it, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.config.save_pretrained(folder)
    state = {key: value.half() for key, value in encoder.state_dict().items()}
    # One matrix under two names; the published files hold the first.
    state.pop("encoder.embed_tokens.weight", None)
    save_tensors(folder, state)


def new_encoder() -> Any:
    """An untrained UMT5 encoder of two layers."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        architectures=["UMT5EncoderModel"],
        vocab_size=len(pieces()),
        d_model=TEXT_WIDTH,
        d_kv=24,
        d_ff=2 * TEXT_WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        dtype="float32",
    )
    return UMT5EncoderModel(config)
