"""The small VAE: its shortcut for single frames, its training, and its folder as the real loader reads it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="training needs the extra 'refalign'")

from refbench.mini.training.loop import Run, made_on, on_device  # noqa: E402
from refbench.mini.training.vae import SCHEDULE, VaeLearner, new_vae, uncut, write_vae  # noqa: E402

# Pictures of which the linear code at the start is made.
FEW = 16


def test_before_any_step_it_is_a_linear_code_of_frames_and_clips() -> None:
    learner = VaeLearner(start_pictures=120)
    for progress in (0.0, 0.9):
        pixels = learner.examples(random.Random(7), progress)
        with torch.no_grad():
            latents = learner.network.encode(pixels).latent_dist.mode()
            error = (uncut(learner.network, latents) - pixels).square().mean()
        assert error < 0.45 * pixels.var()


def test_single_frames_take_a_shorter_way_to_the_same_sums() -> None:
    quick = VaeLearner(start_pictures=FEW).network
    plain = new_vae()
    plain.load_state_dict(quick.state_dict())
    for frames in (1, 5):
        pixels = torch.rand((2, 3, frames, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1
        with torch.no_grad():
            latents = [vae.encode(pixels).latent_dist.mode() for vae in (quick, plain)]
            made = [vae.decode(latents[1]).sample for vae in (quick, plain)]
        torch.testing.assert_close(latents[0], latents[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=0)


def test_beyond_white_there_is_still_a_gradient() -> None:
    vae = VaeLearner(start_pictures=FEW).network
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(2.0)
        vae.decoder.conv_out.weight.zero_()
    made = uncut(vae, torch.zeros(1, 16, 2, 2, 2))
    assert made.shape == (1, 3, 5, 16, 16)
    assert made.min() == 2.0 and vae.decode(torch.zeros(1, 16, 2, 2, 2)).sample.max() == 1.0
    made.sum().backward()
    assert vae.decoder.conv_out.bias.grad.abs().min() > 0


def test_frames_come_first_then_clips() -> None:
    learner = VaeLearner(start_pictures=FEW)
    assert learner.examples(random.Random(0), 0.0).shape == (10, 3, 1, 64, 64)
    clips = learner.examples(random.Random(0), 0.9)
    assert clips.shape == (2, 3, 9, 64, 64)
    learner.batch = 2
    assert learner.examples(random.Random(0), 0.0).shape == (20, 3, 1, 64, 64)
    assert clips.min() >= -1 and clips.max() <= 1


def test_it_learns_on_another_device_than_the_examples_come_from() -> None:
    learner = VaeLearner(start_pictures=FEW)
    learner.network.to("meta")
    for progress in (0.0, 0.9):
        batch = on_device(learner.examples(random.Random(0), progress), "meta")
        with made_on("meta"):
            sum(learner.losses(batch, None).values()).backward()  # type: ignore[arg-type]
    assert learner.network.decoder.conv_out.weight.grad.device.type == "meta"


def test_it_trains_and_its_folder_loads(tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    learner = VaeLearner(start_pictures=FEW)
    Run(learner=learner, schedule=replace(SCHEDULE, steps=2), folder=tmp_path / "run").train()
    write_vae(learner.network, tmp_path / "vae", seed=0, clips=1)
    config = json.loads((tmp_path / "vae/config.json").read_text())
    assert len(config["latents_mean"]) == len(config["latents_std"]) == 16
    assert all(value > 0 for value in config["latents_std"])
    loaded = AutoencoderKLWan.from_pretrained(tmp_path / "vae", torch_dtype=torch.float32)
    pixels = torch.zeros(1, 3, 9, 64, 64)
    with torch.no_grad():
        expected = learner.network.half().float().encode(pixels).latent_dist.mode()
        assert loaded.encode(pixels).latent_dist.mode().shape == (1, 16, 3, 8, 8)
        torch.testing.assert_close(loaded.encode(pixels).latent_dist.mode(), expected)
