"""What follows from shared options of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refbench.bench.cli import options as o
from refbench.bench.errors import UserError


def test_a_track_is_chosen_by_name_open_domain_where_nothing_is_said(dataset: Path) -> None:
    assert o.chosen_track(None, None, str(dataset)).name == o.DEFAULT_TRACK == "open-domain"
    assert o.chosen_track("human-domain", None, str(dataset)).name == "human-domain"
    with pytest.raises(UserError, match="known: open-domain, human-domain, single-domain"):
        o.chosen_track("human", None, str(dataset))


def test_a_suite_is_a_track_of_its_own(tmp_path: Path) -> None:
    suite = tmp_path / "mine.jsonl"
    suite.write_text(json.dumps({"id": "one", "prompt": "a cup"}) + "\n")
    assert [sample.id for sample in o.chosen_track(None, suite, None).samples] == ["one"]
    for track, dataset in (("open-domain", None), (None, "hub")):
        with pytest.raises(UserError, match="leave --track and --dataset out"):
            o.chosen_track(track, suite, dataset)
