"""The commands of the embedded benchmark, found as the command line finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.cli import complaint, printed


def test_the_quick_demo_shows_the_flow_of_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REFBENCH_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "demo"
    text = printed("demo", "--quick", "--out", out)
    out /= "quick"
    assert "Not scored, so there is no TotalScore" in text
    assert "GmeScore: Alibaba-NLP/gme-Qwen2-VL-7B-Instruct is not on disk" in text
    assert (out / "report/report.html").is_file()
    assert len(list((out / "leaderboards").glob("*.txt"))) == 6
    assert "EchoVideo !" in (out / "leaderboards/human-domain_opens2v-1.0.txt").read_text()
    assert {path.name for path in (out / "runs").iterdir()} == {"noise", "pan-reference", "static-reference"}
    (tmp_path / "mine/dataset").mkdir(parents=True)
    assert "is not the demo's" in complaint("demo", "--out", tmp_path / "mine")


@pytest.mark.parametrize("command", [("demo",), ("mini", "directions")], ids=" ".join)
def test_without_trained_weights_a_contest_says_what_to_do(command: tuple[str, ...], tmp_path: Path) -> None:
    told = complaint(*command, "--out", tmp_path / "out", "--weights", tmp_path / "nowhere")
    assert "no trained weights" in told and "refbench mini build" in told and "--quick" in told
    assert not (tmp_path / "out/runs").exists()
