"""Records that share what is equal: the model's own, in every respect but their memory."""

from __future__ import annotations

import copy
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.records import record
from refbench.bench.scores.compact_records import CompactRecords
from refbench.bench.scores.record import Provenance, Record
from refbench.bench.scores.results import records as as_table
from refbench.bench.scores.store import StoreWriter, read_records

WEIGHTS, PACKAGES = {"checkpoint": "c" * 64}, {"numpy": "2.4.6", "av": "18.1.0"}


def scored(number: int = 1, **fields: Any) -> Record:
    provenance = Provenance(
        metric_version="1",
        # Of several metrics, as in a store.
        video=f"{number // 7:064x}",
        sample="d" * 64,
        settings="e" * 64,
        weights=dict(WEIGHTS),
        packages=dict(PACKAGES),
    )
    details = {"pairs": 68, "mean_flow_magnitude": number / 7}
    return record(
        "gmescore", f"faceobj_{number}", number / 3, details=details, provenance=provenance, **fields
    )


# What a reader has seen before the line that is looked at: a value and reasons of every kind.
USUAL = [
    scored(1),
    record("facesim", "a_1", reason="not_applicable: no face"),
    record("facesim", "a_1", reason="missing_video"),
    scored(2, seed=3),
]


def read(records: CompactRecords, line: bytes) -> tuple[str, str, set[str], set[str]] | str:
    """All that can be told of what a line gives: the record or the error."""
    try:
        made = records.from_line(line)
    except ValidationError as error:
        return str(error)
    return described(made)


def described(made: Record) -> tuple[str, str, set[str], set[str]]:
    return (
        repr(made),
        made.model_dump_json(),
        made.model_fields_set,
        made.provenance.model_fields_set,
    )


def by_the_model(line: bytes) -> tuple[str, str, set[str], set[str]] | str:
    try:
        return described(Record.model_validate_json(line))
    except ValidationError as error:
        return str(error)


scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 1.0, 0.5, 10**25, "", "1", "0.5", "x", "../up", "failed: x", "because"]
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(st.text(max_size=3), scalars))
places = st.sampled_from(
    [(name,) for name in Record.model_fields] + [("provenance", name) for name in Provenance.model_fields]
)


@given(base=st.sampled_from(USUAL), changes=st.lists(st.tuples(places, values), max_size=3))
def test_a_line_gives_what_the_model_gives(base: Record, changes: list[tuple[tuple[str, ...], Any]]) -> None:
    records = CompactRecords()
    for one in USUAL:
        records.from_line(one.model_dump_json().encode())
    content = json.loads(base.model_dump_json())
    for (*outer, name), value in changes:
        part = content[outer[0]] if outer else content
        if isinstance(part, dict):
            part[name] = value
    line = json.dumps(content).encode()
    # The second time its parts have been seen, where they were a record's.
    assert [read(records, line), read(records, line)] == [by_the_model(line)] * 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"value":', '"value":7.0,"value":'),
        ('"details":{', '"details":{"pairs":1,'),
        ('"weights":{', '"weights":{"checkpoint":"x",'),
        ('"pairs":68', '"pairs":NaN'),
        ('"pairs":68', '"pairs":1e999'),
        ('"pairs":68', '"pairs":' + "9" * 5000),
        ('"pairs":68', '"pairs":' + "[" * 300 + "]" * 300),
        ('"value":0.3333333333333333', '"value":1e999'),
        ('"value":0.3333333333333333', '"value":NaN'),
        ('"value":0.3333333333333333', '"value":1'),
        ('"schema_version":1', '"schema_version":1.0'),
        ('"schema_version":1', '"schema_version":true'),
        ('"seed":0', '"seed":false'),
        ('"seed":0,', ""),
        ('"references":null,', ""),
        ('"seed":0', '"seed":0,"more":1'),
        ('"dtype":null', '"dtype":null,"more":1'),
        ('"category":"faceobj","seed":0', '"seed":0,"category":"faceobj"'),
        ('"provenance":{', '"provenance":[{'),
        ('"faceobj_1"', '"faceobj_\\ud800"'),
        ('"faceobj_1"', '"faceobj_\\u00e9\\ud83d\\ude00"'),
        ("}}", "}} "),
        ("}}", "}}{"),
        ("}}", "}"),
    ],
)
def test_an_odd_line_is_the_models_to_judge(old: str, new: str) -> None:
    records = CompactRecords()
    usual = scored(1).model_dump_json()
    records.from_line(usual.encode())
    assert old in usual
    line = usual.replace(old, new).encode()
    assert [read(records, line), read(records, line)] == [by_the_model(line)] * 2


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"1", b'"provenance"', b"null", b"\xff", b'{"a":1'])
def test_what_is_no_record_is_refused_in_the_models_words(line: bytes) -> None:
    records = CompactRecords()
    records.from_line(scored(1).model_dump_json().encode())
    assert read(records, line) == by_the_model(line)


def test_equal_parts_are_one_object_and_records_stay_apart() -> None:
    records = CompactRecords()
    lines = [scored(number).model_dump_json().encode() for number in (1, 1, 7)]
    one, again, other = map(records.from_line, lines)
    made_here = records.compact(scored(7))
    assert one.provenance is again.provenance
    assert one.provenance is not other.provenance
    assert other.provenance.video is made_here.provenance.video
    assert one.provenance.weights is other.provenance.weights is made_here.provenance.weights
    assert one.provenance.packages is other.provenance.packages
    assert one.sample is again.sample
    assert one.model_fields_set is other.model_fields_set
    # Details may be anything, and are each record's own.
    assert one.details is not again.details
    assert (one, made_here) == (again, scored(7))
    # The next ones are those of the records alone.
    changed = one.model_copy(update={"category": "x"})
    assert (changed.category, one.category, again.category) == ("x", "faceobj", "faceobj")
    assert copy.deepcopy(one) == one
    with pytest.raises(ValidationError, match="frozen"):
        one.value = 3.0  # type: ignore[misc]


def test_a_record_takes_less_than_a_kibibyte(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    with StoreWriter(path) as writer:
        writer.append([scored(number) for number in range(3000)])
    read_records(path)
    tracemalloc.start()
    try:
        with StoreWriter(path) as writer:
            held, peak = tracemalloc.get_traced_memory()
            assert len(writer.records) == 3000
    finally:
        tracemalloc.stop()
    assert held / 3000 < 1024
    # The buffer of the file is there in both: the content as a whole never is.
    assert peak < held + 2 * 2**20


def test_a_table_of_records_is_the_callers_own(tmp_path: Path) -> None:
    path = tmp_path / "m/open-domain.jsonl"
    with StoreWriter(path) as writer:
        writer.append([scored(1), scored(2)])
        table = as_table([*writer.records.values()])
        table.provenance_weights[0]["checkpoint"] = "changed"
        table.provenance_packages[0].clear()
        assert (table.provenance_weights[1], table.provenance_packages[1]) == (WEIGHTS, PACKAGES)
        assert [one.provenance.weights for one in writer.records.values()] == [WEIGHTS, WEIGHTS]
