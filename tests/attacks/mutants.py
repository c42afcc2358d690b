"""Damaged files: bytes flipped, cut off, put in, exchanged; each is a seed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from attacks.ground import Input, copy_ground, inputs, run_input
from attacks.verdict import Outcome, Verdict, judged

KIND = "mutant"


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` after one to four random changes."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, other = (chance.randrange(max(len(data), 1)) for _ in range(2))
        length = chance.randint(1, max(min(len(data) // 4, 4096), 1))
        match chance.choice(("flip", "cut", "insert", "swap", "extreme")):
            case "flip":
                for _ in range(chance.choice((1, 1, 3, 40))):
                    if data:
                        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = chance.choice((chance.randbytes(length), data[other : other + length]))
            case "swap":
                data[at : at + length], data[other : other + length] = (
                    data[other : other + length],
                    data[at : at + length],
                )
            case _:
                data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(data)


def attack(ground: Path, scratch: Path, seeds: range, only: str | None = None) -> Iterator[Outcome]:
    """A mutant for each seed, the kinds of input in turn (`only` those of one name)."""
    kinds = _by_kind([one for one in inputs(ground) if only in (None, one.kind)])
    for seed in seeds:
        chance = random.Random(seed)
        of_kind = kinds[seed % len(kinds)]
        one = of_kind[chance.randrange(len(of_kind))]
        folder = scratch / f"mutant-{seed}"
        copy_ground(ground, folder, one)
        target = folder / one.file
        target.write_bytes(mutated(target.read_bytes(), chance))
        yield outcome(KIND, one, folder, f"{one.file}, --seed {seed} --mutants 1")
        shutil.rmtree(folder)


def unharmed(ground: Path, scratch: Path) -> Iterator[Outcome]:
    """Each kind of input as it is: a command that refuses it would make its mutants worthless."""
    for number, (one, *_) in enumerate(_by_kind(inputs(ground))):
        folder = scratch / f"unharmed-{number}"
        copy_ground(ground, folder, one)
        found = outcome("unharmed", one, folder, one.file)
        if found.verdict not in (Verdict.RIGHT, Verdict.WRONG):
            found = replace(found, verdict=Verdict.WRONG, why=f"{found.verdict.value} {found.why}")
        yield replace(found, kind="unharmed")
        shutil.rmtree(folder)


def outcome(kind: str, one: Input, folder: Path, case: str) -> Outcome:
    """What became of an input's command in an attacked copy of the ground."""
    done = run_input(one, folder)
    verdict, why = judged(done, None if one.results is None else folder / one.results)
    if verdict in (Verdict.RIGHT, Verdict.FAILURE) and one.untouched is not None:
        try:
            same = one.untouched(folder)
        except OSError as error:
            same, why = False, str(error)
        if not same:
            verdict, why = Verdict.WRONG, f"another sample's result changed {why}"
    return Outcome(kind=f"{kind}: {one.kind}", case=case, verdict=verdict, why=why)


def _by_kind(all_inputs: list[Input]) -> list[list[Input]]:
    kinds: dict[str, list[Input]] = {}
    for one in all_inputs:
        kinds.setdefault(one.kind, []).append(one)
    return list(kinds.values())
