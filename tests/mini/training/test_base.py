"""The small text-to-video base: its words, its stored latents, its shortcut for padding, its training."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="training needs the extra 'refalign'")

from torch.nn import functional  # noqa: E402

from refbench.baselines.small.pipelines import write_tokenizer  # noqa: E402
from refbench.baselines.wan.t5 import load_tokenizer  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.mini.benchmark import mini_samples  # noqa: E402
from refbench.mini.training.base import SCHEDULE, BaseLearner, TextBatch, TextToVideo  # noqa: E402
from refbench.mini.training.latents import prompt_for, read_latents, write_latents  # noqa: E402
from refbench.mini.training.loop import Run, seeded  # noqa: E402
from refbench.mini.training.text import MOST_TOKENS, TEXT_ROWS, pieces  # noqa: E402
from refbench.mini.training.vae import new_vae  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("text")
    write_tokenizer(folder / "tokenizer", pieces())
    return load_tokenizer(folder / "tokenizer")


def test_a_word_of_the_world_is_a_token(tokenizer: Any) -> None:
    generator = random.Random(0)
    prompts = [prompt_for(number, 0, generator) for number in range(300)]
    prompts += [sample.prompt for sample in mini_samples().values()]
    lengths = []
    for prompt in prompts:
        numbers = tokenizer(prompt).input_ids
        marks = sum(not character.isalnum() and character != " " for character in prompt)
        assert len(numbers) == len(prompt.split()) + marks + 1, prompt
        lengths.append(len(numbers))
    assert max(lengths) <= MOST_TOKENS


def test_one_row_stands_for_all_of_the_padding() -> None:
    with seeded("test", 0):
        counted = TextToVideo().eval()
        plain = TextToVideo().eval()
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    for block in plain.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    plain.load_state_dict(counted.state_dict())
    generator = torch.Generator().manual_seed(0)
    noised = torch.randn((2, 16, 1, 4, 4), generator=generator)
    tokens_BL = torch.randint(3, 200, (2, MOST_TOKENS), generator=generator)
    mask_BL = (torch.arange(MOST_TOKENS) < torch.tensor([[5], [20]])).long()
    batch = TextBatch(latents_BCFHW=noised, tokens_BL=tokens_BL, mask_BL=mask_BL)
    times = torch.tensor([500.0, 20.0])
    with torch.no_grad():
        states = plain.text_encoder(tokens_BL, mask_BL).last_hidden_state * mask_BL[..., None]
        states = functional.pad(states, (0, 0, 0, TEXT_ROWS - MOST_TOKENS))
        expected = plain.transformer(noised, times, states, return_dict=False)[0]
        torch.testing.assert_close(counted(noised, times, batch), expected, atol=1e-5, rtol=1e-5)


def test_latents_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    with seeded("vae", 0):
        vae = new_vae().eval()
    write_latents(vae, tmp_path / "whole", 20, 0, "digest")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(vae, tmp_path / "pieces", 20, 0, "digest", stop)
    with pytest.raises(UserError, match="not complete: 16 of 20"):
        read_latents(tmp_path / "pieces")
    write_latents(vae, tmp_path / "pieces", 20, 0, "digest", workers=1)
    whole, pieces = read_latents(tmp_path / "whole"), read_latents(tmp_path / "pieces")
    assert whole.shape == (20, 16, 3, 8, 8) and (whole == pieces).all() and whole.std() > 0
    with pytest.raises(UserError, match="of other clips or another VAE"):
        write_latents(vae, tmp_path / "whole", 20, 0, "another")


def test_it_learns(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refbench.mini.training.base.SAMPLES_PER_STEP", 4)
    with seeded("vae", 0):
        write_latents(new_vae().eval(), tmp_path / "latents", 4, 0, "digest")
    learner = BaseLearner(tmp_path / "latents", tokenizer, clips_seed=0)
    batch = learner.examples(random.Random(1), 0.0)
    assert batch.tokens_BL.shape == (4, MOST_TOKENS)

    def loss() -> float:
        with torch.no_grad():
            return float(learner.losses(batch, torch.Generator().manual_seed(0))["velocity"])

    before = loss()
    schedule = replace(SCHEDULE, steps=8, warmup_steps=1)
    Run(learner=learner, schedule=schedule, folder=tmp_path / "run").train()
    assert loss() < before
