"""One, two and four processes train the same, however they share the work, and go on from each other."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("peft", reason="RefAlign needs the extra 'refalign'")

from kit.many_processes import Prediction  # noqa: E402
from kit.training import files_of, logged_steps, run, small  # noqa: E402
from kit.training_cases import CHOSEN, STRATEGIES, Case, entry, launch  # noqa: E402

# Up to four interpreters start and import torch and diffusers, which takes minutes on a busy machine.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("fresh_accelerate")]

RELAY = Case(processes=4, strategy="fsdp2", average=True, sharded=True)
MOST_STEPS = 4


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chosen cases, and one run that four, two, one and again four processes train a step of."""
    folder = tmp_path_factory.mktemp("many")

    def step(number: int, strategy: str, *, resume: bool) -> dict[str, object]:
        length = ("run.max_steps=" + str(number), f"run.strategy={strategy}", "run.shard_size=2")
        return entry(RELAY, *length, name="relay", resume=resume)

    of = {count: [entry(case) for case in CHOSEN if case.processes == count] for count in (2, 4)}
    halves = [entry(RELAY, "run.max_steps=1", name="half"), entry(RELAY, name="half", resume=True)]
    launch(folder, 4, [*of[4], entry(RELAY, name="whole"), *halves, step(1, "fsdp2", resume=False)])
    launch(folder, 2, [*of[2], step(2, "ddp", resume=True)])
    launch(folder, 1, [step(3, "ddp", resume=True)])
    launch(folder, 4, [step(MOST_STEPS, "hsdp", resume=True)])
    return folder


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in logged_steps(out)]


def test_every_pair_of_choices_is_tried() -> None:
    assert len(CHOSEN) <= 8
    factors = {
        "processes": (1, 2, 4),
        "strategy": STRATEGIES,
        "average": (False, True),
        "validates": (False, True),
        "accumulates": (False, True),
        "lora": (False, True),
        "sharded": (False, True),
    }
    for first, second in combinations(factors, 2):
        tried = {(getattr(case, first), getattr(case, second)) for case in CHOSEN}
        wanted = {(one, other) for one in factors[first] for other in factors[second]}
        if {first, second} == {"processes", "strategy"}:
            # One process shares nothing.
            wanted -= {(1, "fsdp2"), (1, "hsdp")}
        assert tried >= wanted, (first, second, wanted - tried)


def test_losses_are_equal(launched: Path, tmp_path: Path) -> None:
    for case in CHOSEN:
        if case.processes == 1:
            run(
                small(*case.settings),
                launched / case.name,
                validation=Prediction() if case.validates else None,
            )
    for lora in (False, True):
        reference, *others = [case for case in CHOSEN if case.lora == lora]
        expected = losses(launched / reference.name)
        assert len(expected) == 2
        for case in others:
            np.testing.assert_allclose(losses(launched / case.name), expected, rtol=1e-5, err_msg=case.name)


def test_a_run_goes_on_in_any_number_of_processes(launched: Path, tmp_path: Path) -> None:
    """4 → 2 → 1 → 4 within the order of sums; to the bit where the processes stay the same."""
    alone = Case(processes=1, average=True)
    run(small(*alone.settings, f"run.max_steps={MOST_STEPS}"), tmp_path)
    np.testing.assert_allclose(losses(launched / "relay"), losses(tmp_path), rtol=1e-5)
    last = Path("checkpoints", "step-00000002", "sharded")
    found, expected = (files_of(launched / name / last) for name in ("half", "whole"))
    assert found == expected and len(found) == 4
