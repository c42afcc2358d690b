"""What is to be cited stands in the README as in CITATION.cff, and the container has what it installs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from refbench.bench import __version__

ROOT = Path(__file__).parents[1]


def test_the_bibtex_block_and_the_citation_file_name_the_same_works() -> None:
    block = re.search(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    plain = " ".join(block[1].replace("{", "").replace("}", "").split())
    assert len(re.findall(r"^@", block[1], re.MULTILINE)) == 1 + len(citation["references"])
    for work in citation["references"]:
        assert work["title"] in plain
        assert all(one["value"] in plain for one in work["identifiers"])
    assert f"version = {__version__}" in plain and citation["version"] == __version__
    assert block[1].count("{") == block[1].count("}")


def test_the_container_installs_what_the_project_has() -> None:
    import tomllib

    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    extras = next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].strip("[]")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    # What the installation needs is not kept out of the container.
    kept_out = set((ROOT / ".dockerignore").read_text().split())
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", *folders.values()}
    assert not needed & kept_out and all((ROOT / name).exists() for name in needed)
