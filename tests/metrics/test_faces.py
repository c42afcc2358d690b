"""Finding, aligning and cutting out faces: goldens of alignment and detector, and the rules of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import normal, uint8_image

from kit.goldens import crc, read
from refbench.bench.errors import SampleError
from refbench.metrics.small.facesim import PACK
from refbench.metrics.weights import OPENS2V_WEIGHT

cv2 = pytest.importorskip("cv2")
pytest.importorskip("insightface")

from refbench.metrics.nets import faces as module  # noqa: E402
from refbench.metrics.nets.faces import (  # noqa: E402
    FaceFinder,
    aligned_crop,
    execution_providers,
    framed,
    halved,
    largest,
    load_faces,
    provider_options,
)

OPENCV = "new" if int(cv2.__version__.split(".")[0]) >= 5 else "old"
RULES = read("opens2v_eval/facesim.json")

# --- alignment and detection -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["upright", "tilted_edge"])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_alignment_crop_is_the_reference_s(case: str, shifted: bool) -> None:
    golden = read("opens2v_eval/face_align.npz")
    image = uint8_image(f"face_align/{case}", *golden[f"{case}_image_hw"])
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
            noise = normal(f"scrfd/{case}/{head}_{stride}", (rows, width))
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
    golden = read("opens2v_eval/scrfd_decode.npz")
    constant_detector(tmp_path / "pack" / "det.onnx", case)
    finder = load_faces(tmp_path / "pack", "cpu", 1)
    assert finder.recogniser is None
    inputs: list[np.ndarray] = []
    make_input = cv2.dnn.blobFromImage

    def recording(*arguments: Any, **keywords: Any) -> np.ndarray:
        inputs.append(make_input(*arguments, **keywords))
        return inputs[-1]

    monkeypatch.setattr(cv2.dnn, "blobFromImage", recording)
    image_bgr = uint8_image(f"scrfd/{case}", *golden[f"{case}_hw"])
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
    assert largest(np.array(case["boxes_x1y1x2y2_in_detector_order"], np.float32)) == case["chosen_index"]


@pytest.mark.parametrize("case", RULES["padding"], ids=lambda case: str(case["hw"]))
def test_the_grey_frame(case: dict[str, Any]) -> None:
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
    image = uint8_image("facesim/picture", *case["image_hw"])
    calls = len(case["detector_calls_hw"])
    detector = StubDetector(case["detector_landmarks_xy"], calls if case["result"] else 3)
    cuts: list[tuple[np.ndarray, np.ndarray, int]] = []

    def recording(image_bgr: np.ndarray, landmarks_52: np.ndarray, side: int) -> np.ndarray:
        cuts.append((image_bgr, landmarks_52, side))
        return aligned_crop(image_bgr, landmarks_52, side)

    monkeypatch.setattr(module, "aligned_crop", recording)
    face = FaceFinder(detector, None).find(image)
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
    expected = halved(aligned_crop(np.ascontiguousarray(image), landmarks, 224))
    assert np.abs(face.crop_HWC.astype(int) - expected).max() <= 1


def test_arcface_sees_the_framed_picture() -> None:
    image = np.full((240, 320, 3), (200, 100, 0), np.uint8)
    landmarks = np.array([[20, 20], [70, 22], [46, 50], [26, 80], [66, 79]], np.float32)
    face = FaceFinder(StubDetector(landmarks, 2), StubRecogniser()).find(image)
    assert face is not None and face.arcface_D is not None
    bordered, (left, top) = framed(np.ascontiguousarray(image[..., ::-1]))
    # Its box is that of the picture itself.
    assert face.box_4 == (-left, -top, 9 - left, 9 - top)
    assert face.arcface_D == pytest.approx(aligned_crop(bordered, landmarks, 112).mean(axis=(0, 1)), abs=1e-3)
    assert not np.allclose(face.arcface_D, (0, 100, 200), atol=5)


def test_a_strip_is_refused_in_words(small_weights: Path) -> None:
    finder = load_faces(small_weights / OPENS2V_WEIGHT.repository / PACK, "cpu", 1)
    with pytest.raises(SampleError, match="too narrow"):
        finder.find(np.zeros((2, 700, 3), np.uint8))


def test_providers_are_the_cpu_unless_cuda_is_asked_for_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, cpu])
    assert execution_providers("cuda") == [cuda, cpu]
    assert execution_providers("cpu") == [cpu]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cpu])
    assert execution_providers("cuda") == [cpu]


def test_the_detector_runs_on_the_gpu_that_is_meant() -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert provider_options("cuda:3", providers) == [{"device_id": 3}, {}]
    assert provider_options("cuda", providers) == [{"device_id": 0}, {}]
    assert provider_options("cpu", providers[1:]) == [{}]
