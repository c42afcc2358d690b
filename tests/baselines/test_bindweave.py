"""BindWeave's slots, token split and texts with pictures. No golden exists (its code runs on Ascend alone):
plain array arithmetic, numpy attention and diffusers' own network stand in for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import normal, uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

from kit.golden_loop import GoldenCodec, golden_codec  # noqa: E402
from kit.golden_networks import named, worst  # noqa: E402
from kit.tiny_runs import frames_of, loaded, sample_of  # noqa: E402
from refbench.baselines.bindweave import (  # noqa: E402
    NEGATIVE,
    READER_NEGATIVE,
    STILLNESS,
    BindWeave14B,
)
from refbench.baselines.small.networks import IMAGE_NETWORK  # noqa: E402
from refbench.baselines.wan.conditioning import Geometry  # noqa: E402
from refbench.baselines.wan.guidance import TEXT  # noqa: E402
from refbench.baselines.wan.method import WanGenerator  # noqa: E402
from refbench.baselines.wan.nets.bindweave import (  # noqa: E402
    BindWeaveTransformer3DModel,
    SlotCodec,
    SlotReferences,
    SplitAttnProcessor,
    VisionLanguageModel,
    image_for_clip,
    latent_box,
    on_black,
    padded_tokens,
    reading_copy,
)
from refbench.baselines.wan.nets.image_branch import ImageWanTransformer3DModel  # noqa: E402
from refbench.baselines.wan.sampler import WanSampler  # noqa: E402
from refbench.baselines.wan.schedules import make_scheduler  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import MissingWeights, SampleError, UserError  # noqa: E402
from refbench.bench.method import Generator  # noqa: E402
from refbench.bench.sample import Sample  # noqa: E402
from refbench.bench.weights.common import QWEN25_VL  # noqa: E402
from refbench.bench.weights.tiny import random_state_dict  # noqa: E402

GEOMETRY = Geometry(width=96, height=64, num_frames=13)
FRAMES, ROWS, COLUMNS = GEOMETRY.latent_shape
SMALL = {"width": 96, "height": 64, "num_frames": 9, "steps": 2}
# Larger than the video and wide, larger and tall, smaller, exactly as large.
SIZES = [(300, 90), (90, 250), (40, 30), (96, 64)]


def picture(index: int) -> Image.Image:
    width, height = SIZES[index]
    return Image.fromarray(uint8_image(f"bindweave.ref{index}", height, width))


@pytest.mark.parametrize(
    ("index", "box"), [(0, (0, 18, 96, 46)), (1, (36, 0, 59, 64)), (2, (28, 17, 68, 47)), (3, (0, 0, 96, 64))]
)
def test_a_reference_is_fitted_on_black_and_never_enlarged(
    index: int, box: tuple[int, int, int, int]
) -> None:
    canvas, found = on_black(picture(index), 96, 64)
    assert found == box
    left, top, right, bottom = box
    pixels = np.asarray(canvas).copy()
    inner = picture(index).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels[top:bottom, left:right], np.asarray(inner))
    if index >= 2:
        assert np.array_equal(np.asarray(inner), np.asarray(picture(index)))
    pixels[top:bottom, left:right] = 0
    assert not pixels.any()


@pytest.mark.parametrize("box", [(0, 18, 96, 46), (37, 0, 60, 64), (28, 17, 68, 47), (0, 0, 96, 64)])
def test_the_mask_is_the_box_by_nearest_neighbours(box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    pixels = torch.zeros(1, 1, 64, 96)
    pixels[..., top:bottom, left:right] = 1
    expected = torch.nn.functional.interpolate(pixels, (8, 12), mode="nearest")[0, 0]
    assert torch.equal(latent_box(box, 8, 12), expected)


def test_clip_s_copy_is_squashed_as_torchvision_does() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2", reason="the reference of this test")
    canvas, _ = on_black(picture(0), 96, 64)
    pixels = torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1)[None] / 255
    expected = transforms.Compose(
        [
            transforms.Resize(size=[224, 224]),
            transforms.Normalize(
                mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711]
            ),
        ]
    )(pixels)
    assert worst(image_for_clip(canvas, 224), expected.numpy()) < 1e-5


@pytest.mark.parametrize(
    ("size", "copy"),
    # 0.75 of 1280×720 in whole tokens; one row more is a large picture; the smallest is four tokens.
    [((1280, 720), (952, 532)), ((1280, 721), (392, 224)), ((5, 4), (56, 56)), ((500, 333), (364, 252))],
)
def test_what_the_reader_sees_of_a_picture(size: tuple[int, int], copy: tuple[int, int]) -> None:
    assert reading_copy(Image.new("RGB", size, "red")).size == copy


def test_a_picture_that_is_too_narrow_fails_its_sample() -> None:
    with pytest.raises(SampleError, match="too narrow"):
        reading_copy(Image.new("RGB", (4000, 4)))


class Clip(torch.nn.Module):
    """A CLIP whose tokens are the number of the picture, from 1."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(image_size=224)

    def forward(self, pixels: torch.Tensor, output_hidden_states: bool) -> Any:
        assert pixels.shape[1:] == (3, 224, 224)
        states = torch.arange(1.0, len(pixels) + 1).view(-1, 1, 1).expand(-1, 257, 8)
        return SimpleNamespace(hidden_states=(None, states, None))


class Reader:
    """States as many as the text has letters, each the number of pictures."""

    def states(self, texts: dict[str, str], references: list[Any]) -> dict[str, torch.Tensor]:
        return {name: torch.full((1, len(text), 6), float(len(references))) for name, text in texts.items()}


class StandIn(torch.nn.Module):
    """A network that keeps what it was given and answers with the length of the text with pictures."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, torch.Tensor]] = []

    def forward(self, **inputs: torch.Tensor) -> Any:
        self.seen.append(inputs)
        length = inputs["vision_language_states"].shape[1]
        return SimpleNamespace(sample=torch.full_like(inputs["hidden_states"], float(length)))


@dataclass(frozen=True, kw_only=True)
class SlotGoldenCodec(GoldenCodec, SlotCodec):
    """The golden's VAE with a CLIP, a reader, and the text's length in place of features."""

    def encode_text(self, text: str) -> tuple[torch.Tensor, str]:
        return torch.full((1, 512, 1), float(len(text))), ""


def codec() -> SlotGoldenCodec:
    reader: Any = Reader()
    return SlotGoldenCodec(**vars(golden_codec(image_encoder=Clip())), reader=reader)


REFERENCES = SlotReferences(texts={"prompt": "seven..", "negative": "three"})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_layout_of_the_slots(count: int) -> None:
    images = [picture(index) for index in range(count)]
    condition = REFERENCES.encode(codec(), images, GEOMETRY, torch.Generator().manual_seed(0))
    found = condition.inputs(torch.zeros(1, 16, FRAMES, ROWS, COLUMNS), "own")
    assert found["hidden_states"].shape == (1, 16, FRAMES, ROWS, COLUMNS)
    # The golden VAE on each picture, in numpy: means of 8×8 pixels, projected.
    projection, bias = (
        normal("baselines.vae.projection", (16, 3)),
        normal("baselines.vae.bias", (16,), std=0.1),
    )
    expected = np.zeros((20, 4 + FRAMES, ROWS, COLUMNS))
    for slot, image in enumerate(images):
        canvas, (left, top, right, bottom) = on_black(image, 96, 64)
        pixels = np.asarray(canvas).astype(np.float64) / 127.5 - 1
        cells = pixels.reshape(ROWS, 8, COLUMNS, 8, 3).mean(axis=(1, 3))
        expected[4:, slot] = np.einsum("ck,hwk->chw", projection, cells) + bias[:, None, None]
        for row in range(ROWS):
            for column in range(COLUMNS):
                expected[0, slot, row, column] = left <= 8 * column < right and top <= 8 * row < bottom
    # Grey frames (zero in [-1, 1]) leave the bias alone.
    expected[4:, 4:] = bias[:, None, None, None]
    assert worst(found["condition_hidden_states"][0], expected) < 1e-5
    assert not found["condition_hidden_states"][:, :, count:4].any()
    tokens = found["encoder_hidden_states_image"]
    assert tokens.shape == (1, 4 * 257, 8)
    by_picture = tokens.reshape(4, 257, 8)
    assert [set(block.unique().tolist()) for block in by_picture] == [
        {float(number + 1) if number < count else 0.0} for number in range(4)
    ]
    with pytest.raises(ValueError, match="no pass with zero latents"):
        condition.inputs(torch.zeros(1, 16, 1, 8, 12), "zero")


def test_four_pictures_need_no_padding() -> None:
    tokens = torch.ones(1, 4 * 257, 8)
    assert torch.equal(padded_tokens(tokens, 4), tokens)


def test_each_pass_has_its_own_text_with_pictures_and_the_state_is_the_video_alone() -> None:
    network = StandIn()
    sampler = WanSampler(codec=codec(), transformer=network, scheduler=make_scheduler("unipc", 3.0))
    # As on a GPU: passes would be joined if their inputs had one length.
    sampler.auto_joins = True
    made = sampler(
        prompt="a prompt",
        negative_prompt="bad",
        references=[picture(0), picture(2)],
        conditioner=REFERENCES,
        rule=TEXT,
        scales={"text": 5.0},
        geometry=GEOMETRY,
        steps=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert made.latents.shape == (1, 16, FRAMES, ROWS, COLUMNS)
    assert [inputs["vision_language_states"].shape[1] for inputs in network.seen] == [7, 5, 7, 5]
    assert [float(inputs["encoder_hidden_states"][0, 0, 0]) for inputs in network.seen] == [8, 3, 8, 3]
    first, second = network.seen[:2]
    for name in ("condition_hidden_states", "encoder_hidden_states_image", "hidden_states"):
        assert torch.equal(first[name], second[name])
    noise = torch.randn(1, 16, FRAMES, ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first["hidden_states"], noise)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_attention_in_numpy() -> None:
    """The first 257 rows through the image's keys and values, all others through the text's."""
    block = filled(BindWeaveTransformer3DModel(**IMAGE_NETWORK, state_width=8)).blocks[1]
    attention = block.attn2
    assert isinstance(attention.processor, SplitAttnProcessor)
    tokens = named("bindweave", "tokens", (2, 5, 96))
    context = named("bindweave", "context", (2, 257 + 300, 96))
    weights = {key: value.double().numpy() for key, value in attention.state_dict().items()}

    def linear(name: str, states: np.ndarray) -> np.ndarray:
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def heads(states: np.ndarray, norm: str | None) -> np.ndarray:
        if norm is not None:
            states = states / np.sqrt((states**2).mean(axis=-1, keepdims=True) + attention.norm_q.eps)
            states = states * weights[f"{norm}.weight"]
        return states.reshape(2, -1, 4, 24).transpose(0, 2, 1, 3)

    query = heads(linear("to_q", tokens.double().numpy()), "norm_q")
    result = np.zeros((2, 4, 5, 24))
    for rows, key, value, norm in (
        (slice(0, 257), "add_k_proj", "add_v_proj", "norm_added_k"),
        (slice(257, None), "to_k", "to_v", "norm_k"),
    ):
        states = context.double().numpy()[:, rows]
        keys, values = heads(linear(key, states), norm), heads(linear(value, states), None)
        result += softmax(query @ keys.transpose(0, 1, 3, 2) / np.sqrt(24)) @ values
    expected = linear("to_out.0", result.transpose(0, 2, 1, 3).reshape(2, 5, 96))
    with torch.no_grad():
        assert worst(attention(tokens, context), expected) < 1e-4


def filled(network: Any) -> Any:
    network.load_state_dict(random_state_dict(network))
    return network.eval()


def test_network_is_diffusers_where_the_split_falls_at_257() -> None:
    """diffusers parts the last 512 rows off as text. With two pictures' CLIP tokens and 255 rows of other
    text, the second picture's 257 and those 255 are just 512: there its split is BindWeave's.
    """
    network = filled(BindWeaveTransformer3DModel(**IMAGE_NETWORK, state_width=8))
    stock = ImageWanTransformer3DModel(**IMAGE_NETWORK).eval()
    own = {key: value for key, value in network.state_dict().items() if "text_projector" not in key}
    stock.load_state_dict(own)
    state = named("bindweave", "x", (1, 16, 3, 4, 6))
    condition = named("bindweave", "y", (1, 20, 7, 4, 6))
    clip = named("bindweave", "clip", (1, 2 * 257, 40))
    text, states = named("bindweave", "text", (1, 200, 32)), named("bindweave", "states", (1, 55, 8))
    time = torch.tensor([731])
    with torch.no_grad():
        found = network(state, time, text, clip, condition, states).sample
        projector = network.condition_embedder.text_projector
        inner = torch.nn.functional.gelu(projector.linear_1(states), approximate="tanh")
        rows = torch.cat([projector.linear_2(inner), text], dim=1)
        before = torch.cat([torch.zeros(1, 16, 4, 4, 6), state], dim=2)
        whole = stock(torch.cat([before, condition], dim=1), time, rows, clip).sample
        assert whole.shape == (1, 16, 7, 4, 6)
        assert worst(found, whole[:, :, 4:].numpy()) < 1e-5
        # The second picture's tokens and the states are read: other ones give another result.
        for changed in (
            (text, torch.cat([clip[:, :257], clip[:, :257]], dim=1), condition, states),
            (text, clip, condition, states + 1),
            (text, clip, condition.flip(2), states),
        ):
            assert worst(network(state, time, *changed).sample, found.numpy()) > 1e-3


def sample_with(count: int, folder: Path = Path(), **fields: Any) -> Sample:
    return sample_of([f"{index}.png" for index in range(count)], folder, **fields)


def test_card() -> None:
    method = BindWeave14B()
    card = method.card()
    assert (card.width, card.height, card.fps, card.num_frames) == (1280, 720, 16, 81)
    assert (card.steps, card.solver, card.shift, card.guidance) == (50, "unipc", 3.0, {"text": 5.0})
    assert card.negative_prompt is not None and card.negative_prompt.endswith("multiple parts, separated")
    # What is on no other field of the card: Qwen's negative prompt goes on.
    assert card.reference_preparation is not None and STILLNESS in card.reference_preparation
    assert card.weights[QWEN25_VL.name] == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert any("not compared with the original code" in text for text in card.deviations)
    assert method.refuses(sample_with(4)) is None
    assert "5 references, bindweave-14b takes 4" in str(method.refuses(sample_with(5)))
    network = BindWeave14B.spec.network
    assert (network.in_channels, network.image_branch, network.layers) == (36, True, 40)


def test_joining_its_passes_is_refused() -> None:
    with pytest.raises(UserError, match="batch_passes=yes is impossible"):
        BindWeave14B(BindWeave14B.Options(batch_passes="yes"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny checkpoints in the layouts of the released ones."""
    from refbench.baselines.small import bindweave, wan_base
    from refbench.metrics.small import naturalscore

    folder = tmp_path_factory.mktemp("weights")
    wan_base.write_tiny(folder)
    bindweave.write_tiny(folder)
    naturalscore.write_tiny(folder)
    return folder


def test_states_are_the_model_s_last_of_a_chat_with_the_text_first(weights: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = weights / "Qwen/Qwen2.5-VL-7B-Instruct"
    reader = VisionLanguageModel(folder, device="cpu", dtype=torch.float32)
    images = [picture(1), picture(3)]
    found = reader.states({"prompt": "a cup", "negative": "bad"}, images)
    assert reader.width == 64
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    whole = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    for name, text in (("prompt", "a cup"), ("negative", "bad")):
        # The tiny folder's template is the published one's without the system's line.
        chat = f"<|im_start|>user\n{text}{mark}{mark}<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[chat], images=[reading_copy(one) for one in images], return_tensors="pt")
        with torch.no_grad():
            states = whole.eval()(**inputs, output_hidden_states=True).hidden_states[-1]
        assert found[name].shape == states.shape
        assert worst(found[name], states.numpy()) < 1e-4
    swapped = reader.states({"prompt": "a cup"}, images[::-1])["prompt"]
    assert not torch.equal(swapped[:, -1], found["prompt"][:, -1])


@pytest.fixture(scope="module")
def generator(weights: Path) -> Generator:
    return loaded(BindWeave14B(BindWeave14B.Options(**SMALL)), weights)


def test_qwen_has_a_negative_prompt_of_its_own_unless_the_user_sets_one() -> None:
    texts = BindWeave14B().conditioner(sample_with(1, prompt="a cup"), 0).texts
    assert texts == {"prompt": "a cup", "negative": READER_NEGATIVE}
    assert READER_NEGATIVE.startswith(NEGATIVE)
    mine = BindWeave14B(BindWeave14B.Options(negative_prompt="dull"))
    assert mine.conditioner(sample_with(1), 0).texts["negative"] == "dull"


def test_every_reference_and_text_reaches_the_video(generator: Generator, tmp_path: Path) -> None:
    for index in range(4):
        picture(index).save(tmp_path / f"{index}.png")

    def made(*indices: int, prompt: str = "a cup") -> np.ndarray:
        sample = sample_of([f"{index}.png" for index in indices], tmp_path, prompt=prompt)
        return frames_of(generator, sample, 3)

    frames = made(0, 1, 2, 3)
    assert frames.shape == (9, 64, 96, 3)
    others = [made(0, 1, 2), made(1, 0, 2, 3), made(0, 1, 2, 3, prompt="a dog")]
    assert np.array_equal(frames, made(0, 1, 2, 3))
    assert not any(np.array_equal(frames, other) for other in others)


def test_bfloat16(weights: Path, tmp_path: Path) -> None:
    """As on a GPU: the state, the projector and the reader in bfloat16, the network's islands in float32."""
    picture(0).save(tmp_path / "0.png")
    half = loaded(BindWeave14B(BindWeave14B.Options(dtype="bfloat16", **SMALL)), weights)
    assert isinstance(half, WanGenerator)
    seen: list[torch.dtype] = []
    half.sampler.transformer.register_forward_pre_hook(
        lambda module, arguments, inputs: seen.extend(value.dtype for value in inputs.values()),
        with_kwargs=True,
    )
    states: list[torch.dtype] = []
    step = half.sampler.scheduler.step

    def watched(guided: Any, timestep: Any, state: torch.Tensor, **settings: Any) -> Any:
        states.append(state.dtype)
        return step(guided, timestep, state, **settings)

    half.sampler.scheduler.step = watched
    frames = frames_of(half, sample_with(1, tmp_path), 3)
    assert frames.shape == (9, 64, 96, 3)
    assert frames.std() > 1
    # The solver's timestep alone is not rounded.
    assert set(seen) == {torch.bfloat16, torch.int64}
    assert set(states) == {torch.bfloat16}


def test_digests_and_what_is_missing(weights: Path, tmp_path: Path) -> None:
    method = BindWeave14B()
    found = method.find_weights(Environment(weights=weights))
    assert found.keys() == method.card().weights.keys()
    assert all(digest.startswith("tiny:") for digest in found.values())
    for name in ("ByteDance", "Wan-AI"):
        (tmp_path / name).symlink_to(weights / name)
    with pytest.raises(MissingWeights, match=r"Qwen2\.5-VL-7B-Instruct is not on disk"):
        method.find_weights(Environment(weights=tmp_path))


def test_a_reader_of_another_width_is_refused(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("Qwen", "Wan-AI"):
        (tmp_path / name).symlink_to(weights / name)
    place = tmp_path / "ByteDance/BindWeave"
    place.mkdir(parents=True)
    for file in (weights / "ByteDance/BindWeave").iterdir():
        if file.suffix != ".safetensors":
            (place / file.name).write_bytes(file.read_bytes())
            continue
        state = load_file(file)
        key = "condition_embedder.text_projector.linear_1.weight"
        save_file(state | ({key: state[key][:, :8].clone()} if key in state else {}), place / file.name)
    with pytest.raises(UserError, match=r"text_projector\.linear_1\.weight .*instead of \(32, 64\)"):
        loaded(BindWeave14B(), tmp_path)


def test_too_little_memory_for_the_reader_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * 2**30, 80 * 2**30))
    with pytest.raises(UserError, match=r"needs about 6\d GiB .*50\.0 are free; --set offload=model"):
        BindWeave14B().check_reader_memory("cuda")
    BindWeave14B(BindWeave14B.Options(offload="model")).check_reader_memory("cuda")
