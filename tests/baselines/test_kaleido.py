"""Kaleido's rotary tables and preparation against the official code (golden `baselines/kaleido.npz`), and its
loop's laws.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_networks import named, network, original_state, read, worst  # noqa: E402
from refbench.baselines.kaleido import Kaleido14B  # noqa: E402
from refbench.baselines.wan.checkpoint import load_transformer, read_checkpoint  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry  # noqa: E402
from refbench.baselines.wan.nets.kaleido import KaleidoTransformer3DModel  # noqa: E402
from refbench.baselines.wan.nets.phantom import PhantomTransformer3DModel  # noqa: E402
from refbench.baselines.wan.nets.transformer import rotary_embedding  # noqa: E402
from refbench.baselines.wan.references import fit_and_pad, fitted_size, to_tensor  # noqa: E402
from refbench.baselines.wan.sat import sat_tensors  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402

ARRAYS = read("baselines/kaleido.npz")
PHANTOM = read("baselines/phantom_model.json")
SIZES = {"wide": (50, 120), "tall": (90, 60)}


def picture(kind: str) -> Image.Image:
    return Image.fromarray(uint8_image(f"baselines.kaleido.ref_{kind}", *SIZES[kind]))


def positions(network: Any, references: int, frames: int, rows: int, columns: int) -> torch.Tensor:
    grid, device = (frames, rows, columns), torch.device("cpu")
    video = network.video_positions(grid, device)
    return torch.cat([network.reference_positions(grid, (references, rows, columns), device), video])


@pytest.fixture(scope="module")
def kaleido() -> Any:
    config = PHANTOM["config"] | {"eps": 1e-6}
    return network(KaleidoTransformer3DModel, PHANTOM["weights"], config)


@pytest.mark.parametrize("references", [1, 2, 3])
def test_tables_of_a_small_sequence(kaleido: Any, references: int) -> None:
    found = positions(kaleido, references, 3, 4, 6)
    assert worst(found, ARRAYS[f"head24_refs{references}/positions"]) == 0
    cos, sin = rotary_embedding(found, 24, kaleido.rule.rope_dtype)
    assert worst(cos[0, :, 0, ::2], ARRAYS[f"head24_refs{references}/cos"]) < 2e-6
    assert worst(sin[0, :, 0, 1::2], ARRAYS[f"head24_refs{references}/sin"]) < 2e-6


@pytest.mark.parametrize("references", [1, 3])
def test_tables_at_released_size(kaleido: Any, references: int) -> None:
    rows, columns = 32, 56
    found = positions(kaleido, references, 21, rows, columns)
    cos, sin = rotary_embedding(found, 128, kaleido.rule.rope_dtype)
    tokens = ARRAYS[f"head128_refs{references}/tokens"]
    index = (tokens[:, 0] * rows + tokens[:, 1]) * columns + tokens[:, 2]
    assert worst(cos[0, index, 0, ::2], ARRAYS[f"head128_refs{references}/cos"]) < 2e-6
    assert worst(sin[0, index, 0, 1::2], ARRAYS[f"head128_refs{references}/sin"]) < 2e-6


@pytest.mark.parametrize("kind", ["wide", "tall"])
def test_prepared_references(kind: str) -> None:
    found = to_tensor(fit_and_pad(picture(kind), 96, 64))
    # One step of 8 bits, should Pillow round otherwise.
    assert worst(found, ARRAYS[f"padded_small/{kind}"]) < 2 / 255 + 1e-5
    width, height = fitted_size(*picture(kind).size, 896, 512)
    left, top = (896 - width) // 2, (512 - height) // 2
    assert [left, top, left + width, top + height] == ARRAYS[f"padded_full_box/{kind}"].tolist()


def test_noise_is_drawn_frames_first() -> None:
    sample = Sample(id="s_1", category="s", prompt="p", references=())
    conditioner = Kaleido14B().conditioner(sample, 7)
    geometry = Geometry(width=32, height=16, num_frames=9)
    drawn = conditioner.draw_noise(geometry, 2, torch.Generator().manual_seed(7), torch.device("cpu"))
    original = torch.randn(1, 3, 16, 2, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(drawn, original.transpose(1, 2))


def test_only_positions_tell_head_from_tail(kaleido: Any) -> None:
    """With the same positions the order of tokens means nothing; with Kaleido's rule the result is
    another.
    """
    config = PHANTOM["config"] | {"eps": 1e-6}
    phantom = network(PhantomTransformer3DModel, PHANTOM["weights"], config)
    inputs = (
        named("kaleido", "latents", (1, 16, 3, 8, 12)),
        torch.tensor([500.0]),
        named("kaleido", "text", (1, 9, 32)),
        named("kaleido", "references", (1, 16, 2, 8, 12)),
    )
    with torch.no_grad():
        head, tail = kaleido(*inputs).sample, phantom(*inputs).sample
        phantom.reference_positions = kaleido.reference_positions
        moved = phantom(*inputs).sample
    assert worst(moved, head.numpy()) < 1e-5
    assert worst(tail, head.numpy()) > 0.01


def test_card() -> None:
    card = Kaleido14B().card()
    assert (card.width, card.height, card.shift, card.solver, card.steps) == (896, 512, 7.0, "euler", 50)
    assert card.negative_prompt == read("baselines/negative_prompts.json")["kaleido"]
    assert dict(card.guidance) == {"text": 6.0}


def test_checkpoint_in_its_own_format(kaleido: Any, tmp_path: Any) -> None:
    """SwissArmyTransformer's file, fused attention and all, gives the same network as Wan's names."""
    state = original_state(PHANTOM["weights"])
    torch.save({"module": sat_tensors(state)}, tmp_path / "mp_rank_00_model_states.pt")
    (tmp_path / "config.json").write_text('{"num_heads": 4}')
    found = read_checkpoint(tmp_path / "mp_rank_00_model_states.pt", dtype=torch.bfloat16)
    assert found.tensors["scale_shift_table"].dtype == torch.float32
    found = read_checkpoint(tmp_path / "mp_rank_00_model_states.pt")
    model = load_transformer(KaleidoTransformer3DModel, found)
    assert all(torch.equal(value, kaleido.state_dict()[key]) for key, value in model.state_dict().items())
