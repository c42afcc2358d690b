"""The alignment loss against RefAlign's own values (goldens `refalign/`) and a direct N×N implementation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")

from fill import normal, parameter  # noqa: E402

import refbench.refalign.alignment as alignment  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.alignment import (  # noqa: E402
    AlignmentConfig,
    AlignmentProjectors,
    AlignmentTerms,
    alignment_terms,
    average_terms,
    timestep_gate,
)

FOLDER = Path(__file__).parents[1] / "goldens" / "refalign"
ARRAYS = np.load(FOLDER / "dit_tiny.npz")
DIT = json.loads((FOLDER / "dit_tiny.json").read_text())
SCALARS = DIT["scalars"]
RA_TOLERANCE, PROJECTION_TOLERANCE, GATE_TOLERANCE = 2e-6, 5e-5, 1e-7
THREE = AlignmentConfig(blocks=(0, 1, 2), projector_hidden=48)
PLAIN = AlignmentConfig(blocks=(0,))


def array(key: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[key])


def subjects(*counts: int, padding: int = 0) -> torch.Tensor:
    """(1,N): so many tokens of subject 0, 1, …, then padding."""
    numbers = [subject for subject, count in enumerate(counts) for _ in range(count)]
    return torch.tensor([numbers + [-1] * padding])


def teacher_tokens(name: str) -> torch.Tensor:
    """(1, references·rows·columns, channels) of a stored teacher (1, channels, references, rows, columns)."""
    return torch.from_numpy(normal(name, (1, 40, 2, 4, 6))).flatten(2).transpose(1, 2)


def tiny_projectors() -> AlignmentProjectors:
    projectors = AlignmentProjectors(THREE, width=96, teacher_widths=[40])
    state = projectors.original_state_dict()
    filled = {key: torch.from_numpy(parameter(key, tuple(value.shape))) for key, value in state.items()}
    projectors.load_original_state_dict(filled, "the golden's rules")
    return projectors


def direct_terms(
    student_ND: torch.Tensor, teacher_ND: torch.Tensor, subject_N: torch.Tensor, config: AlignmentConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both terms of one sample by the formula, with the whole N×N matrix under autograd."""
    real = subject_N >= 0
    student, teacher, subject = student_ND[real], teacher_ND[real], subject_N[real]
    if not len(subject) or not teacher.any():
        return student_ND.sum() * 0, student_ND.sum() * 0
    cosines = torch.nn.functional.normalize(student, dim=1) @ torch.nn.functional.normalize(teacher, dim=1).T
    positive = (1 - cosines.diagonal() - config.positive_margin).relu().mean()
    different = subject[:, None] != subject[None]
    if not different.any() or config.negative_weight == 0:
        return positive, positive * 0
    return positive, (config.negative_margin - (1 - cosines)).relu()[different].mean()


def check(terms: AlignmentTerms, expected: dict[str, Any], sample: int = 0) -> None:
    for found, key in (
        (terms.positive_KB[:, sample], "ra_pos"),
        (terms.negative_KB[:, sample], "ra_neg"),
        (terms.total(THREE)[sample], "align_loss1"),
        (terms.negative_B[sample], "align_loss2"),
    ):
        np.testing.assert_allclose(found.detach().numpy(), expected[key], atol=RA_TOLERANCE, rtol=0)


@pytest.mark.parametrize("case", SCALARS["ra_alone"]["cases"], ids=lambda case: str(case["kw"]))
def test_the_loss_alone(case: dict[str, Any]) -> None:
    names = {
        "pos_margin": "positive_margin",
        "neg_margin": "negative_margin",
        "neg_weight": "negative_weight",
    }
    config = AlignmentConfig(blocks=(0,), **{names[key]: value for key, value in case["kw"].items()})
    student, teacher = (
        torch.from_numpy(normal(f"refalign.ra.{role}", (15, 8)))[None] for role in ("student", "teacher")
    )
    terms = alignment_terms([student], teacher, subjects(5, 5, 5), config)
    for found, key in (
        (terms.positive_B, "pos"),
        (terms.negative_B, "neg"),
        (terms.total(config), "total"),
    ):
        np.testing.assert_allclose(found.numpy(), [case[key]], atol=RA_TOLERANCE, rtol=0)


@pytest.mark.parametrize(("prefix", "references"), [("refs2", 2), ("refs1", 1)])
def test_projectors_and_loss_of_the_tiny_model(prefix: str, references: int) -> None:
    states = [array(f"{prefix}/x_ip_block{block}").reshape(1, -1, 96) for block in THREE.blocks]
    (projected,) = tiny_projectors()(states)
    for block, tokens in enumerate(projected):
        expected = array(f"{prefix}/proj_block{block}")
        torch.testing.assert_close(tokens[0], expected, atol=PROJECTION_TOLERANCE, rtol=0)
    teacher = teacher_tokens("refalign.teacher")[:, : 24 * references]
    if references == 2:
        torch.testing.assert_close(teacher[0], array("refs2/teacher_tokens"), atol=1e-6, rtol=0)
    terms = alignment_terms(projected, teacher, subjects(*[24] * references), THREE)
    check(terms, SCALARS[prefix])
    check(terms, SCALARS["batch2_per_sample"][0] if references == 2 else SCALARS[prefix])


def test_a_batch_is_not_one_large_sample() -> None:
    states = array("refs2/x_ip_block0").reshape(1, -1, 96)
    projected = tiny_projectors()([states.repeat(2, 1, 1)] * 3)[0][0]
    teacher = torch.cat([teacher_tokens("refalign.teacher"), teacher_tokens("refalign.teacher.1")])
    terms = alignment_terms([projected], teacher, subjects(24, 24).repeat(2, 1), PLAIN)
    expected = SCALARS["batch2_per_sample"][0]["ra_neg"][0]
    np.testing.assert_allclose(terms.negative_B[0].detach().numpy(), expected, atol=RA_TOLERANCE, rtol=0)


def test_a_null_condition_has_no_loss() -> None:
    assert SCALARS["null_train"]["align_loss1"] == 0
    student = torch.randn(1, 24, 40, requires_grad=True)
    config = AlignmentConfig(blocks=(0,), negative_margin=1.5)
    null = torch.zeros(1, 24, 40)
    for teacher, subject in (
        (null, subjects(24)),
        (null, subjects(12, 12)),
        (null + 1, subjects(padding=24)),
    ):
        terms = alignment_terms([student], teacher, subject, config)
        assert terms.positive_B.tolist() == terms.negative_B.tolist() == [0]
        terms.total(config).sum().backward()
    assert student.grad.abs().max() == 0


# Margins that leave none, some and all of the pairs open, and samples that differ in everything.
CONFIGS = [
    PLAIN,
    AlignmentConfig(blocks=(0,), positive_margin=0.2, negative_margin=0.7, negative_weight=0.5),
    AlignmentConfig(blocks=(0,), negative_margin=2.0, negative_weight=3.0),
    AlignmentConfig(blocks=(0,), negative_weight=0.0),
]
LAYOUT = torch.tensor(
    [
        [0] * 4 + [1] * 7 + [2] * 5,
        [0] * 6 + [1] * 3 + [-1] * 7,
        [5] * 9 + [-1] * 7,
        [-1] * 16,
        [2, 2, 0, 0, -1, -1, 2, 2, 2, 1, 1, -1, 0, 0, 0, 2],
        [0] * 8 + [1] * 8,
    ]
)


@pytest.mark.parametrize("chunk", [1, 12, 2**22])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_of_a_direct_implementation(
    dtype: torch.dtype, config: AlignmentConfig, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "CHUNK_COSINES", chunk)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randn(3, *LAYOUT.shape, 9, dtype=dtype, generator=generator).requires_grad_()
    teacher = torch.randn(*LAYOUT.shape, 9, dtype=dtype, generator=generator)
    teacher[5] = 0
    terms = alignment_terms(list(blocks), teacher, LAYOUT, config)
    direct = [
        [
            direct_terms(student, *others, config)
            for student, *others in zip(block, teacher, LAYOUT, strict=True)
        ]
        for block in blocks
    ]
    tolerance = {"atol": 2e-6, "rtol": 0} if dtype == torch.float32 else {"atol": 1e-13, "rtol": 0}
    positive, negative = (
        torch.stack([torch.stack([sample[term] for sample in block]) for block in direct]) for term in (0, 1)
    )
    torch.testing.assert_close(terms.positive_KB, positive, **tolerance)
    torch.testing.assert_close(terms.negative_KB, negative, **tolerance)
    # Every block, sample and term by a factor of its own: no gradient of another may slip in.
    factors = torch.randn(2, *positive.shape, dtype=dtype, generator=generator)
    (found,) = torch.autograd.grad(
        (factors[0] * terms.positive_KB).sum() + (factors[1] * terms.negative_KB).sum(), blocks
    )
    (expected,) = torch.autograd.grad((factors[0] * positive).sum() + (factors[1] * negative).sum(), blocks)
    torch.testing.assert_close(found, expected, **tolerance)
    assert expected.abs().max() > 0.01


def test_a_batch_equals_its_samples_alone() -> None:
    student, teacher = torch.randn(2, *LAYOUT.shape, 9)
    together = alignment_terms([student], teacher, LAYOUT, PLAIN)
    for sample, subject in enumerate(LAYOUT):
        real = subject >= 0
        if not real.any():
            continue
        alone = alignment_terms(
            [student[sample, real][None]], teacher[sample, real][None], subject[real][None], PLAIN
        )
        torch.testing.assert_close(together.total(PLAIN)[sample], alone.total(PLAIN)[0], atol=1e-6, rtol=0)


def test_padding_may_hold_anything() -> None:
    student, teacher = torch.randn(2, 1, 6, 9)
    expected = alignment_terms([student], teacher, subjects(3, 3), PLAIN)
    junk = torch.full((1, 2, 9), float("nan"))
    found = alignment_terms(
        [torch.cat([student, junk], dim=1)],
        torch.cat([teacher, junk], dim=1),
        subjects(3, 3, padding=2),
        PLAIN,
    )
    torch.testing.assert_close(found.total(PLAIN), expected.total(PLAIN), atol=1e-6, rtol=0)


def test_half_precision_and_autocast_compute_in_float32() -> None:
    student, teacher = torch.randn(2, 1, 6, 9).bfloat16()
    exact = alignment_terms([student.float()], teacher.float(), subjects(3, 3), PLAIN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = student.clone().requires_grad_()
        half = alignment_terms([leaf], teacher, subjects(3, 3), PLAIN)
        half.total(PLAIN).sum().backward()
    assert half.positive_KB.dtype == half.negative_KB.dtype == torch.float32
    torch.testing.assert_close(half.total(PLAIN), exact.total(PLAIN), atol=1e-6, rtol=0)
    assert leaf.grad.dtype == torch.bfloat16 and leaf.grad.abs().max() > 0


def test_repeated_backward_no_grad_and_checkpointing() -> None:
    student, teacher = torch.randn(2, 1, 6, 9)
    student.requires_grad_()

    def loss(tokens: torch.Tensor) -> torch.Tensor:
        return alignment_terms([tokens], teacher, subjects(3, 3), PLAIN).total(PLAIN).sum()

    once = torch.autograd.grad(loss(student), student)[0]
    kept = loss(student)
    for _ in range(2):
        kept.backward(retain_graph=True)
    torch.testing.assert_close(student.grad, 2 * once)
    again = torch.utils.checkpoint.checkpoint(loss, student, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again, student)[0], once)
    twice = loss(student) + loss(student)
    torch.testing.assert_close(torch.autograd.grad(twice, student)[0], 2 * once)
    with torch.no_grad():
        torch.testing.assert_close(loss(student), kept)
    teacher.requires_grad_()
    loss(student).backward()
    assert teacher.grad is None


def test_a_token_of_length_zero_has_a_finite_gradient() -> None:
    student, teacher = torch.randn(2, 1, 6, 9, dtype=torch.float64)
    student[0, 2] = 0
    student.requires_grad_()
    total = alignment_terms([student], teacher, subjects(3, 3), PLAIN).total(PLAIN)
    unit, directions = (torch.nn.functional.normalize(x[0], dim=1, eps=1e-6) for x in (student, teacher))
    cosines = unit @ directions.T
    different = (subjects(3, 3) != subjects(3, 3).T).double()
    direct = (1 - cosines.diagonal()).relu().mean() + (cosines.relu() * different).sum() / 18
    torch.testing.assert_close(total[0], direct)
    # The token meets the others at relu(0), where nothing pulls in either form.
    found, expected = (torch.autograd.grad(value, student)[0] for value in (total.sum(), direct))
    torch.testing.assert_close(found, expected)
    assert torch.isfinite(found).all() and found[0, 2].abs().max() > 0


def test_nothing_of_tokens_by_tokens_is_kept_for_the_backward() -> None:
    tokens, channels = 96, 8
    kept: list[int] = []
    students = [torch.randn(1, tokens, channels, requires_grad=True) for _ in THREE.blocks]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        terms = alignment_terms(students, torch.randn(1, tokens, channels), subjects(32, 32, 32), THREE)
    assert kept and max(kept) <= tokens * channels
    terms.total(THREE).sum().backward()
    assert all(student.grad.abs().max() > 0 for student in students)


@pytest.mark.parametrize(
    ("gradient", "weight", "products"), [(True, 1.0, 2), (False, 1.0, 1), (True, 0.0, 0)]
)
def test_only_pairs_of_different_subjects_are_computed(gradient: bool, weight: float, products: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    student = torch.randn(1, 12, 8, requires_grad=gradient)
    config = AlignmentConfig(blocks=(0,), negative_weight=weight)
    with FlopCounterMode(display=False) as counter:
        total = alignment_terms([student], torch.randn(1, 12, 8), subjects(3, 4, 5), config).total(config)
        if gradient:
            total.sum().backward()
    pairs = 12 * 12 - (3 * 3 + 4 * 4 + 5 * 5)
    assert counter.get_total_flops() == products * 2 * pairs * 8


def test_gate(golden: Callable[[str], Any]) -> None:
    stored = golden("refalign/flow_match.json")
    gate, training = stored["gate"], stored["training"]
    for timesteps, expected in (
        (gate["t"], gate["value"]),
        (training["timesteps"], gate["at_training_ids"]),
    ):
        found = timestep_gate(torch.tensor(timesteps), PLAIN).numpy()
        np.testing.assert_allclose(found, expected, atol=GATE_TOLERANCE, rtol=0)
    beyond = torch.tensor([-5.0, 1200.0], dtype=torch.bfloat16)
    assert timestep_gate(beyond, PLAIN).tolist() == [0, 1]
    ungated = timestep_gate(beyond, AlignmentConfig(gate="none"))
    assert ungated.tolist() == [1, 1] and ungated.dtype == torch.float32


def test_what_alignment_adds_to_the_training_loss() -> None:
    step = SCALARS["train"]["250"]
    config = AlignmentConfig(blocks=(0, 1, 2), weight=0.5)
    positive = torch.tensor(step["ra_total"])[:, None]
    terms = AlignmentTerms.of_blocks(positive, torch.zeros_like(positive))
    projectors = AlignmentProjectors(config, width=4, teacher_widths=[4])
    named = {"positive": terms.positive_B, "negative": terms.negative_B}
    inputs: Any = SimpleNamespace(timesteps_B=torch.tensor([step["timestep"]]))
    found = projectors.loss(named, inputs, weight=config.weight)
    np.testing.assert_allclose(found.numpy(), [0.5 * step["align1_gated"]], rtol=1e-5)


def test_several_teachers_count_alike() -> None:
    config = AlignmentConfig(blocks=(1, 4), teachers=("dinov3-vitb16", "siglip2-base"))
    projectors = AlignmentProjectors(config, width=12, teacher_widths=[8, 10])
    projected = projectors([torch.randn(1, 6, 12), torch.randn(1, 6, 12)])
    assert [[tokens.shape[2] for tokens in blocks] for blocks in projected] == [[8, 8], [10, 10]]
    terms = [
        alignment_terms(blocks, torch.randn(1, 6, width), subjects(3, 3), config)
        for blocks, width in zip(projected, (8, 10), strict=True)
    ]
    both = average_terms(terms)
    torch.testing.assert_close(both.total(config), (terms[0].total(config) + terms[1].total(config)) / 2)
    torch.testing.assert_close(both.negative_KB, (terms[0].negative_KB + terms[1].negative_KB) / 2)
    other = AlignmentProjectors(config, width=12, teacher_widths=[8, 10])
    state = projectors.original_state_dict()
    other.load_original_state_dict(state, "a file")
    assert all(torch.equal(value, state[key]) for key, value in other.original_state_dict().items())
    assert "blocks.4.input_mlp.siglip2-base.proj.2.weight" in state


@pytest.mark.parametrize("size", ["1.3b", "14b"])
def test_projectors_have_the_published_keys_and_shapes(size: str, golden: Callable[[str], Any]) -> None:
    manifest = golden(f"refalign/manifests/refalign_{size}.json")
    with torch.device("meta"):
        projectors = AlignmentProjectors(
            AlignmentConfig(), width=manifest["config"]["dim"], teacher_widths=[manifest["teacher_dim"]]
        )
    found = {key: list(value.shape) for key, value in projectors.original_state_dict().items()}
    assert found == {key: manifest["shapes"][key] for key in manifest["projector_keys"]}


def test_projectors_of_one_dtype_take_tokens_of_another() -> None:
    projectors = tiny_projectors()
    tokens = [torch.randn(1, 4, 96, dtype=torch.bfloat16) for _ in THREE.blocks]
    assert projectors(tokens)[0][0].dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projectors(tokens)[0][0].dtype == torch.bfloat16


def test_projector_weights_that_do_not_fit_are_named() -> None:
    projectors = tiny_projectors()
    state = projectors.original_state_dict()
    state["blocks.9.input_mlp.proj.0.weight"] = state.pop("blocks.0.input_mlp.proj.0.weight")
    state["blocks.1.input_mlp.proj.2.weight"] = state["blocks.1.input_mlp.proj.2.weight"][:3]
    with pytest.raises(
        UserError, match=r"^a\.pt does not fit .*1 missing \(blocks\.0\..*1 unexpected \(blocks\.9.*1 of"
    ):
        projectors.load_original_state_dict(state, "a.pt")


def test_what_does_not_fit_is_refused() -> None:
    tokens = torch.randn(1, 6, 9)
    with pytest.raises(ValueError, match="do not fit"):
        alignment_terms([tokens], torch.randn(1, 6, 8), subjects(6), PLAIN)
    with pytest.raises(ValueError, match="do not fit"):
        alignment_terms([tokens], tokens, subjects(5), PLAIN)
    with pytest.raises(ValueError, match="no projections"):
        alignment_terms([], tokens, subjects(6), PLAIN)
    with pytest.raises(ValueError, match="2 blocks of tokens for 3"):
        tiny_projectors()([torch.randn(1, 6, 96)] * 2)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"blocks": ()}, "ascending"),
        ({"blocks": (2, 1)}, "ascending"),
        ({"blocks": (-1, 1)}, "ascending"),
        ({"positive_margin": -0.1}, "positive_margin must lie in"),
        ({"negative_margin": float("nan")}, "negative_margin must lie in"),
        ({"weight": -1.0}, "weight must be"),
        ({"gate": "linear"}, "gate must be cubic or none"),
        ({"projector_hidden": 0}, "at least 1"),
        ({"teachers": ()}, "one or several"),
        ({"teachers": ("dinov2-base", "dinov2-base")}, "different teachers"),
        ({"teachers": ("dinov9",)}, "no teacher is called 'dinov9'; known: dinov3-vitb16"),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_line(setting: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        AlignmentConfig(**setting)
