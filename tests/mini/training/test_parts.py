"""Which parts a build makes."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="training needs the extra 'refalign'")

from refbench.bench.errors import UserError
from refbench.mini.training.parts import PARTS, chosen_parts


def test_a_part_comes_with_what_it_needs() -> None:
    def names(*chosen: str) -> list[str]:
        return [part.name for part in chosen_parts(chosen)]

    assert names("base") == ["vae", "latents", "base"]
    generators = ["vae", "teacher", "latents", "base", "clips", "features", "refalign-mini-no-ra"]
    assert names("refalign-mini-no-ra") == generators
    assert names() == [part.name for part in PARTS] and len(set(names())) == len(PARTS)
    with pytest.raises(UserError, match="did you mean base"):
        chosen_parts(["bases"])


def test_what_a_part_needs_comes_before_it() -> None:
    before: set[str] = set()
    for part in PARTS:
        assert set(part.needs) <= before
        before.add(part.name)
