"""Where work runs."""

from __future__ import annotations

from refbench.bench.environment import missing_packages


def test_missing_packages_name_the_extra_that_brings_them() -> None:
    assert missing_packages(("json",)) is None
    text = missing_packages(("json", "no_such_module", "nor_this"))
    assert text == "needs no_such_module and nor_this; pip install 'refalign-bench[metrics]'"
