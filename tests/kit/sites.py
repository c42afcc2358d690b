"""The viewer's site in tests: its data read back, and its command, whatever is installed."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

COMMAND = EntryPoint("view", "refbench.reports.commands:view", "refbench.commands")


def with_view_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the command known, also where an older version's entry points are installed."""
    monkeypatch.setattr(
        "refbench.bench.cli.main.entry_points",
        lambda group: [*(one for one in entry_points(group=group) if one.name != "view"), COMMAND],
    )


def site_data(site: Path) -> dict[str, Any]:
    """What `data.js` hands to the page."""
    return read_call(site / "data.js", "refbenchData")[0]


def details(site: Path, key: str) -> Any:
    """What the details of a sample hand to the page."""
    given, rows = read_call(site / f"details/{key}.js", "refbenchDetails")
    assert given == key
    return rows


def read_call(script: Path, function: str) -> list[Any]:
    """The arguments of the one call that a script of data makes, each the JSON text of a JSON text."""
    match = re.fullmatch(rf"{function}\((.*)\);\n", script.read_text())
    assert match is not None
    return [json.loads(text) for text in json.loads(f"[{match[1]}]")]
