"""Operations of a step against torch's own counter, and the share of a card's peak."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from kit.training import ARCHITECTURE  # noqa: E402
from refbench.refalign.training.flops import StepMeter, forward_flops, peak_flops  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402

RELEASED = {
    "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16, "out_channels": 16,
    "text_dim": 4096, "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30,
}  # fmt: skip


def counted(architecture: dict[str, Any], frames: int, references: int, *, backward: bool = False) -> int:
    """torch's count for latents of 4×6 (or, of the released size, on no device at all)."""
    with torch.device("cpu" if backward else "meta"):
        network = RefAlignTransformer3DModel(**architecture)
        given = (
            torch.ones(1, 16, frames, 4, 6, requires_grad=backward),
            torch.ones(1),
            torch.ones(1, 7, architecture["text_dim"], requires_grad=backward),
            torch.ones(1, 16, references, 4, 6, requires_grad=backward),
        )
    with FlopCounterMode(display=False) as counter:
        out = network(*given).sample
        if backward:
            out.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("architecture", [ARCHITECTURE, RELEASED])
@pytest.mark.parametrize(("frames", "references"), [(2, 1), (5, 3)])
def test_the_forward_pass_is_torchs_count(architecture: dict[str, Any], frames: int, references: int) -> None:
    found = forward_flops(architecture, video_tokens=6 * frames, reference_tokens=6 * references, text_rows=7)
    assert found.total == counted(architecture, frames, references)


def test_a_training_step_is_three_passes() -> None:
    """Of its products: torch's counter does not know the attention kernel of a CPU, nor asks anybody for the
    gradient of the time.
    """
    found = forward_flops(ARCHITECTURE, video_tokens=12, reference_tokens=6, text_rows=7)
    assert found.of_training() == 3 * found.total
    assert found.of_training(adapters=True) == 2 * found.products + 3 * found.attention
    with_backward = counted(ARCHITECTURE, 2, 1, backward=True)
    assert with_backward == pytest.approx(3 * found.products, rel=1e-3)


def test_the_peak_is_that_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), half=True) == 989e12
    assert peak_flops(torch.device("cuda"), half=False) == 67e12
    assert peak_flops(torch.device("cpu"), half=True) is None
    meter = StepMeter(ARCHITECTURE, torch.device("cuda"), half=True, adapters=False, processes=2)
    assert meter.share_of_peak(tflop=989.0, seconds=2.0) == pytest.approx(0.25)
    name = "A card of tomorrow"
    assert peak_flops(torch.device("cuda"), half=True) is None
