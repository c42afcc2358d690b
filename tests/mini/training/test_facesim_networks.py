"""The networks of FaceSim: what they are shown, and that their files are those that the metric loads."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
cv2 = pytest.importorskip("cv2")
pytest.importorskip("insightface")
pytest.importorskip("onnx")

from refbench.bench.environment import Environment  # noqa: E402
from refbench.metrics.facesim import NETWORK_FILE, FaceSim, FaceSimScorer  # noqa: E402
from refbench.metrics.nets.curricularface import face_embeddings, load_curricularface  # noqa: E402
from refbench.metrics.nets.faces import DETECTOR_SIDE_PX, load_faces, pack_folder  # noqa: E402
from refbench.metrics.small.facesim import PICTURE, STRIDES, recogniser_model, write_pack  # noqa: E402
from refbench.metrics.weights import OPENS2V_WEIGHT  # noqa: E402
from refbench.mini.training import facesim  # noqa: E402
from refbench.mini.training.build import Build, make_part  # noqa: E402
from refbench.mini.world.identity import person  # noqa: E402
from refbench.mini.world.render import render  # noqa: E402
from refbench.mini.world.scene import compose  # noqa: E402


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPS", "REFERENCES", "EMPTY_PICTURES"):
        monkeypatch.setattr(facesim, name, 1)
    monkeypatch.setattr(facesim, "FRAMES_OF_CLIP", 2)
    monkeypatch.setattr(facesim, "PEOPLE_OF_STEP", 3)


def test_a_person_has_a_face_from_the_front_alone() -> None:
    scene = compose([person("training", 1)], "training", random.Random(0), framing="full")
    actor = scene.actors[0]
    spinning = type(actor)(subject=actor.subject, motion="spin", across=0.5)
    rendering = render(type(scene)(actors=(spinning,), place=scene.place))
    found = [len(facesim.faces_of(rendering.labels, frame).boxes_K4) for frame in range(9)]
    assert found[0] == 1 and found[4] == 0


def test_the_points_at_a_face_and_no_others_answer_for_it() -> None:
    picture_HWC, faces = facesim.reference_faces(person("training", 2), face=True)
    scale = DETECTOR_SIDE_PX / len(picture_HWC)
    wanted_PK = facesim.targets(faces, scale)
    is_face_P = wanted_PK[:, 0] == 1
    assert 0 < is_face_P.sum() < 40
    # The numbers decode to the face, as insightface does it.
    points_P3 = facesim.POINTS_P3[is_face_P]
    distances_PK = wanted_PK[is_face_P, 1:-1] * points_P3[:, 2:]
    left_top = points_P3[:, :2] - distances_PK[:, :2]
    np.testing.assert_allclose(
        left_top, np.tile(faces.boxes_K4[0, :2] * scale, (len(points_P3), 1)), atol=1e-3
    )
    marks = points_P3[:, None, :2] + distances_PK[:, 4:].reshape(-1, 5, 2)
    np.testing.assert_allclose(marks[0], faces.landmarks_K52[0] * scale, atol=1e-3)
    assert not (facesim.targets(facesim.NOBODY, 5.0)[:, 0] != 0).any()


def test_the_onnx_detector_says_what_the_network_says(tmp_path: Path) -> None:
    network = facesim.FaceDetectorLearner().network.train()
    network(torch.rand(2, 3, 80, 80))
    network.eval()
    write_pack(tmp_path, facesim.detector_onnx(network), recogniser_model())
    detector = load_faces(pack_folder(tmp_path, "buffalo_l"), "cpu", 1).detector
    picture_HWC, _ = facesim.reference_faces(person("training", 3), face=True)
    resized = cv2.resize(picture_HWC, (DETECTOR_SIDE_PX, DETECTOR_SIDE_PX))[..., ::-1]
    blob = cv2.dnn.blobFromImage(
        np.ascontiguousarray(resized), 1 / 128, resized.shape[:2], (127.5,) * 3, swapRB=True
    )
    outputs = detector.session.run(None, {PICTURE: blob})
    with torch.no_grad():
        said_PK = network(torch.from_numpy(facesim.detector_input(picture_HWC))[None])[0].numpy()
    first = 0
    for level, stride in enumerate(STRIDES):
        count = (DETECTOR_SIDE_PX // stride) ** 2
        of_level = said_PK[first : first + count]
        first += count
        scores, boxes, marks = (outputs[level + 3 * head] for head in range(3))
        np.testing.assert_allclose(scores[::2, 0], 1 / (1 + np.exp(-of_level[:, 0])), atol=1e-5)
        assert scores[1::2].max() < 1e-6
        np.testing.assert_allclose(boxes[::2], of_level[:, 1:5], atol=1e-4)
        np.testing.assert_allclose(marks[::2], of_level[:, 5:], atol=1e-4)


def test_the_onnx_recogniser_is_the_network(tmp_path: Path) -> None:
    network = facesim.FaceIdentityLearner("arcface").network.network.eval()
    write_pack(
        tmp_path,
        facesim.detector_onnx(facesim.FaceDetectorLearner().network.eval()),
        facesim.recogniser_onnx(network),
    )
    recogniser = load_faces(pack_folder(tmp_path, "buffalo_l"), "cpu", 1).recogniser
    face_HWC = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    raw_D = recogniser.get_feat(np.ascontiguousarray(face_HWC[..., ::-1])).ravel()
    expected_D = face_embeddings(network, face_HWC[None])[0]
    np.testing.assert_allclose(raw_D / np.linalg.norm(raw_D), expected_D, atol=1e-4)


def test_faces_of_a_step_belong_to_their_people() -> None:
    batch = facesim.FaceIdentityLearner("arcface").examples(random.Random(0), 0.0)
    again = facesim.FaceIdentityLearner("arcface").examples(random.Random(0), 0.0)
    assert torch.equal(batch.faces_BCHW, again.faces_BCHW)
    assert batch.faces_BCHW.shape[1:] == (3, 112, 112) and batch.faces_BCHW.is_contiguous()
    assert batch.person_B[:3].tolist() == [0, 1, 2] and batch.person_B[3:].max() <= 2
    assert len(batch.traits_BT) == len(batch.faces_BCHW)


def test_two_steps_write_what_the_metric_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []

    def measure(build: Build) -> dict[str, float]:
        monkeypatch.setattr(facesim, "MEASURED_PEOPLE", 4)
        monkeypatch.setattr(facesim, "MEASURED_SCENES", 4)
        # Two steps find no face in a reference; the pictures of scenes are measured all the same.
        scorer = FaceSim().load(Environment(weights=build.weights))
        assert isinstance(scorer, FaceSimScorer)
        measured.extend(len(one.scores_N) for one in facesim._detections(scorer, 2, random.Random(0)))
        scorer.close()
        return {}

    # The folder is whole only with what another metric puts there.
    build = Build(root=tmp_path, scale=1e-9)
    (build.place(OPENS2V_WEIGHT.repository) / "aesthetic-model.pth").write_bytes(b"")
    part = type(facesim.PART)(
        name="facesim", summary="", make=facesim.make, measure=measure, files=facesim.PART.files
    )
    done = make_part(build, part, lambda done, total: None)
    assert len(done["files"]) == 3 and measured
    network_file = build.weights / OPENS2V_WEIGHT.repository / NETWORK_FILE
    assert load_curricularface(network_file, any_layout=True).output_layer[3].out_features == 64
    assert sum(path.stat().st_size for path in build.weights.rglob("*") if path.is_file()) < 4e6
    other = Build(root=tmp_path / "again", scale=1e-9)
    facesim.make(other, lambda done, total: None)
    for name in done["files"]:
        assert (other.weights / name).read_bytes() == (build.weights / name).read_bytes(), name
