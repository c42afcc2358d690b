"""A small local judge in the real layout, made so that its greedy answer is one digit from 1 to 5.

Its first hidden dimension tells whether a token is one of these digits: the output layer then prefers a digit
after anything else, and the end after a digit. Which digit depends, through the random network, on what was
seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refbench.bench.weights.common import QWEN25_VL
from refbench.metrics.small.byte_tokens import byte_symbols
from refbench.metrics.small.qwen2_vl import TOKEN_IDS, Weights, write_qwen2_vl

END = TOKEN_IDS["<|im_end|>"]
DIGITS = tuple(byte_symbols()[digit] for digit in "12345")

# Far above what the random layers add to the marked dimension.
MARK = 30.0

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FURTHER_FILES = {
    "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    "generation_config.json": {
        "bos_token_id": TOKEN_IDS["<|endoftext|>"],
        "eos_token_id": [END, TOKEN_IDS["<|endoftext|>"]],
        "pad_token_id": TOKEN_IDS["<|endoftext|>"],
    },
}


def write_tiny(folder: Path) -> None:
    """Write the small judge below `folder`, where a local judge is looked for by default."""
    write_qwen2_vl(
        folder,
        QWEN25_VL.repository,
        adjust=answer_with_a_digit,
        further_files=FURTHER_FILES,
    )


def answer_with_a_digit(weights: Weights) -> None:
    """Change the weights in place so that greedy decoding gives one digit and the end."""
    embeddings_VD = weights["model.embed_tokens.weight"]
    embeddings_VD[:, 0] = -MARK
    embeddings_VD[list(DIGITS), 0] = MARK
    weights["model.norm.weight"][:] = 1.0
    head_VD = weights["lm_head.weight"]
    random_digits = head_VD[list(DIGITS), 1:].copy()
    head_VD[:] = 0.0
    head_VD[list(DIGITS), 0] = -1.0
    head_VD[list(DIGITS), 1:] = np.float32(2.0) * random_digits
    head_VD[END, 0] = 1.0
