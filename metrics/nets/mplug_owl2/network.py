"""mPLUG-Owl2, the network of Q-Align/OneAlign: LLaMA-2 with separate weights for text and image positions.

Source: `q_align/model/modeling_mplug_owl2.py` and `modeling_llama2.py` of the Q-Align copy in
PKU-YuanGroup/OpenS2V-Nexus@ef17513 (`eval/utils/Q-Align`), checkpoint `q-future/one-align`. Modules are named
after the checkpoint's keys.

A sequence is text, one block of image vectors, text. Two norms and the K and V projections of each layer
exist twice (`multiway.0` text, `multiway.1` image) and are chosen by the position they are applied to;
attention is plainly causal over everything. `forward` is the definition. The rating path does the same with
less work:

* a frame goes through tower and abstractor once (`encode_frames`), whatever the number of its windows;
* the text before the image gives the same keys and values in every window (`prefix`);
* in the last layer, the norm and the head only the last position, and five of the words, are computed.

Different from the source: K and V are computed by a position's own modality only, attention takes an explicit
mask because the prefix shifts the diagonal, and no limit of positions is enforced (the rotary angles are made
for the positions at hand, so `max_position_embeddings` changes no number).

Shape suffixes: B batch, S positions run now, P cached positions, T = P + S, I image positions, D width,
H heads, K width of a head, V vocabulary, W rated words, F frames, Q + 1 vectors of a frame, Y and X pixels.
"""

# torch is not type-checked here, so its Module is Any.
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refbench.bench.errors import UserError, one_line
from refbench.bench.weights.checkpoint import load_exactly, read_state_dict
from refbench.metrics.nets.mplug_owl2.vision import (
    AbstractorConfig,
    VisionConfig,
    VisionTower,
    VisualAbstractor,
)

# Older checkpoints store the rotary frequencies, which are computed here.
IGNORED_KEY_ENDING = "rotary_emb.inv_freq"
# Far above any size of this architecture: a config that asks for more is damaged.
LARGEST_SIZE = 1_000_000

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Language part of config.json.

    `rms_norm_eps` must be given: the default of the original class does not fit LLaMA-2 checkpoints.
    """

    rms_norm_eps: float
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    rope_theta: float = 10000.0


@dataclass(frozen=True, kw_only=True)
class MplugOwl2Config:
    """All sizes and epsilons of the network."""

    language: LanguageConfig
    vision: VisionConfig
    abstractor: AbstractorConfig

    @classmethod
    def from_json(cls, data: Any, source: object) -> MplugOwl2Config:
        """From the content of a checkpoint's config.json; UserError names what is missing or impossible."""
        visual = _mapping(data, source).get("visual_config", {})
        visual = _mapping(visual, f"visual_config of {source}")
        config = cls(
            language=_section(LanguageConfig, data, source),
            vision=_section(VisionConfig, visual.get("visual_model", {}), source),
            abstractor=_section(AbstractorConfig, visual.get("visual_abstractor", {}), source),
        )
        language, vision, abstractor = config.language, config.vision, config.abstractor
        if data.get("rope_scaling") is not None:
            raise UserError(f"{source}: scaled rotary positions are not supported")
        if language.num_key_value_heads != language.num_attention_heads:
            raise UserError(f"{source}: num_key_value_heads must equal num_attention_heads")
        for part in (language, vision, abstractor):
            if part.hidden_size % part.num_attention_heads:
                raise UserError(f"{source}: hidden_size must be a multiple of num_attention_heads")
        if (
            vision.tokens != abstractor.grid_size**2 + 1
            or vision.hidden_size != abstractor.encoder_hidden_size
        ):
            raise UserError(f"{source}: the abstractor does not fit the vision tower")
        return config


def _mapping(data: Any, source: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise UserError(f"{source} is not a JSON object")
    return data


def _section(section: type[Section], data: Any, source: object) -> Section:
    """The fields of a config dataclass from JSON, each a positive number of its type."""
    data = _mapping(data, source)
    values: dict[str, float] = {}
    for field in fields(section):  # type: ignore[arg-type]
        if field.name not in data:
            if field.default is MISSING:
                raise UserError(f"{source} lacks {field.name}")
            continue
        value = data[field.name]
        whole = field.type == "int"
        allowed = int if whole else (int, float)
        if not isinstance(value, allowed) or isinstance(value, bool) or not 0 < value <= LARGEST_SIZE:
            raise UserError(f"{source}: {field.name} cannot be {one_line(value, 40)}")
        values[field.name] = value if whole else float(value)
    return section(**values)


class Span(NamedTuple):
    """The image positions [start, stop) of a sequence; all others are text."""

    start: int
    stop: int

    def within_last(self, count: int, positions: int) -> Span:
        """The same span as seen in the last `count` of `positions` positions."""
        dropped = positions - count
        return Span(max(self.start - dropped, 0), max(self.stop - dropped, 0))


NO_IMAGE = Span(0, 0)


class KeyValue(NamedTuple):
    """Rotated keys and values of one layer."""

    key_BHTK: Tensor
    value_BHTK: Tensor


class Rotation(NamedTuple):
    """Cosines and sines of the rotary angles of some positions, in the working dtype."""

    cos_SK2: Tensor
    sin_SK2: Tensor

    def last(self, count: int) -> Rotation:
        """Of the last `count` positions."""
        return Rotation(self.cos_SK2[-count:], self.sin_SK2[-count:])

    def __call__(self, hidden_BHSK: Tensor) -> Tensor:
        """Turn element i of a head with element i + K/2."""
        first, second = hidden_BHSK.chunk(2, dim=-1)
        cos, sin = self.cos_SK2, self.sin_SK2
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Multiway(nn.Module):
    """Two sets of weights: 0 for text, 1 for image positions."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([make(), make()])

    def forward(self, hidden_BSD: Tensor, image: Span) -> Tensor:
        """(B, S, D) to (B, S, the modules' width), each position by the weights of its own kind."""
        text, picture = self.multiway
        pieces = (
            (text, hidden_BSD[:, : image.start]),
            (picture, hidden_BSD[:, image.start : image.stop]),
            (text, hidden_BSD[:, image.stop :]),
        )
        return torch.cat([weights(piece) for weights, piece in pieces if piece.shape[1]], 1)


class RmsNorm(nn.Module):
    """x / rms(x) in float32, back to the input's dtype, and only then times the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """(B, S, D) to the same shape and dtype."""
        wide = hidden_BSD.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(hidden_BSD.dtype)


class SelfAttention(nn.Module):
    """Causal attention with rotary positions; K and V by modality."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads

        def projection() -> nn.Module:
            return nn.Linear(width, width, bias=False)

        self.q_proj = projection()
        self.k_proj = Multiway(projection)
        self.v_proj = Multiway(projection)
        self.o_proj = projection()

    def forward(
        self,
        hidden_BSD: Tensor,
        image: Span,
        rotation: Rotation,
        visible_ST: Tensor,
        past: KeyValue | None,
        wanted: int,
    ) -> tuple[Tensor, KeyValue]:
        """Outputs (B, wanted, D) of the last `wanted` positions, and keys and values (B, H, T, K) of all.

        `visible_ST` says which of the T positions each of the S may attend to; `past` holds P earlier ones.
        """
        key = rotation(self._split(self.k_proj(hidden_BSD, image)))
        value = self._split(self.v_proj(hidden_BSD, image))
        if past is not None:
            batch = len(hidden_BSD)
            key = torch.cat([past.key_BHTK.expand(batch, -1, -1, -1), key], 2)
            value = torch.cat([past.value_BHTK.expand(batch, -1, -1, -1), value], 2)
        query = rotation.last(wanted)(self._split(self.q_proj(hidden_BSD[:, -wanted:])))
        mixed_BHSK = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=visible_ST[-wanted:]
        )
        return self.o_proj(mixed_BHSK.transpose(1, 2).flatten(2)), KeyValue(key, value)

    def _split(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class LanguageMlp(nn.Module):
    """SwiGLU, shared by both modalities."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        """(B, S, D) to the same shape."""
        return self.down_proj(functional.silu(self.gate_proj(hidden_BSD)) * self.up_proj(hidden_BSD))


class DecoderLayer(nn.Module):
    """Pre-norm layer; computes only the last `wanted` positions of its output."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return RmsNorm(config.hidden_size, config.rms_norm_eps)

        self.self_attn = SelfAttention(config)
        self.mlp = LanguageMlp(config)
        self.input_layernorm = Multiway(norm)
        self.post_attention_layernorm = Multiway(norm)

    def forward(
        self,
        hidden_BSD: Tensor,
        image: Span,
        rotation: Rotation,
        visible_ST: Tensor,
        past: KeyValue | None,
        wanted: int,
    ) -> tuple[Tensor, KeyValue]:
        """States (B, wanted, D) of the last `wanted` positions, and keys and values as `SelfAttention`."""
        normed_BSD = self.input_layernorm(hidden_BSD, image)
        attended, key_value = self.self_attn(normed_BSD, image, rotation, visible_ST, past, wanted)
        image = image.within_last(wanted, hidden_BSD.shape[1])
        hidden = hidden_BSD[:, -wanted:] + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden, image)), key_value


class OwlModel(nn.Module):
    """The level `model` of the checkpoint: both encoders, word embeddings, decoder layers, final norm."""

    def __init__(self, config: MplugOwl2Config) -> None:
        super().__init__()
        language = config.language
        self.rope_theta = language.rope_theta
        self.embed_tokens = nn.Embedding(language.vocab_size, language.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(language) for _ in range(language.num_hidden_layers)])
        self.norm = RmsNorm(language.hidden_size, language.rms_norm_eps)
        self.vision_model = VisionTower(config.vision)
        self.visual_abstractor = VisualAbstractor(config.abstractor, language.hidden_size)

    def forward(
        self, hidden_BSD: Tensor, image: Span, past: Sequence[KeyValue] = (), wanted: int | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run S positions (B, S, D) that follow those in `past`.

        Returns the states (B, wanted, D) of the last `wanted` of them (all if None) before the final norm,
        and each layer's keys and values of all positions so far.
        """
        positions = hidden_BSD.shape[1]
        start = past[0].key_BHTK.shape[2] if past else 0
        rotation = self._rotation(start, positions, hidden_BSD)
        visible_ST = torch.ones(
            positions, start + positions, dtype=torch.bool, device=hidden_BSD.device
        ).tril(start)
        memory: list[KeyValue] = []
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            hidden_BSD, key_value = layer(
                hidden_BSD,
                image,
                rotation,
                visible_ST,
                past[number] if past else None,
                wanted if last and wanted is not None else positions,
            )
            memory.append(key_value)
        return hidden_BSD, memory

    def _rotation(self, start: int, positions: int, like_BSD: Tensor) -> Rotation:
        """Angle of pair i at position p: p · theta^(-2i/K), in float32, rounded after the cosine."""
        width = like_BSD.shape[-1] // self.layers[0].self_attn.heads
        pairs = torch.arange(0, width, 2, device=like_BSD.device).float() / width
        angles_SK2 = torch.outer(
            torch.arange(start, start + positions, device=like_BSD.device).float(),
            1.0 / self.rope_theta**pairs,
        )
        return Rotation(angles_SK2.cos().to(like_BSD.dtype), angles_SK2.sin().to(like_BSD.dtype))


class MplugOwl2(nn.Module):
    """The whole network; the state dict has the checkpoint's keys."""

    def __init__(self, config: MplugOwl2Config) -> None:
        super().__init__()
        self.config = config
        self.model = OwlModel(config)
        self.lm_head = nn.Linear(config.language.hidden_size, config.language.vocab_size, bias=False)

    def encode_frames(self, pixels_F3YX: Tensor) -> Tensor:
        """Normalised pixels (F, 3, Y, X) to language-model vectors (F, Q + 1, D)."""
        return self.model.visual_abstractor(self.model.vision_model(pixels_F3YX))

    def forward(self, before: Sequence[int], image_BID: Tensor, after: Sequence[int]) -> Tensor:
        """Logits (B, S, V) of all positions of `before`, the image vectors, `after`: the plain definition."""
        batch = len(image_BID)
        texts = (self.embed_words(before, batch), self.embed_words(after, batch))
        hidden_BSD = torch.cat([texts[0], image_BID, texts[1]], 1)
        image = Span(len(before), len(before) + image_BID.shape[1])
        return self.lm_head(self.model.norm(self.model(hidden_BSD, image)[0]))

    def prefix(self, before: Sequence[int]) -> list[KeyValue]:
        """Each layer's keys and values (1, H, P, K) of the text before the image, the same for any image."""
        memory: list[KeyValue] = self.model(self.embed_words(before, 1), NO_IMAGE)[1]
        return memory

    def word_logits(
        self, prefix: Sequence[KeyValue], image_BID: Tensor, after: Sequence[int], words: Sequence[int]
    ) -> Tensor:
        """Logits (B, W) of `words` at the last position; equals `forward(...)[:, -1, words]`.

        `after` must not be empty.
        """
        hidden_BSD = torch.cat([image_BID, self.embed_words(after, len(image_BID))], 1)
        last_B1D = self.model(hidden_BSD, Span(0, image_BID.shape[1]), prefix, wanted=1)[0]
        return functional.linear(self.model.norm(last_B1D[:, 0]), self.lm_head.weight[list(words)])

    def embed_words(self, ids: Sequence[int], batch: int) -> Tensor:
        """The embeddings (B, S, D) of token ids, the same for each of `batch` rows."""
        embedded_SD = self.model.embed_tokens(torch.tensor(ids, device=self.lm_head.weight.device))
        return embedded_SD.expand(batch, -1, -1)


def load_network(
    config: MplugOwl2Config, files: Iterable[Path], source: object, device: str, dtype: torch.dtype
) -> MplugOwl2:
    """The network with the tensors of all `files`, shard by shard, so that main memory holds one at a time.

    Buffers are cast as well. Raises UserError for a damaged file and for keys or shapes that do not fit.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        for key, tensor in read_state_dict(file).items():
            if not key.endswith(IGNORED_KEY_ENDING):
                tensors[key] = tensor.to(device, dtype)
    with torch.device("meta"):
        network = MplugOwl2(config)
    load_exactly(network, tensors, source)
    network.requires_grad_(False)
    network.eval()
    return network
