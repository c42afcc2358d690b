"""SIGKILL at random moments, again and again; then the command is done to its end and must have left what an
undisturbed one leaves, byte for byte.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attacks.child import run
from attacks.ground import EVALUATE, GENERATE
from attacks.verdict import Outcome, Verdict, fault, tree

KIND = "kill"
MOST_KILLS = 3


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A command to kill, and the folder that it fills."""

    name: str
    words: list[str]
    leaves: str
    # Records come in the order in which they were made.
    any_order: bool = False


VICTIMS = (
    Victim(name="evaluate", words=EVALUATE, leaves="results", any_order=True),
    Victim(name="generate", words=[*GENERATE, "--seed", "0", "--seed", "1"], leaves="runs"),
    Victim(name="make-tiny", words=["weights", "make-tiny", "tiny"], leaves="tiny"),
)


def attack(ground: Path, scratch: Path, seeds: range, only: str | None = None) -> Iterator[Outcome]:
    """A killed and repeated command for each seed, the commands in turn.

    The moments are drawn from the seed, but what the command did until then depends on the machine.
    """
    victims = [victim for victim in VICTIMS if only in (None, victim.name)]
    whole: dict[str, tuple[float, str, dict[str, bytes]]] = {}
    for seed in seeds:
        victim = victims[seed % len(victims)]
        if victim.name not in whole:
            whole[victim.name] = _undisturbed(victim, ground, scratch / f"whole-{victim.name}")
        seconds, said, left = whole[victim.name]
        chance = random.Random(seed)
        folder = _copy(ground, scratch / f"kill-{seed}")
        moments = [chance.uniform(0, seconds) for _ in range(chance.randint(1, MOST_KILLS))]
        ends = [run(victim.words, folder, kill_after_s=moment) for moment in moments]
        done = run(victim.words, folder)
        found = _left(victim, folder)
        killed = sum(end.killed for end in ends)
        case = f"{victim.name} killed {killed} times, --seed {seed} --kills 1"
        why = next((text for end in [*ends, done] if not end.killed and (text := fault(end))), None)
        if why is None and done.exit_code != 0:
            why = f"exit code {done.exit_code}: {done.err.strip()}"
        if why is None and found != left:
            names = sorted(name for name in left.keys() | found.keys() if left.get(name) != found.get(name))
            why = f"differs from an undisturbed run: {', '.join(names[:5])}"
        if why is None and victim.name == "evaluate" and done.out != said:
            why = "another table"
        yield Outcome(
            kind=f"{KIND}: {victim.name}",
            case=case,
            verdict=Verdict.RIGHT if why is None else Verdict.WRONG,
            why=why or "",
        )
        shutil.rmtree(folder)


def _copy(ground: Path, folder: Path) -> Path:
    left_out = {"results", "runs", "weights", ".out", ".err"}
    shutil.copytree(ground, folder, ignore=lambda place, names: left_out & set(names))
    return folder


def _undisturbed(victim: Victim, ground: Path, folder: Path) -> tuple[float, str, dict[str, bytes]]:
    """How long it takes, what it says when everything is there, and what it leaves."""
    _copy(ground, folder)
    first = run(victim.words, folder)
    assert first.exit_code == 0, (victim.words, first.err)
    again = run(victim.words, folder)
    return first.seconds, again.out, _left(victim, folder)


def _left(victim: Victim, folder: Path) -> dict[str, bytes]:
    # A lock names the process that held it last.
    found = {name: data for name, data in tree(folder / victim.leaves).items() if not name.endswith(".lock")}
    if victim.any_order:
        found = {name: b"\n".join(sorted(content.split(b"\n"))) for name, content in found.items()}
    return found
