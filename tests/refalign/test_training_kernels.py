"""Attention back-ends and compiled blocks in training: equal losses, or one line that says why not."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("diffusers", reason="RefAlign needs the extra 'refalign'")
pytest.importorskip("accelerate", reason="RefAlign needs the extra 'refalign'")

from kit.training import ARCHITECTURE, logged_steps, run, small  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.refalign.training.kernels import check_kernels  # noqa: E402
from refbench.refalign.transformer import RefAlignTransformer3DModel  # noqa: E402


def losses(out: Path, *overrides: str) -> list[float]:
    run(small("run.max_steps=2", *overrides), out)
    return [row["loss"] for row in logged_steps(out)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("plain"))


def test_another_back_end_gives_equal_losses(plain: list[float], tmp_path: Path) -> None:
    """Also where samples of a call have different numbers of references, and are masked."""
    for number, call in enumerate(("run.samples_per_call=1", "run.samples_per_call=2")):
        found = losses(tmp_path / str(number), "run.attention=_native_math", call)
        np.testing.assert_allclose(found, plain, rtol=1e-5)


def test_compiled_blocks_give_equal_losses(
    plain: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's tracing, whose graphs are run without the slow code generation, and recomputed blocks."""
    real = RefAlignTransformer3DModel.compile_repeated_blocks
    eager = partialmethod(real, backend="aot_eager")
    monkeypatch.setattr(RefAlignTransformer3DModel, "compile_repeated_blocks", eager)
    monkeypatch.setattr("refbench.refalign.training.trainer.check_kernels", lambda *given: None)
    found = losses(tmp_path, "run.compile=true", "run.gradient_checkpointing=true")
    np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("run.attention=quick", r"^run\.attention=quick cannot train here: .*must be one of the following: "),
        ("run.attention=sage", r"^run\.attention=sage cannot train here: .*sageattention"),
        (
            "run.attention=_native_flash run.samples_per_call=2",
            r"^run\.attention=_native_flash cannot train here \(run\.samples_per_call=2 needs attention "
            r"masks\): .*attn_mask.* is not supported",
        ),
    ],
)
def test_what_cannot_train_is_refused_with_its_reason(settings: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text) as caught:
        run(small(*settings.split()), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "log.jsonl").exists()


def test_a_back_end_without_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose result does not depend on its inputs as far as autograd knows, as an inference kernel's."""
    import diffusers.models.attention_dispatch as dispatch

    def forward_only(query, key, value, *given, **named):  # type: ignore[no-untyped-def]
        return query.detach()

    registry = dispatch._AttentionBackendRegistry
    name = dispatch.AttentionBackendName._NATIVE_MATH
    monkeypatch.setitem(registry._backends, name, forward_only)
    config = small("run.attention=_native_math").run
    with pytest.raises(UserError, match=r"_native_math cannot train here: it has no backward pass$"):
        check_kernels(config, ARCHITECTURE, torch.device("cpu"), lambda: torch.autocast("cpu", enabled=False))


def test_a_missing_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function):  # type: ignore[no-untyped-def]
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(UserError, match=r"^run\.compile=true: torch\.compile fails here: InvalidCxx.*found$"):
        check_kernels(
            small("run.compile=true").run, ARCHITECTURE, torch.device("cpu"), lambda: torch.no_grad()
        )


def test_compiled_blocks_are_recomputed_whole() -> None:
    chosen = ("run.compile=true", "run.recompute=without_attention")
    with pytest.raises(UserError, match=r"compile=true does not go together with recompute=without"):
        small(*chosen, "run.gradient_checkpointing=true")
    assert small(*chosen).run.compile
