"""The plan of a training run: its counts against real networks, its memory against live tensors and against a
GPU, its advice, and the command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("peft", reason="RefAlign needs the extra 'refalign'")

from kit.cli import invoke  # noqa: E402
from kit.training import own_registries  # noqa: E402
from kit.vaes import WIDE_VAE  # noqa: E402
from refbench.baselines.wan.cost import GIB  # noqa: E402
from refbench.baselines.wan.latents import WAN21_LATENTS, LatentSpace  # noqa: E402
from refbench.refalign.teacher import TEACHERS  # noqa: E402
from refbench.refalign.training import cost  # noqa: E402
from refbench.refalign.training.assembly import empty_model  # noqa: E402
from refbench.refalign.training.plan import TrainingPlan, advice, make_training_plan  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.sharded import FILE_BYTES  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMAND = EntryPoint("plan.train", "refbench.refalign.planning:plan_train", "refbench.commands")
# GiB that torch handed out at most on an H200 with one sample an update (docs/measured-gpu.md).
MEASURED_GIB = {
    (): 26.96,
    ("alignment.enabled=false",): 26.70,
    ("lora.enabled=true",): 13.55,
    ("data.clip.num_frames=33",): 26.84,
    ("data.clip.num_frames=33", "run.gradient_checkpointing=false"): 90.13,
}


@pytest.fixture(autouse=True)
def known_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, also where an older version's entry points are installed."""
    monkeypatch.setattr(
        "refbench.bench.cli.main.entry_points",
        lambda group: [*(one for one in entry_points(group=group) if one.name != COMMAND.name), COMMAND],
    )


@pytest.fixture(scope="module")
def memory() -> Iterator[ModuleType]:
    """The measuring script as a module; it imports its neighbours by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import training_memory

        yield training_memory


def plan_of(recipe: str, *overrides: str, gpus: int = 8, features: bool = False) -> TrainingPlan:
    return make_training_plan(build_config(recipe, overrides), gpus, features=features)


def planned(*words: object) -> Any:
    return json.loads(invoke("plan", "train", *words, "--json").stdout)


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("stage1_1_3b", ()),
        ("stage1_14b", ()),
        ("stage1_1_3b", ("alignment.enabled=false",)),
        ("stage1_1_3b", ("lora.enabled=true", "lora.targets=to_q,ffn.net.2", "lora.rank=8")),
        ("stage1_1_3b", ("alignment.teachers=dinov2-base,dinov3-vitl16", "alignment.weight=0")),
        ("stage1_1_3b", ("model.base=wan2.2-ti2v-5b", "data.clip.height=704")),
        ("stage1_14b", ("model.base=wan2.2-t2v-a14b", "model.expert=low")),
        ("stage1_1_3b", ("lora.enabled=true", "lora.dora=true")),
        ("tiny", ("ema.enabled=true",)),
        ("tiny", ("model.base=wan2.2-ti2v-5b",)),
    ],
)
def test_parameters_are_those_of_the_training_model(recipe: str, overrides: tuple[str, ...]) -> None:
    plan = plan_of(recipe, *overrides, gpus=1)
    with torch.device("meta"):
        model = empty_model(plan.config, plan.architecture, plan.teacher_widths)
    assert plan.counts.total == sum(value.numel() for value in model.parameters())
    assert plan.counts.trained == sum(value.numel() for value in model.parameters() if value.requires_grad)
    own = sum(value.numel() for value in model.transformer.parameters() if value.requires_grad)
    assert plan.counts.averaged == (own if plan.config.ema.enabled else 0)
    block = sum(value.numel() for value in model.transformer.blocks[0].parameters())
    assert (plan.counts.block, plan.counts.total - plan.sizes.layers * block) == (block, plan.counts.outer)


def test_parameters_of_the_teachers() -> None:
    transformers = pytest.importorskip("transformers")
    assert cost.TEACHER_PARAMETERS.keys() == TEACHERS.keys()
    for name, layers, heads in (("dinov3-vitb16", 12, 12), ("dinov3-vitl16", 24, 16)):
        spec = TEACHERS[name]
        config = transformers.DINOv3ViTConfig(
            patch_size=spec.patch_px,
            hidden_size=spec.width,
            intermediate_size=4 * spec.width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_register_tokens=4,
        )
        with torch.device("meta"):
            network = transformers.DINOv3ViTModel(config)
        assert sum(value.numel() for value in network.parameters()) == cost.TEACHER_PARAMETERS[name]


@pytest.mark.parametrize("space", cost.VAE_ENCODE_BYTES, ids=lambda space: f"{space.channels} channels")
def test_memory_of_encoding_is_what_the_vae_takes(memory: ModuleType, space: LatentSpace) -> None:
    import diffusers

    live, (width, height, frames) = memory.LiveBytes(), (96, 64, 9)
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(**({} if space == WAN21_LATENTS else WIDE_VAE)).eval()
        clip = torch.empty(1, 3, frames, height, width)
    with torch.no_grad(), live:
        measured = live.peak_of(lambda: vae.encode(clip))
    assert cost.encoding_bytes(space, width, height, frames) == pytest.approx(measured, rel=0.05)


def test_operations_are_those_that_torch_counts(memory: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny training model for real; attention is added, as the counter knows no kernel of it here."""
    from torch.utils.flop_counter import FlopCounterMode

    from refbench.refalign.flow_matching import FlowSchedule
    from refbench.refalign.training.batch import collate

    plan = plan_of("tiny", gpus=1)
    source = memory.TinySource(plan.config, plan)
    batch = collate([next(source.examples(start=0, rank=0, world_size=1))], FlowSchedule(), seed=0)
    model = empty_model(plan.config, plan.architecture, plan.teacher_widths)
    attended: list[float] = []

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        attended.append(4.0 * query.shape[-2] * key.shape[-2] * query.shape[1] * query.shape[3])
        return torch.empty_like(query)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with FlopCounterMode(display=False) as counter:
        model(batch)
    assert plan.forward.network.attention == sum(attended)
    assert plan.forward.network.products + plan.forward.alignment == counter.get_total_flops()


def test_operations_of_a_run() -> None:
    whole = plan_of("stage1_1_3b", "run.gradient_checkpointing=false")
    again, attention = plan_of("stage1_1_3b"), plan_of("stage1_1_3b", "run.recompute=without_attention")
    assert whole.model_flops == whole.step_flops == again.model_flops
    assert whole.step_flops < attention.step_flops < again.step_flops < 4 / 3 * whole.step_flops
    adapters = plan_of("stage1_1_3b", "lora.enabled=true")
    assert 2 / 3 * whole.model_flops < adapters.model_flops < whole.model_flops
    # What the H200 was timed with: 291 TFLOP/s for 3.648 s, without the projectors and the alignment.
    assert whole.model_flops / 128 == pytest.approx(291e12 * 3.648, rel=0.01)
    assert plan_of("stage1_1_3b", gpus=16).hours(100) == pytest.approx(again.hours(100) / 2)


@pytest.mark.usefixtures("fresh_accelerate")
def test_memory_of_the_tiny_recipe_is_what_its_tensors_take(memory: ModuleType) -> None:
    for overrides in ((), ("run.gradient_checkpointing=true",)):
        # On a CPU AdamW goes from parameter to parameter.
        plan = replace(memory.planned("tiny", 1, overrides), on_gpu=False)
        measured = memory.real_peak(plan)
        assert memory.planned_peaks(plan).call == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("gpus", "chosen"),
    [
        (1, ()),
        (4, ("run.strategy=fsdp2",)),
        (1, ("lora.enabled=true",)),
        (4, ("run.strategy=fsdp2", "lora.enabled=true", "lora.dora=true")),
    ],
)
def test_memory_at_some_width_is_what_the_tensors_take(
    memory: ModuleType, gpus: int, chosen: tuple[str, ...]
) -> None:
    """Two blocks of 512 channels on shapes alone, with the feed-forward of 14B, in the bfloat16 of a GPU."""
    overrides = (f"run.samples_per_step={gpus}", "data.clip.num_frames=9", "alignment.blocks=0")
    plan = memory.planned("stage1_1_3b", gpus, (*chosen, *overrides))
    sizes = {"num_attention_heads": 4, "ffn_dim": 1382, "num_layers": 2}
    plan = replace(plan, architecture={**plan.architecture, **sizes})
    measured, said = memory.shaped_peaks(plan), memory.planned_peaks(plan)
    assert said.call == pytest.approx(measured.call, rel=0.1)
    assert said.update == pytest.approx(measured.update, rel=0.1)


@pytest.mark.parametrize("overrides", MEASURED_GIB, ids=" ".join)
def test_memory_is_what_a_gpu_took(overrides: tuple[str, ...]) -> None:
    # AdamW was torch's own choice then.
    then = ("run.samples_per_step=1", "optimizer.kernel=foreach")
    plan = plan_of("stage1_1_3b", *then, *overrides, gpus=1, features=True)
    assert plan.fullest.total / GIB == pytest.approx(MEASURED_GIB[overrides], rel=0.05)


def test_the_largest_bucket_counts() -> None:
    small, large = "480x480x49", "832x480x81"
    both = plan_of("stage1_1_3b", f"data.buckets={small},{large}")
    alone = plan_of("stage1_1_3b", f"data.buckets={large}")
    assert both.call == alone.call == plan_of("stage1_1_3b").call
    assert plan_of("stage1_1_3b", f"data.buckets={small}").peak_gib < alone.peak_gib


def test_shards_share_what_stands() -> None:
    four, eight = plan_of("stage1_14b", "ema.enabled=true", gpus=4), plan_of("stage1_14b", "ema.enabled=true")
    for part in ("weights", "gradients", "AdamW's moments", "moving average"):
        assert four.moments[0].parts[part] == pytest.approx(2 * eight.moments[0].parts[part])
    assert four.activations("blocks") == eight.activations("blocks")
    groups = plan_of("stage1_14b", "ema.enabled=true", "run.strategy=hsdp", "run.shard_size=4", gpus=16)
    assert groups.moments[0].parts == four.moments[0].parts
    copies = plan_of("stage1_14b", "run.strategy=ddp")
    assert copies.moments[0].parts["weights"] == 4 * copies.counts.total
    assert copies.moments[0].parts["DDP buckets"] == 4 * copies.counts.trained


def test_encoders_are_there_when_they_are_needed() -> None:
    def peak_parts(*overrides: str, features: bool = False) -> dict[str, set[str]]:
        plan = plan_of("stage1_1_3b", *overrides, features=features)
        return {moment.name: set(moment.parts) & {"text encoder", "VAE"} for moment in plan.moments}

    both: set[str] = {"text encoder", "VAE"}
    assert peak_parts() == dict.fromkeys(("forward", "backward", "update", "encoding"), both)
    offloaded = peak_parts("run.encoders=offloaded")
    assert offloaded == {"forward": set(), "backward": set(), "update": set(), "encoding": both}
    assert peak_parts(features=True) == {"forward": set(), "backward": set(), "update": set()}
    validated = peak_parts("run.encoders=offloaded", "validation.every=10", features=True)
    assert validated["validation"] == both and "encoding" not in validated


def test_activations_fall_with_what_is_computed_again() -> None:
    plan = plan_of("stage1_14b")
    assert plan.activations("blocks") < plan.activations("without_attention") < plan.activations("nothing")
    assert plan.activations(plan.recomputed) == max(m.parts.get("activations", 0) for m in plan.moments)
    two = plan_of("stage1_14b", "run.samples_per_call=2")
    assert two.activations("blocks") == pytest.approx(2 * plan.activations("blocks"), rel=0.01)


def test_checkpoints_and_the_machine() -> None:
    plan = plan_of("stage1_14b", "ema.enabled=true")
    counts = plan.counts
    assert plan.checkpoint_bytes == 12 * counts.total + 4 * counts.network
    assert plan.kept_bytes == 4 * plan.checkpoint_bytes
    # Each of eight processes stages its eighth, and puts a file together.
    assert plan.host_save_bytes == pytest.approx(plan.checkpoint_bytes + 8 * FILE_BYTES)
    foreground = plan_of("stage1_14b", "checkpoints.background=false")
    assert foreground.host_save_bytes == 8 * FILE_BYTES
    gathered = plan_of("stage1_14b", "checkpoints.sharded=false")
    assert gathered.host_save_bytes == gathered.checkpoint_bytes
    # One process reads the network, every process the encoders.
    assert plan.host_load_bytes == 4 * counts.total + 8 * sum(plan.encoders.values())
    adapters = plan_of("stage1_14b", "lora.enabled=true")
    assert adapters.checkpoint_bytes == 12 * (adapters.counts.adapters + adapters.counts.projectors)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    "overrides", [(), ("checkpoints.sharded=true",), ("lora.enabled=true", "lora.rank=4")], ids=" ".join
)
def test_a_checkpoint_takes_what_the_plan_says(overrides: tuple[str, ...], tmp_path: Path) -> None:
    from kit.training import ARCHITECTURE, run, small
    from refbench.bench.weights.checkpoint import read_state_dict

    config = small("run.max_steps=1", "ema.enabled=true", "alignment.enabled=false", *overrides)
    plan = TrainingPlan(config=config, architecture=ARCHITECTURE, gpus=1)
    _, result = run(config, tmp_path)
    tensors = [read_state_dict(file) for file in result.checkpoint.rglob("*.safetensors")]
    # AdamW's counts of updates come on top, a number for each parameter.
    written = sum(value.nbytes for state in tensors for value in state.values() if value.numel() > 1)
    assert plan.checkpoint_bytes == written


def test_advice_goes_from_the_cheapest_to_what_changes_the_training() -> None:
    plan = plan_of(
        "stage1_14b",
        "run.strategy=ddp",
        "run.encoders=resident",
        "run.gradient_checkpointing=false",
        "run.samples_per_step=128",
        "run.samples_per_call=2",
        "ema.enabled=true",
        gpus=2,
    )
    changes = advice(plan, 74.5)
    assert [change.name for change in changes] == [
        "features prepared",
        "encoders off the GPU",
        "weights sharded",
        "one sample a call",
        "blocks computed again",
        "no moving average",
        "more GPUs",
        "adapters",
    ]
    assert not plan.fits(74.5)
    peaks = [plan.peak_gib] + [one.together.peak_gib for one in changes if one.together is not None]
    assert peaks == sorted(peaks, reverse=True)
    more = changes[-2].together
    assert more is not None and more.fits(74.5) and more.gpus > 2
    fewer = replace(more, gpus=more.gpus // 2)
    assert not fewer.fits(74.5)
    # It fits by then.
    assert changes[-1].together is None


def test_advice_leaves_out_what_is_done_already() -> None:
    plan = plan_of("stage1_14b", gpus=2, features=True)
    changes = {change.name: change for change in advice(plan, 74.5)}
    assert list(changes) == ["more GPUs", "adapters"]
    assert changes["more GPUs"].how.startswith("--gpus ")


def test_command_prints_the_plan() -> None:
    text = invoke("plan", "train", "stage1_14b", "--gpus", 4, "--gpu", "a100").stdout
    assert "does not fit into 74.5 GiB" in text and "What would make it fit" in text
    assert "39 %, an assumption" in text and "A100" in text
    text = invoke("plan", "train", "stage1_14b", "--gpus", 8).stdout
    assert "fits into 74.5 GiB" in text and "What would make it fit" not in text


def test_what_is_not_counted_is_said() -> None:
    words = ("plan", "train", "stage1_1_3b", "lora.enabled=true", "lora.targets=to_q,proj_out")
    assert "outside of the blocks are not counted: proj_out" in invoke(*words).stdout
    assert "not counted: proj_out" not in invoke(*words[:-1]).stdout
    assert "the tiny encoders" in invoke("plan", "train", "tiny").stdout
    plugin = Path(__file__).parents[2] / "examples" / "repa.py"
    with own_registries():
        of_plugin = invoke(*words[:3], "losses.repa.enabled=true", "--plugin", plugin).stdout
    assert "not counted: modules, tokens and teachers of a plugin's repa" in of_plugin


def test_command_gives_the_same_as_data() -> None:
    found = planned("stage1_14b", "ema.enabled=true", "--gpus", 4, "--gpu-memory", 79)
    plan = plan_of("stage1_14b", "ema.enabled=true", gpus=4)
    assert found["peak_gib"] == pytest.approx(plan.peak_gib)
    assert found["gpu_bytes"][found["fullest"]] == pytest.approx(dict(plan.fullest.parts))
    assert (found["gpu_memory_gib"], found["fits"]) == (79, plan.fits(79))
    assert found["hours"] == pytest.approx(plan.hours(0.39 * 989))
    assert {change["change"] for change in found["changes"]} >= {"no moving average", "more GPUs"}
    prepared = planned("stage1_14b", "--gpus", 8, "--features", "--tflops", 400)
    assert "encoding" not in prepared["gpu_bytes"] and prepared["tflops"] == 400


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("stage1_14b", "--gpu", "h1000"), "GPU"),
        (("stage1_14b", "--gpus", 7), "does not divide into 7 processes; nearest: 4 and 8"),
        (("stage1_14b", "--gpus", 500), "nearest: 128"),
        (("stage1_14b", "run.samples_per_call=4", "--gpus", 64), "nearest: 32"),
        (("stage1_14b", "run.strategy=hsdp", "run.shard_size=3", "--gpus", 8), "groups of run.shard_size=3"),
        (("stage3",), "did you mean stage"),
        (("stage1_14b", "alignment.blocks=40"), "the network has 40 (0..39)"),
        (("stage1_14b", "--tflops", 2000), "above the peak"),
        (("tiny", "model.patch=0"), "patch must be at least 1"),
        (("tiny", "--gpu-memory", "inf"), "--gpu-memory inf is no memory"),
        (("mini_stage1",), "the sizes of mini-base are not known"),
    ],
)
def test_bad_input_is_one_line(words: tuple[object, ...], line: str, tmp_path: Path) -> None:
    where = ("--weights", tmp_path) if words == ("mini_stage1",) else ()
    assert line in invoke("plan", "train", *words, *where, expect=2).stderr


def test_methods_are_planned_as_before() -> None:
    assert json.loads(invoke("plan", "noise", "--json").stdout)["methods"][0]["method"] == "noise"
    assert "plan train" in invoke("--help").stdout
