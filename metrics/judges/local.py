"""A judge that runs here: any vision-language model that transformers loads as image-text-to-text, such as
Qwen2.5-VL and Qwen3-VL.

It gets the same pictures (the JPEG files, decoded again) and the same text as an endpoint would, through the
model's own chat template, and decodes greedily: each run would give the same answer, so one is computed and
stands for all. Its scores are not NaturalScores of the leaderboard.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from refbench.metrics.judges.judge import Answer, Judge, Question, parse_score
from refbench.metrics.nets.pretrained import (
    load_model,
    load_part,
    quiet_transformers,
    torch_device,
    weight_digests,
)

LONGEST_ANSWER_TOKENS = 32


class LocalJudge(Judge):
    """A model folder on a device: the checkpoint's own precision on a GPU, float32 on a CPU."""

    def __init__(self, folder: Path, device: str, name: str) -> None:
        """Load the model. Raises UserError for a folder that is damaged or of a model without pictures."""
        from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

        place = torch_device(device)
        self._model = load_model(
            AutoModelForImageTextToText,
            folder,
            dtype=torch.float32 if place.type == "cpu" else "auto",
            device=place,
        )
        self._processor = load_part(AutoProcessor, folder)
        published = self._model.generation_config
        # A fresh configuration: a published repetition penalty or temperature is not greedy decoding.
        self._generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=LONGEST_ANSWER_TOKENS,
            eos_token_id=published.eos_token_id,
            pad_token_id=published.pad_token_id,
            bos_token_id=published.bos_token_id,
        )
        self._device = place
        self._dtype = next(self._model.parameters()).dtype
        self._digests = weight_digests(folder, name)

    def judge(self, question: Question, runs: Sequence[int]) -> list[Answer]:
        """The one greedy answer, once per run."""
        if not runs:
            return []
        reply, tokens_in, tokens_out = self._generate(question)
        valid = parse_score(reply) is not None
        return [
            Answer(
                run=run,
                replies=(reply,),
                verdict=reply.strip() if valid else None,
                failure=None if valid else f"the local judge's answer is no number from 1 to 5: {reply[:80]}",
                tokens_in=tokens_in if run == runs[0] else 0,
                tokens_out=tokens_out if run == runs[0] else 0,
            )
            for run in runs
        ]

    def provenance(self) -> dict[str, Any]:
        """Precision, batch size 1 and the weights' digests."""
        return {
            "dtype": str(self._dtype).removeprefix("torch."),
            "batch_size": 1,
            "weights": self._digests,
        }

    def _generate(self, question: Question) -> tuple[str, int, int]:
        """The reply and the numbers of tokens in and out."""
        pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in question.jpegs]
        content = [
            *({"type": "image", "image": picture} for picture in pictures),
            {"type": "text", "text": question.instruction},
        ]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._device, self._dtype)
        with quiet_transformers(), torch.inference_mode():
            output_BL = self._model.generate(**inputs, generation_config=self._generation)
        prompt_length = inputs["input_ids"].shape[1]
        reply_ids = output_BL[0, prompt_length:]
        reply: str = self._processor.decode(reply_ids, skip_special_tokens=True)
        return reply, int(prompt_length), int(reply_ids.shape[0])
