"""FaceSim: goldens of the network, the alignment, the detector and the rules; bad input; the tiny weights."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refbench.bench.dataset import load_track
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.metric import Environment
from refbench.bench.sample import Reference, Sample, category_of, kind_of
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.video import ALL_FRAMES, Video, VideoError, write_video
from refbench.metrics.facesim import (
    FaceSim,
    FaceSimOptions,
    arc_average,
    cosines,
    cur_average,
    person_reference,
)
from refbench.metrics.small import facesim as tiny

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("insightface")

GOLDENS = Path(__file__).parents[1] / "goldens"
OPENS2V = GOLDENS / "opens2v_eval"
SHARED = os.environ.get("REFBENCH_SHARED")
OPENCV = "new" if int(cv2.__version__.split(".")[0]) >= 5 else "old"

specification = importlib.util.spec_from_file_location("golden_fill", GOLDENS / "fill.py")
assert specification is not None and specification.loader is not None
fill = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fill)

RULES = json.loads((OPENS2V / "facesim.json").read_text())


def crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


# --- the embedding network -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network_golden() -> Any:
    return np.load(OPENS2V / "curricularface.npz")


@pytest.fixture(scope="module")
def network() -> Any:
    """The full-size network with the plain golden weights."""
    from refbench.metrics.nets.curricularface import CurricularFace

    torch.set_num_threads(2)
    with torch.device("meta"):
        made = CurricularFace()
    state = {}
    for key, tensor in made.state_dict().items():
        value = np.ascontiguousarray(fill.parameter(key, tuple(tensor.shape)))
        state[key] = torch.from_numpy(value).reshape(tensor.shape)
    made.load_state_dict(state, assign=True)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def damped_network(network: Any) -> Any:
    """The same with the last BatchNorm of each unit damped, so that biases and means count."""
    import copy

    damped = copy.deepcopy(network)
    with torch.no_grad():
        for key, tensor in damped.state_dict().items():
            if key.endswith(("res_layer.5.weight", "res_layer.5.bias")):
                tensor.mul_(0.2)
    return damped


@pytest.fixture(scope="module")
def faces(network_golden: Any) -> np.ndarray:
    """The two golden inputs, halved by the code that halves crops."""
    from refbench.metrics.nets.faces import halved

    return np.stack([halved(fill.uint8_image(str(name), 224, 224)) for name in network_golden["input_names"]])


def test_the_manifest_of_the_checkpoint_is_met_at_full_size() -> None:
    from refbench.metrics.nets.curricularface import CurricularFace

    manifest = json.loads((OPENS2V / "manifests" / "curricularface_ir101.json").read_text())
    with torch.device("meta"):
        made = CurricularFace()
    assert {key: list(tensor.shape) for key, tensor in made.state_dict().items()} == manifest["keys"]
    assert len(manifest["keys"]) == manifest["n_keys"] == 917
    assert sum(parameter.numel() for parameter in made.parameters()) == manifest["n_parameters"]


def test_crops_are_halved_as_the_reference_does(network_golden: Any, faces: np.ndarray) -> None:
    assert [crc(face) for face in faces] == network_golden["resized112_crc32"].tolist()
    assert np.array_equal(faces[:, 56], network_golden["resized112_rows56"])


@pytest.mark.parametrize("weights", ["plain", "damped"])
def test_embeddings_are_the_reference_s(
    weights: str, network: Any, damped_network: Any, faces: np.ndarray, network_golden: Any
) -> None:
    from refbench.metrics.nets.curricularface import face_embeddings

    made = network if weights == "plain" else damped_network
    means: dict[int, np.ndarray] = {}
    raw: list[np.ndarray] = []
    hooks = [
        made.body[unit].register_forward_hook(
            lambda module, inputs, output, unit=unit: means.update({unit: output.mean(dim=(2, 3)).numpy()})
        )
        for unit in (2, 15, 45, 48)
    ]
    hooks.append(made.register_forward_hook(lambda module, inputs, output: raw.append(output.numpy())))
    try:
        embeddings_ND = face_embeddings(made, faces)
    finally:
        for hook in hooks:
            hook.remove()
    np.testing.assert_allclose(
        embeddings_ND, network_golden[f"{weights}_embedding_normalised"], atol=2e-6, rtol=0
    )
    assert cosines(embeddings_ND[0], embeddings_ND[1:])[0] == pytest.approx(
        float(network_golden[f"{weights}_cosine"]), abs=1e-6
    )
    expected_raw = network_golden[f"{weights}_embedding_raw"]
    assert np.abs(raw[0] - expected_raw).max() <= 1e-5 * np.abs(expected_raw).max()
    for unit, mean in means.items():
        expected = network_golden[f"{weights}_mid{unit}_channel_mean"]
        assert np.abs(mean - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("mistake", ["bgr", "bias", "epsilon"])
def test_the_golden_would_catch_a_mistake(
    mistake: str, damped_network: Any, faces: np.ndarray, network_golden: Any
) -> None:
    from refbench.metrics.nets.curricularface import face_embeddings

    norms = [
        module
        for module in damped_network.modules()
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))
    ]
    bias = damped_network.body[45].res_layer[0].bias
    kept = bias.clone()
    try:
        if mistake == "bias":
            bias.zero_()
        for module in norms if mistake == "epsilon" else []:
            module.eps = 1e-3
        given = faces[:1, ..., ::-1] if mistake == "bgr" else faces[:1]
        embeddings_ND = face_embeddings(damped_network, given)
    finally:
        bias.copy_(kept)
        for module in norms:
            module.eps = 1e-5
    assert np.abs(embeddings_ND - network_golden["damped_embedding_normalised"][:1]).max() > 1e-4


# --- alignment and detection -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["upright", "tilted_edge"])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_alignment_crop_is_the_reference_s(case: str, shifted: bool) -> None:
    from refbench.metrics.nets.faces import aligned_crop, halved

    golden = np.load(OPENS2V / "face_align.npz")
    image = fill.uint8_image(f"face_align/{case}", *golden[f"{case}_image_hw"])
    landmarks = golden[f"{case}_landmarks"]
    name = case
    if shifted:
        landmarks = landmarks - np.array((120, 90), np.float32)
        name = f"{case}_shifted_minus_120_90"
    crop = aligned_crop(image, landmarks, 224)
    assert crop.shape == (224, 224, 3)
    for generation in ("old", "new"):
        difference = np.abs(crop[::7, ::7].astype(int) - golden[f"{name}_crop224_{generation}_stride7"])
        assert difference.max() <= 4 and difference.mean() <= 0.02
    if not shifted:
        assert crop.mean(axis=(0, 1)) == pytest.approx(
            golden[f"{case}_crop224_{OPENCV}_channel_means"], abs=0.02
        )
        black = (crop == 0).all(axis=-1).mean()
        assert black == pytest.approx(float(golden[f"{case}_crop224_{OPENCV}_black_fraction"]), abs=0.002)
    if OPENCV == "new":
        # The README promises equal bytes only for one OpenCV generation and scikit-image's matrix.
        assert crc(crop) == int(golden[f"{name}_crop224_new_crc32"])
        if not shifted:
            assert crc(halved(crop)) == int(golden[f"{case}_crop112_new_crc32"])


def constant_detector(path: Path, case: str) -> None:
    """A detector as an ONNX file whose outputs are the golden's arrays, whatever the picture."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, outputs = [], []
    for head, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            rows = 2 * (320 // stride) ** 2
            noise = fill.normal(f"scrfd/{case}/{head}_{stride}", (rows, width))
            value = {
                "score": lambda noise=noise: 1 / (1 + np.exp(-(2 * noise - 4))),
                "bbox": lambda noise=noise: np.abs(noise) * 3 + 2,
                "kps": lambda noise=noise: noise * 2,
            }[head]()
            name = f"{head}_{stride}"
            tensor = numpy_helper.from_array(value.astype(np.float32), name)
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, width]))
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "constant", [picture], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


@pytest.mark.parametrize("case", ["landscape", "portrait", "square"])
def test_the_detector_is_prepared_and_decoded_as_officially(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refbench.metrics.nets.faces import largest, load_faces

    golden = np.load(OPENS2V / "scrfd_decode.npz")
    constant_detector(tmp_path / "pack" / "det.onnx", case)
    finder = load_faces(tmp_path / "pack", "cpu", 1)
    assert finder.recogniser is None
    inputs: list[np.ndarray] = []
    make_input = cv2.dnn.blobFromImage

    def recording(*arguments: Any, **keywords: Any) -> np.ndarray:
        inputs.append(make_input(*arguments, **keywords))
        return inputs[-1]

    monkeypatch.setattr(cv2.dnn, "blobFromImage", recording)
    image_bgr = fill.uint8_image(f"scrfd/{case}", *golden[f"{case}_hw"])
    boxes_F5, landmarks_F52 = finder.detector.detect(image_bgr)
    assert [blob.shape for blob in inputs] == [(1, 3, 320, 320)]
    np.testing.assert_allclose(inputs[0][0, :, ::17, ::17], golden[f"{case}_net_input_stride17"], atol=0.01)
    assert crc(inputs[0]) == int(golden[f"{case}_net_input_crc32"])
    np.testing.assert_allclose(boxes_F5, golden[f"{case}_boxes_scores"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(landmarks_F52, golden[f"{case}_landmarks"], atol=1e-3, rtol=0)
    assert largest(boxes_F5) == int(golden[f"{case}_largest_index"])


# --- the rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RULES["largest_face"], ids=lambda case: case["case"])
def test_the_largest_face(case: dict[str, Any]) -> None:
    from refbench.metrics.nets.faces import largest

    assert largest(np.array(case["boxes_x1y1x2y2_in_detector_order"], np.float32)) == case["chosen_index"]


@pytest.mark.parametrize("case", RULES["padding"], ids=lambda case: str(case["hw"]))
def test_the_grey_frame(case: dict[str, Any]) -> None:
    from refbench.metrics.nets.faces import framed

    image = np.zeros((*case["hw"], 3), np.uint8)
    bordered, left_top = framed(image)
    assert list(bordered.shape[:2]) == case["padded_hw"]
    assert list(left_top) == case["left_top"]
    left, top = left_top
    if top and left:
        assert bordered[0, 0].tolist() == bordered[-1, -1].tolist() == case["border_value"]
    assert not bordered[top : top + case["hw"][0], left : left + case["hw"][1]].any()


class StubDetector:
    """Finds one face from the `finds_from`-th call on, and remembers what it was shown."""

    def __init__(self, landmarks: Any, finds_from: int) -> None:
        self.landmarks = np.array([landmarks], np.float32)
        self.finds_from = finds_from
        self.shown: list[np.ndarray] = []

    def detect(self, image_bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.shown.append(image_bgr)
        if len(self.shown) < self.finds_from:
            return np.empty((0, 5), np.float32), np.empty((0, 5, 2), np.float32)
        return np.array([[0, 0, 9, 9, 0.9]], np.float32), self.landmarks


class StubRecogniser:
    input_size = (112, 112)

    def get_feat(self, crop_bgr: np.ndarray) -> np.ndarray:
        return crop_bgr.mean(axis=(0, 1), dtype=np.float32)[None]


@pytest.mark.parametrize("case", RULES["process_image"], ids=lambda case: case["case"][:20])
def test_a_picture_is_searched_and_cut_as_officially(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from refbench.metrics.nets import faces as module

    image = fill.uint8_image("facesim/picture", *case["image_hw"])
    calls = len(case["detector_calls_hw"])
    detector = StubDetector(case["detector_landmarks_xy"], calls if case["result"] else 3)
    cuts: list[tuple[np.ndarray, np.ndarray, int]] = []
    cut = module.aligned_crop

    def recording(image_bgr: np.ndarray, landmarks_52: np.ndarray, side: int) -> np.ndarray:
        cuts.append((image_bgr, landmarks_52, side))
        return cut(image_bgr, landmarks_52, side)

    monkeypatch.setattr(module, "aligned_crop", recording)
    face = module.FaceFinder(detector, None).find(image)
    assert [list(shown.shape[:2]) for shown in detector.shown] == case["detector_calls_hw"]
    assert np.array_equal(detector.shown[0], image[..., ::-1]) is case["detector_sees_bgr"]
    if case["result"] is None:
        assert face is None and not cuts
        return
    assert face is not None and face.framed == (calls == 2)
    (source, landmarks, side), *_ = cuts
    assert list(source.shape[:2]) == case["crop_image_hw"] and side == case["crop_size"]
    assert np.array_equal(source, image[..., ::-1]) is case["crop_source_is_bgr"]
    np.testing.assert_allclose(landmarks, case["crop_landmarks_xy"])
    expected = module.halved(cut(np.ascontiguousarray(image), landmarks, 224))
    assert np.abs(face.crop_HWC.astype(int) - expected).max() <= 1


def test_arcface_sees_the_framed_picture() -> None:
    from refbench.metrics.nets.faces import FaceFinder, aligned_crop, framed

    image = np.full((240, 320, 3), (200, 100, 0), np.uint8)
    landmarks = np.array([[20, 20], [70, 22], [46, 50], [26, 80], [66, 79]], np.float32)
    face = FaceFinder(StubDetector(landmarks, 2), StubRecogniser()).find(image)
    assert face is not None and face.arcface_D is not None
    bordered, _ = framed(np.ascontiguousarray(image[..., ::-1]))
    assert face.arcface_D == pytest.approx(aligned_crop(bordered, landmarks, 112).mean(axis=(0, 1)), abs=1e-3)
    assert not np.allclose(face.arcface_D, (0, 100, 200), atol=5)


def vector(cosine: float | str) -> np.ndarray:
    if cosine == "NaN":
        return np.full(3, np.nan, np.float32)
    return np.array([cosine, (1 - float(cosine) ** 2) ** 0.5, 0], np.float32)


@pytest.mark.parametrize("case", RULES["video_average"], ids=lambda case: case["case"][:40])
def test_the_averages_of_a_video(case: dict[str, Any]) -> None:
    reference = vector(1.0)
    frame_cosines = [
        None if cosine is None else cosines(reference, vector(cosine)[None])[0]
        for cosine in case["frame_cosines"]
    ]
    assert cur_average(frame_cosines) == pytest.approx(case["cur_score"], abs=1e-6)
    if "NaN" not in case["frame_cosines"]:
        assert arc_average(frame_cosines) == pytest.approx(case["arc_score"], abs=1e-6)


def test_a_zero_vector_has_cosine_zero() -> None:
    zero = np.zeros((1, 3), np.float32)
    assert cosines(vector(1.0), zero) == [RULES["cosine_with_a_zero_vector"]]


def test_zero_embeddings_are_dropped_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    from refbench.metrics.nets.curricularface import face_embeddings

    class Zero(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels: Any) -> Any:
            return torch.zeros(len(pixels), 4)

    embeddings = face_embeddings(Zero(), np.zeros((2, 112, 112, 3), np.uint8))
    assert np.isnan(embeddings).all() and not recwarn.list
    assert cur_average(cosines(np.ones(4, np.float32), embeddings)) == 0.0


def sample_with(sample_id: str, paths: list[str] | None, root: Path = Path()) -> Sample:
    references = tuple(
        Reference(path=path, root=root, label="Man", kind=kind_of(path)) for path in paths or []
    )
    return Sample(id=sample_id, category=category_of(sample_id), prompt="", references=references)


@pytest.mark.parametrize("case", RULES["reference_image"], ids=lambda case: case["sample"])
def test_the_reference_is_the_first_of_a_person(case: dict[str, Any]) -> None:
    sample = sample_with(case["sample"], case["img_paths"])
    if case["chosen"] is None:
        with pytest.raises(SampleError, match="no reference shows a person"):
            person_reference(sample)
    else:
        assert person_reference(sample).path == case["chosen"]


def test_a_suite_names_its_person() -> None:
    references = tuple(
        Reference(path=path, root=Path(), label="", kind=kind)
        for path, kind in (("cup.png", "object"), ("anna.png", "person"))
    )
    sample = Sample(id="mine_1", category="mine", prompt="", references=references)
    assert FaceSim().not_applicable(sample) is None
    assert person_reference(sample).path == "anna.png"


def test_the_official_inclusion_rule() -> None:
    files = RULES["files"]
    for name in files["files_in_the_folder"]:
        stem, suffix = name.split(".")[0], name[name.index(".") :]
        if suffix not in (".mp4", ".v2.mp4") or stem in files["samples_missing_from_the_list"]:
            continue
        # An official sample of objects alone has no path of a person.
        person = stem not in files["samples_without_person_path"] and not stem.startswith("singleobj")
        sample = sample_with(stem, ["Images/man/1.png" if person else "Images/cup/1.png"])
        excluded = stem not in files["keys_in_the_result"]
        if stem not in files["samples_whose_reference_has_no_face"]:
            assert (FaceSim().not_applicable(sample) is not None) == excluded, name


@pytest.mark.skipif(not SHARED, reason="needs the official sample lists (REFBENCH_SHARED)")
@pytest.mark.parametrize("track", ["Open-Domain", "Human-Domain", "Single-Domain"])
def test_the_official_lists(track: str) -> None:
    golden = RULES["benchmark_lists"][track]
    samples = load_track(track.lower(), Path(str(SHARED)) / "data" / "opens2v_eval").samples
    scored = sorted(
        (sample for sample in samples if FaceSim().not_applicable(sample) is None),
        key=lambda sample: sample.id,
    )
    assert (len(samples), len(scored)) == (golden["samples"], golden["scored"])
    lines = "\n".join(f"{sample.id}\t{person_reference(sample).path}" for sample in scored)
    assert hashlib.sha256(lines.encode()).hexdigest() == golden["chosen_paths_sha256"]


# --- the metric on tiny weights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def metric(tiny_weights: Path) -> FaceSim:
    made = FaceSim()
    made.load(Environment(weights=tiny_weights, threads=2))
    return made


def picture() -> np.ndarray:
    """A picture bright enough for the tiny detector."""
    return (110 + 0.55 * fill.uint8_image("facesim/person", 96, 128)).astype(np.uint8)


def clip(path: Path, images: list[np.ndarray]) -> Video:
    write_video(path, images, 8)
    return Video(path)


@pytest.fixture
def person(tmp_path: Path) -> Sample:
    (tmp_path / "Images" / "man").mkdir(parents=True)
    Image.fromarray(picture()).save(tmp_path / "Images" / "man" / "1.png")
    return sample_with("singleface_1", ["Images/man/1.png"], tmp_path)


def test_a_score_and_its_details(metric: FaceSim, person: Sample, tmp_path: Path) -> None:
    from refbench.metrics.nets.curricularface import face_embeddings

    images = [np.roll(picture(), 9 * shift, axis=1) for shift in range(4)] + [
        np.zeros((96, 128, 3), np.uint8)
    ]
    video = clip(tmp_path / "singleface_1.mp4", images)
    score = metric.score(person, video)

    def embedding(image: np.ndarray) -> np.ndarray | None:
        face = metric._faces.find(image)
        return None if face is None else face_embeddings(metric._network, face.crop_HWC[None])

    reference = embedding(picture())
    assert reference is not None
    per_frame = []
    for frame in video.frames(ALL_FRAMES):
        found = embedding(frame)
        per_frame.append(None if found is None else cosines(reference[0], found)[0])
    expected = [per_frame[int(index)] for index in np.linspace(0, 4, 32)]
    assert None in expected and any(value is not None for value in expected)
    cosines_found = score.details["frame_cosines"]
    assert [value is None for value in cosines_found] == [value is None for value in expected]
    assert [value or 0 for value in cosines_found] == pytest.approx(
        [value or 0 for value in expected], abs=2e-6
    )
    assert score.value == pytest.approx(cur_average(expected), abs=2e-6) and 0 < score.value <= 1 + 1e-6
    assert score.details["frames"] == 32
    assert score.details["frames_with_face"] == sum(value is not None for value in expected)
    assert 0 <= score.details["arc_score"] <= 1 + 1e-6
    json.dumps(score.details, allow_nan=False)


def test_each_distinct_frame_and_each_reference_is_searched_once(
    metric: FaceSim, person: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[tuple[int, ...]] = []
    find = metric._faces.find
    monkeypatch.setattr(metric._faces, "find", lambda image: (searched.append(image.shape), find(image))[1])
    monkeypatch.setattr(metric, "_references", {})
    video = clip(tmp_path / "a.mp4", [np.roll(picture(), 20 * shift, axis=0) for shift in range(3)])
    first = metric.score(person, video)
    assert len(searched) == 1 + 3 and first.details["frames"] == 32
    assert metric.score(person, video) == first
    assert len(searched) == 1 + 3 + 3


def test_no_face_anywhere_scores_zero_as_officially(metric: FaceSim, person: Sample, tmp_path: Path) -> None:
    video = clip(tmp_path / "dark.mp4", [np.zeros((96, 128, 3), np.uint8)] * 3)
    score = metric.score(person, video)
    assert score.value == 0.0
    assert (score.details["frames_with_face"], score.details["frames_kept"]) == (0, 0)


def test_a_reference_without_a_face_leaves_no_score(metric: FaceSim, tmp_path: Path) -> None:
    (tmp_path / "man").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "man" / "1.png")
    sample = sample_with("singleface_1", ["./man/1.png"], tmp_path)
    video = clip(tmp_path / "a.mp4", [picture()])
    with pytest.raises(SampleError, match="no face is found in the reference image"):
        metric.score(sample, video)


def test_a_missing_reference_is_that_sample_s_reason(metric: FaceSim, tmp_path: Path) -> None:
    sample = sample_with("singleface_1", ["./man/none.png"], tmp_path)
    with pytest.raises(SampleError, match="is missing"):
        metric.score(sample, clip(tmp_path / "a.mp4", [picture()]))


@pytest.mark.parametrize("kind", ["alpha", "exif", "cmyk", "grey", "palette"])
def test_odd_references_are_opened_as_plain_rgb(
    kind: str, metric: FaceSim, person: Sample, tmp_path: Path
) -> None:
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "alpha": (Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 40))), "png", {}),
        "exif": (image, "png", {"exif": exif}),
        "cmyk": (image.convert("CMYK"), "jpg", {}),
        "grey": (image.convert("L"), "png", {}),
        "palette": (image.convert("P"), "png", {}),
    }
    changed, suffix, settings = variants[kind]
    path = f"Images/man/{kind}.{suffix}"
    changed.save(tmp_path / path, **settings)
    video = clip(tmp_path / "a.mp4", [picture(), np.roll(picture(), 30, axis=1)])
    score = metric.score(sample_with("singleface_1", [path], tmp_path), video)
    if kind in ("alpha", "exif"):
        # Transparency is dropped and the rotation ignored: the same pixels, the same score.
        assert score == metric.score(person, video)
    else:
        assert 0 <= score.value <= 1 + 1e-6


def test_a_video_that_cannot_be_read(metric: FaceSim, person: Sample, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        metric.score(person, Video(tmp_path / "a.mp4"))


def test_a_strip_is_refused_in_words(metric: FaceSim) -> None:
    with pytest.raises(SampleError, match="too narrow"):
        metric._faces.find(np.zeros((2, 700, 3), np.uint8))


# --- weights ---------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to download fails."""

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("insightface tried to download")

    monkeypatch.setattr("insightface.utils.storage.download_file", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize(
    "layout", ["face_extractor/models/buffalo_l", "face_extractor/buffalo_l", "buffalo_l"]
)
@pytest.mark.usefixtures("offline")
def test_both_layouts_of_a_pack_are_read(layout: str, copied: Path) -> None:
    place = copied / tiny.REPOSITORY
    pack = place / tiny.PACK
    if place / layout != pack:
        shutil.move(pack, place / layout)
    made = FaceSim()
    assert made.unavailable(Environment(weights=copied)) is None
    made.load(Environment(weights=copied))
    assert made._faces.recogniser is not None


@pytest.mark.usefixtures("offline")
def test_a_pack_elsewhere_can_be_named(copied: Path, tmp_path: Path) -> None:
    shutil.move(copied / tiny.REPOSITORY / tiny.PACK, tmp_path / "own" / "models" / "buffalo_l")
    for pack in (tmp_path / "own", tmp_path / "own" / "models" / "buffalo_l"):
        made = FaceSim(FaceSimOptions(pack=str(pack)))
        assert made.unavailable(Environment(weights=copied)) is None
        made.load(Environment(weights=copied))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("emptied", [False, True])
def test_a_missing_pack_is_named_and_not_downloaded(emptied: bool, copied: Path) -> None:
    pack = copied / tiny.REPOSITORY / tiny.PACK
    shutil.copytree(pack, pack.with_name("antelopev2"))
    shutil.rmtree(pack)
    if emptied:
        pack.mkdir()
    made = FaceSim()
    reason = made.unavailable(Environment(weights=copied))
    assert (
        reason is not None
        and "buffalo_l" in reason
        and "antelopev2" in reason
        and "refbench weights pull" in reason
    )
    with pytest.raises(MissingWeights, match="buffalo_l"):
        made.load(Environment(weights=copied))


def test_missing_weights_are_named(tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    reason = FaceSim().unavailable(Environment(weights=tmp_path / "nothing"))
    assert reason is not None and "BestWishYsh/OpenS2V-Weight" in reason
    (copied / tiny.REPOSITORY / tiny.NETWORK_FILE).unlink()
    reason = FaceSim().unavailable(Environment(weights=copied))
    assert reason is not None and tiny.NETWORK_FILE in reason


@pytest.mark.parametrize("name", ["det_10g.onnx", "w600k_r50.onnx"])
def test_a_damaged_pack_is_one_line(name: str, copied: Path) -> None:
    file = copied / tiny.REPOSITORY / tiny.PACK / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"InsightFace pack .* is damaged") as caught:
        FaceSim().load(Environment(weights=copied))
    assert "\n" not in str(caught.value)


def test_a_pack_without_a_detector_is_refused(copied: Path) -> None:
    (copied / tiny.REPOSITORY / tiny.PACK / "det_10g.onnx").unlink()
    with pytest.raises(UserError, match="holds no face detector"):
        FaceSim().load(Environment(weights=copied))


def test_a_pack_without_a_recogniser_has_no_arc_score(copied: Path, person: Sample, tmp_path: Path) -> None:
    (copied / tiny.REPOSITORY / tiny.PACK / "w600k_r50.onnx").unlink()
    made = FaceSim()
    made.load(Environment(weights=copied))
    score = made.score(person, clip(tmp_path / "a.mp4", [picture()]))
    assert score.value > 0 and "arc_score" not in score.details


@pytest.mark.parametrize("fault", ["truncated", "missing key", "wrong shape", "another network"])
def test_a_wrong_network_file_is_one_line(fault: str, copied: Path) -> None:
    file = copied / tiny.REPOSITORY / tiny.NETWORK_FILE
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        tensors = torch.load(file, weights_only=True)
        if fault == "missing key":
            del tensors["body.2.res_layer.3.weight"]
        elif fault == "wrong shape":
            tensors["output_layer.3.weight"] = tensors["output_layer.3.weight"][:, :-1]
        else:
            tensors = {"layers.0.weight": torch.zeros(2, 2)}
        torch.save(tensors, file)
    with pytest.raises(UserError) as caught:
        FaceSim().load(Environment(weights=copied))
    assert "\n" not in str(caught.value) and tiny.NETWORK_FILE in str(caught.value)


def test_another_depth_is_only_taken_from_a_tiny_folder(copied: Path) -> None:
    (copied / tiny.REPOSITORY / "REFBENCH_TINY").unlink()
    with pytest.raises(UserError, match="not CurricularFace IR-101"):
        FaceSim().load(Environment(weights=copied))


def test_provenance_names_every_file_and_marks_tiny_ones(metric: FaceSim, tiny_weights: Path) -> None:
    provenance = metric.provenance()
    assert provenance["dtype"] == "float32" and provenance["batch_size"] == 32
    assert provenance["device"] == "cpu, CPUExecutionProvider"
    place = tiny_weights / tiny.REPOSITORY
    digests = {
        Path(name).name: digest.removeprefix("tiny:") for name, digest in provenance["weights"].items()
    }
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())
    for file in (place / tiny.NETWORK_FILE, *(place / tiny.PACK).glob("*.onnx")):
        assert digests[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_tiny_weights_are_the_same_each_time(tiny_weights: Path, tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path)
    for name in (f"{tiny.PACK}/det_10g.onnx", f"{tiny.PACK}/w600k_r50.onnx", tiny.NETWORK_FILE):
        again = (tmp_path / tiny.REPOSITORY / name).read_bytes()
        assert again == (tiny_weights / tiny.REPOSITORY / name).read_bytes()


@pytest.mark.skipif(not SHARED, reason="needs the two sample videos (REFBENCH_SHARED)")
@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_tiny_weights_give_a_value_on_the_sample_videos(sample_id: str, metric: FaceSim) -> None:
    dataset = Path(str(SHARED)) / "data" / "opens2v_eval"
    sample = load_track("open-domain", dataset).sample(sample_id)
    assert sample is not None
    score = metric.score(sample, Video(dataset / "videos" / f"{sample_id}.mp4"))
    assert 0 < score.value < 1
    assert score.details["frames_kept"] > 0


@pytest.mark.weights
@pytest.mark.skipif(
    not (SHARED and os.environ.get("REFBENCH_WEIGHTS")),
    reason="needs the released weights (REFBENCH_WEIGHTS) and the sample videos (REFBENCH_SHARED)",
)
def test_the_released_weights_give_the_published_score() -> None:
    dataset = Path(str(SHARED)) / "data" / "opens2v_eval"
    published = json.loads((dataset / "official_scores" / "facesim.json").read_text())["singleface_3"]
    made = FaceSim()
    made.load(Environment(threads=2))
    sample = load_track("open-domain", dataset).sample("singleface_3")
    assert sample is not None
    score = made.score(sample, Video(dataset / "videos" / "singleface_3.mp4"))
    # The published run used ONNX Runtime on a GPU, whose detector differs in the last digits.
    assert score.value == pytest.approx(published["cur_score"], abs=1e-3)
    assert score.details["arc_score"] == pytest.approx(published["arc_score"], abs=1e-3)


# --- the module ------------------------------------------------------------------------------------------


def test_providers_are_the_cpu_unless_cuda_is_asked_for_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    from refbench.metrics.nets.faces import execution_providers

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, cpu])
    assert execution_providers("cuda") == [cuda, cpu]
    assert execution_providers("cpu") == [cpu]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cpu])
    assert execution_providers("cuda") == [cpu]


def test_the_licence_is_said() -> None:
    note = COMPONENTS["facesim"].licence_note
    assert "non-commercial" in note and "InsightFace" in note


def test_importing_the_metric_is_light() -> None:
    heavy = "torch transformers cv2 PIL insightface onnxruntime open_clip"
    code = (
        "import sys; from refbench.metrics import aesthetics, clip_i, clip_t, dino_i, facesim;"
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
