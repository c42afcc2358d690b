"""Registries, plugins and options: three ways in, near names, and clear refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from kit.cli import Run
from refbench.bench.errors import UserError, one_line
from refbench.bench.method import Method
from refbench.bench.metric import Metric, MetricDeclaration
from refbench.bench.options import NoOptions, build_options, describe_options, parse_assignments
from refbench.bench.registry import Registry, load_plugins, methods, metrics


def a_metric(name: str, class_name: str = "Made") -> type[Metric]:
    declaration = MetricDeclaration(name=name, version="1", summary="s", source="test")
    return type(class_name, (Metric,), {"declaration": declaration, "load": lambda *_: None})


def new_registry(group: str = "refbench.nothing") -> Registry[Metric]:
    return Registry("metric", group, lambda metric: metric.declaration.name)


def test_built_in_metrics_and_methods_are_found() -> None:
    assert "motion-amplitude" in metrics.names()
    assert metrics.get("Motion_Amplitude").declaration.name == "motion-amplitude"
    assert {"videos", "command", "static-reference", "pan-reference", "noise"} <= set(methods.names())
    assert issubclass(methods.get("noise"), Method)


@pytest.mark.parametrize(("asked", "answer"), [("motion-amp", "motion-amplitude"), ("qqqqq", "known: ")])
def test_unknown_names_answer_with_the_nearest(asked: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        metrics.get(asked)
    with pytest.raises(UserError, match="did you mean static-reference"):
        methods.get("static-referense")


def test_two_classes_may_not_share_a_name() -> None:
    registry = new_registry()
    one = registry.register(a_metric("x"))
    assert registry.register(one) is one
    with pytest.raises(UserError, match="two metrics are called 'X'"):
        registry.register(a_metric("X", "Other"))


def test_a_class_that_lacks_a_method_is_named_at_once() -> None:
    class Unfinished(Metric):
        declaration = a_metric("unfinished").declaration

    with pytest.raises(UserError, match=r"the metric 'unfinished' .* lacks load"):
        new_registry().register(Unfinished)


def test_entry_points_may_name_a_class_a_module_or_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "thirdparty"
    package.mkdir()
    body = (
        "from refbench.bench.metric import Metric, MetricDeclaration\n"
        "class Foreign(Metric):\n"
        "    declaration = MetricDeclaration(name='foreign', version='1', summary='s', source='t')\n"
        "    def load(self, environment):\n        raise NotImplementedError\n"
    )
    (package / "__init__.py").write_text("")
    (package / "foreign.py").write_text(body)
    (package / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("foreign", "thirdparty.foreign:Foreign", "refbench.test"),
        EntryPoint("broken", "thirdparty.broken", "refbench.test"),
        EntryPoint("odd", "thirdparty.foreign:__name__", "refbench.test"),
    ]
    monkeypatch.setattr("refbench.bench.registry.entry_points", lambda group: points)
    registry = new_registry("refbench.test")
    assert registry.names() == ["foreign"]
    # A package that does not load is named where somebody asks for a name it might have had.
    assert len(registry.problems) == 2
    with pytest.raises(UserError, match="a_module_that_is_not_there"):
        registry.get("missing")


def test_a_module_that_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "family"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("first", "third"):
        (package / f"{name}.py").write_text(
            "from refbench.bench.metric import Metric, MetricDeclaration\n"
            "import family\n"
            "class One(Metric):\n"
            f"    declaration = MetricDeclaration(name='{name}', version='1', summary='s', source='t')\n"
            "    def load(self, environment):\n        raise NotImplementedError\n"
            "One.__qualname__ = '" + name + "'\n"
            "family.registry.register(One)\n"
        )
    (package / "second.py").write_text("1 / 0\n")
    (package / "outdated.py").write_text(
        "from refbench.bench.errors import UserError\nraise UserError('mend me')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = new_registry("refbench.test")
    import family

    family.registry = registry
    points = [EntryPoint("family", "family", "refbench.test")]
    monkeypatch.setattr("refbench.bench.registry.entry_points", lambda group: points)
    assert registry.names() == ["first", "third"]
    assert registry.problems == [
        "family.outdated: mend me",
        "family.second: ZeroDivisionError: division by zero",
    ]


def test_plugins_register_once(plugin: Path, refbench: Run) -> None:
    for kind, name in (("metrics", "dummy-brightness"), ("methods", "dummy-grey")):
        assert refbench(kind, "--plugin", plugin, "--plugin", plugin).stdout.count(name) == 1


OLD_METRIC = """
from refbench.bench.metric import Metric, MetricDeclaration
from refbench.bench.registry import metrics

@metrics.register
class Old(Metric):
    declaration = MetricDeclaration(name="old", version="1", summary="s", source="t", weights=WEIGHTS)
    def load(self, environment):
        pass
SCORE
"""
OLD_METHOD = """
from refbench.bench.method import Method
from refbench.bench.registry import methods

@methods.register
class Old(Method):
    name, summary = "old", "s"
    def card(self): ...
    def load(self, environment): ...
    def generate(self, sample, seed): ...
"""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            OLD_METRIC.replace("WEIGHTS", "()").replace("SCORE", "    def score(self, sample, video): ..."),
            r"interface 1, this is 2: see docs/plugins.md; move score\(\) into a Scorer",
        ),
        (OLD_METRIC.replace("WEIGHTS", "('x',)").replace("SCORE", ""), "weights are WeightEntry objects"),
        (OLD_METHOD, r"move generate\(\) into a Generator that load\(\) returns"),
        ("from bench.metric import Metric\n", r"import refbench\.bench \(docs/plugins.md\)"),
    ],
)
def test_plugins_of_the_former_interface_are_told_what_to_change(
    refbench: Run, content: str, message: str
) -> None:
    """In a process of its own: within a checkout the folder `bench` can be imported by that name."""
    (refbench.folder / "older.py").write_text(content)
    complaint = refbench("metrics", "--plugin", "older.py", expect=2).stderr
    assert re.search(message, complaint), complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def broken(:\n", "failed to load: SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        (None, "is not a Python file"),
    ],
)
def test_bad_plugins_are_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "bad.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_plugins([path])
    assert "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Path
    steps: int = 5
    ratio: float = 0.5
    quick: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be positive")


@dataclass(frozen=True, kw_only=True)
class MoreOptions(Options):
    steps: int = 6
    """How many steps, at least 1."""
    name: str
    """A name that
    goes on in a second line."""


def test_options_explain_themselves() -> None:
    described = {option.name: option for option in describe_options(MoreOptions)}
    assert list(described) == ["folder", "steps", "ratio", "quick", "name"]
    assert (described["steps"].type, described["steps"].default) == ("int", "6")
    assert described["steps"].meaning == "How many steps, at least 1."
    assert described["name"].required and described["name"].meaning == "A name that goes on in a second line."
    assert described["ratio"].meaning == ""


@pytest.mark.parametrize("name", [*metrics.names(), *methods.names()])
def test_every_option_has_its_sentence(name: str) -> None:
    owner = metrics.get(name) if name in metrics.names() else methods.get(name)
    for option in describe_options(owner.Options):
        assert option.meaning.endswith("."), f"{name}.{option.name} says nothing"


def test_options_are_filled_from_text() -> None:
    built = build_options(Options, {"folder": "/x", "steps": "7", "quick": "true"}, "it")
    assert built == Options(folder=Path("/x"), steps=7, quick=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "it needs --set folder="),
        ({"folder": "x", "stepz": "1"}, "it has no option 'stepz'; it has: folder, steps"),
        ({"folder": "x", "steps": "many"}, "it: steps: "),
        ({"folder": "x", "steps": "0"}, "steps must be positive"),
    ],
)
def test_bad_options_are_one_line(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_options(Options, values, "it")


def test_assignments() -> None:
    assert parse_assignments(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="--set"):
            parse_assignments(wrong)
    assert build_options(NoOptions, {}, "it") == NoOptions()


def test_one_line_is_one_printable_line() -> None:
    text: Any = "a\n\tb\x1b[31mred\x00 " + "x" * 500
    line = one_line(text)
    assert len(line) == 300
    assert line.isprintable()
