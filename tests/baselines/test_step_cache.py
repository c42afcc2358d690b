"""Step caches: off they change nothing, on they skip work and say so, what has none says so in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from kit.cli import invoke  # noqa: E402
from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.wan import cost, step_cache  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.spec import WanOptions  # noqa: E402
from refbench.baselines.wan_t2v import TextToVideo13B  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.method import Method  # noqa: E402
from refbench.bench.registry import methods  # noqa: E402
from refbench.bench.runner.generating import make_method  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.video import Video  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402

STEPS = 8
SMALL: dict[str, Any] = {"width": 96, "height": 64, "num_frames": 5, "steps": STEPS}
CACHES: dict[str, dict[str, Any]] = {
    "first-block": {"cache": "first-block"},
    "mag": {"cache": "mag", "cache_ratios": "1,1,1"},
    "taylorseer": {"cache": "taylorseer"},
}
VARIANT = "tiny-weights+cache-taylorseer"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from refbench.baselines.small import wan_base

    folder = tmp_path_factory.mktemp("weights")
    wan_base.write_tiny(folder)
    return folder


@pytest.fixture(params=[TextToVideo13B, RefAlignTiny], ids=lambda method: method.spec.name)
def method_class(request: pytest.FixtureRequest) -> type[Method]:
    chosen: type[Method] = request.param
    return chosen


@pytest.fixture
def sample(tmp_path: Path) -> Any:
    from PIL import Image

    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(tmp_path / "a.png")
    return sample_of(["a.png"], tmp_path)


def generator(method_class: Any, weights: Path, **options: Any) -> WanGenerator:
    made = loaded(method_class(WanOptions(**SMALL, **options)), weights)
    assert isinstance(made, WanGenerator)
    return made


def passes(made: WanGenerator) -> int:
    return cost.passes_per_step(made.method.spec, made.method.settings)


@contextmanager
def computed(made: WanGenerator) -> Iterator[list[int]]:
    """Counts how often the second block is computed."""
    count = [0]

    def see(*_: Any) -> None:
        count[0] += 1

    handle = made.sampler.transformer.blocks[1].ffn.register_forward_hook(see)
    try:
        yield count
    finally:
        handle.remove()


def never_skips(cache: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a cache whose threshold nothing reaches."""
    monkeypatch.setattr(step_cache, "FIRST_BLOCK_THRESHOLD", -1.0)
    monkeypatch.setattr(step_cache, "MAG_THRESHOLD", -1.0)
    monkeypatch.setattr(step_cache, "TAYLOR_INTERVAL", 1)
    return CACHES[cache]


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_that_skips_nothing_changes_nothing(
    cache: str, method_class: Any, weights: Path, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = frames_of(generator(method_class, weights), sample)
    made = generator(method_class, weights, **never_skips(cache, monkeypatch))
    with computed(made) as count:
        assert np.array_equal(frames_of(made, sample), plain)
    assert count == [STEPS * passes(made)]


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_skips_blocks_and_each_video_begins_anew(
    cache: str, method_class: Any, weights: Path, sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Noise moves the first block of a random network more than a trained one's.
    monkeypatch.setattr(step_cache, "FIRST_BLOCK_THRESHOLD", 10.0)
    plain = frames_of(generator(method_class, weights), sample)
    made = generator(method_class, weights, **CACHES[cache])
    with computed(made) as count:
        first = frames_of(made, sample)
    # Of eight steps the first block is whole once; MagCache keeps the first two, skips three, computes one;
    # TaylorSeer computes the first three and the fifth.
    whole = {"first-block": 1, "mag": 3, "taylorseer": 4}[cache]
    assert count == [whole * passes(made)]
    assert not np.array_equal(first, plain)
    other = frames_of(made, replace(sample, prompt="two cups"), seed=5)
    assert not np.array_equal(other, first)
    assert np.array_equal(frames_of(made, sample), first)
    assert np.array_equal(frames_of(generator(method_class, weights, **CACHES[cache]), sample), first)


def test_joined_passes_have_a_state_of_their_own(weights: Path, sample: Any) -> None:
    """Which steps TaylorSeer computes does not depend on what is in a pass: joined, it makes the same video
    but for rounding, which the extrapolation and the guidance scales enlarge.
    """
    apart, joined = (
        frames_of(generator(RefAlignTiny, weights, cache="taylorseer", batch_passes=batch_passes), sample)
        for batch_passes in ("no", "yes")
    )
    assert np.abs(apart.astype(int) - joined).mean() < 0.1


def test_off_is_the_card_and_run_of_before(method_class: Any) -> None:
    method = method_class()
    card = method.card()
    assert not {"cache", "cache_ratios"} & card.options.keys()
    assert not any("cache" in text for text in card.deviations)
    assert method.run_variant() is None


def test_on_is_said_on_the_card_and_is_another_variant(weights: Path, dataset: Path, tmp_path: Path) -> None:
    words = ("generate", "refalign-tiny", "--dataset", dataset, "--limit", 1, "--out", tmp_path / "runs")
    options = [f"--set={key}={value}" for key, value in (SMALL | CACHES["taylorseer"]).items()]
    invoke(*words, *options)
    invoke(*words, *[option for option in options if "cache" not in option])
    folders = sorted((tmp_path / "runs/refalign-tiny").iterdir())
    assert [folder.name for folder in folders] == [
        "open-domain.tiny-weights", f"open-domain.{VARIANT}",
    ]  # fmt: skip
    plain, cached = (read_run(folder / "run.json") for folder in folders)
    assert plain.card is not None and cached.card is not None
    assert (cached.variant, cached.card.options["cache"]) == (VARIANT, "taylorseer")
    assert "a step cache is on, which changes the video: diffusers' TaylorSeer" in cached.card.deviations[-1]
    assert "cache" not in plain.card.options
    (one,), (other,) = (sorted(folder.rglob("*.mp4")) for folder in folders)
    assert Video(one).digest != Video(other).digest


def test_a_cached_run_stands_in_no_published_row() -> None:
    from kit.records import full_records
    from refbench.bench.scores.aggregate import scoreboards
    from refbench.reports.table1 import reproduced_rows

    def measured(variant: str) -> int:
        boards = scoreboards(full_records(method="phantom-1.3b", variant=variant), "opens2v-1.1")
        return sum(len(row.measured) for row in reproduced_rows(boards))

    variant = make_method("phantom-1.3b", CACHES["first-block"]).run_variant()
    assert variant == "cache-first-block"
    assert (measured("plain"), measured(variant)) == (1, 0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vace-1.3b", CACHES["first-block"], "vace-1.3b has a side branch"),
        ("consisid", CACHES["first-block"], "has no option 'cache'"),
        ("wan-t2v-1.3b", {"cache": "mag"}, "cache=mag needs cache_ratios"),
        ("wan-t2v-1.3b", {"cache": "mag", "cache_ratios": "1,x"}, "number,number,…, not 'x'"),
        ("wan-t2v-1.3b", {"cache": "mag", "cache_ratios": "1,0"}, "must be above 0 and at most 10"),
        ("wan-t2v-1.3b", {"cache_ratios": "1,1"}, "cache_ratios goes with cache=mag"),
        ("wan-t2v-1.3b", {"cache": "first-block", "compile": "true"}, "together with compile"),
        ("wan-t2v-1.3b", {"cache": "taylorseer", "offload": "group"}, "offload=model goes with it"),
        ("wan-t2v-1.3b", {"cache": "teacache"}, "'first-block', 'mag' or 'taylorseer'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_method(name, options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_every_network_that_may_have_a_cache_has_blocks_that_caches_know() -> None:
    """All but those with a side branch and those of two experts, which are refused."""
    from diffusers.hooks._helpers import TransformerBlockRegistry

    from refbench.baselines.small.networks import IMAGE_NETWORK, TEXT_NETWORK

    checked = 0
    for name in methods.names():
        spec = getattr(methods.get(name), "spec", None)
        if spec is None or spec.network.extra_blocks or spec.boundary is not None:
            continue
        method = make_method(name, {"cache": "first-block"})
        with torch.device("meta"):
            config = IMAGE_NETWORK if spec.network.image_branch else TEXT_NETWORK
            network = method.network_class()(**config)
        step_cache.switch_on(network, "first-block", steps=4)
        assert TransformerBlockRegistry.get(type(network.blocks[0])).return_hidden_states_index == 0
        checked += 1
    assert checked > 10


def test_kept_states_are_planned() -> None:
    spec = TextToVideo13B.spec
    plain = cost.peak_gib(spec, spec.native, 0)
    cached = cost.peak_gib(spec, spec.native, 0, step_cache="first-block")
    # Three states of 32,760 tokens, 1,536 channels, two bytes, in each of two passes.
    assert cached["model"] - plain["model"] <= 3 * 2 * 32_760 * 1536 * 2 / cost.GIB
    assert cached["group"] - plain["group"] <= 3 * 2 * 32_760 * 1536 * 2 / cost.GIB
    assert cost.fits(spec, spec.native, 7, step_cache="first-block") in (None, "model")
    assert "those without the step cache" in invoke("plan", "vace-1.3b", "wan-t2v-1.3b", "--set",
        "wan-t2v-1.3b.cache=first-block").stdout  # fmt: skip
