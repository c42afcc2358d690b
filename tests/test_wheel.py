"""The wheel: what a user gets outside of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the sdist of a copy of the sources so that the checkout stays clean, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.splitlines()  # fmt: skip
    if not listed:
        pytest.skip("not a git checkout: the list of files comes from git")
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # Without --wheel the sdist is built first, and the wheel from it.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_folder_with_an_init_file_is_a_listed_package() -> None:
    """A package that is mapped onto another folder cannot be found by setuptools' search."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    mapped = {name: folder for name, folder in project["package-dir"].items() if name != "refbench"}
    there = {
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts))
        for name, folder in mapped.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["packages"]) == {"refbench", *there}


def test_the_type_checkers_tree_shows_every_package() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "typing_root/refbench").iterdir()}
    for folder in ("bench", "metrics", "baselines", "refalign", "reports", "mini"):
        assert links[folder] == ROOT / folder
    assert links["__init__.py"] == ROOT / "refbench/__init__.py"


def refbench(site: Path, folder: Path, *arguments: str) -> str:
    """Run the unpacked wheel's command, with the checkout out of reach."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = (
        "import refbench.bench as bench, sys\n"
        f"assert bench.__file__.startswith({str(site)!r}), bench.__file__\n"
        "from refbench.bench.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_packages_data_and_licence_only(unpacked_wheel: Path) -> None:
    tops = {path.name for path in unpacked_wheel.iterdir()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"refbench"}
    assert (unpacked_wheel / "refbench/reports/published/refalign_table1.csv").is_file()
    assert (unpacked_wheel / "refbench/reports/templates/report.html.j2").is_file()
    assert (unpacked_wheel / "refbench/reports/viewer/site/index.html").is_file()
    assert (unpacked_wheel / "refbench/py.typed").is_file()
    assert list(unpacked_wheel.glob("*.dist-info/licenses/LICENSE"))


def test_it_works_outside_of_the_checkout(unpacked_wheel: Path, tmp_path: Path) -> None:
    rows = json.loads(refbench(unpacked_wheel, tmp_path, "leaderboard", "--json"))["rows"]
    assert any(row["method"] == "RefAlign-14B" for row in rows)
    assert "motion-amplitude" in refbench(unpacked_wheel, tmp_path, "metrics")
    assert "pan-reference" in refbench(unpacked_wheel, tmp_path, "methods")


def test_a_report_can_be_made_from_it(unpacked_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/gmescore.json").write_text('{"faceobj_1": {"gme_score": 0.7}}')
    refbench(unpacked_wheel, tmp_path, "import-scores", "scores", "--name", "m")
    refbench(unpacked_wheel, tmp_path, "report", "results", "-o", "report")
    assert "<table" in (tmp_path / "report/report.html").read_text()
