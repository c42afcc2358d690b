"""The 36-channel networks of MAGREF and SkyReels-A2 against their official code (golden
`baselines/i2v.npz`), and which CLIP layer is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from kit.golden_loop import golden_codec  # noqa: E402
from kit.golden_networks import named, original_state, read, worst  # noqa: E402
from refbench.baselines.magref import Magref480P  # noqa: E402
from refbench.baselines.skyreels_a2 import SkyReelsA2P14B  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.nets.image_branch import ImageCondition  # noqa: E402

ARRAYS = read("baselines/i2v.npz")
SPECIFICATION = read("baselines/i2v_model.json")
LATENTS = named("baselines.i2v", "x", (16, 3, 8, 12))[None]
BESIDE = named("baselines.i2v", "y", (20, 3, 8, 12))[None]


def loaded(name: str, method: Any, folder: Path, **more: torch.Tensor) -> Any:
    """The golden's network as the method builds it, read from a file in the method's own naming."""
    from safetensors.torch import save_file

    state = original_state(SPECIFICATION[name]["weights"]) | more
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    # The tiny networks have heads of 24 channels, which shapes do not say.
    (folder / "config.json").write_text('{"num_heads": 4}')
    return load_transformer(method().network_class(), read_checkpoint(folder), expected={"in_channels": 36})


@pytest.fixture(scope="module")
def magref(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded("magref", Magref480P, tmp_path_factory.mktemp("magref"))


@pytest.fixture(scope="module")
def skyreels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # The released file has one norm that nothing uses.
    unused = {f"blocks.{block}.attn2.norm_added_q.weight": torch.ones(96) for block in range(4)}
    return loaded("skyreels_a2", SkyReelsA2P14B, tmp_path_factory.mktemp("skyreels"), **unused)


def prediction(network: Any, tokens: torch.Tensor) -> torch.Tensor:
    condition = ImageCondition(
        mask_B4FHW=BESIDE[:, :4], latents_B16FHW=BESIDE[:, 4:], image_tokens_BTD=tokens
    )
    text = torch.zeros(1, 512, 32)
    text[0, :7] = named("baselines.i2v", "context", (7, 32))
    with torch.no_grad():
        return network(
            timestep=torch.tensor([731]), encoder_hidden_states=text, **condition.inputs(LATENTS, "own")
        ).sample


def test_magref_network(magref: Any) -> None:
    tokens = named("baselines.i2v", "clip", (1, 257, 1280))
    with torch.no_grad():
        embedded = magref.condition_embedder.image_embedder(tokens)
    assert worst(embedded, ARRAYS["magref/image_tokens"]) < 1e-4
    assert worst(prediction(magref, tokens)[0], ARRAYS["magref/v"]) < 1e-4


@pytest.mark.parametrize("references", [2, 3])
def test_skyreels_network(skyreels: Any, references: int) -> None:
    tokens = named("baselines.i2v", f"clip{references}", (1, 257 * references, 1280))
    expected = ARRAYS[f"skyreels_a2/refs{references}_v"]
    assert worst(prediction(skyreels, tokens)[0], expected) < 1e-4
    # One set of tokens alone is another result: all of them are read.
    assert worst(prediction(skyreels, tokens[:, :257])[0], expected) > 0.01


def test_condition_follows_the_state_s_dtype() -> None:
    condition = ImageCondition(
        mask_B4FHW=BESIDE[:, :4], latents_B16FHW=BESIDE[:, 4:], image_tokens_BTD=torch.ones(1, 257, 8)
    )
    inputs = condition.inputs(LATENTS.bfloat16(), "own")
    assert inputs["hidden_states"].shape == (1, 36, 3, 8, 12)
    assert {value.dtype for value in inputs.values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match="no pass with zero latents"):
        condition.inputs(LATENTS, "zero")


def test_tokens_are_of_the_second_last_layer() -> None:
    """Everything up to the last layer, without the norm after it, as Wan's `use_31_block`."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    torch.manual_seed(0)
    encoder = CLIPVisionModel(config).eval()
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        tokens = golden_codec(image_encoder=encoder).image_tokens(pixels)
        body = getattr(encoder, "vision_model", encoder)
        states = body.pre_layrnorm(body.embeddings(pixels))
        for layer in body.encoder.layers[:2]:
            made = layer(states, None)
            states = made[0] if isinstance(made, tuple) else made
    assert tokens.shape == (1, 10, 16)
    assert worst(tokens, states.reshape(1, 10, 16).numpy()) < 1e-6


@pytest.mark.parametrize("method", [Magref480P, SkyReelsA2P14B])
def test_released_sizes(method: Any) -> None:
    network = method.spec.network
    assert (network.in_channels, network.image_branch) == (36, True)
    assert (network.width, network.layers, network.heads) == (5120, 40, 40)
