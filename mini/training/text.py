"""The text side of the small generators: a tokenizer of the world's words, and a small UMT5 encoder.

Formats are those of the Wan repositories (`tokenizer/`, `text_encoder/`). Words of the world's prompts are
one token each; any other text falls into characters and bytes, as with the released tokenizer.
"""

from __future__ import annotations

from typing import Any

from refbench.baselines.small.pipelines import WORD_START, text_encoder_config, vocabulary
from refbench.mini.world.prompts import words_of_prompts

TEXT_WIDTH = 96
WORD_SCORE = -1.0
# No prompt of the world has as many tokens.
MOST_TOKENS = 56
# Rows of text that the networks attend to (released ones: 512); those after a prompt's end are zero.
TEXT_ROWS = 64


def pieces() -> list[tuple[str, float]]:
    """The tokenizer's pieces with their scores: the tiny one's, and whole words of the world."""
    return [*vocabulary(), *((WORD_START + word, WORD_SCORE) for word in words_of_prompts())]


def new_encoder() -> Any:
    """An untrained UMT5 encoder."""
    from transformers import UMT5EncoderModel

    return UMT5EncoderModel(text_encoder_config(len(pieces()), TEXT_WIDTH, dropout_rate=0.0))
