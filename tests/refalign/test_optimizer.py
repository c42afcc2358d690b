"""Learning rates, the parameters that are decayed, and AdamW's implementations."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kit.training import files_of, logged_steps, run, small  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.optimizer import (  # noqa: E402
    learning_rate,
    placed_count,
    schedule_text,
    with_schedule_steps,
)
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.settings import OptimizerConfig  # noqa: E402


def rates(count: int, **settings: Any) -> list[float]:
    config = OptimizerConfig(learning_rate=1.0, **settings)
    return [learning_rate(config, step, 1) for step in range(count)]


def test_schedules_are_those_of_transformers() -> None:
    """The same rates as transformers' schedulers, but for the warm-up's first update."""
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, make in (
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer, num_warmup_steps=3, num_training_steps=12)
        expected = []
        for _ in range(13):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        found = rates(13, schedule=name, schedule_steps=12, warmup_steps=3)
        np.testing.assert_allclose(found[3:], expected[3:], atol=1e-12)
        assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])


@given(
    schedule=st.sampled_from(["linear", "cosine"]),
    warmup=st.integers(0, 20),
    length=st.integers(1, 50),
    final=st.floats(0, 1),
)
def test_a_schedule_falls_from_the_rate_to_the_final_one(
    schedule: str, warmup: int, length: int, final: float
) -> None:
    end = warmup + length
    found = rates(end + 5, schedule=schedule, schedule_steps=end, warmup_steps=warmup, final_rate=final)
    assert found[warmup] == pytest.approx(1)
    falling = found[warmup:]
    assert all(one >= next_one - 1e-12 for one, next_one in itertools.pairwise(falling))
    np.testing.assert_allclose(found[end:], final, atol=1e-12)
    assert all(math.isfinite(rate) and rate >= 0 for rate in found)


def test_the_length_of_a_schedule_stays_with_the_run() -> None:
    """The first length counts; a run that becomes longer has the final rate after it, or is refused."""
    settings = ("optimizer.schedule=cosine", "run.max_steps=30")
    begun = with_schedule_steps(build_config("tiny", [*settings, "optimizer.final_rate=1e-4"]))
    assert begun.optimizer.schedule_steps == 30 and schedule_text(begun) is None
    longer = build_config("tiny", ["optimizer.schedule=cosine", "optimizer.final_rate=1e-4"])
    resumed = with_schedule_steps(longer, begun.plain())
    assert (resumed.optimizer, resumed.run.max_steps) == (begun.optimizer, 300)
    assert schedule_text(resumed) == (
        "the cosine schedule ends at update 30 (optimizer.schedule_steps); "
        "later ones have the final rate 0.0001"
    )
    to_zero = with_schedule_steps(build_config("tiny", settings))
    with pytest.raises(UserError, match=r"ends at update 30 with a rate of 0: updates"):
        with_schedule_steps(build_config("tiny", ["optimizer.schedule=cosine"]), to_zero.plain())
    with pytest.raises(UserError, match=r"over 30 updates ends within optimizer\.warmup_steps=30; give"):
        with_schedule_steps(build_config("tiny", [*settings, "optimizer.warmup_steps=30"]))
    constant = build_config("tiny")
    assert with_schedule_steps(constant) is constant


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "optimizer.final_rate=1e-4",
            r"optimizer: schedule_steps and final_rate belong to schedule",
        ),
        ("optimizer.final_rate=1", r"optimizer: final_rate must lie in 0\.\.learning_rate, 1\.0 does not"),
        (
            "optimizer.schedule=step",
            r"optimizer\.schedule=step: Input should be 'constant', 'linear' or",
        ),
        ("optimizer.lr_scheduler=cosine", r"did you mean optimizer\.schedule\?"),
    ],
)
def test_settings_that_are_refused(override: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        build_config("tiny", [override])


def test_a_run_with_a_schedule_is_resumed_to_the_bit(tmp_path: Path) -> None:
    """In halves, the second asked for by the old length; its rates are in the log."""
    chosen = ("optimizer.schedule=cosine", "optimizer.final_rate=1e-4", "optimizer.schedule_steps=4")
    run(small(*chosen), tmp_path / "straight")
    run(small(*chosen, "run.max_steps=2"), tmp_path / "halves")
    run(small(*chosen[:2]), tmp_path / "halves", resume=True)
    last = "checkpoints/step-00000004"
    assert files_of(tmp_path / "straight" / last) == files_of(tmp_path / "halves" / last)
    logged = [row["learning_rate"] for row in logged_steps(tmp_path / "halves")]
    config = OptimizerConfig(learning_rate=2e-3, schedule="cosine", final_rate=1e-4, schedule_steps=4)
    assert logged == [learning_rate(config, step, 1) for step in range(4)]
    with pytest.raises(UserError, match=r"was trained with optimizer\.final_rate=0\.0001, not 0\.0; give"):
        run(small(), tmp_path / "halves", resume=True)


def test_norms_biases_and_tables_can_be_left_undecayed(tmp_path: Path) -> None:
    """With a large decay and next to no gradient step, what is decayed shrinks and the rest stays."""
    tiny_steps = ("run.max_steps=1", "optimizer.learning_rate=1e-3", "optimizer.epsilon=1e6")
    fresh, _ = run(small(*tiny_steps, "optimizer.weight_decay=0"), tmp_path / "none")
    before = dict(fresh.model.named_parameters())
    decay = ("optimizer.weight_decay=100", "optimizer.weight_decay_on=matrices")
    trainer, _ = run(small(*tiny_steps, *decay), tmp_path / "matrices")
    shrunk = {
        name
        for name, value in trainer.model.named_parameters()
        if not torch.allclose(value, before[name], rtol=1e-4, atol=1e-7)
    }
    assert shrunk == {
        name
        for name, value in before.items()
        if name.endswith(".weight") and "norm" not in name and value.ndim > 1
    }
    assert {"transformer.patch_embedding.weight", "transformer.blocks.0.attn1.to_q.weight"} <= shrunk
    assert any(name.startswith("projectors.") for name in shrunk)


@pytest.mark.parametrize("kernel", ["loop", "foreach", "fused"])
def test_implementations_of_adamw_agree(kernel: str, tmp_path: Path) -> None:
    """And each is resumed to the bit; the loop is what a CPU has always had."""
    run(small(f"optimizer.kernel={kernel}", "optimizer.epsilon=1e-4"), tmp_path / "whole")
    run(small("optimizer.epsilon=1e-4"), tmp_path / "auto")
    last = "checkpoints/step-00000004"
    whole, auto = (files_of(tmp_path / name / last) for name in ("whole", "auto"))
    if kernel == "loop":
        assert whole == auto
    losses = [[row["loss"] for row in logged_steps(tmp_path / name)] for name in ("whole", "auto")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    run(small(f"optimizer.kernel={kernel}", "optimizer.epsilon=1e-4", "run.max_steps=2"), tmp_path / "half")
    run(small(f"optimizer.kernel={kernel}", "optimizer.epsilon=1e-4"), tmp_path / "half", resume=True)
    assert files_of(tmp_path / "half" / last) == whole


def test_a_fused_count_lies_beside_its_parameter() -> None:
    """On a GPU; here the device without memory stands for it."""
    parameter = torch.nn.Parameter(torch.empty(2, device="meta"))
    count = torch.tensor(3.0)
    for fused, device in ((True, "meta"), (False, "cpu")):
        optimizer = SimpleNamespace(param_groups=[{"fused": fused}])
        assert placed_count(optimizer, parameter, count).device.type == device
