"""The vision side of mPLUG-Owl2: a CLIP-like tower and the abstractor that turns a frame into a few tokens.

Source: `q_align/model/visual_encoder.py` of the Q-Align copy in PKU-YuanGroup/OpenS2V-Nexus@ef17513
(`eval/utils/Q-Align`). Modules are named after the checkpoint's keys. What surprises:

* the tower's fused projection is laid out head by head (q, k, v of head 0, then of head 1, …);
* its final LayerNorm acts on all tokens, and the class token stays among them;
* the abstractor's residual starts from the *normalised* queries, and its values carry no position;
* only `ffn_ln` uses the abstractor's configured epsilon, its other norms torch's default;
* the sin-cos tables are persistent buffers: the checkpoint's are used.

Shape suffixes: F frames, N tower tokens (class token first, then patches row by row), Q learned queries,
D width, O width of the language model, H heads, K width of a head, Y and X pixels.
"""

# torch is not type-checked here, so its Module is Any.
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ABSTRACTOR_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """`visual_config.visual_model` of config.json; defaults of the original class (ViT-L/14 at 448)."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @property
    def tokens(self) -> int:
        """Tokens per frame, class token included."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True, kw_only=True)
class AbstractorConfig:
    """`visual_config.visual_abstractor` of config.json; the defaults are the original class's."""

    num_learnable_queries: int = 64
    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int = 2816
    layer_norm_eps: float = 1e-6
    encoder_hidden_size: int = 1024
    grid_size: int = 32


class Layers(nn.Module):
    """Holds `layers`, as the checkpoint's keys have it."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class VisionEmbeddings(nn.Module):
    """Patches, class token, learned positions, LayerNorm: (F, 3, Y, X) to (F, N, D)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.patch_embed = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.pre_layernorm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, pixels_F3YX: Tensor) -> Tensor:
        """Normalised pixels (F, 3, Y, X) to tokens (F, N, D)."""
        patches_FND = self.patch_embed(pixels_F3YX).flatten(2).transpose(1, 2)
        class_F1D = self.cls_token.expand(len(patches_FND), -1, -1)
        return self.pre_layernorm(torch.cat([class_F1D, patches_FND], 1) + self.position_embedding)


class VisionAttention(nn.Module):
    """Full attention with one fused projection whose outputs are ordered (head, q|k|v, K)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D) to the same shape."""
        fused = self.query_key_value(hidden_FND).unflatten(-1, (self.heads, 3, -1))
        query_FHNK, key_FHNK, value_FHNK = fused.permute(3, 0, 2, 1, 4)
        mixed_FHNK = functional.scaled_dot_product_attention(query_FHNK, key_FHNK, value_FHNK)
        return self.dense(mixed_FHNK.transpose(1, 2).flatten(2))


class VisionMlp(nn.Module):
    """Two linear layers with QuickGELU, whatever the config's `hidden_act` says."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D) to the same shape."""
        inner = self.fc1(hidden_FND)
        return self.fc2(inner * torch.sigmoid(1.702 * inner))


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = VisionMlp(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, hidden_FND: Tensor) -> Tensor:
        """(F, N, D) to the same shape."""
        hidden_FND = hidden_FND + self.self_attn(self.input_layernorm(hidden_FND))
        return hidden_FND + self.mlp(self.post_attention_layernorm(hidden_FND))


class VisionTower(nn.Module):
    """ViT: normalised pixels (F, 3, Y, X) to all its tokens (F, N, D), normalised, class token included."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = Layers([VisionLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixels_F3YX: Tensor) -> Tensor:
        """Normalised pixels (F, 3, Y, X) to tokens (F, N, D)."""
        hidden_FND = self.embeddings(pixels_F3YX)
        for layer in self.encoder.layers:
            hidden_FND = layer(hidden_FND)
        return self.post_layernorm(hidden_FND)


class AbstractorAttention(nn.Module):
    """Queries attend to themselves and the tower's tokens; positions are added to queries and keys only."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(config.encoder_hidden_size, width)
        self.value = nn.Linear(config.encoder_hidden_size, width)
        self.register_buffer("q_pos_embed", torch.zeros(config.num_learnable_queries, width))
        self.register_buffer("k_pos_embed", torch.zeros(config.grid_size**2 + 1, width))

    def forward(self, queries_FQD: Tensor, tower_FND: Tensor) -> Tensor:
        """Queries (F, Q, D) and tower tokens (F, N, tower width) to mixed values (F, Q, D)."""
        context = torch.cat([queries_FQD, tower_FND], 1)
        positions = torch.cat([self.q_pos_embed, self.k_pos_embed])
        query_FHQK = self._split(self.query(queries_FQD + self.q_pos_embed))
        key_FHMK = self._split(self.key(context + positions))
        value_FHMK = self._split(self.value(context))
        mixed_FHQK = functional.scaled_dot_product_attention(query_FHQK, key_FHMK, value_FHMK)
        return mixed_FHQK.transpose(1, 2).flatten(2)

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AbstractorMlp(nn.Module):
    """SwiGLU with a LayerNorm before its last projection."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, config.layer_norm_eps)

    def forward(self, hidden_FQD: Tensor) -> Tensor:
        """(F, Q, D) to the same shape."""
        return self.w2(self.ffn_ln(functional.silu(self.w1(hidden_FQD)) * self.w3(hidden_FQD)))


class AbstractorOutput(nn.Module):
    """Output projection, residual from the given (normalised) queries, and the MLP."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, ABSTRACTOR_NORM_EPS)
        self.mlp = AbstractorMlp(config)

    def forward(self, attended_FQD: Tensor, residual_FQD: Tensor) -> Tensor:
        """Attention's values and the residual, (F, Q, D) each, to (F, Q, D)."""
        hidden_FQD = residual_FQD + self.out_proj(attended_FQD)
        return hidden_FQD + self.mlp(self.norm2(hidden_FQD))


class AbstractorCrossAttention(nn.Module):
    """One resampling step."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.attention = AbstractorAttention(config)
        self.output = AbstractorOutput(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, ABSTRACTOR_NORM_EPS)
        self.normk = nn.LayerNorm(config.encoder_hidden_size, ABSTRACTOR_NORM_EPS)

    def forward(self, queries_FQD: Tensor, tower_FND: Tensor) -> Tensor:
        """Queries (F, Q, D) and tower tokens (F, N, tower width) to the next queries (F, Q, D)."""
        normed_FQD = self.norm1(queries_FQD)
        return self.output(self.attention(normed_FQD, self.normk(tower_FND)), normed_FQD)


class AbstractorLayer(nn.Module):
    """Holds one resampling step, as the checkpoint's keys have it."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.crossattention = AbstractorCrossAttention(config)

    def forward(self, queries_FQD: Tensor, tower_FND: Tensor) -> Tensor:
        """As `AbstractorCrossAttention`."""
        return self.crossattention(queries_FQD, tower_FND)


class VisualAbstractor(nn.Module):
    """Resampler: tower tokens (F, N, D) to language-model vectors (F, Q + 1, O), the last being `vit_eos`."""

    def __init__(self, config: AbstractorConfig, output_size: int) -> None:
        super().__init__()
        self.query_embeds = nn.Parameter(torch.zeros(1, config.num_learnable_queries, config.hidden_size))
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, output_size))
        self.encoder = Layers([AbstractorLayer(config) for _ in range(config.num_hidden_layers)])
        self.visual_fc = nn.Linear(config.hidden_size, output_size)

    def forward(self, tower_FND: Tensor) -> Tensor:
        """Tower tokens (F, N, tower width) to (F, Q + 1, O)."""
        frames = len(tower_FND)
        queries_FQD = self.query_embeds.expand(frames, -1, -1)
        for layer in self.encoder.layers:
            queries_FQD = layer(queries_FQD, tower_FND)
        return torch.cat([self.visual_fc(queries_FQD), self.vit_eos.expand(frames, -1, -1)], 1)
