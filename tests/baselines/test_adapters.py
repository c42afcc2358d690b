"""LoRA adapters in the forms of all trainers: what they do to a network's weights, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
pytest.importorskip("peft", reason="adapters need peft")

from diffusers import WanPipeline  # noqa: E402
from diffusers.loaders import lora_conversion_utils as library  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.small.networks import TEXT_NETWORK  # noqa: E402
from refbench.baselines.wan.adapter_option import ChosenAdapter, chosen_adapters  # noqa: E402
from refbench.baselines.wan.adapters import read_adapter  # noqa: E402
from refbench.baselines.wan.added_adapters import AddedAdapter, add_adapters  # noqa: E402
from refbench.baselines.wan.checkpoint import original_key  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.options import build_options  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

State = dict[str, torch.Tensor]
RANK, ALPHA = 4, 1.0
MODULES = tuple(
    f"blocks.{block}.{leaf}"
    for block in range(2)
    for leaf in ("attn1.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2")
)
ALL_MODULES = tuple(
    f"blocks.{block}.{leaf}"
    for block in range(4)
    for leaf in (
        *(f"attn{number}.{part}" for number in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")),
        *("ffn.net.0.proj", "ffn.net.2"),
    )
)
# Settings as peft writes them, with a quarter of the strength.
SETTINGS = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q"]}


def network() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return RefAlignTransformer3DModel(**TEXT_NETWORK).eval()


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def factors(
    modules: tuple[str, ...] = MODULES, rank: int = RANK
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module → (down, up)."""
    weights = network().state_dict()
    shapes = {module: weights[f"{module}.weight"].shape for module in modules}
    return {
        module: (drawn(rank, shape[1]) + index, drawn(shape[0], rank))
        for index, (module, shape) in enumerate(shapes.items())
    }


def merged(adapted: Any) -> State:
    """All weights of a network, an adapter's layers merged into them."""
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    return {
        key.replace(".base_layer", ""): value
        for key, value in adapted.state_dict().items()
        if ".lora_" not in key
    }


def adapted(path: Path) -> State:
    found = network()
    add_adapters(found, [AddedAdapter(adapter=read_adapter(path))])
    return merged(found)


def assert_adds(path: Path, scale: float, summary: str) -> None:
    """An adapter of `factors()` adds scale·up·down to each of its modules and changes nothing else."""
    assert read_adapter(path).summary() == summary
    found, before = adapted(path), network().state_dict()
    for module, (down, up) in factors().items():
        before[f"{module}.weight"] = before[f"{module}.weight"] + scale * up @ down
    assert found.keys() == before.keys()
    for key, value in before.items():
        torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-5, msg=key)


def state_of(
    down: str,
    up: str,
    *,
    prefix: str = "",
    rename: Callable[[str], str] = str,
    alpha: float | None = None,
    modules: tuple[str, ...] = MODULES,
) -> State:
    state = {}
    for module, (a, b) in factors(modules).items():
        name = prefix + rename(module)
        state |= {f"{name}.{down}": a.clone(), f"{name}.{up}": b.clone()}
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
    return state


def underscored(module: str) -> str:
    return original_key(module).replace(".", "_")


COMFY = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "prefix": "diffusion_model.",
    "rename": original_key,
}
MUSUBI = {"down": "lora_down.weight", "up": "lora_up.weight", "prefix": "lora_unet_", "rename": underscored}
FORMS: dict[str, tuple[dict[str, Any], float]] = {
    "diffusers": ({"down": "lora_A.weight", "up": "lora_B.weight", "prefix": "transformer."}, 1.0),
    "diffusers of before": ({"down": "lora.down.weight", "up": "lora.up.weight"}, 1.0),
    "peft with a name": (
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight", "prefix": "base_model.model."},
        1.0,
    ),
    "DiffSynth": (
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight", "rename": original_key},
        1.0,
    ),
    "DiffSynth's pipeline": (
        {"down": "lora_A.weight", "up": "lora_B.weight", "prefix": "pipe.dit.", "rename": original_key},
        1.0,
    ),
    "ComfyUI": (COMFY | {"alpha": 2.0}, 0.5),
    "musubi": (MUSUBI | {"alpha": 1.0}, 0.25),
    "musubi without alpha": (MUSUBI, 1.0),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_form_adds_its_product(tmp_path: Path, form: str, suffix: str) -> None:
    settings, scale = FORMS[form]
    path = tmp_path / f"adapter{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state_of(**settings), path)
    assert_adds(path, scale, f"8 modules, rank 4, alpha {4 * scale:g}, scale {scale:g}")


@pytest.mark.parametrize(
    ("settings", "convert"),
    [
        (COMFY | {"alpha": 2.0}, library._convert_non_diffusers_wan_lora_to_diffusers),
        (MUSUBI | {"alpha": 2.0}, library._convert_musubi_wan_lora_to_diffusers),
    ],
    ids=["ComfyUI", "musubi"],
)
def test_names_and_scales_are_those_of_the_library_s_converters(
    tmp_path: Path, settings: dict[str, Any], convert: Callable[[State], State]
) -> None:
    state = state_of(**settings, modules=ALL_MODULES)
    save_file(state, tmp_path / "adapter.safetensors")
    theirs = convert(dict(state))
    save_file(theirs, tmp_path / "converted.safetensors")
    mine, wanted = adapted(tmp_path / "adapter.safetensors"), adapted(tmp_path / "converted.safetensors")
    for key, value in wanted.items():
        torch.testing.assert_close(mine[key], value, atol=1e-4, rtol=1e-5, msg=key)
    assert len(theirs) == 2 * len(ALL_MODULES)


def test_what_the_library_s_pipeline_saves(tmp_path: Path) -> None:
    """Without settings in the file the strength is whole, with them as they say."""
    layers = state_of("lora_A.weight", "lora_B.weight")
    WanPipeline.save_lora_weights(tmp_path / "plain", transformer_lora_layers=layers)
    assert_adds(tmp_path / "plain", 1.0, "8 modules, rank 4, alpha 4, scale 1")
    WanPipeline.save_lora_weights(
        tmp_path / "quarter", transformer_lora_layers=layers, transformer_lora_adapter_metadata=SETTINGS
    )
    assert_adds(tmp_path / "quarter", 0.25, "8 modules, rank 4, alpha 1, scale 0.25")


def trained(**settings: Any) -> Any:
    """A network in peft's hands with drawn adapters."""
    model = get_peft_model(network(), LoraConfig(r=RANK, lora_alpha=3, **settings))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = drawn(*parameter.shape).abs() + len(name)
    return model


@pytest.mark.parametrize(
    ("settings", "summary"),
    [
        ({"target_modules": ["to_q", "net.2"]}, "12 modules, rank 4, alpha 3, scale 0.75"),
        (
            {
                "target_modules": ["to_q", "net.2"],
                "rank_pattern": {"blocks.0.attn1.to_q": 8},
                "alpha_pattern": {"blocks.1.*net.2": 2},
            },
            "12 modules, rank 4/8, alpha 2/3, scale 0.375/0.5/0.75",
        ),
        ({"target_modules": ["to_v"], "use_rslora": True}, "8 modules, rank 4, alpha 6, scale 1.5"),
        ({"target_modules": ["to_v"], "use_dora": True}, "8 modules, rank 4, alpha 3, scale 0.75, DoRA"),
        (
            {"target_modules": ["to_v"], "lora_bias": True},
            "8 modules, rank 4, alpha 3, scale 0.75; 8 whole differences",
        ),
        ({"target_modules": ["patch_embedding"]}, "1 module, rank 4, alpha 3, scale 0.75"),
    ],
    ids=["plain", "patterns", "rslora", "dora", "bias", "convolution"],
)
@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # its check takes biases for broken
def test_what_peft_saves(tmp_path: Path, settings: dict[str, Any], summary: str) -> None:
    """As merged by peft itself: `adapter_config.json` is heeded."""
    model = trained(**settings)
    model.save_pretrained(tmp_path)
    assert read_adapter(tmp_path).summary() == summary
    found, wanted = adapted(tmp_path), model.merge_and_unload().state_dict()
    assert found.keys() == wanted.keys()
    assert any(not torch.equal(value, wanted[key]) for key, value in network().state_dict().items())
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=1e-3, rtol=1e-4, msg=key)


def test_whole_differences_are_added_to_any_parameter(tmp_path: Path) -> None:
    """Also of norms and tables, which the library's converters pass over."""
    names = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.1.self_attn.norm_k.diff": "blocks.1.attn1.norm_k.weight",
        "blocks.2.diff_m": "blocks.2.scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.modulation.diff": "scale_shift_table",
        "patch_embedding.diff": "patch_embedding.weight",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    }
    before = network().state_dict()
    state = {f"diffusion_model.{name}": drawn(*before[key].shape) for name, key in names.items()}
    save_file(state | state_of(**COMFY), tmp_path / "adapter.safetensors")
    found = adapted(tmp_path)
    for name, key in names.items():
        assert torch.equal(found[key], before[key] + state[f"diffusion_model.{name}"])
    summary = "8 modules, rank 4, alpha 4, scale 1; 8 whole differences"
    assert read_adapter(tmp_path).summary() == summary
    kohya = {"lora_unet_blocks_0_self_attn_q.diff_b": drawn(96), "lora_unet_blocks_2.diff_m": drawn(1, 6, 96)}
    save_file(kohya, tmp_path / "adapter.safetensors")
    found = adapted(tmp_path)
    assert torch.equal(found["blocks.0.attn1.to_q.bias"], before["blocks.0.attn1.to_q.bias"] + drawn(96))
    assert torch.equal(
        found["blocks.2.scale_shift_table"], before["blocks.2.scale_shift_table"] + drawn(1, 6, 96)
    )


def adapted_with(text: str) -> State:
    """All weights of a network with the adapters that an option names."""
    found = network()
    add_adapters(found, [AddedAdapter.read(one) for one in chosen_adapters(text)])
    return merged(found)


def assert_weights(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-4, rtol=1e-5, msg=key)


def write_distilled(file: Path) -> dict[str, torch.Tensor]:
    """A step-distilled LoRA as lightx2v and CausVid have them: every module with its own bias, norms and
    tables; returns what it adds at full strength, by diffusers' names.
    """
    before = network().state_dict()
    alpha = 2.0
    state = state_of(**COMFY, alpha=alpha, modules=ALL_MODULES)
    adds = {f"{name}.weight": alpha / RANK * up @ down for name, (down, up) in factors(ALL_MODULES).items()}
    for name in ALL_MODULES:
        bias = drawn(*before[f"{name}.bias"].shape)
        state[f"diffusion_model.{original_key(name)}.diff_b"] = adds[f"{name}.bias"] = bias
    names = {"blocks.0.norm3.diff": "blocks.0.norm2.weight", "blocks.0.diff_m": "blocks.0.scale_shift_table"}
    for name, key in names.items():
        state[f"diffusion_model.{name}"] = adds[key] = drawn(*before[key].shape)
    save_file({key: value.clone() for key, value in state.items()}, file)
    return adds


@pytest.mark.parametrize("strength", [0.8, 0.0, -0.5, 1.5])
def test_a_strength_scales_all_that_an_adapter_adds(tmp_path: Path, strength: float) -> None:
    adds = write_distilled(tmp_path / "distilled.safetensors")
    expected = {
        key: value + strength * adds[key] if key in adds else value
        for key, value in network().state_dict().items()
    }
    assert_weights(adapted_with(f"{tmp_path / 'distilled.safetensors'}:{strength}"), expected)


def test_several_adapters_add_up_in_any_order(tmp_path: Path) -> None:
    """Of different ranks, with DoRA among them: W + sum of s·(W' - W)."""
    distilled, peft_s, dora = tmp_path / "distilled.safetensors", tmp_path / "rank", tmp_path / "dora"
    adds = write_distilled(distilled)
    before = network().state_dict()
    expected = {key: value + 0.8 * adds.get(key, 0) for key, value in before.items()}
    settings: list[tuple[Path, float, dict[str, Any]]] = [
        (peft_s, 1.0, {"target_modules": ["to_q"], "rank_pattern": {"blocks.1.attn1.to_q": 2}}),
        (dora, 0.5, {"target_modules": ["to_q", "net.2"], "use_dora": True}),
    ]
    for folder, strength, changes in settings:
        model = trained(**changes)
        model.save_pretrained(folder)
        for key, value in model.merge_and_unload().state_dict().items():
            expected[key] = expected[key] + strength * (value - before[key])
    names = [f"{distilled}:0.8", f"{peft_s}", f"{dora}:0.5"]
    for order in (names, names[::-1]):
        found = adapted_with(", ".join(order))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-3, rtol=1e-4, msg=key)


def test_dora_is_its_paper_s_formula_at_every_strength(tmp_path: Path) -> None:
    """W' = m·(W + scale·BA) / |W + scale·BA|, each row by its length; W + s·(W' - W) for a strength s."""
    trained(target_modules=["to_v", "patch_embedding"], use_dora=True).save_pretrained(tmp_path)
    before, stored = network().state_dict(), load_file(tmp_path / "adapter_model.safetensors")
    for strength in (1.0, 0.3, 0.0):
        expected = dict(before)
        for key in stored:
            if key.endswith("lora_A.weight"):
                module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                down, up = (stored[key.replace("lora_A", name)].flatten(1) for name in ("lora_A", "lora_B"))
                magnitude = stored[key.replace("lora_A.weight", "lora_magnitude_vector")].flatten()
                weight = before[f"{module}.weight"]
                changed = weight.flatten(1) + 3 / RANK * up @ down
                whole = magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)
                expected[f"{module}.weight"] = weight + strength * (whole.view_as(weight) - weight)
        found = adapted_with(f"{tmp_path}:{strength}")
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, atol=1e-3, rtol=1e-4, msg=key)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # the library's own two adapters
def test_several_with_strengths_are_what_the_library_makes_of_them(tmp_path: Path) -> None:
    """Its loader passes over differences of norms and tables, which are therefore left out here."""
    write_distilled(tmp_path / "all.safetensors")
    state = {
        key: value
        for key, value in load_file(tmp_path / "all.safetensors").items()
        if not key.endswith((".diff", ".diff_m"))
    }
    save_file(state, tmp_path / "a.safetensors")
    second = state_of("lora_A.weight", "lora_B.weight", prefix="transformer.")
    save_file(second, tmp_path / "b.safetensors")
    theirs = network()
    converted = library._convert_non_diffusers_wan_lora_to_diffusers(dict(state))
    theirs.load_lora_adapter(converted, prefix="transformer", adapter_name="a")
    theirs.load_lora_adapter(dict(second), prefix="transformer", adapter_name="b")
    theirs.set_adapters(["a", "b"], [0.8, 0.6])
    mine = network()
    chosen = chosen_adapters(f"{tmp_path / 'a.safetensors'}:0.8,{tmp_path / 'b.safetensors'}:0.6")
    add_adapters(mine, [AddedAdapter.read(one) for one in chosen])
    inputs = {
        "hidden_states": drawn(1, 16, 2, 4, 4),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": drawn(1, 7, 32),
    }
    with torch.no_grad():
        torch.testing.assert_close(mine(**inputs).sample, theirs(**inputs).sample, atol=1e-4, rtol=1e-4)
        plain = network()(**inputs).sample
        assert (mine(**inputs).sample - plain).abs().max() > 0.1


def test_what_an_option_names(tmp_path: Path) -> None:
    def chosen(text: str) -> list[tuple[str, float]]:
        return [(str(one.path), one.strength) for one in chosen_adapters(text)]

    assert chosen_adapters(None) == ()
    assert chosen_adapters(Path("a")) == (ChosenAdapter(path=Path("a")),)
    assert chosen("a.safetensors:0.8, dir/b") == [("a.safetensors", 0.8), ("dir/b", 1.0)]
    assert chosen("a:-0.5,b:1e-1") == [("a", -0.5), ("b", 0.1)]
    assert chosen("C:/adapters/a:0.5") == [("C:/adapters/a", 0.5)]
    assert chosen("C:/adapters/a") == [("C:/adapters/a", 1.0)]
    odd = tmp_path / "of a, b:0.5"
    odd.touch()
    assert chosen(str(odd)) == [(str(odd), 1.0)] and chosen(f"c,{tmp_path}/d:2")[1][1] == 2
    for text, reason in (
        ("a,a:0.5", "a comes twice; name it once, with the sum of the strengths"),
        ("a:nan", "the strength of a must be a finite number, nan is not"),
        ("a:inf", "must be a finite number"),
        ("a,,b", "adapter is FILE:strength"),
        (":0.5", "adapter is FILE:strength"),
        ("", "adapter is FILE:strength"),
    ):
        with pytest.raises(ValueError, match=reason):
            chosen_adapters(text)


def complaint(path: Path, state: State, metadata: dict[str, str] | None = None) -> str:
    save_file(state, path / "adapter.safetensors", metadata=metadata)
    found = network()
    with pytest.raises(UserError) as caught:
        add_adapters(found, [AddedAdapter(adapter=read_adapter(path))])
    assert "\n" not in str(caught.value)
    # Nothing is half applied.
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in network().state_dict().items())
    return str(caught.value)


def test_keys_that_have_no_place_are_named(tmp_path: Path) -> None:
    own = state_of("lora_A.weight", "lora_B.weight")
    foreign = {
        "blocks.0.attn9.to_q.lora_A.weight": drawn(4, 96),
        "blocks.0.attn9.to_q.lora_B.weight": drawn(96, 4),
    }
    assert "1 without a place (blocks.0.attn9.to_q)" in complaint(tmp_path, own | foreign)
    image = {"blocks.0.cross_attn.k_img.diff_b": drawn(96)}
    assert "1 without a place (blocks.0.cross_attn.k_img.diff_b)" in complaint(tmp_path, own | image)
    other = {key.replace("blocks.1", "blocks.70"): value for key, value in own.items()}
    assert "4 without a place (blocks.70.attn1.to_q, blocks.70." in complaint(tmp_path, other)
    second = {f"transformer_2.{key}": value for key, value in own.items()}
    assert "8 without a place (transformer_2.blocks.0" in complaint(tmp_path, second)
    assert "1 unknown (blocks.0.what)" in complaint(tmp_path, own | {"blocks.0.what": drawn(2)})
    saved = {"base_model.model.proj_out.weight": drawn(2)}
    assert "1 unknown (base_model.model.proj_out.weight)" in complaint(tmp_path, own | saved)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    own = state_of("lora_A.weight", "lora_B.weight")
    key = "blocks.0.attn1.to_q.lora_A.weight"
    wide = complaint(tmp_path, own | {key: drawn(4, 5120)})
    assert "1 of a wrong shape (blocks.0.attn1.to_q down (4, 5120) instead of (4, 96))" in wide
    short = complaint(tmp_path, own | {"blocks.0.ffn.2.diff_b": drawn(3)})
    assert "blocks.0.ffn.net.2.bias (3,) instead of (96,)" in short
    alone = {name: value for name, value in own.items() if name != key}
    assert "is not whole: 1 without their partner (blocks.0.attn1.to_q up)" in complaint(tmp_path, alone)
    assert "(blocks.3.attn1.to_q alpha)" in complaint(
        tmp_path, own | {"blocks.3.attn1.to_q.alpha": torch.tensor(1.0)}
    )
    twice = {
        "blocks.0.self_attn.q.lora_A.weight": drawn(4, 96),
        "blocks.0.self_attn.q.lora_B.weight": drawn(96, 4),
    }
    assert "1 given twice (blocks.0.attn1.to_q)" in complaint(tmp_path, own | twice)
    some = own | {"blocks.0.attn1.to_q.lora_magnitude_vector": drawn(96)}
    assert "7 without their partner (blocks.0.attn2.to_out.0 without magnitude" in complaint(tmp_path, some)
    named = {
        name.replace(".weight", ".style.weight"): value for name, value in own.items() if "blocks.1" in name
    }
    several = {name.replace(".weight", ".default.weight"): v for name, v in own.items() if "blocks.0" in name}
    assert "holds several adapters: default, style" in complaint(tmp_path, named | several)
    strong = {**own, "blocks.0.attn1.to_q.alpha": torch.tensor(float("inf"))}
    assert "the scale of blocks.0.attn1.to_q is inf" in complaint(tmp_path, strong)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("diffusion_model.blocks.0.ffn.0.lokr_w1", "a LoKr adapter"),
        ("lora_unet_blocks_0_ffn_0.hada_w1_a", "a LoHa adapter"),
        ("lora_unet_blocks_0_ffn_0.oft_blocks", "an OFT adapter"),
        ("base_model.model.blocks.0.ffn.0.ia3_l", "an IA3 adapter"),
        ("lora_unet_blocks_0_ffn_0.lora_mid.weight", "a LoCon adapter with middle tensors"),
        ("lora_unet_blocks_0_ffn_0.dora_scale", "a DoRA adapter in the form of LyCORIS"),
    ],
)
def test_other_kinds_of_adapters_are_named(tmp_path: Path, key: str, kind: str) -> None:
    found = complaint(tmp_path, {key: drawn(4), **state_of(**MUSUBI)})
    assert found == f"{tmp_path / 'adapter.safetensors'} is {kind} ({key}), which cannot be read"


def test_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    own = state_of("lora_A.weight", "lora_B.weight")
    config = tmp_path / "adapter_config.json"

    def complaint_with(**changes: Any) -> str:
        config.write_text(json.dumps(SETTINGS | changes))
        return complaint(tmp_path, own)

    assert "says rank 16, blocks.0.attn1.to_q has 4" in complaint_with(r=16)
    assert "is of a LOKR adapter, which cannot be read" in complaint_with(peft_type="LOKR")
    assert 'cannot be done: init_lora_weights="pissa"' in complaint_with(init_lora_weights="pissa")
    assert "cannot be done: use_qalora=true" in complaint_with(use_qalora=True)
    assert "is damaged" in complaint_with(lora_alpha="much")
    config.unlink()
    assert "its metadata: broken JSON" in complaint(tmp_path, own, {"lora_adapter_metadata": "{"})


def test_folders_hold_one_adapter(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.safetensors"):
        read_adapter(tmp_path)
    for name in ("step-10.safetensors", "step-9.safetensors"):
        save_file(state_of(**COMFY), tmp_path / name)
    with pytest.raises(UserError, match=r"several networks: step-10\.safetensors, step-9\.safetensors"):
        read_adapter(tmp_path)
    assert_adds(tmp_path / "step-9.safetensors", 1.0, "8 modules, rank 4, alpha 4, scale 1")
    (tmp_path / "step-9.safetensors").rename(tmp_path / "adapter-00001-of-00002.safetensors")
    (tmp_path / "step-10.safetensors").rename(tmp_path / "adapter-00002-of-00002.safetensors")
    with pytest.raises(UserError, match="must be one file, it is 2"):
        read_adapter(tmp_path)


def test_a_generator_applies_what_its_card_says(tmp_path: Path) -> None:
    """Of a file whose keys carry peft's name, which changed nothing before."""
    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(tmp_path / "0.png")
    wanted = sample_of(["0.png"], tmp_path)
    file = tmp_path / "adapter.safetensors"
    state = state_of("lora_A.default.weight", "lora_B.default.weight")
    save_file(state, file)

    def made(**options: Any) -> np.ndarray:
        method = RefAlignTiny(RefAlignTiny.Options(num_frames=5, steps=1, **options))
        return frames_of(loaded(method, tmp_path), wanted)

    plain = made()
    assert not np.array_equal(made(adapter=file), plain)
    method = RefAlignTiny(RefAlignTiny.Options(adapter=file))
    digest = method.find_weights(Environment())["adapter"]
    assert digest.startswith("sha256:") and digest.endswith(" (8 modules, rank 4, alpha 4, scale 1)")
    (tmp_path / "adapter_config.json").write_text(json.dumps(SETTINGS))
    assert method.find_weights(Environment())["adapter"].endswith("(8 modules, rank 4, alpha 1, scale 0.25)")
    assert "adapter_base" in method.card().options and "adapter_base" not in RefAlignTiny().card().options
    (tmp_path / "adapter_config.json").unlink()
    save_file(state, file, metadata={"base_model": "refalign-1.3b", "base_digest": "sha256:0"})
    with pytest.raises(
        UserError, match=r"was trained on refalign-1\.3b \(sha256:0\), not on .*--set adapter_base"
    ):
        made(adapter=file)
    assert not np.array_equal(made(adapter=file, adapter_base="any"), plain)


def test_a_generator_applies_and_names_several_adapters(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(tmp_path / "0.png")
    wanted = sample_of(["0.png"], tmp_path)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_file(state_of(**COMFY), first)
    save_file(state_of("lora_A.weight", "lora_B.weight", modules=MODULES[:2]), second)

    def made(adapter: str | None) -> np.ndarray:
        options = build_options(
            RefAlignTiny.Options,
            {"num_frames": "5", "steps": "1"} | ({} if adapter is None else {"adapter": adapter}),
            "refalign-tiny",
        )
        return frames_of(loaded(RefAlignTiny(options), tmp_path), wanted)

    both = made(f"{first}:0.02,{second}:0.03")
    other_order = made(f"{second}:0.03,{first}:0.02")
    assert np.abs(both.astype(int) - other_order.astype(int)).max() <= 2
    assert not np.array_equal(both, made(f"{first}:0.02")) and not np.array_equal(both, made(None))
    assert np.array_equal(made(f"{first}:0"), made(None))
    method = RefAlignTiny(RefAlignTiny.Options(adapter=f"{first}:0.02,{second}"))
    found = method.find_weights(Environment())
    assert found["adapter (1 of 2)"].endswith("(8 modules, rank 4, alpha 4, scale 1; strength 0.02)")
    assert found["adapter (2 of 2)"].endswith("(2 modules, rank 4, alpha 4, scale 1)")
    alone = RefAlignTiny(RefAlignTiny.Options(adapter=first)).find_weights(Environment())["adapter"]
    assert alone.partition(" ")[0] == found["adapter (1 of 2)"].partition(" ")[0]
    assert method.card().options["adapter"] == f"{first}:0.02,{second}"
    # Each is compared with the network that it was trained on.
    save_file(load_file(second), second, metadata={"base_model": "another", "base_digest": "sha256:0"})
    with pytest.raises(UserError, match=r"second\.safetensors was trained on another"):
        made(f"{first}:0.02,{second}")
    with pytest.raises(UserError, match="refalign-tiny: options: adapter: the strength of"):
        made(f"{first}:nan")
    with pytest.raises(UserError, match=r"absent\.safetensors"):
        made(f"{first},absent.safetensors:0.5")


def test_the_network_that_an_adapter_was_trained_on_is_known_by_its_digest(tmp_path: Path) -> None:
    """As training records it, wherever the folder lies."""
    from refbench.baselines.small.refalign import REPOSITORIES, write_tiny
    from refbench.refalign.training.inputs import network_digest
    from refbench.refalign.training.recipes import build_config

    write_tiny(tmp_path / "here")
    own = tmp_path / "here" / REPOSITORIES[0] / "model.safetensors"
    digest = network_digest(build_config("tiny", [f"model.transformer={own}"]), None)
    assert digest is not None
    file = tmp_path / "adapter.safetensors"
    save_file(state_of(**COMFY), file, metadata={"base_model": str(own), "base_digest": digest})
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there" / REPOSITORIES[0]
    for path in (moved, moved / "model.safetensors"):
        loaded(RefAlignTiny(RefAlignTiny.Options(transformer=path, adapter=file)), tmp_path).close()
    # The method's own random network is the same one; another step of its training is not.
    loaded(RefAlignTiny(RefAlignTiny.Options(adapter=file)), tmp_path).close()
    later = {key: value + 1 for key, value in load_file(moved / "model.safetensors").items()}
    save_file(later, moved / "model.safetensors")
    with pytest.raises(UserError, match="was trained on"):
        loaded(RefAlignTiny(RefAlignTiny.Options(transformer=moved, adapter=file)), tmp_path)
