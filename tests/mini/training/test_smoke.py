"""The whole build in two steps a part: everything runs, ends in files that load, and is not made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="training needs the extra 'refalign'")

from kit.cli import Run

LIMIT_S = 1200


# Long only on a busy machine: it starts a dozen processes.
@pytest.mark.timeout(LIMIT_S + 60)
def test_a_build_in_two_steps_generates(refbench: Run, tmp_path: Path) -> None:
    # The variants of RefAlign are one recipe with other overrides.
    words = ("mini", "build", "--smoke", "--part", "refalign-mini", "--out", "build")
    first = refbench(*words, limit_s=LIMIT_S)
    assert "psnr_db" in first.stdout and "identity_auc" in first.stdout
    assert refbench(*words).stdout == first.stdout
    refbench("mini", "dataset", "--out", "dataset")
    words = ("generate", "refalign-mini", "--track", "mini", "--dataset", "dataset", "--limit", "1")
    done = refbench(*words, "--set", "steps=2", "--weights", "build/weights")
    assert "1 made, 0 there already, 0 failed" in done.stderr
