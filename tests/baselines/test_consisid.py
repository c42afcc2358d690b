"""ConsisID with tiny weights: the method against diffusers' pipeline called by hand, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

import refbench.baselines.consisid.method as module  # noqa: E402
from kit.cli import invoke  # noqa: E402
from kit.tiny_runs import frames_of, loaded, made  # noqa: E402
from refbench.baselines.consisid.faces import ReadFace  # noqa: E402
from refbench.baselines.consisid.method import (  # noqa: E402
    CONSISID,
    FACE_FILES,
    FACE_MODULES,
    ConsisID,
    ConsisIDGenerator,
    ConsisIDOptions,
)
from refbench.baselines.consisid.random_faces import RandomFaces  # noqa: E402
from refbench.baselines.small import consisid as tiny  # noqa: E402
from refbench.bench.environment import Environment  # noqa: E402
from refbench.bench.errors import MissingWeights, SampleError, UserError  # noqa: E402
from refbench.bench.options import build_options  # noqa: E402
from refbench.bench.registry import methods  # noqa: E402
from refbench.bench.runs.folder import read_run  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.bench.video import Video  # noqa: E402
from refbench.bench.weights.kind import TINY_MARKER  # noqa: E402
from refbench.bench.weights.store import is_tiny, missing_files  # noqa: E402

SMALL: dict[str, Any] = {"width": 96, "height": 64, "num_frames": 9, "steps": 3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_tiny(folder)
    return folder


def sample_of(folder: Path, *kinds: str, prompt: str = "a woman reads", name: str = "singleface_1") -> Sample:
    """A sample whose references are pictures in `folder`, one of each kind."""
    references = []
    for index, kind in enumerate(kinds):
        Image.fromarray(uint8_image(f"consisid.{index}", 80, 60)).save(folder / f"{index}.png")
        references.append(Reference(path=f"{index}.png", root=folder, label="Woman", kind=kind))  # type: ignore[arg-type]
    return Sample(id=name, category="singleface", prompt=prompt, references=tuple(references))


def method_with(**options: Any) -> ConsisID:
    return ConsisID(ConsisIDOptions(**(SMALL | options)))


def generator_with(weights: Path, **options: Any) -> ConsisIDGenerator:
    generator = loaded(method_with(**options), weights)
    assert isinstance(generator, ConsisIDGenerator)
    return generator


@pytest.fixture(scope="module")
def generator(weights: Path) -> ConsisIDGenerator:
    return generator_with(weights)


def with_options(generator: ConsisIDGenerator, **options: Any) -> ConsisIDGenerator:
    """The same networks under other options."""
    return replace(generator, options=ConsisIDOptions(**(SMALL | options)))


@cache
def stock_pipeline(folder: Path) -> Any:
    """diffusers' pipeline from a whole folder, as its documentation loads it."""
    return diffusers.ConsisIDPipeline.from_pretrained(folder, local_files_only=True)


def by_hand(weights: Path, sample: Sample, seed: int, **changes: Any) -> np.ndarray:
    """diffusers' pipeline called as its documentation does."""
    folder = weights / CONSISID.repository
    pipeline = stock_pipeline(folder)
    reader = RandomFaces(folder / "face_encoder", device="cpu", dtype=torch.float32)
    face = reader.read(sample.references[0].open_on_white())
    arguments = {
        "image": face.picture,
        "prompt": sample.prompt,
        "width": 96,
        "height": 64,
        "num_frames": 9,
        "num_inference_steps": 3,
        "guidance_scale": 6.0,
        "use_dynamic_cfg": False,
        "id_vit_hidden": list(face.layers_1ND),
        "id_cond": face.identity_1D,
        "kps_cond": face.landmarks_52,
        "generator": torch.Generator().manual_seed(seed),
    } | changes
    return np.stack([np.asarray(frame) for frame in pipeline(**arguments).frames[0]])


def test_frames_are_those_of_the_pipeline_called_by_hand(
    weights: Path, generator: ConsisIDGenerator, tmp_path: Path
) -> None:
    sample = sample_of(tmp_path, "person")
    frames = frames_of(generator, sample, 3)
    assert frames.shape == (9, 64, 96, 3) and frames.dtype == np.uint8
    assert frames.std() > 5
    assert np.array_equal(frames, by_hand(weights, sample, 3))
    # The comparison would notice: another scale, another seed.
    assert not np.array_equal(frames, by_hand(weights, sample, 3, guidance_scale=5.0))
    assert not np.array_equal(frames, by_hand(weights, sample, 4))


def test_options_reach_the_pipeline(weights: Path, tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "person")
    generator = generator_with(weights, negative_prompt="dull", guidance=2.0, num_frames=5, steps=2)
    expected = by_hand(
        weights, sample, 3, negative_prompt="dull", guidance_scale=2.0, num_frames=5, num_inference_steps=2
    )
    assert np.array_equal(frames_of(generator, sample, 3), expected)
    assert made(generator, sample, 3).fps == 8.0


def test_landmarks_are_drawn_for_a_network_that_takes_them(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "weights"
    shutil.copytree(weights, copy)
    file = copy / CONSISID.repository / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"is_kps": True}))
    sample = sample_of(tmp_path, "person")
    frames = frames_of(generator_with(copy), sample, 3)
    assert np.array_equal(frames, by_hand(copy, sample, 3))
    assert not np.array_equal(frames, by_hand(weights, sample, 3))


class KnownFace:
    """A reader that finds the same face in every picture."""

    def __init__(self, face: ReadFace) -> None:
        self.face = face

    def read(self, reference: Image.Image) -> ReadFace:
        return self.face


def test_every_part_of_the_face_and_the_prompt_reach_the_video(
    generator: ConsisIDGenerator, tmp_path: Path
) -> None:
    sample = sample_of(tmp_path, "person")
    frames = frames_of(generator, sample, 3)
    other = sample_of(tmp_path, "person", prompt="a man runs")
    assert not np.array_equal(frames, frames_of(generator, other, 3))
    face = generator.sampler.faces.read(sample.references[0].open_on_white())

    def with_face(known: ReadFace) -> np.ndarray:
        sampler = replace(generator.sampler, faces=KnownFace(known))
        return frames_of(replace(generator, sampler=sampler), sample, 3)

    layers = face.layers_1ND
    changes: dict[str, Any] = {
        "identity_1D": face.identity_1D + 1,
        "picture": face.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        **{
            f"layer {index}": (*layers[:index], layers[index].flip(1) * 3, *layers[index + 1 :])
            for index in (0, 4)
        },
    }
    for name, value in changes.items():
        field = "layers_1ND" if name.startswith("layer ") else name
        assert not np.array_equal(frames, with_face(replace(face, **{field: value}))), name
    assert np.array_equal(frames, with_face(face))


def test_a_video_does_not_depend_on_what_was_made_before(
    generator: ConsisIDGenerator, tmp_path: Path
) -> None:
    sample = sample_of(tmp_path, "person")
    first = frames_of(generator, sample, 1)
    other = frames_of(generator, sample, 2)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, frames_of(generator, sample, 1))


def test_noise_by_seed_or_by_sample(generator: ConsisIDGenerator, tmp_path: Path) -> None:
    one, two = (sample_of(tmp_path, "person", name=name) for name in ("singleface_1", "singleface_2"))
    assert np.array_equal(frames_of(generator, one, 3), frames_of(generator, two, 3))
    by_sample = with_options(generator, noise_key="sample")
    first = frames_of(by_sample, one, 3)
    assert not np.array_equal(first, frames_of(by_sample, two, 3))
    assert np.array_equal(first, frames_of(by_sample, one, 3))


def test_steps_are_told_and_a_long_prompt_is_noted(generator: ConsisIDGenerator, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    long = sample_of(tmp_path, "person", prompt="face " * 300)
    answer = generator.generate(long, 0, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    (note,) = answer.notes
    assert note.startswith("the prompt has ") and note.endswith(
        "the first 226 are used, as in the original code"
    )
    assert made(generator, sample_of(tmp_path, "person")).notes == ()


def test_tiling_is_for_decoding_alone(generator: ConsisIDGenerator, tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "person")
    plain = frames_of(generator, sample, 3)
    other = frames_of(with_options(generator, vae_tiling=True), sample, 3)
    assert plain.shape == other.shape
    assert not np.array_equal(plain, other)
    # The same latents decoded in another way: near, and switched off again after.
    assert np.abs(plain.astype(float) - other).mean() < 20
    assert np.array_equal(plain, frames_of(generator, sample, 3))


def test_bfloat16(weights: Path, tmp_path: Path) -> None:
    """As on a GPU."""
    generator = generator_with(weights, dtype="bfloat16")
    pipeline = generator.sampler.pipeline
    networks = (pipeline.transformer, pipeline.vae, pipeline.text_encoder)
    assert {network.dtype for network in networks} == {torch.bfloat16}
    frames = frames_of(generator, sample_of(tmp_path, "person"), 3)
    assert frames.shape == (9, 64, 96, 3) and frames.std() > 5


def test_a_reference_without_a_face_fails_its_sample(generator: ConsisIDGenerator, tmp_path: Path) -> None:
    sample = sample_of(tmp_path, "person")
    Image.new("RGB", (40, 40), "grey").save(sample.references[0].file)
    with pytest.raises(SampleError, match="no face was found"):
        generator.generate(sample, 0)
    sample.references[0].file.write_bytes(b"no picture")
    with pytest.raises(SampleError, match="cannot be read"):
        generator.generate(sample, 0)


def test_card() -> None:
    card = ConsisID().card()
    assert (card.width, card.height, card.num_frames, card.fps) == (720, 480, 49, 8.0)
    assert (card.steps, card.solver, card.guidance) == (50, "cogvideox-dpm", {"text": 6.0})
    assert (card.max_references, card.settings, card.negative_prompt) == (1, "native", "")
    assert card.weights == {"consisid": "BestWishYsh/ConsisID-preview"}
    assert any("noise is drawn on the CPU" in text for text in card.deviations)
    assert type(card).model_validate_json(card.model_dump_json()) == card
    other = ConsisID(ConsisIDOptions(noise_device="model", overflow="first", steps=20)).card()
    assert not any("noise is drawn" in text for text in other.deviations)
    assert (other.steps, other.reference_overflow) == (20, "the first that shows a person is used")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("settings", "matched", "832×480 and 81 frames, .*720×480 and up to 49"),
        ("num_frames", "81", "4k . 1 from 5 to 49, 81 is not"),
        ("num_frames", "8", "8 is not"),
        ("steps", "0", "steps must be above 0"),
        ("guidance", "0.5", "from 1"),
        ("fps", "nan", "fps must be above 0"),
    ],
)
def test_what_no_network_can_do_is_refused(key: str, value: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build_options(ConsisIDOptions, {key: value}, "the method consisid")


def test_which_samples_are_refused(generator: ConsisIDGenerator, tmp_path: Path) -> None:
    method = ConsisID()
    assert method.refuses(sample_of(tmp_path, "person")) is None
    assert method.refuses(sample_of(tmp_path)) == "no reference shows a person"
    assert method.refuses(sample_of(tmp_path, "object")) == "no reference shows a person"
    both = sample_of(tmp_path, "object", "person")
    assert "2 references, consisid takes one face" in str(method.refuses(both))
    assert ConsisID(ConsisIDOptions(overflow="first")).refuses(both) is None
    alone = Sample(id="s_1", category="s", prompt=both.prompt, references=both.references[1:])
    first = with_options(generator, overflow="first")
    assert np.array_equal(frames_of(first, both, 3), frames_of(generator, alone, 3))


def test_digests_cover_every_network(weights: Path, tmp_path: Path) -> None:
    environment = Environment(weights=tmp_path)
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    method = ConsisID(ConsisIDOptions(**SMALL))
    found = method.find_weights(environment)
    assert found.keys() == method.card().weights.keys()
    assert found["consisid"].startswith("tiny:")
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")]
    assert len(files) == 4
    for file in files:
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert method.find_weights(environment) != found, file
        (tmp_path / file).write_bytes(content)
    assert method.find_weights(environment) == found


def test_what_is_missing_is_said(weights: Path, tmp_path: Path) -> None:
    method = ConsisID(ConsisIDOptions(**SMALL))
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    place = tmp_path / CONSISID.repository
    with pytest.raises(UserError, match="makes 96×64 videos only, not 720×480"):
        ConsisID().find_weights(Environment(weights=tmp_path))
    (place / "scheduler/scheduler_config.json").unlink()
    with pytest.raises(
        MissingWeights, match=r"lacks scheduler/scheduler_config\.json; refbench weights pull"
    ):
        method.load(Environment(weights=tmp_path))
    (place / "transformer/config.json").write_text("{}")
    shutil.copy(weights / CONSISID.repository / "scheduler/scheduler_config.json", place / "scheduler")
    with pytest.raises(UserError, match="names no sample_width"):
        method.find_weights(Environment(weights=tmp_path))


def real_looking(weights: Path, folder: Path) -> Path:
    """The tiny folder without its mark: taken for real weights."""
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    (folder / CONSISID.repository / TINY_MARKER).unlink()
    return folder / CONSISID.repository


def test_real_weights_need_the_face_packages_and_all_face_files(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What facexlib and InsightFace miss they download; so nothing may be left to them."""
    place = real_looking(weights, tmp_path)
    environment = Environment(weights=tmp_path)
    method = ConsisID(ConsisIDOptions(**SMALL))
    asked: list[Any] = []

    def none_absent(modules: Any, extra: str) -> None:
        asked.append((modules, extra))

    monkeypatch.setattr(module, "missing_packages", lambda names, extra: "needs facexlib; pip install x")
    with pytest.raises(MissingWeights, match="reading the face needs facexlib; pip install"):
        method.find_weights(environment)
    monkeypatch.setattr(module, "missing_packages", none_absent)
    for pattern in FACE_FILES:
        with pytest.raises(MissingWeights) as raised:
            method.load(environment)
        assert f"lacks {pattern}; refbench weights pull consisid" in str(raised.value)
        file = place / pattern.replace("*", "_10g_bnkps")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pattern.encode())
    assert set(asked) == {(FACE_MODULES, "consisid")}
    found = method.find_weights(environment)["consisid"]
    assert not found.startswith("tiny:")
    (place / FACE_FILES[0]).write_bytes(b"another")
    assert method.find_weights(environment)["consisid"] != found


def test_too_little_memory_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"gb": 30.0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["gb"] * 1e9, 80e9))
    with pytest.raises(UserError, match=r"about 37 GB .*30\.0 are free; --set offload=model"):
        ConsisID().check_memory("cuda")
    ConsisID(ConsisIDOptions(offload="model")).check_memory("cuda")
    free["gb"] = 10.0
    for offload in ("none", "model"):
        with pytest.raises(UserError, match="--set offload=group"):
            ConsisID(ConsisIDOptions(offload=offload)).check_memory("cuda")  # type: ignore[arg-type]
    ConsisID(ConsisIDOptions(offload="group")).check_memory("cuda")


def test_offload_needs_a_gpu(weights: Path) -> None:
    with pytest.raises(UserError, match="on the CPU leave it at none"):
        generator_with(weights, offload="model")


def test_damaged_weights_are_one_line(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    file = tmp_path / CONSISID.repository / "vae" / tiny.WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"vae/.* is damaged or no checkpoint: it is truncated") as raised:
        generator_with(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_tiny_repository_has_the_published_layout(weights: Path, tmp_path: Path) -> None:
    place = weights / CONSISID.repository
    assert is_tiny(place)
    assert missing_files(CONSISID, place) == []
    assert sum(path.stat().st_size for path in place.rglob("*")) < 5 * 2**20
    code = (
        "import sys, refbench.baselines.consisid.method, refbench.baselines.small.consisid\n"
        "print([name for name in ('torch', 'diffusers', 'PIL', 'cv2') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.strip() == "[]"


def test_from_the_command_line(weights: Path, tmp_path: Path) -> None:
    """References → face → latents → mp4; a sample without a person is refused by name."""
    person, thing = sample_of(tmp_path, "person"), sample_of(tmp_path, "object", name="singleobj_1")
    lines = [
        {"id": one.id, "prompt": one.prompt, "references": ["0.png"], "labels": ["x"], "kinds": [kind]}
        for one, kind in ((person, "person"), (thing, "object"))
    ]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = invoke(
        *("generate", "consisid", "--suite", tmp_path / "two.jsonl", "--weights", weights),
        *(f"--set={key}={value}" for key, value in SMALL.items()),
        *("--out", tmp_path / "runs"),
        expect=1,
    )
    assert "no reference shows a person" in done.output
    (folder,) = (tmp_path / "runs/consisid").iterdir()
    info = read_run(folder / "run.json")
    assert info.card is not None and info.variant == "tiny-weights"
    assert info.card.weights["consisid"].startswith("tiny:")
    (file,) = folder.rglob("*.mp4")
    probe = Video(file).probe
    assert (file.name, probe.width, probe.height, probe.frames) == ("singleface_1.mp4", 96, 64, 9)
    assert probe.fps == pytest.approx(8.0, rel=1e-3)
    assert methods.get("consisid") is ConsisID
