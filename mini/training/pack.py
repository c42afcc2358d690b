"""Built weights as they come with the package: the files, and one log that names what built them.

DIR/<owner>/<repository>/…   what `--weights` takes
DIR/build.json               of each part machine, seconds, settings, digests and measured values
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from refbench.bench.errors import UserError
from refbench.bench.files import read_json_object, write_json
from refbench.bench.provenance import source_commit
from refbench.bench.weights.kind import MARKERS
from refbench.bench.weights.store import sha256_of

LOG = "build.json"
MEBIBYTE = 2**20
LARGEST_MIB, LARGEST_FILE_MIB = 48, 12


def pack(root: Path, out: Path) -> dict[str, Any]:
    """Copy the weights of the finished parts of a build into `out`, which is replaced, and write the log.

    Raises UserError for a file that is not the one that its part noted, and for weights above 48 MiB
    together or 12 MiB in one file.
    """
    notes = [read_json_object(path) for path in sorted((root / "parts").glob("*.json"))]
    if not notes:
        raise UserError(f"{root} holds no finished part: refbench mini build --out {root}")
    weights = root / "weights"
    files = {str(name): str(digest) for note in notes for name, digest in note["files"].items()}
    for name, digest in files.items():
        if not (weights / name).is_file() or sha256_of(weights / name) != digest:
            raise UserError(f"{weights / name} is not the file that its part wrote: build that part again")
    for marker in weights.glob(f"*/*/{MARKERS['mini']}"):
        if any(name.startswith(f"{marker.parent.relative_to(weights)}/") for name in files):
            files[str(marker.relative_to(weights))] = sha256_of(marker)
    sizes = {name: (weights / name).stat().st_size / MEBIBYTE for name in files}
    largest = max(sizes, key=lambda name: sizes[name])
    if sum(sizes.values()) > LARGEST_MIB or sizes[largest] > LARGEST_FILE_MIB:
        raise UserError(
            f"{sum(sizes.values()):.1f} MiB together, {sizes[largest]:.1f} in {largest}: at most "
            f"{LARGEST_MIB} and {LARGEST_FILE_MIB} come with the package"
        )
    shutil.rmtree(out, ignore_errors=True)
    for name in files:
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights / name, target)
    log = {
        "commit": source_commit(),
        "mebibytes": round(sum(sizes.values()), 2),
        "parts": notes,
    }
    write_json(out / LOG, log)
    return log


def log_table(log: dict[str, Any]) -> str:
    """The log as a Markdown table: a row for each part."""
    lines = ["| part | trained on | seconds | measured on held-out identities |", "|---|---|---|---|"]
    for note in log["parts"]:
        measured = ", ".join(
            f"{name} {'–' if value is None else format(value, 'g')}"
            for name, value in note["measured"].items()
        )
        lines.append(
            f"| `{note['part']}` | {note['machine']['device']} | {note['seconds']:.0f} | {measured} |"
        )
    return "\n".join(lines) + "\n"
