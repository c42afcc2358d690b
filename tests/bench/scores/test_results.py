"""Records as a pandas table, and scoreboards of stores, as Python users get them."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

from kit.records import full_records, record
from refbench.bench.errors import UserError
from refbench.bench.scores import results
from refbench.bench.scores.aggregate import scoreboards as boards_of
from refbench.bench.scores.protocol import OPENS2V_1_0, OPENS2V_1_1
from refbench.bench.scores.record import Provenance, Record
from refbench.bench.scores.results import records, scoreboard, scoreboards
from refbench.bench.scores.store import StoreWriter, load_records, store_path

OLDER_RESULTS = Path(__file__).parents[2] / "files/version_0.1/results"


def write(root: Path, *given: Record) -> Path:
    path = store_path(root, given[0].method, given[0].track)
    with StoreWriter(path) as writer:
        writer.append(given)
    return path


def test_the_examples_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLDER_RESULTS, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(results)
    assert done.attempted and not done.failed


def test_the_table_has_a_column_for_every_field_and_a_row_for_every_latest_record(tmp_path: Path) -> None:
    made_from = Provenance(metric_version="3", weights={"w": "ab"}, batch_size=4, video="cd")
    scored = record("facesim", "faceobj_1", 0.5, provenance=made_from, details={"faces": 2})
    write(tmp_path, record("facesim", "faceobj_1", 0.1), scored, record("facesim", "faceobj_2"))
    table = records(tmp_path)
    fields = [name for name in Record.model_fields if name not in ("schema_version", "provenance")]
    assert list(table.columns) == [*fields, *(f"provenance_{name}" for name in Provenance.model_fields)]
    assert table["value"].tolist()[0] == 0.5
    assert table["value"].isna().tolist() == [False, True]
    assert table["reason"].fillna("").tolist() == ["", "failed: test"]
    first = table.iloc[0]
    assert (first.details, first.provenance_weights) == ({"faces": 2}, {"w": "ab"})
    assert (first.provenance_metric_version, first.provenance_video) == ("3", "cd")
    assert table["provenance_batch_size"].fillna(0).tolist() == [4, 0]


def test_the_types_of_the_columns_do_not_depend_on_the_records() -> None:
    empty = records([])
    assert len(empty) == 0
    assert dict(empty.dtypes) == dict(records([record("x", "a_1", 1.5)]).dtypes)
    assert (str(empty.dtypes["reason"]), str(empty.dtypes["seed"])) == ("string", "int64")


def test_a_source_is_a_place_several_places_or_records(tmp_path: Path) -> None:
    one = write(tmp_path / "1", record("x", "a_1", 1.0))
    write(tmp_path / "2", record("x", "a_1", 2.0, method="b"))
    assert records(str(one))["value"].tolist() == [1.0]
    assert records([one, tmp_path / "2"])["value"].tolist() == [1.0, 2.0]
    in_memory = [record("x", "a_1", 3.0), record("x", "a_2", 4.0)]
    assert records(in_memory)["value"].tolist() == [3.0, 4.0]
    # What is in memory is newer than what a store holds.
    assert records([one, *in_memory])["value"].tolist() == [3.0, 4.0]
    with pytest.raises(UserError, match="does not exist"):
        records(tmp_path / "nowhere")


def test_scoreboards_of_a_store_are_those_of_its_records(tmp_path: Path) -> None:
    write(tmp_path, *full_records())
    write(tmp_path, *full_records(seed=1, method="b"))
    assert scoreboards(tmp_path) == boards_of(load_records([tmp_path]), OPENS2V_1_1.name)
    assert scoreboards(full_records(), protocol="opens2v-1.0") == boards_of(full_records(), OPENS2V_1_0.name)
    with pytest.raises(UserError, match="did you mean"):
        scoreboards(tmp_path, protocol="opens2v-1.2")


def test_the_one_scoreboard_asks_which_run_is_meant(tmp_path: Path) -> None:
    place = write(tmp_path, *full_records(), *full_records(variant="scored-shuffled"))
    with pytest.raises(UserError, match=r"holds several runs; .* m --track open-domain --variant plain"):
        scoreboard(place)
    with pytest.raises(UserError, match="the source holds no run of that track and variant"):
        scoreboard(full_records(), track="human-domain")
    board = scoreboard(place, variant="scored-shuffled")
    assert (board.label, board.track) == ("m (scored-shuffled)", "open-domain")
    assert board == scoreboards(full_records(variant="scored-shuffled"))[0]
