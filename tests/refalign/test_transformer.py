"""RefAlign's network against what the authors' code returned (goldens `refalign/`), and its own laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from kit.golden_networks import named, network, read, worst  # noqa: E402
from refbench.baselines.wan.nets.transformer import grid_positions, rotary_embedding  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

ATOL = 5e-5
SPECIFICATION = read("refalign/dit_tiny.json")
ARRAYS = read("refalign/dit_tiny.npz")
T = torch.tensor([731.0])


def given(name: str) -> torch.Tensor:
    return named("refalign", name, tuple(SPECIFICATION["inputs"][f"refalign.{name}"]))


def make(kind: str = "", **changes: Any) -> RefAlignTransformer3DModel:
    weights, config = SPECIFICATION[f"weights{kind}"], SPECIFICATION[f"config{kind}"]
    return network(RefAlignTransformer3DModel, weights, config, **changes)


@pytest.fixture(scope="module")
def model() -> RefAlignTransformer3DModel:
    return make()


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.no_grad():
        yield


def predict(model: Any, references: torch.Tensor | None, **arguments: Any) -> torch.Tensor:
    return model(given("latents"), T, given("context"), references, **arguments).sample


def references(case: str) -> torch.Tensor | None:
    two = given("subject_latents")
    return {
        "noref": None,
        "refs2": two,
        "null_refs2": torch.zeros_like(two),
        "refs1": two[:, :, :1],
        "null_train": torch.zeros_like(two[:, :, :1]),
        "refs3": torch.cat([two, given("subject_latents.third")], dim=2),
        "refs2_swapped": two.flip(2),
        "refs2_small": given("subject_latents_small"),
    }[case]


CASES = ("noref", "refs2", "null_refs2", "refs1", "null_train", "refs3", "refs2_swapped", "refs2_small")


@pytest.mark.parametrize("case", CASES)
def test_predictions(model: Any, case: str) -> None:
    assert worst(predict(model, references(case)), ARRAYS[f"{case}/noise_pred"]) < ATOL


def test_reference_states_after_each_block(model: Any) -> None:
    out = model(given("latents"), T, given("context"), references("refs2"), state_blocks=range(4))
    for block, state in enumerate(out.reference_states):
        assert worst(state, ARRAYS[f"refs2/x_ip_block{block}"]) < ATOL
    some = model(given("latents"), T, given("context"), references("refs1"), state_blocks=(1, 3))
    for block, state in zip((1, 3), some.reference_states, strict=True):
        assert worst(state, ARRAYS[f"refs1/x_ip_block{block}"]) < ATOL


def test_video_states_and_embeddings(model: Any) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(
            lambda module, inputs, output, index=index: seen.update({f"x_video_block{index}": output[:, :72]})
        )
        for index, block in enumerate(model.blocks)
    ]
    hooks.append(
        model.blocks[0].register_forward_pre_hook(
            lambda module, inputs: seen.update(
                {"tokens_in": inputs[0], "context_embedded": inputs[1], "t_mod": inputs[2]}
            )
        )
    )
    predict(model, references("refs2"))
    seen["sinusoid"] = model.condition_embedder.timesteps_proj(T)
    seen["time_embedding"] = model.condition_embedder.time_embedder(seen["sinusoid"].float())
    for hook in hooks:
        hook.remove()
    for name, value in seen.items():
        limit = 1e-6 if name in ("tokens_in", "context_embedded", "sinusoid") else ATOL
        assert worst(value, ARRAYS[f"refs2/{name}"]) < limit, name


def test_per_sample_timesteps_in_a_batch(model: Any) -> None:
    latents, context, subjects = (
        torch.cat([given(name), given(f"{name}.1")]) for name in ("latents", "context", "subject_latents")
    )
    for times, key in (([731.0, 731.0], "shared_t"), ([731.0, 250.0], "two_t")):
        out = model(latents, torch.tensor(times), context, subjects)
        assert worst(out.sample, ARRAYS[f"batch2/{key}_noise_pred"]) < ATOL


def test_padding_changes_nothing(model: Any) -> None:
    """A batch with one, two and no references equals three runs of one sample."""
    two = given("subject_latents")
    padded = torch.cat([two, two, two])
    # What padding holds must not matter.
    padded[0, :, 1] = 1e3
    padded[2] = -7.0
    arguments = (given("latents").expand(3, -1, -1, -1, -1), torch.tensor([731.0, 100.0, 731.0]))
    out = model(*arguments, given("context").expand(3, -1, -1), padded, torch.tensor([1, 2, 0]), [3])
    singles = [
        predict(model, two[:, :, :1]),
        model(given("latents"), torch.tensor([100.0]), given("context"), two).sample,
        predict(model, None),
    ]
    assert worst(out.sample, torch.cat(singles).numpy()) < 1e-5
    one = model(given("latents"), T, given("context"), two[:, :, :1], state_blocks=[3]).reference_states[0]
    assert worst(out.reference_states[0][0, :24], one[0].numpy()) < 1e-5


def test_epsilons() -> None:
    """Shrunken activations: a wrong epsilon of any norm moves this by 0.03 or more."""
    small = make(scaled=SPECIFICATION["scalars"]["eps_probe"]["scaled_by_1e_minus_3"])
    assert worst(predict(small, references("refs2")), ARRAYS["eps_probe/noise_pred"]) < 1e-4


def test_uneven_head_width() -> None:
    model = make("_uneven")
    inputs = (given("b.latents"), torch.tensor([37.5]), given("b.context"))
    assert worst(model(*inputs, given("b.subject_latents")).sample, ARRAYS["uneven/noise_pred"]) < ATOL
    assert worst(model(*inputs).sample, ARRAYS["uneven/noise_pred_noref"]) < ATOL


@pytest.mark.parametrize(("key", "head_dim"), [("rope", 24), ("rope128", 128)])
def test_rotary_tables(key: str, head_dim: int) -> None:
    device = torch.device("cpu")
    positions = torch.cat(
        [grid_positions(3, 4, 6, (0, 0, 0), device), grid_positions(2, 4, 6, (3, 0, 0), device)]
    )
    if key == "rope":
        np.testing.assert_array_equal(positions.numpy(), ARRAYS["rope/index_f_h_w"])
    cos, sin = rotary_embedding(positions, head_dim)
    assert cos.dtype == sin.dtype == torch.float32
    assert worst(cos[0, :, 0, ::2], ARRAYS[f"{key}/cos"]) < 1e-7
    assert worst(sin[0, :, 0, 1::2], ARRAYS[f"{key}/sin"]) < 1e-7


def test_bfloat16(tmp_path: Path) -> None:
    """Half precision stays near the authors', with the time path, modulation and norms kept in float32."""
    make().save_pretrained(tmp_path)
    half = RefAlignTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.scale_shift_table.dtype == half.blocks[0].norm2.weight.dtype == torch.float32
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    dtypes = []
    half.blocks[0].register_forward_pre_hook(lambda module, inputs: dtypes.append(inputs[3][0].dtype))
    inputs = (given(name).bfloat16() for name in ("latents", "context", "subject_latents"))
    latents, context, subjects = inputs
    found = half(latents, torch.tensor([732.0]), context, subjects).sample.float().numpy()
    expected = ARRAYS["bf16/noise_pred_t732"]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02
    assert dtypes == [torch.float32]


def test_saved_and_loaded_is_the_same(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path)
    again = RefAlignTransformer3DModel.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    # Where a weight lies in memory moves the last bits of a product.
    assert worst(predict(again, references("refs2")), predict(model, references("refs2")).numpy()) < 5e-6


def test_checkpointing_changes_no_bit(model: Any) -> None:
    with torch.enable_grad():
        gradients = []
        for switched in (False, True):
            fresh = make()
            if switched:
                fresh.enable_gradient_checkpointing()
            fresh.train()
            out = fresh(given("latents"), T, given("context"), references("refs2"), state_blocks=(0, 2))
            loss = out.sample.square().mean() + sum(state.square().mean() for state in out.reference_states)
            loss.backward()
            gradients.append({name: value.grad for name, value in fresh.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all(value is not None for value in gradients[0].values())


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends(backend: str) -> None:
    model = make()
    model.set_attention_backend(backend)
    assert worst(predict(model, references("refs2")), ARRAYS["refs2/noise_pred"]) < ATOL


def test_an_attention_backend_holds_for_its_network_alone() -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    from refbench.baselines.wan.loading import set_attention_backend
    from refbench.bench.errors import UserError

    default = Registry.get_active_backend()
    model, other = make(), make()
    set_attention_backend(model, "_native_math")
    assert Registry.get_active_backend() == default
    backends = [
        {module.processor._attention_backend for module in network.modules() if hasattr(module, "processor")}
        for network in (model, other)
    ]
    assert [str(*each) for each in backends] == ["AttentionBackendName._NATIVE_MATH", "None"]
    with pytest.raises(UserError, match="must be one of"):
        set_attention_backend(model, "no-such-one")
    assert Registry.get_active_backend() == default


def test_fused_projections_are_neutral() -> None:
    model = make()
    model.fuse_qkv_projections()
    assert worst(predict(model, references("refs2")), ARRAYS["refs2/noise_pred"]) < ATOL


def test_what_it_cannot_do_is_refused(model: Any) -> None:
    with pytest.raises(NotImplementedError, match="context parallelism"):
        model.enable_parallelism(config=None)
    with pytest.raises(ValueError, match="do not divide into patches"):
        model(torch.zeros(1, 16, 3, 7, 12), T, given("context"))
