"""SkyReels-V3's references, slots and loop against the official code (golden `baselines2/skyreels_v3.npz`),
through the sampler that the method uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import normal, parameter, uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.cli import invoke  # noqa: E402
from kit.golden_loop import (  # noqa: E402
    CPU,
    SEED,
    WatchedConditioner,
    WatchedSampler,
    golden_codec,
    padded_texts,
    sampled,
)
from kit.golden_networks import named, read, worst  # noqa: E402
from kit.golden_vae import GoldenVAE  # noqa: E402
from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.skyreels_v3 import SIZES_HW, SkyReelsV314B, size_by_aspect  # noqa: E402
from refbench.baselines.wan.conditioning import ConcatenatedReferences, Conditioner, Geometry  # noqa: E402
from refbench.baselines.wan.guidance import RULES  # noqa: E402
from refbench.baselines.wan.nets.transformer import rotary_embedding  # noqa: E402
from refbench.baselines.wan.references import fit_and_pad, fitted_size  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.errors import SampleError, UserError  # noqa: E402
from refbench.bench.runner.generating import make_method  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402

GOLDEN = "baselines2.skyreels_v3"
ARRAYS = read("baselines2/skyreels_v3.npz")
SPECIFICATION = read("baselines2/skyreels_v3.json")
GEOMETRY = Geometry(width=96, height=64, num_frames=9)
SAMPLE = Sample(id="s_1", category="s", prompt="p", references=())
TABLE = SPECIFICATION["aspect_table_hw"]
SIZES = [(90, 60), (50, 120), (150, 200), (64, 96)]
DEVIATION = 0.1
# The authors' defaults where guidance is asked for.
GUIDED = {"image": 5.0, "text": 7.5}
# The goldens' uint8 images are Pillow 13's; other versions may round by one level.
LEVELS = 0 if PIL.__version__.startswith("13.") else 1


class PosteriorVAE(GoldenVAE):
    """The stand-in with a posterior: its draws are the golden's, or (`given` false) the generator's."""

    def __init__(self, *, given: bool = True) -> None:
        std = 1 + 0.2 * np.abs(normal(f"{GOLDEN}.vae_std", (16,)))
        mean = 0.5 * normal(f"{GOLDEN}.vae_mean", (16,))
        super().__init__(mean=mean.tolist(), std=std.tolist())
        self.given = self.golden_draws() if given else None

    @staticmethod
    def golden_draws() -> Iterator[torch.Tensor]:
        for index in range(4):
            yield named(GOLDEN, f"posterior{index}", (1, 16, 1, 8, 12))

    def encode(self, pixels_BCFHW: torch.Tensor) -> SimpleNamespace:
        mean = super().encode(pixels_BCFHW).latent_dist.mode()

        def sample(generator: torch.Generator) -> torch.Tensor:
            drawn = next(self.given) if self.given else torch.randn(mean.shape, generator=generator)
            return mean + DEVIATION * drawn

        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean, sample=sample))


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    assert geometry.latent_shape == (3, 8, 12)
    return named(GOLDEN, "noise", (1, 16, 3, 8, 12))


def pictures(count: int) -> list[Image.Image]:
    images = [uint8_image(f"{GOLDEN}.ref{index}", *size) for index, size in enumerate(SIZES[:count])]
    return [Image.fromarray(image) for image in images]


@pytest.fixture(scope="module")
def transformer() -> Any:
    config, shapes = SPECIFICATION["model"]["config"], SPECIFICATION["model"]["weights"]
    model = SkyReelsV314B().network_class()(**config)
    state = {key: torch.from_numpy(parameter(key, tuple(shape))) for key, shape in shapes.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def run(
    transformer: Any, count: int, conditioner: Conditioner[Any], *, given: bool = True, **settings: Any
) -> tuple[torch.Tensor, WatchedSampler]:
    return sampled(
        SkyReelsV314B(),
        transformer,
        pictures(count),
        conditioner,
        codec=golden_codec(padded_texts(GOLDEN), vae=PosteriorVAE(given=given)),
        geometry=GEOMETRY,
        **settings,
    )


def watched(*, draws_posterior: bool = True) -> WatchedConditioner:
    own = SkyReelsV314B().conditioner(SAMPLE, SEED)
    if not draws_posterior:
        own = ConcatenatedReferences(slots=own.slots)
    return WatchedConditioner(own, given_noise)


def stored(name: str) -> Any:
    """The golden's array, or None for one that is kept for another check."""
    return ARRAYS[name] if name in ARRAYS.files else None


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_guided_loop(transformer: Any, count: int, batch_passes: str) -> None:
    conditioner, golden = watched(), f"refs{count}_guided"
    _, seen = run(transformer, count, conditioner, steps=4, scales=GUIDED, batch_passes=batch_passes)
    assert seen.timesteps == SPECIFICATION[golden]["timesteps"]
    assert len(seen.predictions[0]) == SPECIFICATION[golden]["calls_per_step"] == 3
    slots = conditioner.condition.latents_BCNHW[0]
    assert slots.shape == (16, 4, 8, 12)
    assert not slots[:, count:].any()
    compared = 0
    for name, tolerance, found in (
        ("reference_slots", 1e-5, slots),
        ("latents", 2e-4, torch.cat(seen.latents)),
        *((f"step0_v_{one}", 1e-4, value[0]) for one, value in seen.predictions[0].items()),
    ):
        expected = stored(f"{golden}/{name}")
        if expected is not None:
            assert worst(found, expected) < tolerance, name
            compared += 1
    assert compared == (2 if count == 4 else 5)


def test_released_settings_make_one_pass_in_eight_steps(transformer: Any) -> None:
    native = SkyReelsV314B.spec.native
    _, seen = run(transformer, 2, watched(), steps=native.steps)
    assert seen.timesteps == SPECIFICATION["refs2_released"]["timesteps"]
    assert [len(one) for one in seen.predictions] == [1] * 8
    assert worst(torch.cat(seen.latents), ARRAYS["refs2_released/latents"]) < 2e-4


def test_the_generator_s_own_draws(transformer: Any) -> None:
    """Noise of the video's frames first, then one draw for each reference in order."""
    own = SkyReelsV314B().conditioner(SAMPLE, SEED)
    generator = torch.Generator("cpu").manual_seed(SEED)
    noise = own.draw_noise(GEOMETRY, 2, generator, CPU)
    assert noise.shape == (1, 16, 3, 8, 12)
    assert worst(noise.flatten()[:8], ARRAYS["seed42/noise_first8"]) == 0
    for index in range(2):
        drawn = torch.randn(1, 16, 1, 8, 12, generator=generator)
        assert worst(drawn.flatten()[:8], ARRAYS[f"seed42/posterior{index}_first8"]) == 0
    conditioner = WatchedConditioner(own)
    final, _ = run(transformer, 2, conditioner, given=False, steps=8)
    golden = "refs2_released_seed42"
    assert worst(conditioner.condition.latents_BCNHW[0], ARRAYS[f"{golden}/reference_slots"]) < 1e-5
    assert worst(final[0], ARRAYS[f"{golden}/final"]) < 2e-4


def test_the_mode_in_place_of_a_draw_is_another_video(transformer: Any) -> None:
    conditioner = watched(draws_posterior=False)
    _, seen = run(transformer, 2, conditioner, steps=8)
    assert worst(torch.cat(seen.latents), ARRAYS["refs2_released/latents"]) > 0.01


@pytest.mark.parametrize("given", SPECIFICATION["output_size_hw_by_first_reference"])
def test_size_by_the_first_reference(given: str) -> None:
    size_class, _, size = given.partition(" ")
    height, width = map(int, size.split("x"))
    found = size_by_aspect(size_class.lower(), width, height)
    assert [found[1], found[0]] == SPECIFICATION["output_size_hw_by_first_reference"][given]


def test_sizes_are_the_authors() -> None:
    assert set(TABLE) == {name.upper() for name in SIZES_HW}
    for name, sizes in SIZES_HW.items():
        # In the same order, which decides between two that are as near.
        expected = [(float(ratio), tuple(size)) for ratio, size in TABLE[name.upper()].items()]
        assert list(sizes.items()) == expected


def test_each_video_has_the_shape_of_its_first_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From pictures to frames: a square and a tall one first, others behind; the card names no size."""
    from refbench.baselines.small.skyreels_v3 import write_tiny

    write_tiny(tmp_path / "weights")
    # A class of small videos.
    monkeypatch.setitem(SIZES_HW, "480p", {0.5: (64, 128), 1.0: (96, 96), 2.0: (128, 64)})
    for name, size in (("square.png", (40, 40)), ("tall.png", (40, 90))):
        Image.new("RGB", size, (200, 30, 90)).save(tmp_path / name)
    options = SkyReelsV314B.Options(size_by_reference="480p", num_frames=1, steps=1)
    made = loaded(SkyReelsV314B(options), tmp_path / "weights")
    for names, shape in ((("square.png", "tall.png"), (96, 96)), (("tall.png",), (128, 64))):
        assert frames_of(made, sample_of(names, tmp_path)).shape == (1, *shape, 3)
    card = made.method.card()
    assert (card.width, card.height, card.options["size_by_reference"]) == (None, None, "480p")
    assert not any("first reference" in text for text in card.deviations)
    assert "size_by_reference" not in SkyReelsV314B().card().options


def test_a_size_of_one_s_own_and_of_the_reference_are_one_line() -> None:
    for options in ({"width": "832"}, {"settings": "matched"}):
        with pytest.raises(UserError, match="gives each video a size of its own") as caught:
            make_method("skyreels-v3-14b", {"size_by_reference": "720p", **options})
        assert "\n" not in str(caught.value)


def test_plan_counts_the_largest_size_of_a_class() -> None:
    words = ("plan", "skyreels-v3-14b", "--set", "skyreels-v3-14b.size_by_reference=540p", "--json")
    (planned,) = json.loads(invoke(*words).stdout)["methods"]
    assert {row["tokens"] for row in planned["by_references"]} == {(31 + 4) * 31 * 72}
    assert planned["note"] == "videos differ in size; all are counted as the largest, 1152×496"


@pytest.mark.parametrize("steps", [4, 8, 50])
def test_schedules(steps: int) -> None:
    native = SkyReelsV314B.spec.native
    scheduler = make_scheduler(native.solver, native.shift)
    scheduler.set_timesteps(steps)
    expected = SPECIFICATION[f"schedule_shift5_steps{steps}"]
    assert scheduler.timesteps.tolist() == expected["timesteps"]
    assert worst(scheduler.sigmas, np.array(expected["sigmas"])) < 1e-6


def test_prepared_references() -> None:
    for index, image in enumerate(pictures(4)):
        found = np.asarray(fit_and_pad(image, 96, 64)).astype(int)
        assert np.abs(found - ARRAYS[f"prepared/ref{index}"]).max() <= LEVELS
        width, height = fitted_size(*image.size, 1280, 720)
        left, top = (1280 - width) // 2, (720 - height) // 2
        assert [left, top, left + width, top + height] == SPECIFICATION["box_1280x720"][f"ref{index}"]


def test_slots_continue_the_video_s_frames(transformer: Any) -> None:
    positions = torch.cat(
        [
            transformer.video_positions((3, 4, 6), CPU),
            transformer.reference_positions((3, 4, 6), (4, 4, 6), CPU),
        ]
    )
    cos, sin = rotary_embedding(positions, 24)
    assert worst(cos[0, :, 0, ::2], ARRAYS["rope/cos"]) < 2e-6
    assert worst(sin[0, :, 0, 1::2], ARRAYS["rope/sin"]) < 2e-6


@pytest.mark.parametrize(
    ("text", "image", "passes"), [(1.0, 1.0, 1), (1.0, 5.0, 1), (0.5, 5.0, 1), (7.5, 1.0, 3), (7.5, 5.0, 3)]
)
def test_the_text_scale_alone_decides_about_one_pass(text: float, image: float, passes: int) -> None:
    rule = RULES[SkyReelsV314B.spec.guidance_rule]
    assert len(rule.active_passes({"image": image, "text": text})) == passes


def test_more_than_four_references_are_one_line(tmp_path: Path) -> None:
    reference = Reference(path="a.png", root=tmp_path, label="Man", kind="person")
    five = Sample(id="s_1", category="s", prompt="p", references=(reference,) * 5)
    refused = str(make_method("skyreels-v3-14b", {}).refuses(five))
    assert refused.startswith("5 references, skyreels-v3-14b takes 4")
    assert "\n" not in refused
    first = make_method("skyreels-v3-14b", {"overflow": "first"})
    assert first.refuses(five) is None
    assert len(first.references(five)) == 4
    images = [Image.new("RGB", (32, 32))] * 5
    with pytest.raises(SampleError, match="5 references, the network has 4 slots"):
        SkyReelsV314B().conditioner(SAMPLE, 0).encode(golden_codec(), images, GEOMETRY, torch.Generator())


def test_card() -> None:
    card = SkyReelsV314B().card()
    assert (card.width, card.height, card.num_frames, card.fps) == (1280, 720, 121, 24)
    assert (card.solver, card.steps, card.shift) == ("unipc", 8, 5.0)
    assert dict(card.guidance) == {"image": 1.0, "text": 1.0}
    assert (card.max_references, card.negative_prompt) == (4, "")
    assert any("first reference" in text for text in card.deviations)


def test_plan_counts_empty_slots() -> None:
    """31 frames and 4 slots of 80×45 tokens, whatever the number of references is; one call a step."""
    (planned,) = json.loads(invoke("plan", "skyreels-v3-14b", "--json").stdout)["methods"]
    found = {(row["references"], row["tokens"], row["calls"]) for row in planned["by_references"]}
    assert found == {(references, 126_000, 8) for references in (1, 2, 3)}
