"""Settings, options and cards of the Wan generators: what a user can set, and what is refused before any
work.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from refbench.baselines.wan.spec import WanOptions, parse_scales, resolved_settings
from refbench.bench.errors import UserError
from refbench.bench.registry import methods
from refbench.bench.runner.generating import make_method
from refbench.bench.sample import Reference, Sample

# Of the released networks: those of the drawn world have settings of their own.
WAN_METHODS = [
    name
    for name in methods.names()
    if hasattr(methods.get(name), "spec") and not any(entry.made_by for entry in methods.get(name).weights)
]


def sample_with(references: int, tmp_path: object) -> Sample:
    reference = Reference(path="a.png", root=tmp_path, label="Man", kind="person")  # type: ignore[arg-type]
    return Sample(id="s_1", category="s", prompt="p", references=(reference,) * references)


def test_the_family_is_registered() -> None:
    assert {
        "refalign-1.3b",
        "refalign-14b",
        "refalign-tiny",
        "phantom-1.3b",
        "phantom-14b",
        "kaleido-14b",
    } <= set(WAN_METHODS)


@pytest.mark.parametrize("name", WAN_METHODS)
def test_cards_are_complete_and_matched_settings_agree(name: str) -> None:
    native, matched = make_method(name, {}).card(), make_method(name, {"settings": "matched"}).card()
    for card in (native, matched):
        assert card.name == name
        assert card.base_model and card.solver and card.shift and card.guidance and card.weights
        # SkyReels-V3 makes no pass with a negative prompt, and its own is empty.
        assert bool(card.negative_prompt) == (name != "skyreels-v3-14b")
        assert card.width and card.height and card.steps and card.fps
        assert card.num_frames is not None and card.generated_frames is not None
        assert card.num_frames <= card.generated_frames
    assert (matched.width, matched.height, matched.generated_frames) == (832, 480, 81)
    assert matched.settings == "matched"
    # Own trimming is kept: what a method throws away, it throws away under both.
    spec = methods.get(name).spec
    assert matched.num_frames == 81 - spec.native.dropped_frames


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": "830"}, "multiple of 16 pixels up to 4096, 830 is not; 832 is the nearest"),
        ({"height": "481"}, "480 is the nearest"),
        ({"num_frames": "80"}, "num_frames must be 4k + 1"),
        ({"steps": "0"}, "steps must be above 0"),
        ({"guidance": "image"}, "guidance is name=number"),
        ({"guidance": "txt=3"}, "no guidance scale 'txt'; it has image, text"),
        ({"settings": "mine"}, "native"),
        ({"settings": "matched", "segmenter": "x.onnx"}, "raw references"),
    ],
)
def test_what_no_network_can_do_is_refused(options: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("+", r"\+")) as caught:
        make_method("refalign-1.3b", options)
    assert "\n" not in str(caught.value)


def test_scales_and_overrides() -> None:
    assert parse_scales("image=5, text=7.5") == {"image": 5.0, "text": 7.5}
    spec = methods.get("phantom-14b").spec
    settings = resolved_settings(spec, WanOptions(guidance="text=3", steps=7, negative_prompt="bad"))
    assert settings.guidance == {"image": 5.0, "text": 3.0}
    assert (settings.steps, settings.num_frames, settings.negative_prompt) == (7, 121, "bad")


def test_references_beyond_the_maximum(tmp_path: object) -> None:
    method = make_method("refalign-1.3b", {})
    assert method.refuses(sample_with(3, tmp_path)) is None
    assert "4 references, refalign-1.3b takes 3" in str(method.refuses(sample_with(4, tmp_path)))
    assert method.refuses(sample_with(0, tmp_path)) == "the sample has no reference"
    assert make_method("refalign-1.3b", {"overflow": "first"}).refuses(sample_with(4, tmp_path)) is None


@pytest.mark.parametrize("name", WAN_METHODS)
def test_noise_that_the_authors_draw_elsewhere_is_on_the_card(name: str) -> None:
    on_cpu = {
        "refalign-1.3b", "refalign-14b", "refalign-tiny", "kaleido-14b", "bindweave-14b", "bernini-r-1.3b",
        "bernini-r-14b",
    }  # fmt: skip
    said = any("noise is drawn on the CPU" in text for text in make_method(name, {}).card().deviations)
    assert said == (name not in on_cpu)
