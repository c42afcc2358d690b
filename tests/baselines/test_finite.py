"""Networks whose numbers run over: a failed sample that names the step, and no video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from safetensors.torch import load_file, save_file  # noqa: E402

from kit.cli import invoke  # noqa: E402
from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.consisid.method import ConsisID  # noqa: E402
from refbench.baselines.small.consisid import write_tiny as write_consisid  # noqa: E402
from refbench.baselines.small.refalign import REPOSITORIES, write_tiny  # noqa: E402
from refbench.baselines.wan.finite import FiniteSteps, are_finite  # noqa: E402
from refbench.bench.errors import SampleError  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402
from refbench.mini.demo import write_demo_dataset  # noqa: E402
from refbench.refalign.method import RefAlignTiny  # noqa: E402
from refbench.refalign.sampler import sample_video  # noqa: E402

OPTIONS: dict[str, Any] = {"num_frames": 5, "steps": 3}


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    return sample_of(["0.png"], tmp_path, kind="person")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(RefAlignTiny(RefAlignTiny.Options(**OPTIONS)), tmp_path_factory.mktemp("none"))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_fails_and_leaves_no_video(tmp_path: Path, broken: float) -> None:
    write_demo_dataset(tmp_path / "data")
    write_tiny(tmp_path / "weights")
    file = tmp_path / "weights" / REPOSITORIES[0] / "model.safetensors"
    save_file(load_file(file) | {"head.head.bias": torch.full((64,), broken)}, file)
    said = invoke(
        *(
            "generate",
            "refalign-tiny",
            "--dataset",
            tmp_path / "data",
            "--out",
            tmp_path / "runs",
            "--limit",
            1,
        ),
        *("--set", f"transformer={file}", "--set", "num_frames=5", "--set", "steps=2"),
        expect=1,
    )
    reason = "the latents are not finite (NaN or infinity) from step 1 of 2 on"
    (error,) = (tmp_path / "runs").rglob("*.error.txt")
    assert error.read_text() == reason + "\n"
    assert reason in said.output and not list((tmp_path / "runs").rglob("*.mp4"))


@pytest.mark.parametrize(("step", "broken"), [(1, "nan"), (2, "inf"), (3, "-inf")])
def test_the_step_where_it_began_is_named(
    generator: Any, sample: Sample, step: int, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen one step later, so that a GPU is not waited for; the last step is seen at the end."""
    predict, steps = generator.sampler.predict, []

    def failing(*arguments: Any) -> Any:
        steps.append(None)
        found = predict(*arguments)
        if len(steps) == step:
            next(iter(found.values())).view(-1)[7] = float(broken)
        return found

    monkeypatch.setattr(generator.sampler, "predict", failing)
    with pytest.raises(SampleError, match=rf"from step {step} of 3 on"):
        generator.generate(sample, 0)
    assert len(steps) == min(step + 1, 3)
    monkeypatch.undo()
    # The next video is made as ever.
    assert frames_of(generator, sample).shape == (5, 64, 96, 3)


def test_pixels_that_are_not_finite(generator: Any, sample: Sample) -> None:
    bias = generator.sampler.codec.vae.post_quant_conv.bias
    before = bias.data.clone()
    try:
        bias.data[:] = float("nan")
        with pytest.raises(SampleError, match=r"the decoded video is not finite \(NaN or infinity\)"):
            frames_of(generator, sample)
    finally:
        bias.data[:] = before


def test_validation_in_training_sees_it_as_well(generator: Any, sample: Sample) -> None:
    class Broken(torch.nn.Module):
        dtype = torch.float32

        def forward(self, hidden_states: torch.Tensor, **_: Any) -> Any:
            return type("Output", (), {"sample": hidden_states * float("nan")})

    frames = sample_video(
        generator.sampler.codec,
        Broken(),
        generator.method.settings,
        prompt="a cup",
        references=[reference.open_on_white() for reference in sample.references],
        seed=0,
    )
    with pytest.raises(SampleError, match="from step 1 of 3 on"):
        next(frames)


def test_consisid(tmp_path: Path, sample: Sample) -> None:
    write_consisid(tmp_path / "weights")
    method = ConsisID(ConsisID.Options(width=96, height=64, num_frames=9, steps=2))
    generator: Any = loaded(method, tmp_path / "weights")
    pipeline = generator.sampler.pipeline
    pipeline.transformer.proj_out.bias.data[0] = float("nan")
    with pytest.raises(SampleError, match=r"the latents are not finite .* from step 1 of 2 on"):
        generator.generate(sample, 0)
    pipeline.transformer.proj_out.bias.data[0] = 0
    pipeline.vae.decoder.conv_in.conv.bias.data[0] = float("inf")
    with pytest.raises(SampleError, match="the decoded video is not finite"):
        generator.generate(sample, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite(dtype: torch.dtype) -> None:
    largest = torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype)
    assert are_finite(largest)
    for broken in ("nan", "inf", "-inf"):
        values = largest.clone()
        values[1, 1] = float(broken)
        assert not are_finite(values)
    steps = FiniteSteps(1)
    steps.end()
    steps.see(largest)
    steps.end()
