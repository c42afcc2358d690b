"""Evaluation of reference-to-video (R2V) generation on OpenS2V-Eval: the public Python interface.

Everything here is found in the packages below when it is first used, so that `import refbench` is quick and
loads no torch:

* `load_track(name, dataset)`, `load_suite(path)`: the samples that are scored together;
* `generate(method, …)`: a registered method's videos; `evaluate(videos, …)`: their scores, kept in a store;
* `score(video, prompt=…, references=…)`: one video, without any data set;
* `records(store)`: all scores as a pandas table; `scoreboard(store)`: component means and TotalScore;
* `report(stores, …)`: tables, plots and a page; `compare(a, b, …)`: whether a difference means anything;
* `get_metric(name)`, `get_method(name)`: a metric or method with its options.

What a user can mend is raised as `UserError`, whose text is one line.

>>> import refbench
>>> refbench.get_metric("motion-amplitude").declaration.component
'motion_amplitude'
>>> refbench.get_method("noise", {"width": 64, "height": 48}).card().width
64
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refbench.bench.dataset import Track as Track
    from refbench.bench.dataset import load_suite as load_suite
    from refbench.bench.dataset import load_track as load_track
    from refbench.bench.errors import UserError as UserError
    from refbench.bench.runner.evaluate import evaluate as evaluate
    from refbench.bench.runner.generate import generate as generate
    from refbench.bench.runner.generating import make_method as get_method
    from refbench.bench.runner.score import score as score
    from refbench.bench.runner.scoring import make_metric as get_metric
    from refbench.bench.scores.results import records as records
    from refbench.bench.scores.results import scoreboard as scoreboard
    from refbench.reports.compared import compare as compare
    from refbench.reports.report import report as report

# Public name → the module and the name that it has there.
_HOMES = {
    "Track": ("refbench.bench.dataset", "Track"),
    "UserError": ("refbench.bench.errors", "UserError"),
    "compare": ("refbench.reports.compared", "compare"),
    "evaluate": ("refbench.bench.runner.evaluate", "evaluate"),
    "generate": ("refbench.bench.runner.generate", "generate"),
    "get_method": ("refbench.bench.runner.generate", "make_method"),
    "get_metric": ("refbench.bench.runner.scoring", "make_metric"),
    "load_suite": ("refbench.bench.dataset", "load_suite"),
    "load_track": ("refbench.bench.dataset", "load_track"),
    "records": ("refbench.bench.scores.results", "records"),
    "report": ("refbench.reports.report", "report"),
    "score": ("refbench.bench.runner.score", "score"),
    "scoreboard": ("refbench.bench.scores.results", "scoreboard"),
}

__all__ = [  # noqa: RUF022 - in the order of the text above
    "load_track",
    "load_suite",
    "generate",
    "evaluate",
    "score",
    "records",
    "scoreboard",
    "report",
    "compare",
    "get_metric",
    "get_method",
    "Track",
    "UserError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = globals()[name] = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
