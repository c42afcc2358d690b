"""Other base models than the authors': a VAE of 48 channels and 16 pixels, and two experts trained one at a
time; from the first step to a video of the registered method.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("pycocotools", reason="RefAlign needs the extra 'refalign'")

from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from kit.training import files_of, logged_steps  # noqa: E402
from refbench.baselines.wan.adapters import read_adapter  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.experts import check_experts, recorded_expert  # noqa: E402
from refbench.baselines.wan.spec import WanSettings  # noqa: E402
from refbench.baselines.wan_t2v import TextToVideo22A14B  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.conversion import convert_checkpoint  # noqa: E402
from refbench.refalign.data.dataset import open_training_data  # noqa: E402
from refbench.refalign.flow_matching import FlowSchedule  # noqa: E402
from refbench.refalign.method import RefAlign13B, RefAlign14B, RefAlignTiny  # noqa: E402
from refbench.refalign.sampler import sample_video  # noqa: E402
from refbench.refalign.training.batch import NoiseDraw, collate  # noqa: E402
from refbench.refalign.training.examples import EncodedSource  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402
from refbench.refalign.training.run import TrainingPaths, make_encoder, prepare, train  # noqa: E402
from refbench.refalign.training.settings import TrainingConfig  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

WIDE, EXPERTS_BASE = "wan2.2-ti2v-5b", "wan2.2-t2v-a14b"
SHORT = (
    "data.clip.width=64",
    "data.clip.height=64",
    "data.clip.num_frames=5",
    "data.clip.stride=1",
    "run.max_steps=3",
    "log.every=1000",
    "log.tensorboard=false",
    "alignment.blocks=0,1",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bases and the teacher, with tiny random weights."""
    from refbench.baselines.small.wan_base import write_small
    from refbench.refalign.small_teacher import write_tiny

    folder = tmp_path_factory.mktemp("weights")
    for base in (WIDE, EXPERTS_BASE):
        write_small(folder, base)
    write_tiny(folder)
    return folder


def config_of(base: str, *overrides: str) -> TrainingConfig:
    """A short run that starts from the base's own network."""
    return build_config("tiny", [*SHORT, f"model.base={base}", "model.random=false", *overrides])


def trained(config: TrainingConfig, out: Path, *, resume: bool = False, **places: Path) -> Path:
    """The newest checkpoint's folder."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return train(config, TrainingPaths(out=out, **places), resume=resume).checkpoint


def video(folder: Path, **options: Any) -> np.ndarray:
    """What `refalign-tiny` makes of one reference."""
    Image.fromarray(np.full((40, 30, 3), (200, 30, 90), np.uint8)).save(folder / "0.png")
    method = RefAlignTiny(RefAlignTiny.Options(width=64, height=64, num_frames=5, steps=4, **options))
    return frames_of(loaded(method, folder), sample_of(["0.png"], folder))


def test_a_run_on_48_channels_from_the_first_step_to_a_video(
    weights: Path, clips: Path, tmp_path: Path
) -> None:
    places = {"weights": weights, "data": clips}
    straight = trained(config_of(WIDE), tmp_path / "straight", **places)
    trained(config_of(WIDE, "run.max_steps=1"), tmp_path / "halves", **places)
    resumed = trained(config_of(WIDE), tmp_path / "halves", resume=True, **places)
    assert files_of(straight) == files_of(resumed)
    prepare(config_of(WIDE), clips, tmp_path / "features", weights, epochs=2)
    trained(config_of(WIDE), tmp_path / "prepared", weights=weights, features=tmp_path / "features")
    steps = logged_steps(tmp_path / "straight")
    assert [row["loss"] for row in steps] == [row["loss"] for row in logged_steps(tmp_path / "prepared")]
    # 2 frames of 4×4 latents, 2×2 to a token; two samples with at most two references.
    assert all(row["tokens"] in (2 * 8 + 2 * 4, 2 * 8 + 3 * 4, 2 * 8 + 4 * 4) for row in steps)
    assert any(row["ra_positive"] for row in steps)
    network = read_checkpoint(straight / "transformer")
    assert (network.config["in_channels"], network.config["out_channels"]) == (48, 48)
    own = video(tmp_path, base=WIDE, transformer=straight / "transformer")
    assert own.shape == (5, 64, 64, 3)
    assert not np.array_equal(own, video(tmp_path, base=WIDE))
    with pytest.raises(UserError, match="its in_channels is 48, not 16"):
        video(tmp_path, transformer=straight / "transformer")


def test_features_have_the_vae_s_channels_strides_and_statistics(weights: Path, clips: Path) -> None:
    config = config_of(WIDE, "data.clip.width=96")
    encoder = make_encoder(config, weights, "cpu")
    data = open_training_data(clips, config.data.clip, seed=0, cache=None)
    source = EncodedSource(data, encoder, workers=0).examples(start=0, rank=0, world_size=1)
    examples = list(islice(source, 4))
    for example in examples:
        features = example.features
        assert features.latents_CFhw.shape == (48, 2, 4, 6)
        assert features.references_CNhw.shape[2:] == (4, 6) and features.references_CNhw.shape[0] == 48
        # A teacher's token for each 2×2 latents.
        assert features.teachers[0].shape[:2] == (features.references_CNhw.shape[1], 6)
    batch = collate(examples, FlowSchedule(), 0)
    assert batch.noise_BCFhw.shape == (4, 48, 2, 4, 6)
    assert batch.subject_BT.shape[1] == 6 * batch.references_BCNhw.shape[2]
    vae = encoder.codec.vae
    assert len(set(vae.config.latents_std)) > 1
    clip = data.sample(0, examples[0].position).clip
    pixels = torch.from_numpy(clip.video_FHWC).permute(3, 0, 1, 2)[None].float() * (2 / 255) - 1
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()[0]
    mean, std = (
        torch.tensor(each)[:, None, None, None] for each in (vae.config.latents_mean, vae.config.latents_std)
    )
    torch.testing.assert_close(examples[0].features.latents_CFhw * std + mean, raw, atol=1e-4, rtol=1e-4)


def test_validation_s_loop_draws_and_decodes_in_the_vae_s_space(weights: Path) -> None:
    encoder = make_encoder(config_of(WIDE), weights, "cpu")
    (folder,) = weights.rglob("Wan2.2-TI2V-5B-Diffusers/transformer")
    network = load_transformer(RefAlignTransformer3DModel, read_checkpoint(folder))
    settings = WanSettings(
        width=96, height=64, num_frames=5, steps=1, solver="euler", guidance={"image": 5.0, "text": 7.5}
    )
    picture = Image.new("RGB", (20, 30), (200, 30, 90))
    frames = sample_video(encoder.codec, network, settings, prompt="a cup", references=[picture], seed=0)
    assert np.stack(list(frames)).shape == (5, 64, 96, 3)


def test_sizes_that_the_vae_cannot_hold_are_refused(weights: Path) -> None:
    said = r"data\.clip\.height=48 is no multiple of 32, which .* 64 is$"
    with pytest.raises(UserError, match=said):
        config_of(WIDE, "data.clip.height=48")
    # Of a base that is not known beforehand its VAE says it.
    config = config_of(WIDE)
    clip = replace(config.data.clip, height=48)
    with pytest.raises(UserError, match=said):
        make_encoder(replace(config, data=replace(config.data, clip=clip)), weights, "cpu")
    make_encoder(config_of(EXPERTS_BASE, "data.clip.height=48", "model.expert=high"), weights, "cpu")


def test_each_expert_draws_the_timesteps_that_it_is_asked_at() -> None:
    """At shift 5 the boundary of 875 lies at 0.583 of the way, as other trainers have it (0.417)."""
    timesteps = FlowSchedule().timesteps
    assert timesteps[416] >= 875 > timesteps[417]
    for name, low, high in (("high", 0, 416), ("low", 417, 999)):
        config = build_expert(name)
        schedule = config.flow.make_schedule()
        drawn = [NoiseDraw.of(0, 0, position, (1,), schedule).level_id for position in range(400)]
        assert low <= min(drawn) < low + 20 and high - 20 < max(drawn) <= high
        again = build_config(config.recipe, overrides_of(config, name))
        assert again == config
    assert (build_expert("high").flow.lowest_timestep, config.flow.highest_timestep) == (875, 874.999)
    # With bounds of one's own as well.
    both = build_expert("high", "flow.lowest_timestep=100", "flow.highest_timestep=900").flow
    assert (both.lowest_timestep, both.highest_timestep) == (875, 900)
    with pytest.raises(UserError, match=r"model\.expert=high: lowest_timestep must be below highest"):
        build_expert("high", "flow.highest_timestep=800")


def overrides_of(config: TrainingConfig, name: str) -> list[str]:
    """The same configuration with the bounds spelled out, as a stored one has them."""
    bounds = (config.flow.lowest_timestep, config.flow.highest_timestep)
    base = [*SHORT, f"model.base={EXPERTS_BASE}", "model.random=false", f"model.expert={name}"]
    return [*base, f"flow.lowest_timestep={bounds[0]}", f"flow.highest_timestep={bounds[1]}"]


def build_expert(name: str, *overrides: str) -> TrainingConfig:
    return config_of(EXPERTS_BASE, f"model.expert={name}", *overrides)


def test_two_experts_are_trained_one_at_a_time_and_sample_together(
    weights: Path, clips: Path, tmp_path: Path
) -> None:
    places = {"weights": weights, "data": clips}
    high = trained(build_expert("high"), tmp_path / "a", **places) / "transformer"
    low = trained(build_expert("low"), tmp_path / "b", **places) / "transformer"
    for place, expert, folder in ((high, "high-noise", "transformer"), (low, "low-noise", "transformer_2")):
        assert recorded_expert(place.glob("*.safetensors")) == expert
        # It started from its own expert: three steps move a weight by at most 3·0.002.
        (own,) = weights.rglob(f"{folder}/*-00001-of-00002.safetensors")
        started, found = read_checkpoint(own.parent).tensors, read_checkpoint(place).tensors
        assert all((found[key] - started[key]).abs().max() < 0.007 for key in found)
    made = video(tmp_path, base=EXPERTS_BASE, transformer=high, transformer_2=low)
    alone = video(tmp_path, base=EXPERTS_BASE, transformer=high)
    assert made.shape == (5, 64, 64, 3) and not np.array_equal(made, alone)
    with pytest.raises(
        UserError, match=r"is the low-noise expert's as it says itself, but stands in the hig"
    ):
        video(tmp_path, base=EXPERTS_BASE, transformer=low, transformer_2=high)
    with pytest.raises(
        UserError, match="is the high-noise expert of two, as it says itself; refalign-tiny has"
    ):
        video(tmp_path, transformer=high)
    with pytest.raises(UserError, match=r"is the low-noise expert as its file says; model\.expert=high"):
        trained(build_expert("high", f"model.transformer={low}"), tmp_path / "c", **places)
    with pytest.raises(UserError, match=r"as its file says; it has to be named as model\.expert"):
        trained(build_config("tiny", [*SHORT, f"model.transformer={low}"]), tmp_path / "c", data=clips)
    # Resumed as another expert it would be another run.
    with pytest.raises(UserError, match=r"was trained with model\.expert=high, not low"):
        trained(build_expert("low"), tmp_path / "a", resume=True, **places)
    # What an expert is stays with its file, wherever that goes; the text-only control takes it as well.
    convert_checkpoint(low, tmp_path / "moved", naming="diffusers", dtype="keep", drop_projectors=True)
    with pytest.raises(UserError, match="is the low-noise expert's as it says itself"):
        check_experts([[*(tmp_path / "moved").glob("*.safetensors")], [tmp_path / "absent.safetensors"]])
    control = TextToVideo22A14B.Options(width=64, height=64, num_frames=5, steps=2, transformer_2=low)
    assert frames_of(loaded(TextToVideo22A14B(control), weights), sample_of([])).shape == (5, 64, 64, 3)


def test_a_sharded_checkpoint_says_which_expert_it_is(weights: Path, clips: Path, tmp_path: Path) -> None:
    low = build_expert("low", "checkpoints.sharded=true", "run.max_steps=1")
    sharded = trained(low, tmp_path / "a", weights=weights, data=clips)
    convert_checkpoint(sharded, tmp_path / "b", naming="original", dtype="keep", drop_projectors=False)
    assert recorded_expert((tmp_path / "b").glob("*.safetensors")) == "low-noise"
    with pytest.raises(UserError, match=r"is the low-noise expert as its file says; model\.expert=high"):
        trained(
            build_expert("high", f"model.transformer={sharded}"), tmp_path / "c", weights=weights, data=clips
        )


def test_adapters_of_two_experts_say_which_they_are(weights: Path, clips: Path, tmp_path: Path) -> None:
    lora = ("lora.enabled=true", "lora.rank=2")
    files = {}
    for name in ("high", "low"):
        config = config_of(EXPERTS_BASE, f"model.expert={name}", *lora)
        files[name] = trained(config, tmp_path / name[0], weights=weights, data=clips) / "adapter"
        assert read_adapter(files[name]).expert == f"{name}-noise"
    both = {"adapter": files["high"], "adapter_2": files["low"]}
    # On the experts that they were trained on, whose digests they name.
    method = RefAlign14B(
        RefAlign14B.Options(base=EXPERTS_BASE, width=64, height=64, num_frames=5, steps=2, **both)
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    assert frames_of(loaded(method, weights), sample_of(["0.png"], tmp_path)).shape == (5, 64, 64, 3)
    found = method.find_weights(Environment(weights=weights))
    assert {"adapter", "adapter_2", "wan2.2-t2v-a14b (high noise)"} < found.keys()
    swapped = {"adapter": files["low"], "adapter_2": files["high"]}
    with pytest.raises(UserError, match="is the low-noise expert's, as it says itself, but stands in the hi"):
        video(tmp_path, base=EXPERTS_BASE, adapter_base="any", **swapped)


def test_what_a_configuration_asks_for_in_vain() -> None:
    with pytest.raises(UserError, match=r"trained one at a time: give model\.expert=high"):
        config_of(EXPERTS_BASE)
    with pytest.raises(
        UserError, match=r"model\.expert=low: wan2\.2-ti2v-5b has one network; two experts has wan"
    ):
        config_of(WIDE, "model.expert=low")
    with pytest.raises(UserError, match=r"validation\.every=5: videos need both experts, a run trains one"):
        config_of(EXPERTS_BASE, "model.expert=low", "validation.every=5")
    with pytest.raises(UserError, match="boundary must lie between 0 and 1"):
        config_of(EXPERTS_BASE, "model.expert=low", "model.boundary=875")


def test_a_method_on_another_base() -> None:
    card = RefAlign13B().card()
    assert not {"base", "transformer_2", "adapter_2"} & card.options.keys()
    own = Path("own")
    method = RefAlign13B(RefAlign13B.Options(base=WIDE, transformer=own))
    assert method.card().base_model == WIDE and method.card().options["base"] == WIDE
    assert f"no RefAlign network was released on {WIDE}" in method.card().deviations
    assert RefAlign13B().spec.base_model == RefAlign13B.spec.base_model == "Wan2.1-T2V-1.3B"
    two = RefAlign14B(RefAlign14B.Options(base=EXPERTS_BASE, transformer=own, transformer_2=Path("low/own")))
    assert two.spec.boundary == 0.875 and two.options.transformers == (own, Path("low/own"))
    said = "the low-noise expert is the base's own, never trained with references"
    assert said not in two.card().deviations
    one = RefAlign14B(RefAlign14B.Options(base=EXPERTS_BASE, transformer=own))
    assert one.card().deviations[-1] == said
    with pytest.raises(UserError, match=f"there is no released RefAlign on {WIDE}; name your own network"):
        RefAlign13B(RefAlign13B.Options(base=WIDE))
    with pytest.raises(
        UserError, match="height must be a multiple of 32 pixels, 720 is not; 704 is the near"
    ):
        RefAlign13B(RefAlign13B.Options(base=WIDE, transformer=own, height=720))
    with pytest.raises(UserError, match=r"unknown base 'wan2\.2'"):
        RefAlign13B(RefAlign13B.Options(base="wan2.2", transformer=own))
    with pytest.raises(ValueError, match="transformer_2 and adapter_2 need a base with two experts"):
        RefAlign13B.Options(transformer_2=own)
    # A name with the word is no expert's where there is one network.
    assert RefAlign13B.Options(adapter=Path("low/a.safetensors")).adapters[0][0].path == Path(
        "low/a.safetensors"
    )
