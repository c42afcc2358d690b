"""What is printed of samples that failed: equal reasons of a metric in one line."""

from __future__ import annotations

from kit.records import record
from refbench.bench.cli.work import failure_lines


def test_equal_reasons_share_a_line() -> None:
    failures = [
        record("facesim", "singleface_1", None, reason="failed: it cannot be decoded"),
        *(record("nexusscore", f"singleobj_{n}", None, reason="failed: nothing") for n in (1, 2)),
    ]
    assert failure_lines(failures) == [
        "facesim singleface_1 seed 0: failed: it cannot be decoded",
        "nexusscore (2: singleobj_1 seed 0, singleobj_2 seed 0): failed: nothing",
    ]
    assert failure_lines(failures, each=True)[1:] == [
        "nexusscore singleobj_1 seed 0: failed: nothing",
        "nexusscore singleobj_2 seed 0: failed: nothing",
    ]
