"""The house's rules on who may know whom, read from the syntax trees, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bench", "metrics", "baselines", "refalign", "reports")
RUNNER = ("bench.runner", "bench.cli")
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
    return {name for name in found if name.split(".")[0] in PACKAGES}


def allowed(package: str, name: str) -> bool:
    top = name.split(".")[0]
    if package == "bench":
        return top == "bench"
    if top == "bench":
        return not name.startswith(RUNNER)
    if package == "refalign":
        return top == "refalign" or name.startswith("baselines.wan") or name == "baselines"
    return top == package


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
        if name.startswith(RUNNER)
    ]
    assert not wrong


def test_the_rule_would_catch_an_arrow_upwards(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def f():\n    from metrics.facesim import FaceSim\n    return FaceSim\n")
    assert [name for name in imports_of(file) if not allowed("bench", name)]


@pytest.mark.parametrize(
    "statement",
    [
        "import bench, bench.sample, bench.registry, bench.metric, bench.method, bench.video",
        "from bench.registry import metrics, methods; metrics.names(); methods.names()",
        "from typer.testing import CliRunner; from bench.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_light_imports_load_nothing_heavy(statement: str, tmp_path: Path) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
