"""Tiny checkpoints of the generators: complete under each library's own reader, small, always the same bytes,
and with the names that the published files have.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
transformers = pytest.importorskip("transformers", reason="the generators need the extra 'baselines'")

import refbench.baselines.small  # noqa: E402
from kit.golden_networks import read  # noqa: E402
from refbench.baselines.small.pipelines import vocabulary  # noqa: E402
from refbench.baselines.wan.checkpoint import checkpoint_files, load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.prompts import KALEIDO_NEGATIVE, REFALIGN_14B_NEGATIVE, WAN_NEGATIVE  # noqa: E402
from refbench.baselines.wan.sat import sat_tensors  # noqa: E402
from refbench.bench.weights.catalogue import catalogue  # noqa: E402
from refbench.bench.weights.checkpoint import read_state_dict  # noqa: E402
from refbench.bench.weights.store import is_tiny, missing_files  # noqa: E402
from refbench.bench.weights.tiny import random_parameter  # noqa: E402

TEXT = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
EXPERTS = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
BERNINI = "ByteDance/Bernini-R-Diffusers"
IMAGE = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
FOLDERS = (
    TEXT,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    EXPERTS,
    IMAGE,
    "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    "Wan-AI/Wan2.1-VACE-14B-diffusers",
    "Skywork/SkyReels-A2",
    "Skywork/SkyReels-V3-R2V-14B",
    "ByteDance/Bernini-R-1.3B-Diffusers",
    BERNINI,
)
MEBIBYTE = 2**20
LARGEST_MEBIBYTES = 5


def write_all(folder: Path) -> None:
    package = refbench.baselines.small
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        write = getattr(importlib.import_module(module.name), "write_tiny", None)
        if write is not None:
            write(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_all(folder)
    return folder


def loaded(part_class: Any, folder: Path) -> Any:
    """A part as its library reads it, with a complaint about every key that does not fit."""
    model, information = part_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not any(information.values()), {name: list(keys) for name, keys in information.items()}
    return model.eval()


def test_every_generator_of_the_catalogue_has_its_files(weights: Path) -> None:
    entries = [row.entry for row in catalogue().values()]
    generators = [entry for entry in entries if entry.kind == "generator" and not entry.made_by]
    for entry in generators:
        place = weights / entry.repository
        assert is_tiny(place)
        assert missing_files(entry, place) == []
        assert sum(path.stat().st_size for path in place.rglob("*")) < LARGEST_MEBIBYTES * MEBIBYTE
    assert {path.relative_to(weights).as_posix() for path in weights.glob("*/*")} == {
        entry.repository for entry in generators
    }


def test_two_writes_give_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    write_all(tmp_path)

    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    first = digests(weights)
    assert len(first) > 60
    assert digests(tmp_path) == first


@pytest.mark.parametrize("repository", FOLDERS)
def test_a_pipeline_folder_loads_without_a_key_too_few_or_too_many(weights: Path, repository: str) -> None:
    place = weights / repository
    index = json.loads((place / "model_index.json").read_text())
    transformer = loaded(getattr(diffusers, index["transformer"][1]), place / "transformer")
    loaded(diffusers.AutoencoderKLWan, place / "vae")
    text_encoder = loaded(transformers.UMT5EncoderModel, place / "text_encoder")
    assert text_encoder.config.d_model == transformer.config.text_dim == 32
    assert text_encoder.config.vocab_size == len(vocabulary())
    scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(place / "scheduler", local_files_only=True)
    assert scheduler.config.use_flow_sigmas
    assert scheduler.config.flow_shift == 3.0
    assert ("transformer_2" in index) == (repository in (EXPERTS, BERNINI))
    if "transformer_2" in index:
        other = loaded(getattr(diffusers, index["transformer_2"][1]), place / "transformer_2")
        assert not torch.equal(other.proj_out.weight, transformer.proj_out.weight)
    assert ("image_encoder" in index) == (transformer.config.image_dim is not None)
    if "image_encoder" in index:
        tower = loaded(transformers.CLIPVisionModel, place / "image_encoder")
        assert tower.config.hidden_size == transformer.config.image_dim


@pytest.mark.parametrize("repository", [TEXT, EXPERTS, IMAGE, "Wan-AI/Wan2.1-VACE-1.3B-diffusers"])
def test_the_index_assembles_the_published_pipeline(weights: Path, repository: str) -> None:
    place = weights / repository
    pipeline = diffusers.DiffusionPipeline.from_pretrained(place, local_files_only=True)
    assert type(pipeline).__name__ == json.loads((place / "model_index.json").read_text())["_class_name"]


def test_values_are_those_of_the_names(weights: Path) -> None:
    encoder = loaded(transformers.UMT5EncoderModel, weights / TEXT / "text_encoder")
    embedding = encoder.get_input_embeddings().weight.detach().numpy()
    assert (embedding == random_parameter("shared.weight", embedding.shape)).all()
    transformer = loaded(diffusers.WanTransformer3DModel, weights / TEXT / "transformer")
    weight = transformer.state_dict()["blocks.3.ffn.net.2.weight"].numpy()
    assert (weight == random_parameter("blocks.3.ffn.net.2.weight", (96, 192))).all()


@torch.no_grad()
def test_the_vae_compresses_four_times_in_time_and_eight_in_space(weights: Path) -> None:
    vae = loaded(diffusers.AutoencoderKLWan, weights / TEXT / "vae")
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == 16
    clip_BCFHW = torch.rand(1, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents_BCFHW = vae.encode(clip_BCFHW).latent_dist.mode()
    assert latents_BCFHW.shape == (1, 16, 3, 4, 6)
    assert vae.encode(clip_BCFHW[:, :, :1]).latent_dist.mode().shape == (1, 16, 1, 4, 6)
    decoded_BCFHW = vae.decode(torch.randn(1, 16, 3, 4, 6)).sample
    assert decoded_BCFHW.shape == (1, 3, 9, 32, 48)
    assert decoded_BCFHW.isfinite().all()
    # A picture that is grey or clipped everywhere would hide any mistake before it.
    assert decoded_BCFHW.std() > 0.05
    assert (decoded_BCFHW.abs() < 1).float().mean() > 0.1


@torch.no_grad()
def test_prompts_in_any_script_become_padded_features(weights: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        weights / TEXT / "tokenizer", local_files_only=True
    )
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    prompts = ["A cat, 3 dogs", WAN_NEGATIVE, REFALIGN_14B_NEGATIVE, "", "ψ 🙂 \n x"]
    encoded = tokenizer(prompts, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    assert encoded.input_ids.shape == (5, 512)
    lengths = encoded.attention_mask.sum(1).tolist()
    assert lengths[3] == 1
    for row, length in zip(encoded.input_ids, lengths, strict=True):
        assert row[length - 1] == 1
        assert (row[length:] == 0).all()
    for row, prompt in zip(encoded.input_ids[:3], prompts, strict=False):
        assert 2 not in row
        assert tokenizer.decode(row, skip_special_tokens=True) == prompt
    encoder = loaded(transformers.UMT5EncoderModel, weights / TEXT / "text_encoder")
    features_BLD = encoder(encoded.input_ids[:2], attention_mask=encoded.attention_mask[:2]).last_hidden_state
    assert features_BLD.shape == (2, 512, 32)
    assert (features_BLD[0, 0] - features_BLD[1, 0]).abs().max() > 0.01


def test_the_tokenizer_file_spells_unknown_characters_in_bytes(weights: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights / TEXT / "tokenizer" / "tokenizer.json"))
    encoding = tokenizer.encode("ψ🙂 a")
    assert "<unk>" not in encoding.tokens
    assert encoding.tokens[1:3] == ["<0xCF>", "<0x88>"]
    assert tokenizer.decode(encoding.ids) == "ψ🙂 a"
    chinese = tokenizer.encode(KALEIDO_NEGATIVE)
    assert "<unk>" not in chinese.tokens
    assert tokenizer.decode(chinese.ids) == KALEIDO_NEGATIVE


@torch.no_grad()
def test_a_picture_is_257_tokens_before_the_last_layer(weights: Path) -> None:
    from PIL import Image

    tower = loaded(transformers.CLIPVisionModel, weights / IMAGE / "image_encoder")
    processor = transformers.CLIPImageProcessor.from_pretrained(
        weights / IMAGE / "image_processor", local_files_only=True
    )
    pixels_BCHW = processor(images=Image.new("RGB", (60, 90), "red"), return_tensors="pt").pixel_values
    assert pixels_BCHW.shape == (1, 3, 224, 224)
    states = tower(pixel_values=pixels_BCHW, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert states[-2].shape == (1, 257, 40)
    assert states[-2].isfinite().all()


def original_files(weights: Path) -> dict[str, dict[str, Any]]:
    """Every checkpoint in original format, read file by file."""
    places = {
        "vace": weights / "ali-vilab/VACE-Wan2.1-1.3B-Preview",
        "phantom 1.3b": weights / "bytedance-research/Phantom/Phantom-Wan-1.3B.pth",
        "phantom 14b": weights / "bytedance-research/Phantom",
        "magref": weights / "MAGREF-Video/MAGREF",
        "refalign 1.3b": weights / "gudaochangsheng/RefAlign-1.3B/model.safetensors",
        "refalign 14b": weights / "gudaochangsheng/RefAlign-14B/model.safetensors",
    }
    return {
        name: {key: value for file in checkpoint_files(place) for key, value in read_state_dict(file).items()}
        for name, place in places.items()
    }


def test_original_files_have_the_names_and_shapes_of_wans_code(weights: Path) -> None:
    expected = {
        "vace": read("baselines/vace_model.json")["weights"],
        "phantom": read("baselines/phantom_model.json")["weights"],
        "magref": read("baselines/i2v_model.json")["magref"]["weights"],
        "refalign": read("baselines/phantom_model.json")["weights"],
    }
    # The golden's network takes CLIP features of 1280 channels.
    expected["magref"] |= {
        "img_emb.proj.0.weight": [40],
        "img_emb.proj.0.bias": [40],
        "img_emb.proj.1.weight": [40, 40],
        "img_emb.proj.1.bias": [40],
        "img_emb.proj.3.weight": [96, 40],
    }
    for name, state in original_files(weights).items():
        shapes = {key: list(value.shape) for key, value in state.items()}
        assert shapes == expected[name.split()[0]], name
        assert {value.dtype for value in state.values()} == {torch.float32}
        key = "blocks.1.cross_attn.k.weight"
        assert (state[key].numpy() == random_parameter(key, (96, 96))).all()


@pytest.mark.parametrize(
    ("place", "files", "network_class"),
    [
        ("ali-vilab/VACE-Wan2.1-1.3B-Preview", None, "WanVACETransformer3DModel"),
        ("bytedance-research/Phantom", "Phantom-Wan-1.3B.pth", "WanTransformer3DModel"),
        ("bytedance-research/Phantom", "Phantom_Wan_14B*.safetensors", "WanTransformer3DModel"),
        ("MAGREF-Video/MAGREF", None, "WanTransformer3DModel"),
        ("gudaochangsheng/RefAlign-1.3B", "*.safetensors", "WanTransformer3DModel"),
        ("Skywork/SkyReels-A2/transformer", None, "WanTransformer3DModel"),
    ],
)
def test_the_reader_of_wan_checkpoints_takes_them(
    weights: Path, place: str, files: str | None, network_class: str
) -> None:
    found = sorted((weights / place).glob(files)) if files else None
    checkpoint = read_checkpoint(weights / place, files=found)
    model = load_transformer(getattr(diffusers, network_class), checkpoint)
    assert (model.config.num_attention_heads, model.config.attention_head_dim) == (4, 24)
    assert len(model.blocks) == 4


def test_skyreels_a2_has_a_norm_that_nothing_uses(weights: Path) -> None:
    folder = weights / "Skywork/SkyReels-A2/transformer"
    keys = set(read_state_dict(folder / "diffusion_pytorch_model.safetensors"))
    module = diffusers.WanTransformer3DModel.from_pretrained(folder, local_files_only=True)
    assert keys - set(module.state_dict()) == {"blocks.0.attn2.norm_added_q.weight"}


def test_kaleido_is_wans_network_under_sats_names(weights: Path) -> None:
    place = weights / "zai-org/Kaleido-14B-S2V"
    iteration = (place / "model/latest").read_text()
    file = place / "model" / iteration / "mp_rank_00_model_states.pt"
    content = torch.load(file, weights_only=True)
    assert list(content) == ["module"]
    prefix = "model.diffusion_model."
    state = {key.removeprefix(prefix): value for key, value in content["module"].items()}
    assert all(key.startswith(prefix) for key in content["module"])
    # Linears with biases, the one affine norm, four query and key norms, modulation.
    block = {key for key in state if re.search(r"(layers|list|modulations)\.2(\.|$)", key)}
    assert block == {
        *(
            f"transformer.layers.2.{name}.{leaf}"
            for name in (
                "attention.query_key_value",
                "attention.dense",
                "cross_attention.query",
                "cross_attention.key_value",
                "cross_attention.dense",
                "post_cross_attention_layernorm",
                "mlp.dense_h_to_4h",
                "mlp.dense_4h_to_h",
            )
            for leaf in ("weight", "bias")
        ),
        *(
            f"mixins.adaln_layer.{name}_layernorm_list.2.weight"
            for name in ("query", "key", "cross_query", "cross_key")
        ),
        "mixins.adaln_layer.adaLN_modulations.2",
    }
    fused = state["transformer.layers.2.attention.query_key_value.weight"]
    assert fused.shape == (3 * 96, 96)
    for part, name in zip(fused.chunk(3), "qkv", strict=True):
        key = f"blocks.2.self_attn.{name}.weight"
        assert (part.numpy() == random_parameter(key, (96, 96))).all()
    fused = state["transformer.layers.0.cross_attention.key_value.bias"]
    for part, name in zip(fused.chunk(2), "kv", strict=True):
        assert (part.numpy() == random_parameter(f"blocks.0.cross_attn.{name}.bias", (96,))).all()
    original = original_files(weights)["phantom 14b"]
    assert sum(value.numel() for value in state.values()) == sum(value.numel() for value in original.values())
    assert len(state) == len(original) - 4 * 6
    assert set(sat_tensors(original)) == set(content["module"])


def test_importing_the_writers_loads_nothing_heavy(tmp_path: Path) -> None:
    names = [
        module.name
        for module in pkgutil.iter_modules(refbench.baselines.small.__path__, "refbench.baselines.small.")
    ]
    heavy = ("torch", "transformers", "diffusers", "tokenizers", "safetensors")
    code = f"import sys, {', '.join(names)}\nprint([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout.strip() == "[]"
