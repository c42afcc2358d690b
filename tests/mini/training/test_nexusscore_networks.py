"""NexusScore's detector and its picture tower: what they are asked, and that their files load."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra 'refalign'")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from refbench.metrics.nets.yolo_world.detector import load_yolo_world  # noqa: E402
from refbench.metrics.nets.yolo_world.image_prompt_detector import ImagePromptDetector  # noqa: E402
from refbench.metrics.small.nexusscore import DETECTOR_FILE, save_detector  # noqa: E402
from refbench.mini.training import clip_b32, nexusscore  # noqa: E402
from refbench.mini.training.build import Build, make_part  # noqa: E402
from refbench.mini.training.clip_b32 import TowerLearner  # noqa: E402
from refbench.mini.training.nexusscore import DetectorLearner  # noqa: E402
from refbench.mini.training.questions import Question, questions_of  # noqa: E402
from refbench.mini.world.identity import Place, code_of  # noqa: E402
from refbench.mini.world.render import render  # noqa: E402
from refbench.mini.world.scene import random_scene  # noqa: E402


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexusscore, "CLIPS", 1)
    monkeypatch.setattr(nexusscore, "SUBJECT_CLIPS", 1)
    for name in ("PEOPLE", "THINGS", "PLACES_OF_STEP"):
        monkeypatch.setattr(clip_b32, name, 2)


def test_frames_are_asked_for_what_they_show_and_for_others() -> None:
    generator = random.Random(0)
    places = absent = present = 0
    for _ in range(12):
        rendering = render(random_scene("training", generator))
        shown = {code_of(actor.subject.what) for actor in rendering.scene.actors}
        for question in questions_of(rendering, [0], "training", generator)[0]:
            if isinstance(question.shown, Place):
                places += 1
                assert (question.box_4 is not None) == (question.shown == rendering.scene.place)
            elif code_of(question.shown.what) in shown:
                present += 1
                assert question.box_4 is not None or question.doubtful
            else:
                absent += 1
                assert question.box_4 is None
    assert places and absent and present


def test_subjects_are_in_the_frames_that_they_name() -> None:
    batch = nexusscore.subjects_of_frames(random.Random(2))
    assert len(batch.first_BCHW) == nexusscore.SUBJECT_FRAMES
    assert len(batch.frame_S) == len(batch.boxes_S4) == len(batch.traits_ST) > 0
    assert batch.frame_S.min() >= 0 and batch.frame_S.max() < len(batch.first_BCHW)


def test_points_answer_for_the_middle_of_a_box() -> None:
    nothing = [float("nan")] * 4
    boxes_G4 = torch.tensor([[64.0, 64.0, 576.0, 576.0], [100.0, 100.0, 104.0, 104.0], nothing])
    inside_GN = nexusscore.within(boxes_G4, 0.35)
    assert inside_GN.sum(dim=1).tolist() == [36, 1, 0]
    points_N2 = nexusscore.coarse_points(20)
    assert (points_N2[inside_GN[1]] == 112).all() and points_N2[1].tolist() == [48, 16]


def test_the_overlap_of_boxes() -> None:
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3)
    other = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert nexusscore.general_overlap(one, other).tolist() == pytest.approx([1, 1 / 3, -1 / 3])


def test_training_sees_what_the_metric_computes(tmp_path: Path) -> None:
    tower = TowerLearner()
    tower.network.eval()
    tensors = {key: value.contiguous() for key, value in tower.network.tower.state_dict().items()}
    clip_b32.write_image_half(tmp_path, clip_b32.CONFIG, tensors)
    encoder = clip_b32.ReferenceEncoder.load(tmp_path)
    learner = DetectorLearner(encoder)
    frames, questions = nexusscore.asked_frames(random.Random(1))
    batch = learner.batch(frames, questions)
    assert len(frames) == 3 and len(batch.asked_G) == 9
    sum(learner.losses(batch, torch.Generator()).values()).backward()
    # As after some training: every learned number is other than at the start, except what is to stay.
    torch.optim.SGD(learner.network.parameters(), lr=0.01).step()
    network = learner.network.network.eval()
    save_detector(tmp_path, network.state_dict())
    loaded = load_yolo_world(tmp_path / DETECTOR_FILE)
    with torch.no_grad():
        prompts_GD = network.project(batch.references_RD)[batch.asked_G]
        answers = nexusscore.coarse_answers(
            network, nexusscore.backbone_maps(network, batch.first_BCHW), prompts_GD
        )
        maps = loaded.features(nexusscore.detector_input(frames[:1]))
        logits, distances = loaded.predict(maps, prompts_GD[:3].unsqueeze(1))
    torch.testing.assert_close(logits[2][:, 0], answers.logits_GHW[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distances[2], answers.distances_G4HW[:3], atol=1e-4, rtol=1e-4)
    assert logits[0].max() < -10 and logits[1].max() < -10


def test_two_steps_of_both_write_what_the_metric_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_b32, "MEASURED", 6)
    monkeypatch.setattr(nexusscore, "MEASURED_SCENES", 2)
    builds = [Build(root=tmp_path / name, scale=1e-9) for name in ("one", "other")]
    for build in builds:
        tower = make_part(build, clip_b32.PART, lambda done, total: None)
        assert set(tower["measured"]) >= {"people_auc", "things_auc"}
        detector = make_part(build, nexusscore.PART, lambda done, total: None)
        assert "subject_ap50" in detector["measured"] and len(detector["files"]) == 1
    files = [path.relative_to(builds[0].weights) for path in builds[0].weights.rglob("*") if path.is_file()]
    for name in files:
        assert (builds[0].weights / name).read_bytes() == (builds[1].weights / name).read_bytes(), name
    assert sum((builds[0].weights / name).stat().st_size for name in files) < 4e6
    loaded = ImagePromptDetector.load(
        nexusscore.detector_file(builds[0]), clip_b32.tower_folder(builds[0]), "cpu"
    )
    frame_HWC = np.zeros((64, 64, 3), np.uint8)
    prompts = loaded.prompts(
        clip_b32.as_images([nexusscore.reference_of(nexusscore.another("held-out", random.Random(0)))])
    )
    assert len(loaded.detect([frame_HWC], prompts)[0]) == 1


def test_a_subject_that_is_hardly_seen_may_be_found_or_not() -> None:
    rendering = render(random_scene("training", random.Random(3)))
    labels = rendering.labels[0]
    hidden = type(labels)(**{**vars(labels), "mask_FHW": np.zeros_like(labels.mask_FHW)})
    question: Question = nexusscore.question_about(hidden, 0)
    assert question.doubtful
