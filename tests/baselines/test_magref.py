"""MAGREF's canvases, masks, layouts and loop against the official code (golden `baselines/magref.npz`)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_loop import WatchedConditioner, golden_codec, sampled  # noqa: E402
from kit.golden_networks import named, read, worst  # noqa: E402
from kit.tiny_runs import generated, loaded, made, sample_of  # noqa: E402
from refbench.baselines.magref import Magref480P  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry  # noqa: E402
from refbench.baselines.wan.nets.magref import (  # noqa: E402
    CanvasLayout,
    CollageReferences,
    collage,
    latent_region,
    pasted_box,
)
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.bench.video import ALL_FRAMES  # noqa: E402

ARRAYS = read("baselines/magref.npz")
FACTS = read("baselines/magref_layouts.json")
NAMES = [(name, height, width) for name, height, width in FACTS["images"]]
CANVASES = {"small": (160, 96), "full": (832, 480)}
CASES = sorted(FACTS["layouts"])
SMALL = {"width": 96, "height": 64, "num_frames": 13, "steps": 1}


def picture(index: int) -> Image.Image:
    return Image.fromarray(uint8_image(*NAMES[index]))


def case_of(name: str) -> tuple[list[Image.Image], CanvasLayout, tuple[int, int]]:
    """The references, layout and canvas size of a golden case `refs{n}_seed{s}_{size}`."""
    references, seed, size = name.split("_")
    count = int(references.removeprefix("refs"))
    width, height = CANVASES[size]
    layout = CanvasLayout.drawn(count, width, height, random.Random(int(seed.removeprefix("seed"))))
    return [picture(index) for index in range(count)], layout, (width, height)


def close_to_pillow_13(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal; other versions of Pillow may round by one level."""
    import PIL

    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected.astype(int)).max()
    return bool(difference <= (0 if PIL.__version__.startswith("13.") else 1))


@pytest.mark.parametrize("name", CASES)
def test_layouts(name: str) -> None:
    images, layout, _ = case_of(name)
    expected = FACTS["layouts"][name]
    assert list(layout.order) == expected["order"]
    assert [list(cell) for cell in layout.cells[: len(images)]] == expected["cells"]
    placed = [
        {"image": index, "box": list(pasted_box(images[index], cell))}
        for index, cell in zip(layout.order, layout.cells, strict=False)
    ]
    assert placed == expected["placed"]


@pytest.mark.parametrize("name", CASES)
def test_canvases_and_masks(name: str) -> None:
    images, layout, size = case_of(name)
    canvas, covered = collage(images, layout, *size)
    pixels = np.asarray(canvas)
    assert worst(latent_region(covered), ARRAYS[f"{name}/mask"]) == 0
    if name.endswith("small"):
        assert close_to_pillow_13(pixels, ARRAYS[f"{name}/canvas"])
        return
    assert close_to_pillow_13(pixels[::8, ::8], ARRAYS[f"{name}/canvas_every8"])
    import PIL

    if PIL.__version__.startswith("13."):
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == FACTS["layouts"][name]["canvas_sha256"]


def test_transparency_is_white_on_the_canvas(tmp_path: Path) -> None:
    """As in the official function; its script drops alpha before. Ours opens references so."""
    pixels = uint8_image(*NAMES[0])
    rows, columns = np.indices(pixels.shape[:2])
    alpha = np.where((rows + columns) % 97 < 40, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "cut.png")
    reference = Reference(path="cut.png", root=tmp_path, label="Cup", kind="object")
    layout = CanvasLayout.drawn(1, *CANVASES["small"], random.Random(0))
    canvas, _ = collage([reference.open_on_white()], layout, *CANVASES["small"])
    assert close_to_pillow_13(np.asarray(canvas), ARRAYS["rgba_refs1_small/canvas"])


def test_seven_references_leave_a_cell_and_nine_do_not_fit() -> None:
    layout = CanvasLayout.drawn(7, 832, 480, random.Random(0))
    assert sorted(layout.order) == list(range(7))
    assert len(layout.cells) == 8
    assert layout.description().count("none") == 1
    with pytest.raises(ValueError, match="9 references do not fit"):
        CanvasLayout.drawn(9, 832, 480, random.Random(0))


class StandIn(torch.nn.Module):
    """The golden's network, `0.3·x + 0.1·condition + 0.01·L`; the text's one number is L."""

    dtype, device = torch.float32, torch.device("cpu")

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor,
    ) -> Any:
        assert hidden_states.shape[1] == 36
        assert encoder_hidden_states_image.shape[1] == 257
        noisy, latents = hidden_states[:, :16], hidden_states[:, 20:]
        length = encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1, 1)
        return SimpleNamespace(sample=0.3 * noisy + 0.1 * latents + 0.01 * length)


class Clip(torch.nn.Module):
    """A CLIP that keeps what it was given."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=224)
        self.seen: list[torch.Tensor] = []

    def forward(self, pixels: torch.Tensor, output_hidden_states: bool) -> Any:
        self.seen.append(pixels)
        states = pixels.new_zeros(len(pixels), 257, 8)
        return SimpleNamespace(hidden_states=(states, states, states + 1))


def given_noise(geometry: Geometry, references: int) -> torch.Tensor:
    return named("baselines.magref", "noise", (16, *geometry.latent_shape))[None]


def test_the_whole_sampling_function() -> None:
    native = Magref480P.spec.native
    encoder = Clip()
    # The golden's text features are one number, the text's length.
    texts = {name: torch.full((1, 512, 1), length) for name, length in (("prompt", 7.0), ("negative", 5.0))}
    conditioner = WatchedConditioner(CollageReferences(layout_seed=0), given_noise)
    final, seen = sampled(
        Magref480P(),
        StandIn(),
        [picture(0), picture(1)],
        conditioner,
        codec=golden_codec(texts, image_encoder=encoder),
        geometry=Geometry(width=native.width, height=native.height, num_frames=native.num_frames),
        steps=3,
    )
    golden = "generate_refs2_seed0"
    assert seen.timesteps == [999, 856, 599]
    mask = conditioner.condition.mask_B4FHW[0]
    assert worst(mask[:, :3], ARRAYS[f"{golden}/mask"]) == 0
    assert not mask[:, 1:].any()
    latents = conditioner.condition.latents_B16FHW[0]
    assert worst(latents[:, :3, ::4, ::4], ARRAYS[f"{golden}/condition_frames0to2"]) < 1e-5
    (pixels,) = encoder.seen
    # The golden stands before CLIP's published mean and standard deviation.
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    assert worst((pixels[0] * std + mean)[:, ::4, ::4], ARRAYS[f"{golden}/clip_pixels_every4"]) < 1e-5
    assert worst(final[0][:, [0, 1, 20], ::4, ::4], ARRAYS[f"{golden}/final_sub"]) < 2e-4


def sample_with(count: int, sample_id: str = "s_1") -> Sample:
    return sample_of([f"{index}.png" for index in range(count)], id=sample_id)


def test_layouts_are_a_function_of_seed_and_sample() -> None:
    method = Magref480P()

    def layout(sample_id: str, seed: int) -> CanvasLayout:
        return method.conditioner(sample_with(4, sample_id), seed).layout(4, 832, 480)

    assert layout("s_1", 7) == layout("s_1", 7)
    assert layout("s_1", 7) == CanvasLayout.drawn(4, 832, 480, random.Random("7-s_1"))
    drawn = {layout(f"s_{number}", seed) for number in range(4) for seed in range(4)}
    assert len(drawn) > 12


def test_card() -> None:
    method = Magref480P()
    card = method.card()
    assert (card.width, card.height, card.fps) == (832, 480, 15)
    assert (card.generated_frames, card.num_frames) == (81, 77)
    assert (card.steps, card.solver, card.shift, card.guidance) == (40, "unipc", 3.0, {"text": 5.0})
    assert card.negative_prompt == read("baselines/negative_prompts.json")["magref"]
    assert any("layout" in text for text in card.deviations)
    assert method.refuses(sample_with(8)) is None
    assert "9 references, magref-480p takes 8" in str(method.refuses(sample_with(9)))
    assert method.refuses(sample_with(0)) == "the sample has no reference"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import magref, wan_base

    folder = tmp_path_factory.mktemp("weights")
    wan_base.write_tiny(folder)
    magref.write_tiny(folder)
    return folder


def test_references_and_layout_reach_the_video(weights: Path, tmp_path: Path) -> None:
    for index in range(3):
        picture(index).save(tmp_path / f"{index}.png")
    method = Magref480P(Magref480P.Options(**SMALL))
    generator = loaded(method, weights)

    def video(sample_id: str, *indices: int) -> tuple[np.ndarray, tuple[str, ...]]:
        sample = sample_of([f"{index}.png" for index in indices], tmp_path, id=sample_id)
        answer = made(generator, sample, 3)
        return np.stack(list(answer.images)), answer.notes

    frames, notes = video("s_1", 0, 1, 2)
    assert frames.shape == (9, 64, 96, 3)
    assert notes == (method.conditioner(sample_with(3), 3).layout(3, 96, 64).description(),)
    again, _ = video("s_1", 0, 1, 2)
    assert np.array_equal(frames, again)
    moved, said = video("s_2", 0, 1, 2)
    assert said != notes
    assert not np.array_equal(frames, moved)
    one, nothing_to_say = video("s_1", 0)
    assert nothing_to_say == ()
    other, _ = video("s_1", 1)
    assert not np.array_equal(one, other)


def test_generate_with_tiny_weights(weights: Path, dataset: Path, tmp_path: Path) -> None:
    small = SMALL | {"dtype": "bfloat16"}
    videos = generated("magref-480p", small, dataset=dataset, weights=weights, out=tmp_path, limit=2)
    assert len(videos) == 2
    found = list(videos[0].frames(ALL_FRAMES))
    # The first four are dropped.
    assert (len(found), found[0].shape) == (9, (64, 96, 3))
