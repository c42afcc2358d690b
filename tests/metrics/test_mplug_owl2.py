"""mPLUG-Owl2 against what the original returned (goldens `q_align`): every state, and the way of rating."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fill import normal

from kit.goldens import read
from refbench.metrics.small.motion_smoothness import grid_positions, line_positions

torch = pytest.importorskip("torch")

from kit.golden_mplug_owl2 import (  # noqa: E402
    AFTER,
    BEFORE,
    SCORES,
    STATES,
    WORDS,
    golden_network,
    golden_pixels,
    read_config,
)
from refbench.metrics.motion_smoothness import window_indices  # noqa: E402
from refbench.metrics.nets.mplug_owl2 import network as mplug_owl2  # noqa: E402
from refbench.metrics.nets.mplug_owl2.network import MplugOwl2, MplugOwl2Config, Span  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> MplugOwl2:
    return golden_network()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return read("q_align/mplug_owl2_tiny.npz")


def image_block(network: MplugOwl2, name: str, frames: int) -> Any:
    """The image vectors (1, I, D) of drawn pixels."""
    pixels_F3YX = torch.from_numpy(normal(f"qalign/{name}", (frames, 3, 56, 56)))
    return network.encode_frames(pixels_F3YX).flatten(0, 1)[None]


def test_full_size_keys_and_shapes_are_the_checkpoints() -> None:
    manifest = read("q_align/manifests/one_align.json")
    config = manifest["config"]
    config["llm"]["rms_norm_eps"] = 1e-5
    with torch.device("meta"):
        full = MplugOwl2(read_config(config))
    shapes = {key: list(tensor.shape) for key, tensor in full.state_dict().items()}
    assert len(shapes) == 862
    assert shapes == manifest["shapes"]
    assert sum(parameter.numel() for parameter in full.parameters()) == manifest["counts"]["parameters"]
    assert sorted(name for name, _ in full.named_buffers()) == sorted(manifest["persistent_buffers"])
    assert full.config == MplugOwl2Config.from_json({"rms_norm_eps": 1e-5}, "defaults")


def test_tiny_keys_and_shapes_are_the_references(network: MplugOwl2) -> None:
    manifest = read("q_align/manifests/tiny.json")
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == manifest["state_dict_shapes"]


def test_abstractor_norms_keep_torchs_epsilon(network: MplugOwl2) -> None:
    """The goldens hardly see `norm2` and `normk` at 1e-6, so this is said outright."""
    for layer in network.model.visual_abstractor.encoder.layers:
        step = layer.crossattention
        assert [norm.eps for norm in (step.norm1, step.normk, step.output.norm2)] == [1e-5] * 3


@pytest.mark.parametrize(("video", "frames"), [("v3", 3), ("v5", 5)])
def test_every_stored_state(
    network: MplugOwl2, golden: dict[str, np.ndarray], video: str, frames: int
) -> None:
    model = network.model
    first = model.layers[0]
    watched = {
        "vision_embeddings": model.vision_model.embeddings,
        "vision_last_hidden_state": model.vision_model,
        "abstractor_output": model.visual_abstractor,
        "llm_layer0_input_norm": first.input_layernorm,
        "llm_layer0_q": first.self_attn.q_proj,
        "llm_layer0_k": first.self_attn.k_proj,
        "llm_layer0_v": first.self_attn.v_proj,
        "llm_layer0_attn": first.self_attn,
        "llm_layer0_post_norm": first.post_attention_layernorm,
        "llm_final_norm": model.norm,
        **{f"vision_layer{n}": layer for n, layer in enumerate(model.vision_model.encoder.layers)},
        **{f"abstractor_layer{n}": layer for n, layer in enumerate(model.visual_abstractor.encoder.layers)},
        **{f"llm_layer{n}": layer for n, layer in enumerate(model.layers)},
    }
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    handles.append(
        model.register_forward_pre_hook(lambda module, given: seen.update(llm_inputs_embeds=given[0]))
    )
    try:
        logits = network(BEFORE, image_block(network, f"video{frames}", frames), AFTER)
    finally:
        for handle in handles:
            handle.remove()
    seen["logits"], seen["last_logits"] = logits, logits[:, -1]
    seen["pref_logits"] = logits[:, -1, list(WORDS)]
    stored = {key.partition("/")[2] for key in golden if key.startswith(f"{video}/")}
    assert stored - seen.keys() == {"modality_indicators", "softmax", "score"}
    for name, state in seen.items():
        np.testing.assert_allclose(state, golden[f"{video}/{name}"], **STATES, err_msg=name)
    indicators = golden[f"{video}/modality_indicators"][0]
    assert indicators.tolist() == [0] * len(BEFORE) + [1] * 6 * frames + [0] * len(AFTER)


@pytest.mark.parametrize("frames", [3, 5])
def test_rating_path_equals_the_definition(
    network: MplugOwl2, golden: dict[str, np.ndarray], frames: int
) -> None:
    image = image_block(network, f"video{frames}", frames)
    quick = network.word_logits(network.prefix(BEFORE), image, AFTER, WORDS)
    plain = network(BEFORE, image, AFTER)[:, -1, list(WORDS)]
    np.testing.assert_allclose(quick, plain, atol=5e-6, rtol=1e-5)
    np.testing.assert_allclose(quick, golden[f"v{frames}/pref_logits"], **STATES)
    np.testing.assert_allclose(quick.softmax(-1), golden[f"v{frames}/softmax"], **SCORES)


def test_prefix_cache_is_the_plain_runs_prefix(network: MplugOwl2) -> None:
    image = image_block(network, "video3", 3)
    whole = torch.cat([network.embed_words(BEFORE, 1), image, network.embed_words(AFTER, 1)], 1)
    _, memory = network.model(whole, Span(len(BEFORE), len(BEFORE) + image.shape[1]))
    for cached, full in zip(network.prefix(BEFORE), memory, strict=True):
        np.testing.assert_allclose(cached.key_BHTK, full.key_BHTK[:, :, : len(BEFORE)], atol=5e-6)
        np.testing.assert_allclose(cached.value_BHTK, full.value_BHTK[:, :, : len(BEFORE)], atol=5e-6)


def test_two_windows_in_a_batch_equal_each_alone(network: MplugOwl2, golden: dict[str, np.ndarray]) -> None:
    images = torch.cat([image_block(network, "video3", 3), image_block(network, "video3b", 3)])
    quick = network.word_logits(network.prefix(BEFORE), images, AFTER, WORDS)
    np.testing.assert_allclose(quick, golden["batch2/pref_logits"], **STATES)
    np.testing.assert_allclose(network(BEFORE, images, AFTER)[:, -1], golden["batch2/last_logits"], **STATES)
    assert np.abs(golden["batch2/pref_logits"][0] - golden["batch2/pref_logits"][1]).max() > 1e-2


def set_eps(modules: Any, kind: type, eps: float) -> None:
    for module in modules.modules():
        if isinstance(module, kind):
            module.eps = eps


def chunk_projection(net: MplugOwl2) -> None:
    for layer in net.model.vision_model.encoder.layers:
        fused = layer.self_attn.query_key_value
        heads = layer.self_attn.heads
        for tensor in (fused.weight, fused.bias):
            blocks = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
            tensor.copy_(blocks.clone())


def text_weights_only(net: MplugOwl2) -> None:
    for module in net.modules():
        if isinstance(module, mplug_owl2.Multiway):
            module.multiway[1] = module.multiway[0]


def drop_vit_eos(net: MplugOwl2) -> None:
    net.model.visual_abstractor.vit_eos.zero_()


def exact_gelu(net: MplugOwl2) -> None:
    def forward(self: Any, hidden: Any) -> Any:
        return self.fc2(torch.nn.functional.gelu(self.fc1(hidden)))

    for layer in net.model.vision_model.encoder.layers:
        layer.mlp.forward = forward.__get__(layer.mlp)


MISTAKES: dict[str, Callable[[MplugOwl2], None]] = {
    "tower epsilon": lambda net: set_eps(net.model.vision_model, torch.nn.LayerNorm, 1e-5),
    "ffn_ln epsilon": lambda net: (
        [
            set_eps(layer.crossattention.output.mlp, torch.nn.LayerNorm, 1e-5)
            for layer in net.model.visual_abstractor.encoder.layers
        ]
        and None
    ),
    "RMSNorm epsilon": lambda net: set_eps(net, mplug_owl2.RmsNorm, 1e-6),
    "chunked projection": chunk_projection,
    "text weights for the image": text_weights_only,
    "no vit_eos": drop_vit_eos,
    "exact GELU": exact_gelu,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_goldens_would_catch(golden: dict[str, np.ndarray], mistake: str) -> None:
    wrong = golden_network()
    MISTAKES[mistake](wrong)
    logits = wrong.word_logits(wrong.prefix(BEFORE), image_block(wrong, "video3", 3), AFTER, WORDS)
    assert np.abs(logits.numpy() - golden["v3/pref_logits"]).max() > 1e-3


def test_position_tables(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(line_positions(np.arange(5), 32), golden["sincos/q"], atol=1e-5)
    np.testing.assert_allclose(grid_positions(4, 32), golden["sincos/k"], atol=1e-5)
    rows = [0, 1, 2, 33, 34, 1024]
    full = grid_positions(32, 1024)
    assert full.shape == (1025, 1024)
    np.testing.assert_allclose(full[rows], golden["sincos/full_k_rows_0_1_2_33_34_1024"], atol=1e-5)
    line = line_positions(np.arange(64), 1024)[[0, 1, 63]]
    np.testing.assert_allclose(line, golden["sincos/full_q_rows_0_1_63"], atol=1e-5)


def test_end_to_end_pixels_and_logits(network: MplugOwl2, golden: dict[str, np.ndarray]) -> None:
    pixels = golden_pixels("land")
    for frame in (0, 7):
        np.testing.assert_allclose(pixels[frame], golden[f"e2e_land/pixel_values_frame{frame}"], atol=1e-6)
    vectors = network.encode_frames(torch.from_numpy(np.stack(pixels)))
    images = torch.stack([vectors[list(window_indices(c, 8))].flatten(0, 1) for c in range(8)])
    logits = network.word_logits(network.prefix(BEFORE), images, AFTER, WORDS)
    np.testing.assert_allclose(logits, golden["e2e_land_w3/logits"], **STATES)
