"""Training of the small networks: the same numbers after an interruption, and files that the loaders take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from refbench.bench.errors import UserError  # noqa: E402
from refbench.mini.train import video_vae  # noqa: E402
from refbench.mini.train.loop import Part, PartSettings, StepDraws, draws_of, train_part  # noqa: E402
from refbench.mini.train.video_vae import VideoVae, clips, pictures  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Line(Part):
    """A network of two numbers that learns a line from noisy points."""

    name: str = "line"
    settings: PartSettings = PartSettings(steps=12, learning_rate=0.1, keep_every=5)  # noqa: RUF009 - frozen

    def network(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def loss(
        self, network: torch.nn.Module, step: int, draws: StepDraws
    ) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.rand(8, 1, generator=draws.torch) + draws.python.random()
        loss = (network(x) - (2 * x - 1)).square().mean()
        return loss, {"loss": float(loss.detach())}

    def finish(self, network: torch.nn.Module, folder: Path) -> None:
        torch.save(network.state_dict(), folder / "line.pt")


def values(network: torch.nn.Module) -> list[float]:
    return [float(one) for tensor in network.state_dict().values() for one in tensor.flatten()]


def test_a_run_in_pieces_is_equal_to_one_that_was_not_stopped(tmp_path: Path) -> None:
    whole = values(train_part(Line(), tmp_path / "whole"))
    losses: list[float] = []
    for stop in (3, 7, None):
        network = train_part(
            Line(),
            tmp_path / "pieces",
            stop_at=stop,
            on_step=lambda done, total, figures: losses.append(figures["loss"]),
        )
        assert (tmp_path / "pieces/line.pt").is_file() == (stop is None)
    assert values(network) == whole
    assert len(losses) == 12
    assert values(train_part(Line(), tmp_path / "other", seed=1)) != whole


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    train_part(Line(), tmp_path, stop_at=3)
    with pytest.raises(UserError, match="is of another run of line"):
        train_part(Line(), tmp_path, seed=1)


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    settings = PartSettings(steps=1000, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) < 1
    assert rates[150:] == sorted(rates[150:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_batches_are_of_the_split_and_the_same_for_a_step() -> None:
    one, other = (clips(2, "training", draws_of("p", 0, 3)) for _ in range(2))
    assert one.shape == (2, 3, 9, 64, 64) and -1 <= float(one.min()) < float(one.max()) <= 1
    assert torch.equal(one, other)
    assert not torch.equal(one, clips(2, "training", draws_of("p", 0, 4)))
    assert pictures(3, "training", draws_of("p", 0, 0)).shape == (3, 3, 1, 64, 64)


def test_the_real_codec_loads_the_trained_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKLWan

    from refbench.bench.weights.hf_folder import load_model

    small = video_vae.CONFIG | {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    monkeypatch.setattr(video_vae, "CONFIG", small)
    for name, value in {"CLIPS_PER_STEP": 1, "PICTURES_PER_STEP": 2, "MEASURED_CLIPS": 2}.items():
        monkeypatch.setattr(video_vae, name, value)
    figures: list[float] = []
    part = VideoVae(settings=PartSettings(steps=4, learning_rate=1e-3))
    trained = train_part(part, tmp_path, on_step=lambda done, total, now: figures.append(now["error"]))
    assert len(figures) == 4 and all(0 < figure < 2 for figure in figures)
    loaded = load_model(AutoencoderKLWan, tmp_path / "vae", dtype=torch.float32)
    pixels = clips(1, "held-out", draws_of("p", 0, 0))
    with torch.no_grad():
        expected = trained.encode(pixels).latent_dist.mode()
        assert torch.equal(loaded.encode(pixels).latent_dist.mode(), expected)
    assert expected.shape == (1, 16, 3, 8, 8)
    assert len(loaded.config.latents_mean) == 16 and all(std > 0 for std in loaded.config.latents_std)
    assert loaded.config.latents_std != AutoencoderKLWan(**small).config.latents_std


def test_what_the_decoder_draws_too_bright_still_has_a_gradient() -> None:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    small = video_vae.CONFIG | {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    vae = AutoencoderKLWan(**small)
    latents = torch.randn(1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    drawn = video_vae.decoded(vae, latents)
    assert drawn.shape == (1, 3, 9, 16, 16)
    assert torch.equal(drawn.clamp(-1, 1), vae.decode(latents).sample)
    with torch.no_grad():
        vae.decoder.conv_out.bias += 5
    bright = video_vae.decoded(vae, latents)
    bright.mean().backward()
    assert float(bright.detach().min()) > 1
    assert float(vae.decoder.conv_out.bias.grad.abs().min()) > 0


def test_facesim_s_loader_takes_the_trained_face_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("insightface")
    from refbench.metrics.facesim import NETWORK_FILE
    from refbench.metrics.nets.curricularface import Layout, load_curricularface
    from refbench.mini.train import face

    monkeypatch.setattr(face, "LAYOUT", Layout(stem_width=4, unit_widths=(4, 6, 8, 8, 10), embedding_width=8))
    monkeypatch.setattr(face, "PEOPLE_PER_STEP", 4)
    part = face.FaceNetwork(settings=PartSettings(steps=3, learning_rate=1e-3))
    trained = train_part(part, tmp_path)
    loaded = load_curricularface(tmp_path / NETWORK_FILE, any_layout=True)
    subject = face.person("held-out", 1)
    view = face.as_faces(face.face_of_reference(subject, draws_of("p", 0, 0).python)[None])
    with torch.no_grad():
        assert torch.equal(loaded(view), trained(view))
    assert 0 <= face.identity_auc(trained, people=4) <= 1


def test_a_face_is_cut_where_the_eyes_are() -> None:
    """The aligned faces of one person have the same place for eyes, in the portrait and in a scene."""
    pytest.importorskip("insightface")
    import numpy as np

    from refbench.mini.train import face

    subject = face.person("training", 5)
    generator = draws_of("p", 0, 1).python
    portrait = face.face_of_reference(subject, generator).astype(int)
    frames = [face.scene_face(subject, "training", generator).astype(int) for _ in range(4)]
    others = [face.face_of_reference(face.person("training", number), generator) for number in range(6, 12)]
    assert portrait.shape == (112, 112, 3)
    own = min(np.abs(frame - portrait).mean() for frame in frames)
    assert own < np.median([np.abs(other.astype(int) - portrait).mean() for other in others])
