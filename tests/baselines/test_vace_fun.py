"""VACE-Fun's canvas, context and two-expert loop against the official code (golden `baselines/vace_fun.npz`),
through the sampler that the method uses; and the same end to end with tiny weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import parameter, uint8_image  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from kit.cli import invoke  # noqa: E402
from kit.golden_loop import WatchedConditioner, WatchedSampler, golden_codec, padded_texts, sampled  # noqa: E402
from kit.golden_networks import diffusers_config, named, read, worst  # noqa: E402
from kit.tiny_runs import frames_of, generated, loaded, sample_of, tokenized_texts  # noqa: E402
from refbench.baselines.vace_fun import VACE_FUN, VaceFun14B  # noqa: E402
from refbench.baselines.wan.checkpoint import diffusers_key  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry  # noqa: E402
from refbench.baselines.wan.cost import high_noise_steps, timesteps_of  # noqa: E402
from refbench.baselines.wan.nets.vace import VaceTransformer3DModel, bicubic_reference  # noqa: E402
from refbench.baselines.wan.references import fit_and_pad, fitted_size, stretched, to_tensor  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

GOLDEN = "baselines2.vace_fun"
ARRAYS = read("baselines/vace_fun.npz")
FACTS = read("baselines/vace_fun.json")
MODEL = FACTS["model"]
GEOMETRY = Geometry(width=96, height=64, num_frames=5)
STEPS, FRAMES = 6, 2


def picture(name: str) -> Image.Image:
    return Image.fromarray(uint8_image(f"{GOLDEN}.{name}", *FACTS["image_sizes_hw"][name]))


def expert(name: str) -> Any:
    """One of the golden's two networks."""
    model = VaceTransformer3DModel(
        **diffusers_config(MODEL["config"] | {"eps": 1e-6}),
        vace_layers=MODEL["config"]["vace_layers"],
        vace_in_channels=MODEL["config"]["vace_in_dim"],
    )
    filled = {key: parameter(f"{name}.{key}", tuple(shape)) for key, shape in MODEL["weights"].items()}
    model.load_state_dict({diffusers_key(key): torch.from_numpy(value) for key, value in filled.items()})
    return model.eval()


@pytest.fixture(scope="module")
def experts() -> tuple[Any, Any]:
    return expert("high"), expert("low")


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    return named(GOLDEN, f"noise{references}", (16, FRAMES + references, 8, 12))[None]


def run(
    experts: tuple[Any, Any], names: list[str], **settings: Any
) -> tuple[torch.Tensor, WatchedSampler, WatchedConditioner]:
    method = VaceFun14B()
    conditioner = WatchedConditioner(method.conditioner(sample_of([]), 0), given_noise)
    final, seen = sampled(
        method,
        experts[0],
        [picture(name) for name in names],
        conditioner,
        codec=golden_codec(padded_texts(GOLDEN)),
        geometry=GEOMETRY,
        steps=STEPS,
        low_noise_transformer=experts[1],
        **settings,
    )
    return final, seen, conditioner


@pytest.mark.parametrize("batch_passes", ["no", "yes"])
@pytest.mark.parametrize("case", ["refs1", "refs2"])
def test_guided_loop(experts: tuple[Any, Any], case: str, batch_passes: str) -> None:
    """Of one reference the golden keeps the first predictions alone."""
    facts = FACTS[case]
    final, seen, conditioner = run(experts, facts["references"], batch_passes=batch_passes)
    assert seen.timesteps == pytest.approx(facts["timesteps"], abs=1e-3)
    names = {id(experts[0]): "high", id(experts[1]): "low"}
    assert [names[id(network)] for network in seen.networks] == facts["expert_per_step"]
    assert worst(seen.predictions[0]["prompt"][0], ARRAYS[f"{case}/step0_v_prompt"]) < 1e-4
    assert worst(seen.predictions[0]["negative"][0], ARRAYS[f"{case}/step0_v_negative"]) < 1e-4
    if case == "refs2":
        context = conditioner.condition.context_BCFHW[0]
        assert worst(context, ARRAYS["refs2/context"]) < 1e-5
        assert worst(torch.cat(seen.latents), ARRAYS["refs2/latents"]) < 2e-4
        assert worst(final[0], ARRAYS["refs2/final"]) < 2e-4
    assert final.shape == (1, 16, FRAMES, 8, 12)


def test_swapped_experts_make_another_video(experts: tuple[Any, Any]) -> None:
    """And raise no error: it is the files' names that must tell (test_wan_experts.py)."""
    final, _, _ = run((experts[1], experts[0]), FACTS["refs2"]["references"])
    assert worst(final[0], ARRAYS["refs2/final"]) > 0.1


@pytest.mark.parametrize("name", FACTS["image_sizes_hw"])
def test_canvas(name: str) -> None:
    canvas = np.asarray(fit_and_pad(picture(name), 96, 64, bicubic=True)).astype(int)
    assert np.abs(canvas - ARRAYS[f"padded/{name}"]).max() <= 1
    expected = ARRAYS[f"padded/{name}"].transpose(2, 0, 1) / 127.5 - 1
    assert worst(bicubic_reference(picture(name), 96, 64), expected) < 0.01
    lanczos = np.asarray(fit_and_pad(picture(name), 96, 64)).astype(int)
    assert name == "same" or np.abs(lanczos - ARRAYS[f"padded/{name}"]).max() > 1
    # The box is (left, top, right, bottom) on 832×480.
    left, top, right, bottom = FACTS["box_832x480"][name]
    width, height = fitted_size(*picture(name).size, 832, 480)
    assert ((832 - width) // 2, (480 - height) // 2) == (left, top)
    assert (width, height) == (right - left, bottom - top)


@pytest.mark.parametrize("name", FACTS["image_sizes_hw"])
def test_stretched_canvas(name: str) -> None:
    canvas = np.asarray(stretched(picture(name), 96, 64)).astype(int)
    assert np.abs(canvas - ARRAYS[f"stretched/{name}"]).max() <= 1
    made = VaceFun14B(VaceFun14B.Options(canvas="stretched")).conditioner(sample_of([]), 0)
    empty = Geometry(width=96, height=64, num_frames=1)
    condition = made.encode(golden_codec(), [picture(name)], empty, torch.Generator())
    expected = golden_codec().encode(to_tensor(stretched(picture(name), 96, 64))[None, :, None])
    assert torch.equal(condition.context_BCFHW[:, :16, :1], expected)


def test_the_canvas_stands_on_the_card() -> None:
    plain, changed = (VaceFun14B(VaceFun14B.Options(canvas=one)).card() for one in ("padded", "stretched"))
    # As cards of before the option.
    assert "canvas" not in plain.options
    assert changed.options["canvas"] == "stretched"
    assert "fit on white" in str(plain.reference_preparation)
    assert "aspect ratio not kept, 8 bits" in str(changed.reference_preparation)
    words = ("methods", "show", "vace-fun-14b", "--set", "canvas=tall")
    assert invoke(*words, expect=2).stderr.strip().count("\n") == 0


@pytest.mark.parametrize("steps", [50, 6])
def test_grid(steps: int) -> None:
    expected = FACTS[f"euler_shift12_steps{steps}"]
    native = VaceFun14B.spec.native
    scheduler = make_scheduler(native.solver, native.shift)
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(scheduler.sigmas.numpy(), expected["sigmas"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(scheduler.timesteps.numpy(), expected["timesteps"], atol=1e-3, rtol=0)
    settings = VaceFun14B(VaceFun14B.Options(steps=steps)).settings
    assert timesteps_of(settings) == pytest.approx(expected["timesteps"], abs=1e-3)
    assert high_noise_steps(VaceFun14B.spec, settings) == expected["steps_on_high_noise_expert"]


def test_facts() -> None:
    card = VaceFun14B().card()
    assert (card.width, card.height, card.num_frames, card.fps) == (832, 480, 81, 16)
    assert (card.steps, card.solver, card.shift, card.guidance) == (
        50, "euler-diffusers", 12.0, {"text": 5.0},
    )  # fmt: skip
    assert card.negative_prompt == read("baselines/negative_prompts.json")["vace"]
    assert card.max_references is None
    assert any("TeaCache" in line for line in card.deviations)
    assert list(card.weights) == [
        "wan2.2-vace-fun-a14b (high noise)",
        "wan2.2-vace-fun-a14b (low noise)",
        "wan2.1-t2v-14b (base)",
    ]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import vace_fun, wan_base

    folder = tmp_path_factory.mktemp("weights")
    vace_fun.write_tiny(folder)
    wan_base.write_tiny(folder)
    return folder


SMALL = {"width": 96, "height": 64, "num_frames": 5, "steps": 3}


def test_generate_with_tiny_weights(weights: Path, dataset: Path, tmp_path: Path) -> None:
    """From the command line to files: samples with one reference and with two."""
    videos = generated(
        "vace-fun-14b", SMALL, dataset=dataset, weights=weights, out=tmp_path / "runs", limit=3
    )
    assert len(videos) == 3
    for video in videos:
        frames = list(video.frames(ALL_FRAMES))
        assert (len(frames), frames[0].shape) == (5, (64, 96, 3))
    card = read_run(videos[0].path.parents[1] / "run.json").card
    # Both experts and the base, each with a digest that says what it is of.
    digests = list(card.weights.values())
    assert len(digests) == len(set(digests)) == 3
    assert all(digest.startswith("tiny:") for digest in digests)


def test_prompts_reach_the_tokenizer_as_they_are(weights: Path) -> None:
    """Full-width commas of the negative prompt are not replaced, nor are double spaces in a prompt."""
    made = loaded(VaceFun14B(VaceFun14B.Options(**SMALL)), weights)
    seen = tokenized_texts(made)
    frames_of(made, sample_of([], prompt="a  cup &amp; a dog"))
    assert seen == ["a  cup &amp; a dog", made.method.settings.negative_prompt]
    assert "，" in seen[1]


def test_converted_experts_make_the_same_video(weights: Path, tmp_path: Path) -> None:
    """`refbench convert` writes each in diffusers' naming; the folders are then called as diffusers calls
    them, or given as one's own. Back in Wan's naming every tensor is what it was.
    """
    source, place = weights / VACE_FUN.repository, tmp_path / "w" / VACE_FUN.repository
    base = frames_of(loaded(VaceFun14B(VaceFun14B.Options(**SMALL)), weights), sample_of([]))
    shutil.copytree(weights, tmp_path / "w")
    for theirs, converted in (("high_noise_model", "transformer"), ("low_noise_model", "transformer_2")):
        shutil.rmtree(place / theirs)
        invoke("convert", source / theirs, place / converted, "--to", "diffusers")
        config = json.loads((place / converted / "config.json").read_text())
        assert config["_class_name"] == "WanVACETransformer3DModel"
        invoke("convert", place / converted, tmp_path / "back" / theirs, "--to", "original")
        (there,), (back,) = (
            (folder / theirs).glob("*.safetensors") for folder in (source, tmp_path / "back")
        )
        before, after = load_file(there), load_file(back)
        assert before.keys() == after.keys()
        assert all(torch.equal(after[key], value) for key, value in before.items())
    made = loaded(VaceFun14B(VaceFun14B.Options(**SMALL)), tmp_path / "w")
    assert np.array_equal(base, frames_of(made, sample_of([])))
    own = {"transformer": place / "transformer", "transformer_2": place / "transformer_2"}
    made = loaded(VaceFun14B(VaceFun14B.Options(**SMALL, **own)), weights)
    assert np.array_equal(base, frames_of(made, sample_of([])))
