"""Two experts: which makes a step, how their files are told apart by name, in diffusers' naming and in Wan's,
and what options, plans and offloading do with both.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kit.cli import invoke  # noqa: E402
from kit.golden_networks import worst  # noqa: E402
from kit.stock_pipeline import own_latents, stock_latents  # noqa: E402
from kit.tiny_runs import frames_of, generated, loaded, sample_of  # noqa: E402
from refbench.baselines.vace_fun import VACE_FUN, VaceFun14B  # noqa: E402
from refbench.baselines.wan import cost  # noqa: E402
from refbench.baselines.wan.experts import (  # noqa: E402
    check_experts,
    expert_by_name,
    is_high_noise,
    low_noise_scales,
)
from refbench.baselines.wan.loading import WanModels, models_of  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.baselines.wan.spec import TwoExpertOptions, WanSettings  # noqa: E402
from refbench.baselines.wan.weights import WAN22_T2V_A14B  # noqa: E402
from refbench.baselines.wan_t2v import TextToVideo14B, TextToVideo22A14B  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import MissingWeights, UserError  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

SMALL = {"width": 96, "height": 64, "num_frames": 5, "steps": 4}
PROMPT = "A woman in a green coat walks a dog."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import vace_fun, wan_base

    folder = tmp_path_factory.mktemp("weights")
    vace_fun.write_tiny(folder)
    wan_base.write_tiny(folder)
    return folder


@pytest.fixture
def own(weights: Path, tmp_path: Path) -> Path:
    """A copy of Wan2.2's two experts, for what is renamed."""
    repository = weights / WAN22_T2V_A14B.repository
    for part in ("transformer", "transformer_2"):
        shutil.copytree(repository / part, tmp_path / "own" / part)
    return tmp_path / "own"


def generator(weights: Path, **options: Any) -> WanGenerator:
    made = loaded(TextToVideo22A14B(TwoExpertOptions(**SMALL | options)), weights)
    assert isinstance(made, WanGenerator)
    return made


def test_the_loop_is_that_of_diffusers_with_both_experts(weights: Path) -> None:
    """diffusers' own pipeline of Wan2.2, with our scheduler, from text to latents: its `transformer` is the
    high-noise expert, and each expert has a scale of its own.
    """
    made, sample = generator(weights), sample_of([], prompt=PROMPT)
    size = {"width": 96, "height": 64, "num_frames": 5}
    call = {**size, "num_inference_steps": 4, "guidance_scale": 4.0, "guidance_scale_2": 3.0}
    expected = stock_latents(made, sample, 7, pipeline={"boundary_ratio": 0.875}, call=call)
    assert worst(own_latents(made, sample, 7), expected) < 2e-4


def test_each_expert_has_its_own_values_steps_and_scale(weights: Path) -> None:
    base = frames_of(generator(weights), sample_of([]))
    for changed in ("text=4.5", "text_low_noise=3.5"):
        other = frames_of(generator(weights, guidance=changed), sample_of([]))
        assert not np.array_equal(base, other)
    same = frames_of(generator(weights, guidance="text=4,text_low_noise=3"), sample_of([]))
    assert np.array_equal(base, same)
    assert low_noise_scales({"text": 4.0, "text_low_noise": 3.0})["text"] == 3.0
    assert low_noise_scales({"text": 5.0}) == {"text": 5.0}


def test_the_boundary_itself_is_high_noise() -> None:
    assert is_high_noise(875, 0.875)
    assert not is_high_noise(874.99, 0.875)


@given(
    solver=st.sampled_from(["unipc", "euler", "euler-diffusers"]),
    shift=st.floats(0.5, 20),
    steps=st.integers(2, 60),
)
@settings(max_examples=30, deadline=None)
def test_a_plan_counts_the_steps_that_the_scheduler_makes(solver: Any, shift: float, steps: int) -> None:
    scheduler = make_scheduler(solver, shift)
    scheduler.set_timesteps(steps)
    found = cost.timesteps_of(WanSettings(solver=solver, shift=shift, steps=steps))
    # UniPC's are truncated to whole numbers.
    atol = 1 if solver == "unipc" else 0.01
    np.testing.assert_allclose(scheduler.timesteps.numpy(), found, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("path", "expert"),
    [
        ("w/high_noise_model/diffusion_pytorch_model-00001-of-00006.safetensors", "high-noise"),
        ("w/low_noise_model/diffusion_pytorch_model.safetensors", "low-noise"),
        ("w/Wan2_2-T2V-A14B_LOW_fp16.safetensors", "low-noise"),
        ("w/wan2.2_t2v_high_noise_low_vram.safetensors", "high-noise"),
        ("w/HighNoise.pth", "high-noise"),
        ("w/low_noise/checkpoint-100/model.safetensors", "low-noise"),
        ("high_noise/low-noise.safetensors", "low-noise"),
        ("w/flow_matching/highest/model.safetensors", None),
        ("w/high_and_low/model.safetensors", None),
        ("w/transformer/model.safetensors", None),
        ("model.safetensors", None),
    ],
)
def test_experts_are_told_by_name(path: str, expert: str | None) -> None:
    assert expert_by_name(Path(path)) == expert


def test_the_folders_of_diffusers_are_told_apart(own: Path) -> None:
    """`transformer` alone says nothing: every method has one."""
    assert expert_by_name(own / "transformer") == "high-noise"
    assert expert_by_name(next((own / "transformer_2").glob("*.safetensors"))) == "low-noise"
    shutil.rmtree(own / "transformer_2")
    assert expert_by_name(own / "transformer") is None


def test_swapped_experts_are_refused_in_one_line(weights: Path, own: Path, dataset: Path) -> None:
    words = ("generate", "wan2.2-t2v-a14b", "--dataset", dataset, "--weights", weights, "--out", own / "runs")
    high, low = own / "transformer", own / "transformer_2"

    def complaint(*values: str) -> str:
        done = invoke(*words, *(f"--set={value}" for value in values), expect=2)
        assert done.stderr.strip().count("\n") == 0
        return str(done.stderr)

    text = complaint(f"transformer={low}", f"transformer_2={high}")
    assert f"{low} is the low-noise expert's by its name" in text
    assert "the experts are swapped" in text
    # One of them alone, beside the repository's other.
    assert "is the high-noise expert's by its name" in complaint(f"transformer_2={high}")
    plain = high.rename(own / "plain")
    text = complaint("adapter=lightning_low_noise.safetensors")
    assert "in the high-noise one's place (adapter)" in text
    assert "is given for both experts" in complaint(f"transformer={plain}", f"transformer_2={plain}")


def test_a_repository_whose_shards_were_exchanged_is_refused(weights: Path, tmp_path: Path) -> None:
    """Files that name the expert themselves, in the other one's folder."""
    shutil.copytree(weights, tmp_path / "w")
    place = tmp_path / "w" / VACE_FUN.repository / "high_noise_model"
    file = place / "diffusion_pytorch_model.safetensors"
    file.rename(place / "wan2.2_vace_fun_low_noise.safetensors")
    with pytest.raises(UserError, match=r"low_noise\.safetensors is the low-noise expert's by its name"):
        VaceFun14B().find_weights(Environment(device="cpu", weights=tmp_path / "w"))


def test_check_experts_takes_names_that_say_nothing() -> None:
    check_experts([[Path("a.safetensors")], [Path("b.safetensors")]])


def test_both_namings_of_a_repository_are_read(weights: Path, tmp_path: Path) -> None:
    """Wan's own folders in original names, and those of diffusers, make the same video; a mixture is none."""
    from refbench.baselines.wan.checkpoint import read_checkpoint, save_checkpoint

    shutil.copytree(weights, tmp_path / "w")
    place = tmp_path / "w" / WAN22_T2V_A14B.repository
    base = frames_of(generator(weights), sample_of([]))
    for theirs, original in (("transformer", "high_noise_model"), ("transformer_2", "low_noise_model")):
        checkpoint = read_checkpoint(place / theirs)
        save_checkpoint(checkpoint.tensors, place / original, naming="original", config=checkpoint.config)
        shutil.rmtree(place / theirs)
    assert np.array_equal(base, frames_of(generator(tmp_path / "w"), sample_of([])))
    (place / "high_noise_model").rename(place / "transformer")
    with pytest.raises(MissingWeights, match=r"lacks transformer_2/\*\.safetensors"):
        generator(tmp_path / "w")


def test_one_s_own_checkpoint_for_either_expert(weights: Path, own: Path) -> None:
    base = frames_of(generator(weights), sample_of([]))
    high, low = own / "high", own / "low"
    (own / "transformer").rename(high)
    (own / "transformer_2").rename(low)
    same = generator(weights, transformer=high, transformer_2=low)
    assert np.array_equal(base, frames_of(same, sample_of([])))
    digests = same.method.find_weights(Environment(device="cpu", weights=weights))
    assert list(digests) == [
        "wan2.2-t2v-a14b (high noise)",
        "wan2.2-t2v-a14b (low noise)",
        "wan2.2-t2v-a14b (base)",
    ]
    assert len(set(digests.values())) == 3
    assert generator(weights, transformer_2=low).method.memory_gib("cpu") is None


def test_an_adapter_for_either_expert(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    adapter = tmp_path / "lora.safetensors"
    module = "blocks.0.attn1.to_q"
    state = {
        f"transformer.{module}.lora_A.weight": torch.ones(2, 96),
        f"transformer.{module}.lora_B.weight": torch.ones(96, 2),
    }
    save_file(state, adapter)
    high, low = (generator(weights, **{name: adapter}) for name in ("adapter", "adapter_2"))
    for made, name, adapted, plain in (
        (high, "adapter", high.sampler.transformer, high.sampler.low_noise_transformer),
        (low, "adapter_2", low.sampler.low_noise_transformer, low.sampler.transformer),
    ):
        assert hasattr(adapted.get_submodule(module), "lora_A")
        assert not hasattr(plain.get_submodule(module), "lora_A")
        found = made.method.find_weights(Environment(device="cpu", weights=weights))
        assert "1 module, rank 2" in found[name]


def test_both_experts_are_offloaded_in_turn(weights: Path) -> None:
    """diffusers' model offload keeps one model at a time on a GPU, in the order of this sequence."""
    order = WanModels.model_cpu_offload_seq.split("->")
    assert order.index("transformer") + 1 == order.index("transformer_2") < order.index("vae")
    sampler = generator(weights).sampler
    models = models_of(sampler)
    assert models.components["transformer"] is sampler.transformer
    assert models.components["transformer_2"] is sampler.low_noise_transformer


def test_what_two_experts_have_not() -> None:
    with pytest.raises(UserError, match="two experts, with which step caches were not tried"):
        TextToVideo22A14B(TwoExpertOptions(cache="first-block"))
    with pytest.raises(UserError, match="no guidance scale 'text_low_noise'; it has text"):
        VaceFun14B(TwoExpertOptions(guidance="text_low_noise=3"))
    assert "transformer_2" in invoke("methods", "show", "wan2.2-t2v-a14b").stdout
    assert "transformer_2" not in invoke("methods", "show", "wan-t2v-14b").stdout


def test_facts_of_the_control() -> None:
    card = TextToVideo22A14B().card()
    assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 81, 16)
    assert (card.steps, card.solver, card.shift) == (40, "unipc", 12.0)
    assert card.guidance == {"text": 4.0, "text_low_noise": 3.0}
    assert card.base_model == VaceFun14B().card().base_model


def test_memory_of_two_experts() -> None:
    """Resident both count; offloaded the larger one does, as for one network of that size."""
    two, one = TextToVideo22A14B.spec, TextToVideo14B.spec
    assert cost.weights_gib(two)["transformer_2"] == cost.weights_gib(one)["transformer"]
    found, single = (cost.peak_gib(spec, spec.native, 1) for spec in (two, one))
    assert found["none"] == pytest.approx(single["none"] + cost.weights_gib(one)["transformer"])
    assert (found["model"], found["group"]) == (single["model"], single["group"])
    assert WAN22_T2V_A14B.memory_gib == pytest.approx(sum(cost.weights_gib(two).values()), abs=0.1)


def test_calls_by_expert() -> None:
    """A scale of 1 drops the negative pass in the steps of its expert alone."""
    spec = TextToVideo22A14B.spec
    high = cost.high_noise_steps(spec, spec.native)
    assert 0 < high < 40
    assert cost.video_cost(spec, spec.native, 1).calls == 80
    alone = replace(spec.native, guidance={"text": 4.0, "text_low_noise": 1.0})
    assert cost.video_cost(spec, alone, 1).calls == 40 + high
    assert cost.passes_per_step(spec, alone) == 2
    alone = replace(spec.native, guidance={"text": 1.0, "text_low_noise": 3.0})
    assert cost.video_cost(spec, alone, 1).calls == 80 - high


def test_generate_with_tiny_weights(weights: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    videos = generated("wan2.2-t2v-a14b", SMALL, dataset=dataset, weights=weights, out=out, limit=2)
    assert len(videos) == 2
    found = list(videos[0].frames(ALL_FRAMES))
    assert (len(found), found[0].shape) == (5, (64, 96, 3))
    card = read_run(videos[0].path.parents[1] / "run.json").card
    assert card is not None and len(card.weights) == 3
