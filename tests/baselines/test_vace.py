"""VACE's references, context and loop against the official code (golden `baselines/vace.npz`), through the
sampler that the methods use; and the same end to end with tiny weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_loop import (  # noqa: E402
    CPU,
    WatchedConditioner,
    WatchedSampler,
    golden_codec,
    padded_texts,
    sampled,
)
from kit.golden_networks import named, network, original_state, read, worst  # noqa: E402
from kit.tiny_runs import generated  # noqa: E402
from refbench.baselines.vace import Vace13B, Vace14B, VacePreview13B  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.conditioning import Conditioner, Geometry  # noqa: E402
from refbench.baselines.wan.nets.vace import VaceReferences, VaceTransformer3DModel, prepared_reference  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

GOLDEN = "baselines.vace"
ARRAYS = read("baselines/vace.npz")
SPECIFICATION = read("baselines/vace_model.json")
GEOMETRY = Geometry(width=96, height=64, num_frames=5)
STEPS = 5
FRAMES = 2
SIZES = {"wide": (50, 120), "tall": (90, 60), "same": (64, 96), "large": (210, 150)}
SAMPLE = Sample(id="s_1", category="s", prompt="p", references=())


def picture(name: str) -> Image.Image:
    return Image.fromarray(uint8_image(f"baselines.vace.ref_{name}", *SIZES[name]))


@pytest.fixture(scope="module")
def transformer() -> Any:
    return network(
        VaceTransformer3DModel,
        SPECIFICATION["weights"],
        SPECIFICATION["config"] | {"eps": 1e-6},
        vace_layers=SPECIFICATION["config"]["vace_layers"],
        vace_in_channels=SPECIFICATION["config"]["vace_in_dim"],
    )


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    assert geometry.latent_shape == (FRAMES, 8, 12)
    return named(GOLDEN, f"noise{references}", (16, FRAMES + references, 8, 12))[None]


def with_given_noise() -> WatchedConditioner:
    return WatchedConditioner(VaceReferences(), given_noise)


def run(
    transformer: Any, names: tuple[str, ...], conditioner: Conditioner[Any], **settings: Any
) -> tuple[torch.Tensor, WatchedSampler]:
    return sampled(
        Vace13B(),
        transformer,
        [picture(name) for name in names],
        conditioner,
        codec=golden_codec(padded_texts(GOLDEN)),
        geometry=GEOMETRY,
        steps=STEPS,
        **settings,
    )


CASES = [(), ("wide",), ("wide", "tall")]


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
@pytest.mark.parametrize("names", CASES, ids=len)
def test_guided_loop(transformer: Any, names: tuple[str, ...], batch_passes: str) -> None:
    final, seen = run(transformer, names, with_given_noise(), batch_passes=batch_passes)
    golden = f"refs{len(names)}"
    assert seen.timesteps == ARRAYS[f"{golden}/timesteps"].tolist()
    assert worst(seen.predictions[0]["prompt"][0], ARRAYS[f"{golden}/step0_v_cond"]) < 1e-4
    assert worst(seen.predictions[0]["negative"][0], ARRAYS[f"{golden}/step0_v_uncond"]) < 1e-4
    assert worst(torch.cat(seen.latents), ARRAYS[f"{golden}/latents"]) < 2e-4
    assert worst(final[0], ARRAYS[f"{golden}/final"]) < 2e-4


def test_the_generator_s_own_draw(transformer: Any) -> None:
    conditioner = Vace13B().conditioner(SAMPLE, 42)
    noise = conditioner.draw_noise(GEOMETRY, 2, torch.Generator("cpu").manual_seed(42), CPU)
    assert worst(noise[0], ARRAYS["seed42_refs2/noise"]) == 0
    final, _ = run(transformer, ("wide", "tall"), conditioner)
    assert worst(final[0], ARRAYS["seed42_refs2/final"]) < 2e-4


@pytest.mark.parametrize("names", CASES, ids=len)
def test_context(names: tuple[str, ...]) -> None:
    references = [picture(name) for name in names]
    condition = VaceReferences().encode(golden_codec(), references, GEOMETRY, torch.Generator())
    assert condition.leading_frames == len(names)
    expected = ARRAYS[f"refs{len(names)}/context"]
    assert worst(condition.context_BCFHW[0], expected) < 1e-5
    assert worst(condition.context_BCFHW[0, 32:], expected[32:]) == 0
    with pytest.raises(ValueError, match="zero latents"):
        condition.inputs(torch.zeros(1, 16, 2, 8, 12), "zero")


def test_the_order_of_references_matters(transformer: Any) -> None:
    """What the stock pipeline of diffusers gets wrong would be seen here."""
    final, _ = run(transformer, ("tall", "wide"), with_given_noise())
    assert worst(final[0], ARRAYS["refs2/final"]) > 0.01


@pytest.mark.parametrize("name", SIZES)
def test_prepared_references(name: str) -> None:
    small = prepared_reference(picture(name), 96, 64)
    assert worst(small[:, None], ARRAYS[f"prepared/{name}"]) < 1e-5
    full = prepared_reference(picture(name), 832, 480)
    assert worst(full[:, ::8, ::8], ARRAYS[f"prepared_480x832/{name}_every8"]) < 1e-5
    painted = (full < 1).any(dim=0)
    left, top, right, bottom = ARRAYS[f"prepared_480x832/{name}_box"].tolist()
    outside = painted.clone()
    outside[top:bottom, left:right] = False
    assert not outside.any()
    assert painted[top:bottom, left:right].float().mean() > 0.95


def test_an_image_of_extreme_shape_keeps_a_pixel() -> None:
    prepared = prepared_reference(Image.new("RGB", (4000, 2), (0, 0, 0)), 96, 64)
    assert int((prepared < 1).all(dim=0).any(dim=1).sum()) == 1


def test_original_format_loads_into_the_same_network(transformer: Any, tmp_path: Any) -> None:
    """As the preview's weights come: Wan's names, no diffusers configuration."""
    from safetensors.torch import save_file

    save_file(original_state(SPECIFICATION["weights"]), tmp_path / "diffusion_pytorch_model.safetensors")
    # Wan's own config.json; the number of heads cannot be read from shapes.
    (tmp_path / "config.json").write_text('{"num_heads": 4, "vace_layers": [0, 2]}')
    loaded = load_transformer(VaceTransformer3DModel, read_checkpoint(tmp_path))
    assert list(loaded.config.vace_layers) == [0, 2]
    final, _ = run(loaded, ("wide",), with_given_noise())
    assert worst(final[0], ARRAYS["refs1/final"]) < 2e-4


def test_facts_of_the_three_methods() -> None:
    for method in (Vace13B(), VacePreview13B(), Vace14B()):
        card = method.card()
        assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 81, 16)
        assert (card.steps, card.solver, card.shift, card.guidance) == (50, "unipc", 16.0, {"text": 5.0})
        assert card.max_references is None
        assert card.reference_overflow is None
        assert card.negative_prompt == read("baselines/negative_prompts.json")["vace"]
        assert method.refuses(SAMPLE) is None
    with pytest.raises(UserError, match=r"vace-1\.3b has no guidance scale 'image'"):
        Vace13B(Vace13B.Options(guidance="image=3"))


def test_full_size_networks_are_those_of_the_released_weights() -> None:
    """Blocks of the side branch, and diffusers' configuration from shapes alone."""
    from diffusers import WanVACETransformer3DModel

    for method, layers in ((Vace13B, range(0, 30, 2)), (Vace14B, range(0, 40, 5))):
        size = method.spec.network
        assert size.extra_blocks == len(layers)
        with torch.device("meta"):
            model = WanVACETransformer3DModel(
                num_attention_heads=size.heads,
                attention_head_dim=size.width // size.heads,
                ffn_dim=size.ffn_width,
                num_layers=size.layers,
                vace_layers=list(layers),
            )
        assert len(model.vace_blocks) == size.extra_blocks


def test_float32_images_are_not_rounded() -> None:
    """The prepared reference keeps values between the 256 levels."""
    levels = (prepared_reference(picture("large"), 96, 64).numpy() + 1) * 127.5
    assert np.abs(levels - levels.round()).max() > 0.1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import vace, wan_base

    folder = tmp_path_factory.mktemp("weights")
    vace.write_tiny(folder)
    wan_base.write_tiny(folder)
    return folder


SMALL = {"width": 96, "height": 64, "num_frames": 5, "steps": 2}


@pytest.mark.parametrize("name", ["vace-1.3b", "vace-p1.3b", "vace-14b"])
def test_generate_with_tiny_weights(name: str, weights: Path, dataset: Path, tmp_path: Path) -> None:
    """From the command line to files: samples with one reference and with two."""
    videos = generated(name, SMALL, dataset=dataset, weights=weights, out=tmp_path / "runs", limit=3)
    assert len(videos) == 3
    for video in videos:
        frames = list(video.frames(ALL_FRAMES))
        assert (len(frames), frames[0].shape) == (5, (64, 96, 3))
    card = read_run(videos[0].path.parents[1] / "run.json").card
    assert card.generated_frames == 5
    # Transformer and base, each with a digest that says what it is of.
    assert sum(digest.startswith("tiny:") for digest in card.weights.values()) == 2
