"""What a training run takes, from its configuration alone: bytes on a GPU, in memory and on disk, operations.

A function for each part. With P parameters, of which P_t are trained, and S processes that share a shard
(1 without sharding), a GPU holds in bytes

    weights 4·P/S, gradients 4·P_t/S, AdamW's moments 8·P_t/S, moving average 4·P_a/S,

what blocks gather or cast to bfloat16, and the activations of one call. These rise and fall, so the peak is
the largest of several moments of an update (`Moment`), not the sum of the largest parts.

The coefficients of activations are counted from the tensors that autograd keeps in the networks of this
project (torch 2.14, diffusers 0.42.1); `benchmarks/training_memory.py` follows every tensor of updates at
full width, on shapes alone, and compares. Not counted: pieces of memory that torch holds and does not use,
and buffers of communication; `baselines.wan.cost.RUNTIME_GIB` stands for the CUDA context.

Symbols: d channels and f inner channels of a block, h heads, T tokens of a call (V of the video, R of the
references), L text rows, e bytes of an activation (2 in bfloat16, else 4), each over all samples of a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from refbench.baselines.wan.cost import FEED_FORWARD_BYTES, FLOAT32_BYTES, TEXT_ENCODER_PARAMETERS, VAES
from refbench.baselines.wan.latents import WAN21_LATENTS, WAN22_5B_LATENTS, LatentSpace
from refbench.refalign.training.flops import ForwardFlops, forward_flops
from refbench.refalign.training.settings import TrainingConfig

Recomputed = Literal["nothing", "blocks", "without_attention"]
RECOMPUTED: tuple[Recomputed, ...] = ("nothing", "blocks", "without_attention")
BFLOAT16_BYTES = 2
# Linear layers of a block that read one input which nothing else keeps.
INPUTS_OF_LINEARS = (
    ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    ("attn2.to_q",),
    ("ffn.net.0.proj",),
    ("ffn.net.2",),
)
# AdamW keeps two moments of each trained weight.
MOMENTS = 2
# Backward takes twice the operations of forward: by the inputs, and by the weights.
TRAINING_PASSES = 3
# What is alive beside a block's activations in backward, in bytes for each token and channel: the gradient in
# float32 and its products with the gate and the block's result.
GATE_BACKWARD_BYTES = 12
# Bytes for each token and channel of a block in forward at its fullest moment: attention (see wan.cost).
ATTENTION_FORWARD_BYTES = 27
# What a VAE holds while it encodes a clip: bytes for each pixel, and for each pixel of each frame. It goes
# through four frames at a time, so the number of frames counts little.
VAE_ENCODE_BYTES = {WAN21_LATENTS: (14_080, 12.5), WAN22_5B_LATENTS: (7_170, 24.4)}
# Of the published configurations; of models with two towers the one for pictures.
TEACHER_PARAMETERS = {
    "dinov3-vitb16": 85_660_416,
    "dinov3-vitl16": 303_129_600,
    "dinov2-base": 86_580_480,
    "dinov2-large": 304_368_640,
    "siglip2-base": 93_520_128,
    "clip-vit-large": 303_179_776,
}


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """The sizes of a transformer, as its `config.json` names them in diffusers' terms."""

    width: int
    ffn_width: int
    layers: int
    heads: int
    in_channels: int = 16
    out_channels: int = 16
    text_width: int = 4096
    time_width: int = 256
    patch: int = 2

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> NetworkSizes:
        """The sizes in a network's configuration; what it does not name has diffusers' default."""
        heads = architecture["num_attention_heads"]
        return cls(
            width=heads * architecture.get("attention_head_dim", 128),
            ffn_width=architecture["ffn_dim"],
            layers=architecture["num_layers"],
            heads=heads,
            in_channels=architecture.get("in_channels") or 16,
            out_channels=architecture.get("out_channels") or 16,
            text_width=architecture.get("text_dim", 4096),
            time_width=architecture.get("freq_dim", 256),
            patch=tuple(architecture.get("patch_size", (1, 2, 2)))[-1],
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """The configuration that these sizes are of, with all of its entries."""
        return {
            "num_attention_heads": self.heads,
            "attention_head_dim": self.width // self.heads,
            "ffn_dim": self.ffn_width,
            "num_layers": self.layers,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "text_dim": self.text_width,
            "freq_dim": self.time_width,
            "patch_size": (1, self.patch, self.patch),
        }

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block by their names there."""
        d, f = self.width, self.ffn_width
        attention = ("to_q", "to_k", "to_v", "to_out.0")
        return {
            **{f"{part}.{name}": (d, d) for part in ("attn1", "attn2") for name in attention},
            "ffn.net.0.proj": (d, f),
            "ffn.net.2": (f, d),
        }


@dataclass(frozen=True, kw_only=True)
class Call:
    """The tokens of one forward pass, over its samples: of the video, of the references; rows of text."""

    samples: int
    video_tokens: int
    reference_tokens: int
    text_rows: int
    latents: int

    @property
    def tokens(self) -> int:
        """All tokens of the sequences."""
        return self.video_tokens + self.reference_tokens


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run lies on its processes.

    `shards`: processes that share one copy of the weights. `buckets`: DDP keeps a copy of the gradients to
    send. `half`: activations are bfloat16. `cast`: bfloat16 copies of float32 weights are made for a call
    (autocast); sharded weights are gathered in bfloat16 instead. `on_gpu` False: with a CPU's kernels.
    """

    shards: int
    buckets: bool
    half: bool
    cast: bool
    on_gpu: bool

    @property
    def fused_norms(self) -> bool:
        """Whether the norms of queries and keys run in one kernel: on a GPU, with weights of their type."""
        return self.on_gpu and not self.cast

    @property
    def element_bytes(self) -> int:
        """Bytes of an activation."""
        return BFLOAT16_BYTES if self.half else FLOAT32_BYTES


def layout_of(config: TrainingConfig, processes: int, per_node: int, *, on_gpu: bool = True) -> Layout:
    """How a configuration lies on `processes` GPUs, `per_node` in a machine (`on_gpu` False: on a CPU)."""
    strategy = config.run.strategy if processes > 1 else "single"
    group = {"fsdp2": processes, "hsdp": config.run.shard_size or min(per_node, processes)}
    half = config.run.precision == "bfloat16"
    sharded = strategy in group
    return Layout(
        shards=group.get(strategy, 1),
        buckets=strategy == "ddp",
        half=half,
        cast=half and not sharded,
        on_gpu=on_gpu,
    )


def block_parameters(sizes: NetworkSizes) -> int:
    """Parameters of a block: its linear layers, norms of queries and keys, a norm, the modulation table."""
    weights = sum(inputs * outputs + outputs for inputs, outputs in sizes.linears.values())
    return weights + 4 * sizes.width + 2 * sizes.width + 6 * sizes.width


def outer_parameters(sizes: NetworkSizes) -> int:
    """Parameters outside of the blocks: patch, text and time embedding, modulation, output layer."""
    d, area = sizes.width, sizes.patch**2
    square = d * d + d
    return (
        sizes.in_channels * area * d
        + d
        + sizes.text_width * d
        + d
        + square
        + sizes.time_width * d
        + d
        + square
        + 6 * square
        + 2 * d
        + (d + 1) * sizes.out_channels * area
    )


def projector_parameters(config: TrainingConfig, sizes: NetworkSizes, teacher_widths: Sequence[int]) -> int:
    """Parameters of the projectors of the alignment loss: (d + D)·hidden for each block and teacher."""
    if not config.alignment.enabled:
        return 0
    hidden = _projector_hidden(config, sizes)
    return len(config.alignment.blocks) * sum((sizes.width + width) * hidden for width in teacher_widths)


def _projector_hidden(config: TrainingConfig, sizes: NetworkSizes) -> int:
    return config.alignment.projector_hidden or sizes.width // 2


def adapted_linears(config: TrainingConfig, sizes: NetworkSizes) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of a block that LoRA adapts: those whose names end so."""
    if not config.lora.enabled:
        return {}
    return {
        name: shape
        for name, shape in sizes.linears.items()
        if any(_is_called(name, target) for target in config.lora.targets)
    }


def uncounted_targets(config: TrainingConfig, sizes: NetworkSizes) -> list[str]:
    """LoRA's targets that are no linear layer of a block; nothing here counts them."""
    if not config.lora.enabled:
        return []
    return [
        target
        for target in config.lora.targets
        if not any(_is_called(name, target) for name in sizes.linears)
    ]


def _is_called(linear: str, target: str) -> bool:
    return f".{linear}".endswith(f".{target}")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Counts of parameters. `block` and `outer` are what is gathered at once, adapters and projectors
    included; `frozen_bytes` those of a frozen weight.
    """

    network: int
    adapters: int
    projectors: int
    trained: int
    averaged: int
    block: int
    outer: int
    frozen_bytes: int

    @property
    def total(self) -> int:
        """All parameters of the training model."""
        return self.network + self.adapters + self.projectors

    @property
    def frozen(self) -> int:
        """Parameters without a gradient."""
        return self.total - self.trained


def count_parameters(
    config: TrainingConfig, sizes: NetworkSizes, teacher_widths: Sequence[int]
) -> Parameters:
    """The parameters of the training model; a projector adds to what is gathered outside of the blocks."""
    block, outer = block_parameters(sizes), outer_parameters(sizes)
    shapes = adapted_linears(config, sizes).values()
    adapter = sum(config.lora.rank * sum(shape) for shape in shapes)
    # A length for each row.
    adapter += sum(outputs for _, outputs in shapes) if config.lora.dora else 0
    projectors = projector_parameters(config, sizes, teacher_widths)
    network, adapters = sizes.layers * block + outer, sizes.layers * adapter
    own = adapters if config.lora.enabled else network
    return Parameters(
        network=network,
        adapters=adapters,
        projectors=projectors,
        trained=own + (projectors if config.alignment.weight > 0 else 0),
        averaged=own if config.ema.enabled else 0,
        block=block + adapter,
        outer=outer + projectors,
        frozen_bytes=BFLOAT16_BYTES
        if config.lora.enabled and config.run.precision == "bfloat16"
        else FLOAT32_BYTES,
    )


def weight_bytes(counts: Parameters, layout: Layout) -> float:
    """4·P_t/S and the frozen weights: float32 shards, with LoRA a frozen network in the run's precision."""
    frozen_network = counts.frozen * counts.frozen_bytes
    return (FLOAT32_BYTES * counts.trained + frozen_network) / layout.shards


def gradient_bytes(counts: Parameters, layout: Layout) -> float:
    """4·P_t/S, from the first call of an update to its end; shards also where calls are accumulated."""
    return FLOAT32_BYTES * counts.trained / layout.shards


def bucket_bytes(counts: Parameters, layout: Layout) -> float:
    """4·P_t with DDP, which copies gradients into buckets to send them (torch's `gradient_as_bucket_view`
    off).
    """
    return FLOAT32_BYTES * counts.trained if layout.buckets else 0.0


def moment_bytes(counts: Parameters, layout: Layout) -> float:
    """8·P_t/S of AdamW, from the first update on."""
    return MOMENTS * FLOAT32_BYTES * counts.trained / layout.shards


def average_bytes(counts: Parameters, layout: Layout) -> float:
    """4·P_a/S of the moving average, which leaves out the projectors."""
    return FLOAT32_BYTES * counts.averaged / layout.shards


def gathered_bytes(counts: Parameters, layout: Layout, sizes: NetworkSizes) -> float:
    """What FSDP2 holds in a block's backward beside the shards; 0 without sharding.

    e·P of this block, of the one that is fetched ahead and of what stands outside of the blocks, which stays
    gathered through a call; the gradients of the block before in float32 on their way to being reduced, and
    their shard (torch.distributed.fsdp: `_fsdp_param_group.py`, `_fsdp_collectives.py`).
    """
    if layout.shards == 1:
        return 0.0
    ahead = 2 if sizes.layers > 1 else 1
    gathered = layout.element_bytes * (ahead * counts.block + counts.outer)
    reduced = counts.block if counts.frozen == 0 or not counts.adapters else counts.adapters / sizes.layers
    return gathered + FLOAT32_BYTES * reduced * (1 + 1 / layout.shards)


def cast_bytes(counts: Parameters, layout: Layout, sizes: NetworkSizes, *, blocks: int) -> float:
    """2·P of `blocks` blocks and of all outside of them: autocast's copies of float32 weights, which matrix
    products keep for backward. A frozen network is bfloat16 itself.
    """
    if not layout.cast:
        return 0.0
    if counts.adapters:
        return BFLOAT16_BYTES * (blocks * counts.adapters / sizes.layers + counts.projectors)
    return BFLOAT16_BYTES * (blocks * counts.block + counts.outer)


def saved_block_bytes(config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """What backward needs of one block:

        T·d·(20 + 7·e + 2·n) + V·d·(4 + 3·e + n) + 2·e·f·T + L·d·(2·e + n) + 4·h·(T + V)

    Of self-attention its norm's input and result in float32 (8), the result in the type of the products (e),
    queries and keys before their norms (n each: e in one kernel, else 8 in float32), queries, keys, values
    and result (4·e), the result that is gated (e); of the feed-forward its norm's 8 + e, two inner states
    (2·e·f) and its result in float32 (4); of text attention its norm's input (4) and result (e), queries
    (n + e), result (e), keys and values of the text; the sums of both softmaxes (4·h). In float32 the text
    attention's norm keeps a view of all tokens. LoRA keeps less (`saved_adapted_bytes`).
    """
    if config.lora.enabled:
        return saved_adapted_bytes(config, sizes, call, layout)
    d, f, e = sizes.width, sizes.ffn_width, layout.element_bytes
    n = e if layout.fused_norms else 8
    tokens, video = call.tokens, call.video_tokens
    return float(
        tokens * d * (20 + 7 * e + 2 * n)
        + video * d * (4 + 3 * e + n)
        + (0 if layout.half else 4 * call.reference_tokens * d)
        + 2 * e * f * tokens
        + call.text_rows * d * (2 * e + n)
        + 4 * sizes.heads * (tokens + video)
    )


def saved_adapted_bytes(config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """What backward needs of one block whose network is frozen, with LoRA's adapters in it:

        T·d·(8 + 6·e) + V·d·(4 + 3·e) + e·f·T + 3·e·L·d + 4·h·(T + V) + adapters

    No scale, gate or frozen layer keeps what only its own gradient would need. Norms of queries and keys run
    in one kernel, since frozen weights have the type of their inputs. An adapted layer keeps its adapter's
    inner state, e·rank for each of its rows, and its input; under autocast each of them a copy of its own,
    which peft casts to float32 and autocast back. DoRA keeps the frozen layer's result and the adapter's,
    2·e·outputs for each row, and a unit matrix of e·inputs².
    """
    d, e = sizes.width, layout.element_bytes
    tokens, video = call.tokens, call.video_tokens
    n = e if layout.on_gpu else 8
    adapted = adapted_linears(config, sizes)
    inner = sum(_rows_of(name, call) * e * config.lora.rank for name in adapted)
    if config.lora.dora:
        inner += sum(
            e * (2 * _rows_of(name, call) * outputs + rows**2) for name, (rows, outputs) in adapted.items()
        )
    if layout.cast:
        inputs = sum(_rows_of(name, call) * e * rows for name, (rows, _) in adapted.items())
    else:
        inputs = sum(
            _rows_of(readers[0], call) * e * sizes.linears[readers[0]][0]
            for readers in INPUTS_OF_LINEARS
            if any(name in adapted for name in readers)
        )
    return float(
        tokens * d * (8 + 4 * e + 2 * n)
        + video * d * (4 + 2 * e + n)
        + e * sizes.ffn_width * tokens
        + call.text_rows * d * (2 * e + n)
        + 4 * sizes.heads * (tokens + video)
        + inner
        + inputs
    )


def _rows_of(linear: str, call: Call) -> int:
    """How many rows go through a linear layer of a block."""
    if linear in ("attn2.to_k", "attn2.to_v"):
        return call.text_rows
    return call.video_tokens if linear.startswith("attn2.") else call.tokens


def attention_result_bytes(sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """Results of a block's attentions and the sums of their softmaxes: (T + V)·(e·d + 4·h)."""
    rows = call.tokens + call.video_tokens
    return rows * (layout.element_bytes * sizes.width + 4 * sizes.heads)


def kept_block_bytes(
    config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout, recomputed: Recomputed
) -> float:
    """What each block keeps from forward to its backward: everything, or its input (e·T·d) where it is
    computed again, with the results of its attentions where those are not.
    """
    if recomputed == "nothing":
        return saved_block_bytes(config, sizes, call, layout)
    attention = attention_result_bytes(sizes, call, layout) if recomputed == "without_attention" else 0.0
    return layout.element_bytes * call.tokens * sizes.width + attention


def block_backward_bytes(config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """What is alive beside a block's activations in its backward: the larger of 12·T·d at its gate, and in
    the feed-forward the gradients of its inner state and result, e·T·(f + d), with a weight's gradient.

    With LoRA it is most while a block is computed again: at its end (12 + 3·e)·T·d, or under autocast in the
    feed-forward's second layer, where it has an adapter: (e + 4)·f·T for its input and peft's float32 copy,
    and 5·e·T·d for the results; with DoRA in its first layer, whose result is put together in float32.
    """
    e, tokens, d, f = layout.element_bytes, call.tokens, sizes.width, sizes.ffn_width
    at_gate = GATE_BACKWARD_BYTES * tokens * d
    if not config.lora.enabled:
        weight = d * f * (e + FLOAT32_BYTES if layout.cast else e)
        return float(max(at_gate, e * tokens * (f + d) + weight))
    at_end = at_gate + 3 * e * tokens * d
    if config.lora.dora and "ffn.net.0.proj" in adapted_linears(config, sizes):
        # Three products and their sum, while the second layer keeps nothing yet.
        together = 4 * (FLOAT32_BYTES if layout.cast else e) * f * tokens
        return float(max(at_end, together - e * tokens * (f + 2 * d)))
    if not layout.cast or "ffn.net.2" not in adapted_linears(config, sizes):
        return float(at_end)
    return float(max(at_end, (e + FLOAT32_BYTES) * f * tokens + 5 * e * tokens * d))


def outer_activation_bytes(sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """What is kept outside of the blocks: the output layer's V·d·(8 + e), the text's L·(e·D + 3·e·d), rotary
    tables, and noisy latents, prediction, target and error.
    """
    d, e = sizes.width, layout.element_bytes
    rotary = 8 * (call.tokens // call.samples) * d // sizes.heads
    text = call.text_rows * e * (sizes.text_width + 3 * d)
    return call.video_tokens * d * (8 + e) + text + rotary + 4 * FLOAT32_BYTES * call.latents


def batch_bytes(sizes: NetworkSizes, call: Call, layout: Layout, teacher_widths: Sequence[int]) -> float:
    """A call's inputs: latents and noise in float32, reference latents, text, teacher tokens."""
    references = call.latents * call.reference_tokens / call.video_tokens
    features = call.text_rows * sizes.text_width + call.reference_tokens * sum(teacher_widths)
    return FLOAT32_BYTES * (2 * call.latents + references) + layout.element_bytes * features


def alignment_activation_bytes(
    config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout, teacher_widths: Sequence[int]
) -> float:
    """What the alignment loss keeps for its backward, which is done before that of the blocks:

        R·(4·D + K·(2·e·hidden + e·D + 4·D)) for each teacher of D channels and K blocks

    its directions; of each block a projector's inner states, its result, and the pull of the negatives.
    """
    if not config.alignment.enabled:
        return 0.0
    blocks = len(config.alignment.blocks) if config.alignment.weight > 0 else 0
    e, hidden = layout.element_bytes, _projector_hidden(config, sizes)
    pull = FLOAT32_BYTES if config.alignment.negative_weight else 0
    return float(
        call.reference_tokens
        * sum(
            FLOAT32_BYTES * width + blocks * (2 * e * hidden + (e + pull) * width) for width in teacher_widths
        )
    )


def alignment_gradient_bytes(
    config: TrainingConfig, sizes: NetworkSizes, call: Call, layout: Layout
) -> float:
    """Gradients of the aligned blocks' reference tokens, which wait for those blocks' backward: K·e·R·d."""
    if not config.alignment.enabled or not config.alignment.weight:
        return 0.0
    return float(len(config.alignment.blocks) * layout.element_bytes * call.reference_tokens * sizes.width)


def forward_working_bytes(sizes: NetworkSizes, call: Call, layout: Layout) -> float:
    """What a block works in during a forward pass that keeps nothing (see `wan.cost`, in 16 bits)."""
    ratio = sizes.ffn_width / sizes.width
    block = max(ATTENTION_FORWARD_BYTES, FEED_FORWARD_BYTES + 4 * ratio)
    return block * call.tokens * sizes.width * layout.element_bytes / BFLOAT16_BYTES


def update_working_bytes(config: TrainingConfig, counts: Parameters, layout: Layout) -> float:
    """What AdamW works in: 4·P_t/S for the roots of all second moments with `optimizer.kernel=foreach`;
    nothing to speak of where it is fused, as it is on a GPU, or goes from weight to weight.
    """
    at_once = config.optimizer.kernel == "foreach"
    return FLOAT32_BYTES * counts.trained / layout.shards if at_once else 0.0


def text_encoder_bytes(layout: Layout) -> float:
    """The encoder of umt5-xxl in the precision of the run."""
    return float(TEXT_ENCODER_PARAMETERS * layout.element_bytes)


def vae_bytes(space: LatentSpace) -> float:
    """The VAE that encodes into a space of latents, always in float32."""
    return float(VAES[space].parameters * FLOAT32_BYTES)


def teacher_bytes(names: Sequence[str], layout: Layout) -> float:
    """The teachers in the precision of the run."""
    return float(sum(TEACHER_PARAMETERS[name] for name in names) * layout.element_bytes)


def encoding_bytes(space: LatentSpace, width: int, height: int, frames: int) -> float:
    """What the VAE works in while it encodes a clip."""
    of_pixel, of_frame = VAE_ENCODE_BYTES[space]
    return width * height * (of_pixel + of_frame * frames)


def decoding_bytes(space: LatentSpace, width: int, height: int) -> float:
    """What the VAE works in while it decodes a validation video."""
    return float(width * height * VAES[space].decode_bytes)


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Floating point operations of one sample's forward pass: of the network, and of the alignment loss with
    its projectors.
    """

    network: ForwardFlops
    alignment: float


def operations(
    config: TrainingConfig, sizes: NetworkSizes, call: Call, teacher_widths: Sequence[int]
) -> Operations:
    """Operations of one sample of a call, a multiply-add as two (`refalign.training.flops`).

    The alignment loss has two products of the projectors for each reference token, and two of all pairs of
    tokens of different references, for each block and teacher (`refalign.alignment`).
    """
    network = forward_flops(
        sizes.architecture,
        video_tokens=call.video_tokens // call.samples,
        reference_tokens=call.reference_tokens // call.samples,
        text_rows=call.text_rows // call.samples,
    )
    if not config.alignment.enabled:
        return Operations(network=network, alignment=0.0)
    hidden = _projector_hidden(config, sizes)
    rows, references = call.reference_tokens // call.samples, config.data.clip.max_references
    others = rows * rows * (references - 1) / references if references else 0
    pairs = 2 * 2 * others if config.alignment.negative_weight else 0
    products = sum(2 * rows * hidden * (sizes.width + width) + pairs * width for width in teacher_widths)
    return Operations(network=network, alignment=float(len(config.alignment.blocks) * products))


def model_operations(config: TrainingConfig, forward: Operations) -> float:
    """Operations that a sample needs: forward and backward, without what is computed again."""
    return forward.network.of_training(adapters=config.lora.enabled) + TRAINING_PASSES * forward.alignment


def done_operations(config: TrainingConfig, forward: Operations, recomputed: Recomputed) -> float:
    """Operations that a GPU does for a sample: those of the model, and blocks computed again. What stands
    outside of the blocks, less than 1 %, counts as theirs.
    """
    again = {
        "nothing": 0.0,
        "blocks": forward.network.total,
        "without_attention": forward.network.products,
    }
    return model_operations(config, forward) + again[recomputed]
