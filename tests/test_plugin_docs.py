"""The metric with weights that docs/plugins.md shows works as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kit.cli import Run

GUIDE = Path(__file__).parents[1] / "docs/plugins.md"


def test_the_example_of_the_guide(refbench: Run, videos: Path) -> None:
    torch = pytest.importorskip("torch", reason="the example needs the extra 'metrics'")
    from safetensors.torch import save_file

    example = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    (refbench.folder / "my_metric.py").write_text(example[1])
    plugin = ("--plugin", "my_metric.py")
    shown = json.loads(refbench("metrics", "show", "sharpness", *plugin, "--json").stdout)
    assert shown["options"]["frames"] == {
        "type": "int",
        "default": "8",
        "meaning": "How many frames of a video are looked at.",
    }
    words = ("score", videos / "faceobj_2.mp4", "--prompt", "p", "--metrics", "sharpness", *plugin)
    # A metric that was asked for by name and cannot run ends the command.
    assert "refbench weights pull my-sharpness" in refbench(*words, "--json", expect=2).stderr
    folder = refbench.folder / "weights/me/my-sharpness"
    folder.mkdir(parents=True)
    laplace = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
    save_file({"kernel": laplace}, folder / "model.safetensors")
    scored = json.loads(refbench(*words, "--weights", "weights", "--json").stdout)["sharpness"]
    assert 0 < scored["value"] < 1
    assert len(scored["details"]["frames"]) == 8
