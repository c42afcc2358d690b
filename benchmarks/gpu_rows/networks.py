"""The project's networks with random weights made on the device: at full size, and tiny ones of their make.

Sizes of the released networks are the defaults of the classes, or those of the published configurations named
beside them. Weights are normal noise over the square root of the inputs, so that activations keep their size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from refbench.baselines.small import pipelines
from refbench.baselines.wan.checkpoint import stays_float32
from refbench.baselines.wan.codec import WanCodec
from refbench.baselines.wan.conditioning import Geometry
from refbench.baselines.wan.sampler import WanSampler
from refbench.baselines.wan.schedules import make_scheduler
from refbench.baselines.wan.spec import WanSpec
from refbench.baselines.wan.t5 import load_tokenizer
from refbench.bench.weights.checkpoint import load_exactly
from refbench.bench.weights.hf_folder import load_part
from refbench.metrics.aesthetics import AestheticScorer
from refbench.metrics.motion_smoothness import (
    BATCH_SIZE_CPU,
    BATCH_SIZE_GPU,
    LLAMA_PROMPT,
    Prompt,
    WindowRater,
)
from refbench.metrics.nets.aesthetic_head import AestheticHead
from refbench.metrics.nets.clip import ClipImageTower
from refbench.metrics.nets.curricularface import IR_101, CurricularFace, Layout
from refbench.metrics.nets.gme import SECOND_MAX_PIXELS, SECOND_MIN_PIXELS, GmeEmbedder
from refbench.metrics.nets.mplug_owl2.network import LanguageConfig, MplugOwl2, MplugOwl2Config
from refbench.metrics.nets.mplug_owl2.vision import AbstractorConfig, VisionConfig
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD, CropRule
from refbench.metrics.nets.yolo_world.detector import YoloWorld, YoloWorldSizes
from refbench.metrics.nets.yolo_world.image_prompt import ReferenceEncoder
from refbench.metrics.nets.yolo_world.image_prompt_detector import PAIRS_PER_PASS, ImagePromptDetector
from refbench.metrics.small import facesim as small_facesim
from refbench.metrics.small import gmescore as small_gme
from refbench.metrics.small import motion_smoothness as small_motion
from refbench.metrics.small import qwen2_vl as small_qwen
from refbench.metrics.small.nexusscore import random_detector
from refbench.metrics.weights import GME_QWEN2_VL
from refbench.refalign.method import RefAlign13B, RefAlign14B, RefAlignTiny
from refbench.refalign.transformer import RefAlignTransformer3DModel

Keeps = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured: specs of the generators, recipe of training, networks of the metrics, frames of a
    video that MotionSmoothness scores and those that other metrics take of it, geometry of the comparison
    with the CPU.
    """

    spec: WanSpec
    larger_spec: WanSpec
    recipe: str
    fewer_frames: int
    text_width: int
    text_encoder: Mapping[str, Any]
    vae: Mapping[str, Any]
    gme: Mapping[str, Any]
    short_gme: Mapping[str, Any]
    owl: MplugOwl2Config
    short_owl: MplugOwl2Config
    prompt: Prompt
    detector: YoloWorldSizes
    picture_tower: Mapping[str, Any]
    faces: Layout
    clip: Mapping[str, Any]
    video_frames: int
    scored_frames: int
    compared: Geometry

    @property
    def geometry(self) -> Geometry:
        """The generated video's."""
        native = self.spec.native
        return Geometry(width=native.width, height=native.height, num_frames=native.num_frames)


# google/umt5-xxl, Qwen2-VL-7B and openai/clip-vit-large-patch14, by their published config.json.
UMT5_XXL = {
    "vocab_size": 256_384, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
QWEN2_VL_7B = {
    "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 3584},
}  # fmt: skip
CLIP_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
OWL = MplugOwl2Config(
    language=LanguageConfig(rms_norm_eps=1e-5), vision=VisionConfig(), abstractor=AbstractorConfig()
)
SHORT_LAYERS = 2


def shortened(owl: MplugOwl2Config) -> MplugOwl2Config:
    """Two layers of each part, at full width."""
    return MplugOwl2Config(
        language=replace(owl.language, num_hidden_layers=SHORT_LAYERS),
        vision=replace(owl.vision, num_hidden_layers=SHORT_LAYERS),
        abstractor=replace(owl.abstractor, num_hidden_layers=SHORT_LAYERS),
    )


FULL = Sizes(
    spec=RefAlign13B.spec,
    larger_spec=RefAlign14B.spec,
    recipe="stage1_1_3b",
    fewer_frames=33,
    text_width=4096,
    text_encoder=UMT5_XXL,
    vae={},
    gme=QWEN2_VL_7B,
    # The vocabulary of the tokenizer that is used here; the layers are as wide as the whole network's.
    short_gme={
        **QWEN2_VL_7B, "vocab_size": 2048, "num_hidden_layers": SHORT_LAYERS,
        "vision_config": {"depth": SHORT_LAYERS, "embed_dim": 1280, "num_heads": 16, "hidden_size": 3584},
    },
    owl=OWL,
    short_owl=shortened(OWL),
    prompt=LLAMA_PROMPT,
    detector=YoloWorldSizes(),
    picture_tower={},
    faces=IR_101,
    clip=CLIP_L,
    video_frames=81,
    scored_frames=32,
    compared=Geometry(width=256, height=160, num_frames=9),
)  # fmt: skip
_TINY_OWL = MplugOwl2Config.from_json(small_motion.CONFIG, "the tiny configuration")
TINY = Sizes(
    spec=RefAlignTiny.spec,
    larger_spec=RefAlignTiny.spec,
    recipe="tiny",
    fewer_frames=5,
    text_width=32,
    text_encoder={
        "vocab_size": len(pipelines.vocabulary()), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
        "num_heads": 4,
    },
    vae={"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    gme={},
    short_gme={},
    owl=_TINY_OWL,
    short_owl=shortened(_TINY_OWL),
    prompt=Prompt(before=(1, 2, 3, 4), after=(5, 6, 7), words=(11, 12, 13, 14, 15)),
    detector=YoloWorldSizes(
        stem=4, stages=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1), neck_depth=1, neck_heads=(2, 1, 2, 2),
        prompt=32, classification=8, regression=8, projector=64,
    ),
    picture_tower={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "projection_dim": 32,
    },
    faces=Layout(stem_width=8, unit_widths=small_facesim.UNIT_WIDTHS, embedding_width=32),
    clip={
        "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "patch_size": 28, "projection_dim": 48,
    },
    video_frames=5,
    scored_frames=2,
    compared=Geometry(width=96, height=64, num_frames=5),
)  # fmt: skip


@torch.no_grad()
def fill(module: nn.Module, seed: int = 0) -> None:
    """Noise into every entry of the state dict: gains near one, running variances above one."""
    generators: dict[torch.device, torch.Generator] = {}
    for key, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        device = tensor.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        tensor.normal_(generator=generators[device])
        leaf = key.rpartition(".")[2]
        if leaf == "running_var":
            tensor.abs_().mul_(0.1).add_(1)
        elif (leaf == "weight" and tensor.ndim == 1) or leaf == "gamma":
            tensor.mul_(0.1).add_(1)
        else:
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
            tensor.mul_(fan_in**-0.5)


def cast(module: nn.Module, dtype: torch.dtype, keeps_float32: Keeps | None = None) -> nn.Module:
    """Parameters and stored buffers to a dtype; other buffers keep theirs, as when weights are loaded."""
    stored = module.state_dict().keys()
    named = [*module.named_parameters(), *module.named_buffers()]
    for key, tensor in named:
        kept = keeps_float32 is not None and keeps_float32(key)
        if key in stored and tensor.is_floating_point() and not kept:
            tensor.data = tensor.data.to(dtype)
    return module


def made(
    make: Callable[[], nn.Module],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    keeps_float32: Keeps | None = None,
) -> Any:
    """A module of random weights on a device, in evaluation mode and without gradients."""
    with torch.device(device):
        module = make()
    fill(module)
    module = cast(module, dtype, keeps_float32).eval().requires_grad_(False)
    if device.type == "cuda":
        # What the float32 weights took is free for other processes too.
        torch.cuda.empty_cache()
    return module


def on(module: nn.Module, device: str | torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A copy on another device, in another dtype."""
    return cast(copy.deepcopy(module).to(device), dtype)


def architecture(spec: WanSpec, text_width: int, *, layers: int | None = None) -> dict[str, Any]:
    """Arguments of the transformer's class; `layers`: only so many of its blocks."""
    network = spec.network
    return {
        "num_attention_heads": network.heads,
        "attention_head_dim": network.width // network.heads,
        "ffn_dim": network.ffn_width,
        "num_layers": layers or network.layers,
        "text_dim": text_width,
    }


def transformer(
    arguments: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> RefAlignTransformer3DModel:
    """RefAlign's network as it is loaded: norms, modulation and time embedder stay in float32."""
    network: RefAlignTransformer3DModel = made(
        lambda: RefAlignTransformer3DModel(**arguments), device, dtype, keeps_float32=stays_float32
    )
    return network


def vae(sizes: Sizes, device: torch.device) -> Any:
    """The video's autoencoder, float32."""
    from diffusers import AutoencoderKLWan

    return made(lambda: AutoencoderKLWan(**sizes.vae), device)


def bare_codec(device: torch.device, dtype: torch.dtype, *, vae: Any = None) -> WanCodec:
    """A codec with the autoencoder alone, or with no network at all."""
    return WanCodec(tokenizer=None, text_encoder=None, vae=vae, device=device, dtype=dtype)


def whole_sampler(sizes: Sizes, device: torch.device, dtype: torch.dtype, folder: Path) -> WanSampler:
    """All models of the generator; its tokenizer is a small one, whose ids every text encoder has."""
    from transformers import UMT5Config, UMT5EncoderModel

    pipelines.write_tokenizer(folder / "tokenizer")
    text_config = UMT5Config(**sizes.text_encoder)
    codec = WanCodec(
        tokenizer=load_tokenizer(folder / "tokenizer"),
        text_encoder=made(lambda: UMT5EncoderModel(text_config), device, dtype),
        vae=vae(sizes, device),
        device=device,
        dtype=dtype,
    )
    return WanSampler(
        codec=codec,
        transformer=transformer(architecture(sizes.spec, sizes.text_width), device, dtype),
        scheduler=make_scheduler(sizes.spec.native.solver, sizes.spec.native.shift),
    )


def gme_model(config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Qwen2-VL of the tiny one's configuration with the sizes in `config`."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {**small_qwen.CONFIG["vision_config"], **config.get("vision_config", {})}
    whole = Qwen2VLConfig(**{**small_qwen.CONFIG, **config, "vision_config": vision})
    return made(lambda: Qwen2VLForConditionalGeneration(whole), device, dtype)


def gme_embedder(model: Any, folder: Path, device: torch.device) -> GmeEmbedder:
    """The embedder around a model, with tokenizer and image processor of a tiny GME written to `folder`."""
    from transformers import AutoImageProcessor, AutoTokenizer

    small_gme.write_tiny(folder)
    tiny = folder / GME_QWEN2_VL.repository
    processor = load_part(
        AutoImageProcessor, tiny, backend="pil", min_pixels=SECOND_MIN_PIXELS, max_pixels=SECOND_MAX_PIXELS
    )
    return GmeEmbedder(model, load_part(AutoTokenizer, tiny), processor, device, tiny)


def owl_network(config: MplugOwl2Config, device: torch.device, dtype: torch.dtype) -> MplugOwl2:
    """OneAlign's network."""
    network: MplugOwl2 = made(lambda: MplugOwl2(config), device, dtype)
    return network


def window_rater(network: MplugOwl2, prompt: Prompt) -> WindowRater:
    """MotionSmoothness' rater with the batch size of its device."""
    on_cpu = network.lm_head.weight.device.type == "cpu"
    return WindowRater(network, prompt, batch_size=BATCH_SIZE_CPU if on_cpu else BATCH_SIZE_GPU)


def clip_tower(config: Mapping[str, Any], device: torch.device, *, attention: str = "sdpa") -> ClipImageTower:
    """CLIP's image tower, float32, with transformers' implementation of attention of that name."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    whole = CLIPVisionConfig(**config, attn_implementation=attention)
    return ClipImageTower(model=made(lambda: CLIPVisionModelWithProjection(whole), device))


def detector(sizes: Sizes, device: torch.device) -> ImagePromptDetector:
    """NexusScore's detector with its picture tower, float32."""
    from transformers import CLIPImageProcessorPil

    with torch.device("meta"):
        network = YoloWorld(sizes.detector)
    load_exactly(network, random_detector(sizes.detector), "random weights")
    network.float().eval().requires_grad_(False).to(device)
    tower = clip_tower(sizes.picture_tower, device)
    return ImagePromptDetector(
        network=network,
        encoder=ReferenceEncoder(tower=tower, processor=CLIPImageProcessorPil()),
        device=device,
        pairs_per_pass=PAIRS_PER_PASS["cpu" if device.type == "cpu" else "cuda"],
    )


def face_network(sizes: Sizes, device: torch.device) -> CurricularFace:
    """FaceSim's network, float32."""
    network: CurricularFace = made(lambda: CurricularFace(sizes.faces), device)
    return network


def aesthetic_scorer(sizes: Sizes, device: torch.device) -> AestheticScorer:
    """Aesthetics' scorer with CLIP's tower and the head on it, float32."""
    tower = clip_tower(sizes.clip, device, attention="eager")
    head = made(lambda: AestheticHead(tower.width), device)
    crop = CropRule(resized_px=tower.side_px, crop_px=tower.side_px, mean=CLIP_MEAN, std=CLIP_STD)
    return AestheticScorer(tower=tower, head=head, crop=crop, weights={})


def noise_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """RGB uint8 frames (height, width, 3) of noise, all different."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def noise_pictures(count: int, height: int, width: int) -> list[Image.Image]:
    """The same as RGB pictures."""
    return [Image.fromarray(frame) for frame in noise_frames(count, height, width)]
