"""kaleido-14b: Kaleido-14B-S2V, references before the video's latents with shifted rotary positions (R-RoPE).

Each reference (Lanczos fit, white padding, 896×512) is encoded alone and stands before the video: reference
j at time index j, rows and columns counted from 80. Both guidance passes see the references: v = u + 6·(c -
u). Noise is drawn in the order frame, channel, row, column, as the original does, and permuted.

Source: zai-org/Kaleido@4c6c757; goldens `baselines/kaleido.npz` (rotary tables, preparation),
`schedules.json` (Euler, shift 7). The network itself has no golden: it is Wan's, which Phantom's and
RefAlign's goldens prove; the rotary rule, preparation, schedule and loop have their own. The authors have
prompts rewritten by a large language model and call that crucial: `--prompts FILE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.prompts import KALEIDO_NEGATIVE
from refbench.baselines.wan.spec import WAN_14B, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_T2V_14B
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.entry import WeightEntry

if TYPE_CHECKING:
    from refbench.baselines.wan.conditioning import ConcatenatedReferences

KALEIDO = WeightEntry(
    name="kaleido-14b",
    repository="zai-org/Kaleido-14B-S2V",
    holds="Kaleido-14B-S2V",
    kind="generator",
    memory_gib=26.6,
    required=("**/mp_rank_00_model_states.pt|*.safetensors",),
)


@methods.register
class Kaleido14B(WanMethod):
    """Kaleido-14B-S2V."""

    spec = WanSpec(
        name="kaleido-14b",
        summary="Kaleido 14B S2V: references before the video, rotary positions apart from it",
        base_model="Wan2.1-T2V-14B",
        licence=None,
        weights=WanWeights(
            transformer=KALEIDO,
            transformer_files=("**/mp_rank_00_model_states.pt", "*.safetensors"),
            base=WAN21_T2V_14B,
        ),
        network=WAN_14B,
        native=WanSettings(
            width=896,
            height=512,
            solver="euler",
            shift=7.0,
            guidance={"text": 6.0},
            negative_prompt=KALEIDO_NEGATIVE,
        ),
        guidance_rule="text",
        max_references=3,
        draws_on_cpu=True,
        reference_preparation="EXIF applied, transparency on white, Lanczos fit on white at the video's size",
        prompt_advice="prompts rewritten by a large language model",
    )

    def conditioner(self, sample: Sample, seed: int) -> ConcatenatedReferences:
        """References concatenated; noise in the original's order."""
        from refbench.baselines.wan.conditioning import ConcatenatedReferences

        return ConcatenatedReferences(frames_first=True)

    def network_class(self) -> Any:
        """Kaleido's network."""
        from refbench.baselines.wan.nets.kaleido import KaleidoTransformer3DModel

        return KaleidoTransformer3DModel
