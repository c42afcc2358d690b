"""Small networks are trained on one thread here: several test processes share the cores."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = pytest.importorskip("refbench.mini.training.loop", reason="training needs the extra 'refalign'")
    monkeypatch.setattr(loop, "THREADS", 1)
