"""Bernini-R's references, rotary rule, guidance and loops against the official code (golden
`baselines2/bernini_r.npz`), through the sampler that the methods use; and end to end with tiny weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from diffusers import WanTransformer3DModel  # noqa: E402
from fill import parameter, uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.cli import invoke  # noqa: E402
from kit.golden_loop import (  # noqa: E402
    CPU,
    SEED,
    WatchedConditioner,
    WatchedSampler,
    golden_codec,
    padded_texts,
    sampled,
)
from kit.golden_networks import GOLDENS, named, read, worst  # noqa: E402
from kit.tiny_runs import frames_of, loaded, sample_of, tokenized_texts  # noqa: E402
from refbench.baselines.bernini import (  # noqa: E402
    BERNINI_R_1_3B,
    BERNINI_R_14B,
    TEXT_PREFIX,
    BerniniMethod,
    BerniniR13B,
    BerniniR14B,
)
from refbench.baselines.planning import planned_method  # noqa: E402
from refbench.baselines.wan import cost  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry, OwnSizeReferences  # noqa: E402
from refbench.baselines.wan.experts import low_noise_scales  # noqa: E402
from refbench.baselines.wan.guidance import RULES, StepState  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.nets.bernini import BerniniTransformer3DModel, source_numbers  # noqa: E402
from refbench.baselines.wan.nets.transformer import grid_positions, rotary_embedding  # noqa: E402
from refbench.baselines.wan.references import own_size, own_size_of, to_tensor  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.runner.generating import make_method  # noqa: E402

GOLDEN = "baselines2.bernini"
FILES = ("bernini_r.npz", "bernini_r.json", "bernini_r_inputs.json")
ARRAYS = read("baselines2/bernini_r.npz")
FACTS = read("baselines2/bernini_r.json")
INPUTS = read("baselines2/bernini_r_inputs.json")
GEOMETRY = Geometry(width=96, height=64, num_frames=9)
STEPS = 5
LIMIT_PX = 96
# The goldens' uint8 images are Pillow 13's; other versions may round by one level.
LEVELS = 0 if PIL.__version__.startswith("13.") else 1
NATIVE = BerniniR13B.spec.native.guidance


def picture(name: str) -> Image.Image:
    return Image.fromarray(uint8_image(f"{GOLDEN}.{name}", *FACTS["image_sizes_hw"][name]))


def network(prefix: str = "") -> Any:
    config, shapes = FACTS["model"]["config"], FACTS["model"]["weights"]
    model = BerniniR13B().network_class()(**config)
    state = {key: torch.from_numpy(parameter(prefix + key, tuple(shape))) for key, shape in shapes.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def transformer() -> Any:
    return network()


@pytest.fixture(scope="module")
def low_noise_transformer() -> Any:
    return network("transformer_2.")


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    assert geometry.latent_shape == (3, 8, 12)
    return named(GOLDEN, "noise", (1, 16, 3, 8, 12))


def run(
    method: BerniniMethod, transformer: Any, names: list[str], *, noise: Any = given_noise, **settings: Any
) -> tuple[torch.Tensor, WatchedSampler, WatchedConditioner]:
    conditioner = WatchedConditioner(OwnSizeReferences(limit_px=LIMIT_PX), noise)
    final, seen = sampled(
        method,
        transformer,
        [picture(name) for name in names],
        conditioner,
        codec=golden_codec(padded_texts(GOLDEN)),
        geometry=GEOMETRY,
        **{"steps": STEPS, **settings},
    )
    return final, seen, conditioner


def tokens_of(condition: Any, rule: Any) -> list[int]:
    """Tokens of each pass: 72 of the video, one for 2×2 latent cells of a reference."""
    own = sum(one.shape[-2] * one.shape[-1] // 4 for one in condition.latents)
    return [72 + (own if one.references == "own" else 0) for one in rule.passes]


def guided_first_step(seen: WatchedSampler, noise: torch.Tensor) -> torch.Tensor:
    """The guided prediction of step 0 from the watched predictions."""
    state = StepState(latents=noise, sigma=float(seen.scheduler.sigmas[0]))
    return RULES["projected-image-and-text"].guided(seen.predictions[0], NATIVE, state)


@pytest.mark.parametrize("file", FILES)
def test_committed_goldens_are_the_shared_ones(shared: Path, file: str) -> None:
    given = shared / "goldens/baselines2" / file
    assert (GOLDENS / "baselines2" / file).read_bytes() == given.read_bytes()


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
@pytest.mark.parametrize("case", ["refs1", "refs2", "refs6"])
def test_guided_loop(transformer: Any, case: str, batch_passes: str) -> None:
    """Of six references the golden keeps the first predictions alone."""
    names = FACTS[f"{case}/references"]
    _, seen, conditioner = run(BerniniR13B(), transformer, names, batch_passes=batch_passes)
    assert seen.timesteps == FACTS[f"{case}/timesteps"]
    rule = RULES[BerniniR13B.spec.guidance_rule]
    assert tokens_of(conditioner.condition, rule) == FACTS[f"{case}/tokens_per_call"]
    for name, found in zip(names, conditioner.condition.latents, strict=True):
        assert worst(found[0, :, 0], ARRAYS[f"latents/{name}"]) < 1e-5
    for name, found in seen.predictions[0].items():
        assert worst(found[0], ARRAYS[f"{case}/step0_v_{name}"]) < 1e-4
    assert list(seen.predictions[0]) == ["none", "image", "image_text"]
    if case != "refs6":
        guided = guided_first_step(seen, given_noise(GEOMETRY, 0))
        assert worst(guided[0], ARRAYS[f"{case}/guided_step0"]) < 2e-4
        assert worst(torch.cat(seen.latents), ARRAYS[f"{case}/latents"]) < 2e-4


def test_limits_that_bind(transformer: Any) -> None:
    names, golden = FACTS["refs2/references"], ARRAYS["refs2_limits/latents"]
    scales = {**NATIVE, "image_limit": 3.0, "text_limit": 1.0}
    _, seen, _ = run(BerniniR13B(), transformer, names, scales=scales)
    assert worst(torch.cat(seen.latents), golden) < 2e-4
    exchanged = {**NATIVE, "image_limit": 1.0, "text_limit": 3.0}
    _, seen, _ = run(BerniniR13B(), transformer, names, scales=exchanged)
    assert worst(torch.cat(seen.latents), golden) > 0.5


def test_noise_of_a_seed(transformer: Any) -> None:
    """The CPU's draw of the video's frames alone."""
    own = OwnSizeReferences(limit_px=LIMIT_PX)
    noise = own.draw_noise(GEOMETRY, 2, torch.Generator("cpu").manual_seed(SEED), CPU)
    assert worst(noise.flatten()[:8], ARRAYS["refs2_seed42/noise_first8"]) == 0
    final, _, _ = run(BerniniR13B(), transformer, FACTS["refs2/references"], noise=None)
    assert worst(final[0], ARRAYS["refs2_seed42/final"]) < 2e-4


def test_loop_through_both_experts(transformer: Any, low_noise_transformer: Any) -> None:
    golden = "two_experts_refs2"
    experts = {"transformer_1": transformer, "transformer_2": low_noise_transformer}
    _, seen, _ = run(
        BerniniR14B(),
        transformer,
        FACTS["refs2/references"],
        steps=6,
        low_noise_transformer=low_noise_transformer,
    )
    assert seen.timesteps == FACTS[f"{golden}/timesteps"]
    expected = [experts[name] for name in FACTS[f"{golden}/expert_per_step"]]
    assert all(one is other for one, other in zip(seen.networks, expected, strict=True))
    assert worst(torch.cat(seen.latents), ARRAYS[f"{golden}/latents"]) < 2e-4


def test_swapped_experts_make_another_video(transformer: Any, low_noise_transformer: Any) -> None:
    """And raise no error: it is the files' names that must tell."""
    _, seen, _ = run(
        BerniniR14B(),
        low_noise_transformer,
        FACTS["refs2/references"],
        steps=6,
        low_noise_transformer=transformer,
    )
    assert worst(torch.cat(seen.latents), ARRAYS["two_experts_refs2/latents"]) > 0.1


def test_scales_after_the_change_of_experts() -> None:
    low = low_noise_scales(BerniniR14B.spec.native.guidance)
    assert {name: low[name] for name in ("image", "text")} == pytest.approx(
        FACTS["two_experts_refs2/scales_after_switch"]
    )
    assert {name: low[name] for name in NATIVE if name not in ("image", "text")} == {
        name: value for name, value in NATIVE.items() if name not in ("image", "text")
    }
    # A user's scale is multiplied as the authors' command line does it.
    changed = BerniniR14B(BerniniR14B.Options(guidance="image=2.5")).settings.guidance
    assert low_noise_scales(changed)["image"] == pytest.approx(2.0)


def test_text_without_references(transformer: Any) -> None:
    method = BerniniR13B()
    rule = RULES[method.spec.rule_name(0)]
    assert len(rule.passes) == FACTS["refs0_t2v_apg/passes"] == 2
    native = method.spec.native
    sampler = WatchedSampler(
        codec=golden_codec(padded_texts(GOLDEN)),
        transformer=transformer,
        scheduler=make_scheduler(native.solver, native.shift),
    )
    made = sampler(
        prompt="prompt",
        negative_prompt="negative",
        references=[],
        conditioner=WatchedConditioner(OwnSizeReferences(limit_px=LIMIT_PX), given_noise),
        rule=rule,
        scales=native.guidance,
        geometry=GEOMETRY,
        steps=STEPS,
        generator=torch.Generator(),
    )
    assert worst(made.latents[0], ARRAYS["refs0_t2v_apg/final"]) < 2e-4


def guidance_inputs() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    shape = (1, 16, 3, 8, 12)
    passes = {
        name: 2 * named(GOLDEN, f"guidance.v_{name}", shape) for name in ("none", "image", "image_text")
    }
    return named(GOLDEN, "guidance.x", shape), passes


@pytest.mark.parametrize("case", ["clipped", "unclipped"])
def test_guidance(case: str) -> None:
    latents, predictions = guidance_inputs()
    facts = FACTS[f"guidance/{case}"]
    state = StepState(latents=latents, sigma=facts["sigma"])
    found = RULES["projected-image-and-text"].guided(predictions, NATIVE, state)
    assert worst(found[0], ARRAYS[f"guidance/{case}/v"]) < 1e-5
    # The memory holds the differences before they are shortened.
    norms = [state.memory[name].norm(p=2, dim=(1, 3, 4))[0].tolist() for name in ("image", "text")]
    np.testing.assert_allclose(norms, facts["difference_norms_per_frame"], rtol=1e-5)


def test_guidance_with_momentum() -> None:
    """The average of one call is part of the next one's."""
    latents, predictions = guidance_inputs()
    memory: dict[str, torch.Tensor] = {}
    for call, sigma in enumerate((0.9, 0.6)):
        state = StepState(latents=latents, sigma=sigma, memory=memory)
        found = RULES["projected-image-and-text"].guided(predictions, {**NATIVE, "momentum": -0.5}, state)
        assert worst(found[0], ARRAYS[f"guidance/momentum/v_call{call}"]) < 1e-5


def test_momentum_lasts_for_a_run_and_no_longer(transformer: Any) -> None:
    names, scales = FACTS["refs2/references"], {**NATIVE, "momentum": -0.5}
    first, second = (run(BerniniR13B(), transformer, names, scales=scales)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert worst(first[0], ARRAYS["refs2/latents"][-1]) > 0.01


def test_a_limit_of_zero_is_none() -> None:
    latents, predictions = guidance_inputs()
    state = StepState(latents=latents, sigma=0.9)
    rule = RULES["projected-image-and-text"]
    without, far = (
        rule.guided(predictions, {**NATIVE, "image_limit": limit, "text_limit": limit}, state)
        for limit in (0.0, 1e9)
    )
    assert torch.equal(without, far)


def test_equal_passes_add_nothing() -> None:
    """A difference of zero has no direction: no pass adds anything, and nothing becomes NaN."""
    latents, predictions = guidance_inputs()
    same = dict.fromkeys(predictions, predictions["none"])
    found = RULES["projected-image-and-text"].guided(same, NATIVE, StepState(latents=latents, sigma=0.9))
    torch.testing.assert_close(found, predictions["none"], atol=1e-5, rtol=0)


def test_no_scale_leaves_a_pass_out() -> None:
    ones = dict.fromkeys(NATIVE, 1.0)
    assert len(RULES["projected-image-and-text"].active_passes(ones)) == 3


@pytest.mark.parametrize("name", FACTS["image_sizes_hw"])
def test_prepared_references(name: str) -> None:
    found = own_size(picture(name), LIMIT_PX)
    assert [found.height, found.width] == FACTS["prepared_max96_size_hw"][name]
    difference = np.asarray(found).astype(int) - ARRAYS[f"prepared_max96/{name}"]
    assert np.abs(difference).max() <= LEVELS


def test_a_reference_at_full_size() -> None:
    facts = FACTS["prepared_max848_full"]
    found = np.asarray(own_size(Image.fromarray(uint8_image(f"{GOLDEN}.full", *facts["image_hw"])), 848))
    assert list(found.shape[:2]) == facts["size_hw"]
    difference = found[::8, ::8].astype(int) - ARRAYS["prepared_max848_every8/full"]
    assert np.abs(difference).max() <= LEVELS
    expected = found.transpose(2, 0, 1) / 127.5 - 1
    assert worst(to_tensor(Image.fromarray(found)), expected) < 1e-6


@pytest.mark.parametrize("given", FACTS["prepared_size_max848_hw"])
def test_sizes_of_references(given: str) -> None:
    height, width = map(int, given.split("x"))
    found = own_size_of(width, height, 848)
    assert [found[1], found[0]] == FACTS["prepared_size_max848_hw"][given]


def test_rotary_tables() -> None:
    for key in {name.rpartition("/")[0] for name in ARRAYS.files if name.startswith("rope/")}:
        _, head, source = key.split("/")
        head_dim, number = int(head.removeprefix("head")), float(source.removeprefix("source"))
        frames = 3 if number == 0 else 1
        positions = grid_positions(frames, 4, 6, (0, 0, 0), CPU)
        cos, sin = rotary_embedding(
            positions, head_dim, sources_T=torch.full((len(positions),), number, dtype=torch.float64)
        )
        rows = list(range(len(positions)))
        if head_dim == 128:
            rows = FACTS["rope_head128_tokens"]["reference" if number else "video"]
        assert worst(cos[0, rows, 0, ::2], ARRAYS[f"{key}/cos"]) < 2e-6
        assert worst(sin[0, rows, 0, 1::2], ARRAYS[f"{key}/sin"]) < 2e-6


def test_sources() -> None:
    assert source_numbers(0) == []
    assert source_numbers(3) == [1.0, 2.0, 3.0]
    assert source_numbers(5) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert source_numbers(6) == pytest.approx([1, 1.8, 2.6, 3.4, 4.2, 5])
    assert len(set(source_numbers(9))) == 9


def test_the_phase_is_all_that_tells_references_apart(transformer: Any) -> None:
    """Without a phase their order would not matter; with it an exchange makes another video."""
    names = FACTS["refs2/references"]
    _, seen, _ = run(BerniniR13B(), transformer, names[::-1])
    assert worst(torch.cat(seen.latents), ARRAYS["refs2/latents"]) > 0.1


@pytest.mark.parametrize("steps", [40, 6])
def test_grid(steps: int) -> None:
    expected = FACTS[f"schedule_shift5_steps{steps}"]
    native = BerniniR14B.spec.native
    scheduler = make_scheduler(native.solver, native.shift)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == expected["timesteps"]
    assert worst(scheduler.sigmas, np.array(expected["sigmas"])) < 1e-6
    settings = BerniniR14B(BerniniR14B.Options(steps=steps)).settings
    assert cost.high_noise_steps(BerniniR14B.spec, settings) == expected["steps_on_high_noise_expert"]
    assert cost.high_noise_steps(BerniniR13B.spec, settings) == steps


@pytest.mark.parametrize("method", [BerniniR13B, BerniniR14B])
def test_cards_have_the_authors_defaults(method: type[BerniniMethod]) -> None:
    defaults, card = INPUTS["command_line_defaults"], method().card()
    assert (card.width, card.height, card.num_frames, card.fps, card.steps, card.shift) == tuple(
        defaults[name]
        for name in ("width", "height", "num_frames", "fps", "num_inference_steps", "flow_shift")
    )
    limits = defaults["norm_threshold"]
    expected = {
        "image": defaults["omega_img"],
        "text": defaults["omega_txt"],
        "eta": defaults["eta"],
        "image_limit": limits[0],
        "text_limit": limits[1],
        "momentum": defaults["momentum"],
    }
    if method is BerniniR14B:
        expected["low_noise_factor"] = defaults["omega_scale"]
    assert card.guidance == expected
    assert card.solver == "unipc"
    assert card.negative_prompt == defaults["neg_prompt"]
    assert card.max_references is None
    assert card.options["prompt_prefix"] == INPUTS["system_prompt_r2v"]
    assert method.spec.native.reference_limit_px == defaults["max_image_size"]
    # They are not on the OpenS2V leaderboard, whose settings they therefore do not have.
    with pytest.raises(UserError, match="does not name it"):
        method(method.Options(settings="leaderboard"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference_limit_px": "100"}, "reference_limit_px must be a multiple of 16 pixels up to 4096"),
        ({"guidance": "image_limits=3"}, "no guidance scale 'image_limits'; it has image, text, eta"),
        ({"guidance": "low_noise_factor=1"}, "bernini-r-1.3b has no guidance scale 'low_noise_factor'"),
        ({"transformer_2": "x"}, "has no option 'transformer_2'"),
    ],
)
def test_what_is_refused_in_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_method("bernini-r-1.3b", options)
    assert "\n" not in str(caught.value)


def test_networks_are_wans_key_for_key() -> None:
    """At both released sizes, and the golden's own list for the small one."""
    small = {key: list(value.shape) for key, value in network().state_dict().items()}
    assert small == FACTS["model"]["weights"]
    for method in (BerniniR13B, BerniniR14B):
        size = method.spec.network
        settings = {
            "num_attention_heads": size.heads,
            "attention_head_dim": size.width // size.heads,
            "ffn_dim": size.ffn_width,
            "num_layers": size.layers,
        }
        with torch.device("meta"):
            own, stock = BerniniTransformer3DModel(**settings), WanTransformer3DModel(**settings)
        shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (own, stock)]
        assert shapes[0] == shapes[1]
        assert sum(value.numel() for value in own.parameters()) == cost.parameter_count(size)


def test_plan_counts_what_each_pass_has() -> None:
    """21 frames of 53×30 tokens; a usual reference of as many as a frame, the first pass without any."""
    for name, pflop in (("bernini-r-1.3b", 38), ("bernini-r-14b", 235)):
        (planned,) = json.loads(invoke("plan", name, "--json").stdout)["methods"]
        found = {(row["references"], row["tokens"], row["calls"]) for row in planned["by_references"]}
        assert found == {(count, 33_390 + count * 1590, 120) for count in (1, 2, 3)}
        (one, *_) = planned["by_references"]
        assert one["pflop"] == pytest.approx(pflop, rel=0.01)
        assert "at most 2,809" in planned["note"]
        assert "a call of its own" in planned["note"]
    spec, native = BerniniR13B.spec, BerniniR13B.spec.native
    each = [cost.call_flops(spec.network, 33_390 + count * 1590) for count in (0, 2, 2)]
    assert cost.video_cost(spec, native, 2).flops == 40 * sum(each)
    # Without references two passes, both of the video alone.
    assert cost.video_cost(spec, native, 0).flops == 80 * each[0]
    assert cost.video_cost(spec, native, 0).calls == 80
    # The passes with references share a call, the one without is shorter.
    assert (cost.passes_per_step(spec, native), cost.joinable_passes(spec, native)) == (3, 2)
    assert cost.tokens_per_call(spec, native, 1, largest_references=True) == 33_390 + 53 * 53
    smaller = planned_method("bernini-r-1.3b", {"reference_limit_px": "96"}, "native")
    assert isinstance(smaller, BerniniMethod)
    assert cost.tokens_per_call(spec, smaller.settings, 2) == 33_390 + 2 * 6 * 3


def test_memory_of_the_weights() -> None:
    for entry, method in ((BERNINI_R_1_3B, BerniniR13B), (BERNINI_R_14B, BerniniR14B)):
        assert entry.memory_gib == pytest.approx(sum(cost.weights_gib(method.spec).values()), abs=0.1)


SMALL = {"width": 96, "height": 64, "num_frames": 5, "steps": 4, "reference_limit_px": 64}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import bernini

    folder = tmp_path_factory.mktemp("weights")
    bernini.write_tiny(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("a.png", (150, 70)), ("b.png", (40, 90))):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def generator(method: type[BerniniMethod], weights: Path, **options: Any) -> WanGenerator:
    made = loaded(method(method.Options(**SMALL | options)), weights)
    assert isinstance(made, WanGenerator)
    return made


def test_texts_that_reach_the_tokenizer(weights: Path, folder: Path) -> None:
    """The sentence, then the cleaned prompt without a space; the negative prompt as it is."""
    made = generator(BerniniR13B, weights, negative_prompt=INPUTS["given_negative"])
    seen = tokenized_texts(made)
    frames_of(made, sample_of(["a.png"], folder, prompt=INPUTS["given_prompt"]))
    assert seen == INPUTS["tokenized"]
    seen.clear()
    sample = sample_of([], prompt=INPUTS["given_prompt"])
    assert made.method.notes(sample, 0) == ("no references: the authors' text-to-video task",)
    frames_of(made, sample)
    assert seen == [INPUTS["tokenized"][0].replace(INPUTS["system_prompt_r2v"], TEXT_PREFIX)]


def test_references_keep_their_size_whatever_the_video_has(weights: Path, folder: Path) -> None:
    made = generator(BerniniR13B, weights)
    sample = sample_of(["a.png", "b.png"], folder)
    images = [reference.open_on_white() for reference in sample.references]
    with torch.no_grad():
        condition = made.method.conditioner(sample, 0).encode(
            made.sampler.codec, images, GEOMETRY, torch.Generator()
        )
    assert [tuple(one.shape) for one in condition.latents] == [(1, 16, 1, 4, 8), (1, 16, 1, 8, 4)]
    with pytest.raises(ValueError, match="no pass with zero latents"):
        condition.inputs(torch.zeros(1, 16, 3, 8, 12), "zero")
    frames = frames_of(made, sample)
    assert frames.shape == (5, 64, 96, 3)
    assert not np.array_equal(frames, frames_of(made, sample_of(["b.png", "a.png"], folder)))
    joined = frames_of(generator(BerniniR13B, weights, batch_passes="yes"), sample).astype(int)
    assert np.abs(joined - frames).max() <= 1


def test_more_references_than_were_trained_are_said(folder: Path) -> None:
    six = sample_of(["a.png", "b.png"] * 3, folder)
    assert BerniniR13B().refuses(six) is None
    (note,) = BerniniR13B().notes(six, 0)
    assert note == "6 references share the phases of the 5 that were trained"
    assert BerniniR13B().notes(sample_of(["a.png"] * 5, folder), 0) == ()


def test_both_experts_and_their_scales_are_used(weights: Path, folder: Path) -> None:
    sample = sample_of(["a.png", "b.png"], folder)
    base = frames_of(generator(BerniniR14B, weights), sample)
    assert not np.array_equal(base, frames_of(generator(BerniniR13B, weights), sample))
    for changed in ("low_noise_factor=1", "eta=1"):
        assert not np.array_equal(base, frames_of(generator(BerniniR14B, weights, guidance=changed), sample))
    digests = BerniniR14B().find_weights(Environment(device="cpu", weights=weights))
    assert list(digests) == [
        "bernini-r-14b (high noise)",
        "bernini-r-14b (low noise)",
        "bernini-r-14b (base)",
    ]
    assert len(set(digests.values())) == 3


def test_swapped_experts_are_refused_in_one_line(weights: Path, dataset: Path, tmp_path: Path) -> None:
    place = weights / BERNINI_R_14B.repository
    done = invoke(
        *("generate", "bernini-r-14b", "--dataset", dataset, "--weights", weights, "--out", tmp_path),
        f"--set=transformer={place / 'transformer_2'}",
        f"--set=transformer_2={place / 'transformer'}",
        expect=2,
    )
    assert done.stderr.strip().count("\n") == 0
    assert "the experts are swapped" in done.stderr
    # The names of the authors' separate repository.
    with pytest.raises(UserError, match="is the low-noise expert's by its name"):
        make_method("bernini-r-14b", {"adapter": "bernini_renderer_low/lora.safetensors"})
