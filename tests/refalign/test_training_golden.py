"""The training step against the authors' own (golden `refalign/dit_tiny.json`): losses and all gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from kit.golden_networks import named, network, original_state, read, worst  # noqa: E402
from refbench.baselines.wan.checkpoint import original_key  # noqa: E402
from refbench.refalign.alignment import AlignmentConfig, AlignmentProjectors  # noqa: E402
from refbench.refalign.flow_matching import FlowSchedule  # noqa: E402
from refbench.refalign.training.batch import Batch, Example, Features, NoiseDraw, collate  # noqa: E402
from refbench.refalign.training.model import Losses, TrainingModel  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

SPECIFICATION = read("refalign/dit_tiny.json")
ARRAYS = read("refalign/dit_tiny.npz")
TRAIN = SPECIFICATION["scalars"]["train"]
CONFIG = AlignmentConfig(blocks=(0, 1, 2), projector_hidden=48)
LOSS_RTOL, NORM_RTOL, GRADIENT_ATOL = 1e-5, 5e-5, 2e-6


def given(name: str) -> torch.Tensor:
    return named("refalign", name, tuple(SPECIFICATION["inputs"][f"refalign.{name}"]))


def make(config: AlignmentConfig = CONFIG, *, checkpointing: bool = False) -> TrainingModel:
    transformer = network(RefAlignTransformer3DModel, SPECIFICATION["weights"], SPECIFICATION["config"])
    projectors = AlignmentProjectors(config, width=96, teacher_widths=[40])
    state = {
        key: value for key, value in original_state(SPECIFICATION["weights"]).items() if "input_mlp" in key
    }
    projectors.load_original_state_dict(state, "the golden's rules")
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    return TrainingModel(transformer, projectors, config).train()


def example(suffix: str = "", references: int = 2, position: int = 0) -> Example:
    teacher = given(f"teacher{suffix}")[0].flatten(2).permute(1, 2, 0)[:references]
    features = Features(
        latents_CFhw=given("input_latents" if not suffix else f"latents{suffix}")[0],
        text_LD=given(f"context{suffix}")[0],
        references_CNhw=given(f"subject_latents{suffix}")[0, :, :references],
        teachers=(teacher,),
    )
    return Example(key=f"sample{suffix}", epoch=0, position=position, features=features)


def batch(timestep_id: int) -> Batch:
    level = FlowSchedule().level_of_ids(torch.tensor([timestep_id]))
    whole = collate([example()], FlowSchedule(), 0, text_rows=7)
    return replace(
        whole,
        noise_BCFhw=given("noise"),
        timesteps_B=level.timesteps_B,
        sigmas_B=level.sigmas_B,
        weights_B=level.weights_B,
    )


def original_gradients(model: TrainingModel) -> dict[str, torch.Tensor]:
    found = {original_key(key): value.grad for key, value in model.transformer.named_parameters()}
    names = {value.data_ptr(): key for key, value in model.projectors.original_state_dict().items()}
    return found | {names[value.data_ptr()]: value.grad for value in model.projectors.parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("timestep_id", ["250", "900"])
def test_the_training_step(timestep_id: str, checkpointing: bool) -> None:
    golden = TRAIN[timestep_id]
    model = make(checkpointing=checkpointing)
    given_batch = batch(int(timestep_id))
    losses = model(given_batch)
    losses.total.sum().backward()
    for found, key in (
        (losses.total, "total"),
        (losses.flow, "loss_mse_weighted"),
        (losses.ra, "align1_gated"),
        (losses.squared_error, "mse_unweighted"),
        (losses.ra_negative * golden["gate"], "align2_gated"),
        (losses.ra_positive + losses.ra_negative, "ra_total"),
        (given_batch.timesteps_B, "timestep"),
        (given_batch.weights_B, "training_weight"),
    ):
        np.testing.assert_allclose(found.detach().numpy(), [np.mean(golden[key])], rtol=LOSS_RTOL)
    gradients = original_gradients(model)
    assert gradients.keys() == golden["grad_norm"].keys()
    for key, norm in golden["grad_norm"].items():
        np.testing.assert_allclose(float(gradients[key].norm()), norm, rtol=NORM_RTOL, err_msg=key)
    if timestep_id == "250":
        stored = [name for name in ARRAYS.files if name.startswith("train250/grad/")]
        assert len(stored) == 9
        for name in stored:
            assert worst(gradients[name.removeprefix("train250/grad/")], ARRAYS[name]) < GRADIENT_ATOL


def run(model: TrainingModel, examples: list[Example]) -> tuple[Losses, dict[str, torch.Tensor]]:
    model.zero_grad()
    losses = model(collate(examples, FlowSchedule(), seed=3))
    losses.total.sum().backward()
    return losses, original_gradients(model)


def test_a_batch_equals_its_samples_alone() -> None:
    """Each sample has its own timestep, number of references and prompt length."""
    pair = [example(), example(".1", references=1, position=5)]
    model = make()
    together, gradients = run(model, pair)
    alone = [run(model, [one]) for one in pair]
    for name in Losses._fields:
        expected = torch.cat([getattr(losses, name) for losses, _ in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, alone[0][1][key] + alone[1][1][key], rtol=1e-4, atol=2e-5)
    assert together.ra_negative[1] == 0 < together.ra_negative[0]


def test_dropped_references_leave_one_of_zeros_and_no_alignment() -> None:
    whole = example()
    dropped = replace(
        whole.features,
        references_CNhw=whole.features.references_CNhw[:, :0],
        teachers=(whole.features.teachers[0][:0],),
    )
    one = collate([replace(whole, features=dropped)], FlowSchedule(), seed=0)
    assert one.references_BCNhw.shape == (1, 16, 1, 8, 12) and not one.references_BCNhw.any()
    assert one.counts_B is None and one.subject_BT.tolist() == [[0] * 24]
    model = make()
    losses = model(one)
    assert losses.ra.item() == losses.ra_positive.item() == losses.aligned.item() == 0
    losses.total.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_alignment_of_weight_zero_is_measured_and_not_trained() -> None:
    model = make(replace(CONFIG, weight=0.0))
    losses = model(batch(250))
    assert losses.ra_positive.item() > 0.5 and losses.ra.item() == 0
    losses.total.sum().backward()
    assert all(parameter.grad is None for parameter in model.projectors.parameters())
    plain = TrainingModel(make().transformer, None, CONFIG)(batch(250))
    torch.testing.assert_close(plain.total, losses.total)


def test_noise_follows_from_seed_epoch_and_position() -> None:
    shape = (16, 3, 8, 12)
    draw = NoiseDraw.of(1, 2, 3, shape)
    torch.manual_seed(99)
    again = NoiseDraw.of(1, 2, 3, shape)
    assert draw.level_id == again.level_id and torch.equal(draw.noise_CFhw, again.noise_CFhw)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not torch.equal(draw.noise_CFhw, NoiseDraw.of(*other, shape).noise_CFhw)
    ids = [NoiseDraw.of(0, 0, position, (1,)).level_id for position in range(400)]
    assert min(ids) < 20 and max(ids) > 980 and 450 < np.mean(ids) < 550
