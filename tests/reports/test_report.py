"""Reports, comparisons and Table 1 as Python functions: computed once, and what the commands print."""

from __future__ import annotations

import doctest
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kit.cli import printed, printed_json
from kit.records import full_records
from kit.stored_runs import run_info, run_records, store
from refbench.bench.console import scoreboard_json
from refbench.bench.errors import UserError
from refbench.bench.scores import aggregate
from refbench.reports import compared, table1
from refbench.reports import report as report_module
from refbench.reports.compared import compare, comparison_json
from refbench.reports.report import report
from refbench.reports.table1 import reproduce_table1, reproduction_json

OLDER_RESULTS = Path(__file__).parents[1] / "files/version_0.1/results"


@pytest.fixture
def resampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each bootstrap since then drew from."""
    calls: list[int] = []
    original = aggregate.resampled_means

    def counted(several_SC: list[np.ndarray]) -> list[np.ndarray]:
        calls.extend(map(len, several_SC))
        return original(several_SC)

    monkeypatch.setattr(aggregate, "resampled_means", counted)
    return calls


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A store of five runs on two tracks."""
    root = tmp_path / "stored"
    store(root, full_records(12), run_info())
    store(root, full_records(12, variant="scored-shuffled"))
    store(root, full_records(11, method="VACE-14B"))
    store(root, full_records(10, method="b"))
    store(root, full_records(9, method="b", track="human-domain"))
    return root


def test_a_written_and_printed_report_draws_once_for_each_run(
    stored: Path, tmp_path: Path, resampled: list[int]
) -> None:
    printed("report", stored, "-o", tmp_path / "out")
    assert sorted(resampled) == [9, 10, 11, 12, 12]
    assert (tmp_path / "out/plots/human-domain.total.png").is_file()


def test_a_comparison_draws_once_for_each_side(stored: Path, resampled: list[int]) -> None:
    printed_json("compare", stored / "b", stored / "VACE-14B", "--track", "open-domain")
    assert resampled == [10, 10]


def test_table_1_draws_once_for_each_run_of_its_track(stored: Path, resampled: list[int]) -> None:
    printed_json("reproduce", "table1", stored)
    assert sorted(resampled) == [10, 11, 12, 12]


def test_the_report_function_returns_what_the_command_prints_and_writes(stored: Path, tmp_path: Path) -> None:
    made = report(stored, protocol="opens2v-1.0", out=tmp_path / "function")
    answer = printed_json("report", stored, "-o", tmp_path / "command", "--protocol", "opens2v-1.0")
    printed = json.loads(json.dumps([scoreboard_json(board) for board in made.boards]))
    assert answer["scoreboards"] == printed
    written, other = (
        {file.relative_to(root): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
        for root in (tmp_path / "function", tmp_path / "command")
    )
    assert written == other and len(written) == 1 + 2 * (6 + 6)
    # Tracks in their official order, the best method first; boards in the order of the records.
    assert [one.track for one in made.tracks] == ["open-domain", "human-domain"]
    totals = [board.total or 0 for board in made.tracks[0].boards]
    assert totals == sorted(totals, reverse=True)
    assert [board.label for board in made.boards] == ["VACE-14B", "b", "b", "m", "m (scored-shuffled)"]


def test_the_compare_function_returns_what_the_command_prints(tmp_path: Path) -> None:
    a, b = store(tmp_path, run_records("a")), store(tmp_path, run_records("b", 0.4), run_info())
    result = compare(a, str(b))
    assert printed_json("compare", a, b) == json.loads(json.dumps(comparison_json(result)))
    assert result.scores.total.difference == pytest.approx(0.1)
    assert result.cardless == ("a",)
    with pytest.raises(UserError, match="holds several runs"):
        compare(tmp_path, b)


def test_the_reproduce_function_returns_what_the_command_prints(stored: Path, tmp_path: Path) -> None:
    made = reproduce_table1([stored], out=tmp_path / "out")
    answer = printed_json("reproduce", "table1", stored)
    assert answer["rows"] == json.loads(json.dumps(reproduction_json(made.rows)))
    assert list(made.left_out) == ["b", "m", "m (scored-shuffled)"]
    assert made.left_out["m (scored-shuffled)"] == "it is the variant scored-shuffled"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"table1.md", "table1.csv", "table1.tex"}
    assert all(not row.measured for row in reproduce_table1().rows)


@pytest.mark.parametrize("module", [report_module, compared, table1], ids=lambda one: one.__name__)
def test_the_examples_hold(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLDER_RESULTS, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(module)
    assert done.attempted and not done.failed
