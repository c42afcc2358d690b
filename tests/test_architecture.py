"""The house's rules on who may know whom, read from the syntax trees, and what an import may cost."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "metrics", "baselines", "refalign", "reports", "mini")
PACKAGE = "refbench"
# The one module of the command line that every wing's commands may use.
SHARED_OPTIONS = "bench.cli.options"
HEAVY = ("torch", "transformers", "diffusers", "cv2", "matplotlib", "pandas", "av", "PIL")


def imports_of(file: Path) -> set[str]:
    """All modules of this project that a file imports, wherever in the file the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{file}: relative imports hide who knows whom")
    return {name.removeprefix(f"{PACKAGE}.") for name in found if within(name, PACKAGE)}


def within(name: str, module: str) -> bool:
    """Whether `name` is `module` or something in it."""
    return name == module or name.startswith(f"{module}.")


def allowed(package: str, name: str) -> bool:
    """Whether a file of `package` may import `name` (both without the leading `refbench.`)."""
    if package == "mini":
        return True
    if package == "bench":
        return within(name, "bench")
    if within(name, "bench"):
        # `from refbench.bench.cli import options` names the package as well.
        return not within(name, "bench.cli") or name == "bench.cli" or within(name, SHARED_OPTIONS)
    if package == "refalign":
        family = ("baselines.wan", "baselines.small")
        return (
            within(name, "refalign") or any(within(name, module) for module in family) or name == "baselines"
        )
    return within(name, package)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_towards_the_core(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for name in sorted(imports_of(file))
        if not allowed(package, name)
    ]
    assert not wrong


def test_core_nouns_do_not_know_the_runner() -> None:
    wrong = [
        f"{file.name} imports {name}"
        for file in sorted((ROOT / "bench").glob("*.py"))
        for name in sorted(imports_of(file))
        if within(name, "bench.runner") or within(name, "bench.cli")
    ]
    assert not wrong


def test_there_is_no_circle() -> None:
    """Imports inside of functions and for the type checker count as well."""
    modules = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    }
    arrows: dict[str, set[str]] = {}
    for module, file in modules.items():
        named = imports_of(file)
        # `from a.b import c` names a.b too, which is only the way to the module a.b.c.
        ways = {name.rpartition(".")[0] for name in named if name in modules}
        arrows[module] = {name for name in named if name in modules and name not in ways} - {module}
    graphlib.TopologicalSorter(arrows).prepare()


def test_the_rule_would_catch_an_arrow_upwards(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from refbench.metrics.facesim import FaceSim\n    return FaceSim\n")
    assert [name for name in imports_of(file) if not allowed("bench", name)]


@pytest.mark.parametrize(
    "statement",
    [
        "import refbench, refbench.bench, refbench.bench.sample, refbench.bench.registry, "
        "refbench.bench.metric, refbench.bench.method, refbench.bench.video",
        "from refbench.bench.registry import metrics, methods; metrics.names(); methods.names()",
        "from typer.testing import CliRunner; from refbench.bench.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_light_imports_load_nothing_heavy(statement: str, tmp_path: Path) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
