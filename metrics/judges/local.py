"""A judge that runs here: any vision-language model that transformers loads as image-text-to-text, such as
Qwen2.5-VL and Qwen3-VL.

It gets the same pictures (the JPEG files, decoded again) and the same text as an endpoint would, through the
model's own chat template, and decodes greedily: each run would give the same answer, so one is computed and
stands for all. Its scores are not NaturalScores of the leaderboard.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from refbench.bench.weights.hf_folder import load_model, load_part, quiet_transformers, weight_digests
from refbench.metrics.judges.judge import Answer, Judge, Question, Reply, forget, parse_score, read_loosely
from refbench.metrics.nets.inference import release

LONGEST_ANSWER_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class LocalJudge(Judge):
    """A vision-language model on a device; `generation` says how it decodes."""

    model: Any
    processor: Any
    generation: Any
    weights: Mapping[str, str]

    @classmethod
    def load(cls, folder: Path, device: str, name: str) -> LocalJudge:
        """The model of a folder, in the checkpoint's own precision on a GPU, in float32 on a CPU.

        `name` is what its files are recorded under. Raises UserError for a folder that is damaged or of a
        model without pictures.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

        place = torch.device(device)
        model = load_model(
            AutoModelForImageTextToText,
            folder,
            dtype=torch.float32 if place.type == "cpu" else "auto",
            device=place,
        )
        published = model.generation_config
        # A fresh configuration: a published repetition penalty or temperature is not greedy decoding.
        generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=LONGEST_ANSWER_TOKENS,
            eos_token_id=published.eos_token_id,
            pad_token_id=published.pad_token_id,
            bos_token_id=published.bos_token_id,
        )
        return cls(
            model=model,
            processor=load_part(AutoProcessor, folder),
            generation=generation,
            weights=weight_digests(folder, name),
        )

    @property
    def dtype(self) -> torch.dtype:
        """The model's precision."""
        return next(self.model.parameters()).dtype

    def judge(
        self, question: Question, runs: Sequence[int], on_answer: Callable[[Answer], None] = forget
    ) -> list[Answer]:
        """The one greedy answer, once per run."""
        if not runs:
            return []
        reply = self.reply_to(question)
        verdict, reading = reply.text.strip(), ""
        valid = parse_score(verdict) is not None
        if not valid and (read := read_loosely(reply.text)):
            (verdict, reading), valid = read, True
        answers = [
            Answer(
                run=run,
                replies=(reply.text,),
                verdict=verdict if valid else None,
                reading=reading,
                failure=None
                if valid
                else f"the local judge's answer is no number from 1 to 5: {reply.text[:80]}",
                tokens_in=reply.tokens_in if run == runs[0] else 0,
                tokens_out=reply.tokens_out if run == runs[0] else 0,
            )
            for run in runs
        ]
        for answer in answers:
            on_answer(answer)
        return answers

    def reply_to(self, question: Question) -> Reply:
        """What the model says to a question, decoded greedily, at most 32 tokens."""
        pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in question.jpegs]
        content = [
            *({"type": "image", "image": picture} for picture in pictures),
            {"type": "text", "text": question.instruction},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device, self.dtype)
        with quiet_transformers(), torch.inference_mode():
            output_BL = self.model.generate(**inputs, generation_config=self.generation)
        prompt_length = int(inputs["input_ids"].shape[1])
        reply_ids = output_BL[0, prompt_length:]
        return Reply(
            text=self.processor.decode(reply_ids, skip_special_tokens=True),
            tokens_in=prompt_length,
            tokens_out=int(reply_ids.shape[0]),
        )

    def provenance(self) -> dict[str, Any]:
        """Precision, batch size 1 and the weights' digests."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch_size": 1,
            "weights": dict(self.weights),
        }

    def close(self) -> None:
        """Give the model's memory back."""
        release(self.model)
