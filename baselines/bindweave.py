"""bindweave-14b: BindWeave on Wan2.1-I2V-14B-720P, references in leading slots, in CLIP, and in Qwen2.5-VL.

Four slots of latent frames stand before the video's: each reference alone through the VAE, fitted on black,
its box in the mask; unused ones zero. The network sees zeros in place of noise there, and its output there is
thrown away. CLIP reads all four; of its tokens only the first reference's go through the image attention, the
others through the text's, as there. Qwen2.5-VL reads the prompt with the references, and its last hidden
states, projected, stand before the text. The unconditional pass has the same references, with the negative
prompt in both text models: v = u + 5.0·(c - u), 50 steps of UniPC at shift 3, 1280×720.

Source: bytedance/BindWeave, branches `infer` (@c983061, @0dbd30a; there
`configs/inference/inference_model_s2v.json`) and `feature_extraction` (@1a4875f; Qwen's own, longer negative
prompt). The weights' names are those that its `convert_ckpt.py`@5b6681d reads; the released files were not at
hand. That code runs on Ascend processors only and has no golden: see `baselines.wan.nets.bindweave` for what
stands in.

BindWeave is closed on the OpenS2V leaderboard, open in RefAlign's Table 1; licence of the weights not
verified.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refbench.baselines.wan.method import WanGenerator, WanMethod
from refbench.baselines.wan.prompts import SKYREELS_A2_NEGATIVE
from refbench.baselines.wan.spec import WAN_14B, WanOptions, WanSettings, WanSpec, WanWeights
from refbench.baselines.wan.weights import WAN21_I2V_14B_720P
from refbench.bench.environment import Environment
from refbench.bench.errors import UserError
from refbench.bench.method import MethodCard
from refbench.bench.registry import methods
from refbench.bench.sample import Sample
from refbench.bench.weights.common import QWEN25_VL
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.store import is_small, require_model_folder, weights_fingerprint

if TYPE_CHECKING:
    from refbench.baselines.wan.nets.bindweave import SlotReferences

BINDWEAVE = WeightEntry(
    name="bindweave",
    repository="ByteDance/BindWeave",
    holds="BindWeave, the transformer with its projector of Qwen2.5-VL's states",
    kind="generator",
    memory_gib=30.6,
    required=("*.safetensors",),
)
# The list that SkyReels-A2 also has, then terms against split screens; Qwen reads terms against stillness
# after it.
NEGATIVE = SKYREELS_A2_NEGATIVE + ", split screen, divided frame, frame split, multiple parts, separated"
STILLNESS = "motionless, frozen, still image, no movement, stationary, unmoving"
READER_NEGATIVE = f"{NEGATIVE},{STILLNESS}"


@methods.register
class BindWeave14B(WanMethod):
    """BindWeave."""

    spec = WanSpec(
        name="bindweave-14b",
        summary="BindWeave 14B: references in leading slots, CLIP tokens, states of a vision-language model",
        base_model="Wan2.1-I2V-14B-720P and Qwen2.5-VL-7B-Instruct",
        licence=None,
        weights=WanWeights(
            transformer=BINDWEAVE,
            transformer_files=("*.safetensors",),
            base=WAN21_I2V_14B_720P,
        ),
        network=replace(WAN_14B, in_channels=36, image_branch=True),
        native=WanSettings(
            width=1280,
            height=720,
            shift=3.0,
            guidance={"text": 5.0},
            negative_prompt=NEGATIVE,
        ),
        guidance_rule="text",
        reference_frames=0,
        reference_slots=4,
        joins_passes=False,
        max_references=4,
        reference_preparation=(
            "EXIF applied, transparency on white; Lanczos fit without enlarging, on black at the video's "
            "size, squashed for CLIP; for Qwen at 0.75 of their size, or 0.3 above 1280×720 pixels, and its "
            f"negative prompt goes on, unless set: {STILLNESS}"
        ),
        prompt_advice="prompts refined by a vision-language model",
        state_in_network_dtype=True,
        draws_on_cpu=True,
        deviations=(
            "not compared with the original code, which runs on Ascend processors only",
            "noise is drawn in float32 for each video; the original draws bfloat16 from one generator for "
            "all videos of a run",
            "VAE and image encoder run in float32, in the original in bfloat16",
            "CLIP's copies are antialiased; whether the original's are depends on its torchvision, which is "
            "not pinned",
        ),
    )
    weights = (BINDWEAVE, WAN21_I2V_14B_720P, QWEN25_VL)

    def __init__(self, options: WanOptions | None = None) -> None:
        super().__init__(options)
        if self.options.batch_passes == "yes":
            raise UserError(
                f"the method {self.name}: batch_passes=yes is impossible, its passes' texts differ in length"
            )

    def card(self) -> MethodCard:
        """The method card, with the vision-language model among the weights."""
        card = super().card()
        weights = {**card.weights, QWEN25_VL.name: QWEN25_VL.repository}
        return card.model_copy(update={"weights": weights})

    def find_weights(self, environment: Environment) -> dict[str, str]:
        """Digests of all three repositories."""
        folder = self._reader_folder(environment)
        files = sorted(path.resolve() for path in folder.glob("*.safetensors"))
        reader = {QWEN25_VL.name: weights_fingerprint(folder.resolve(), files)}
        return {**super().find_weights(environment), **reader}

    def load(self, environment: Environment) -> WanGenerator:
        """A generator with all networks; the vision-language model stays off the device until it reads.

        Raises UserError before they are read for a GPU with too little memory.
        """
        from refbench.baselines.wan.execution import chosen_dtype
        from refbench.baselines.wan.nets.bindweave import SlotCodec, VisionLanguageModel

        folder, device = self._reader_folder(environment), environment.device
        if device.startswith("cuda") and not is_small(folder):
            self.check_reader_memory(device)
        reader = VisionLanguageModel(folder, device=device, dtype=chosen_dtype(self.options.dtype, device))
        return self.load_with(
            environment,
            # The projector's input is as wide as the reader's states.
            network_class=partial(self.network_class(), state_width=reader.width),
            codec_class=partial(SlotCodec, reader=reader),
        )

    def conditioner(self, sample: Sample, seed: int) -> SlotReferences:
        """References in slots. Qwen's negative prompt is its own, unless the user set one."""
        from refbench.baselines.wan.nets.bindweave import SlotReferences

        negative = self.settings.negative_prompt
        texts = {
            "prompt": sample.prompt,
            "negative": READER_NEGATIVE if negative == NEGATIVE else negative,
        }
        return SlotReferences(texts=texts)

    def network_class(self) -> Any:
        """BindWeave's network."""
        from refbench.baselines.wan.nets.bindweave import BindWeaveTransformer3DModel

        return BindWeaveTransformer3DModel

    def _reader_folder(self, environment: Environment) -> Path:
        return require_model_folder(QWEN25_VL, environment.weights)

    def check_reader_memory(self, device: str) -> None:
        """Raises UserError where the models that are resident while the vision-language model reads leave it
        no room; the rest is checked as for every method.
        """
        import torch

        from refbench.baselines.wan.cost import GIB, RUNTIME_GIB, parameter_bytes_of, weights_gib

        bytes_each = parameter_bytes_of(self.options)
        needed = RUNTIME_GIB + QWEN25_VL.memory_gib * bytes_each / 2
        if self.options.offload == "none":
            needed += sum(weights_gib(self.spec, parameter_bytes=bytes_each).values())
        free = torch.cuda.mem_get_info(device)[0] / GIB
        if needed > free:
            advice = "; --set offload=model" if self.options.offload == "none" else ""
            raise UserError(
                f"{self.name} needs about {needed:.0f} GiB of GPU memory while its vision-language model "
                f"reads the prompt (offload={self.options.offload}), {free:.1f} are free{advice}"
            )
