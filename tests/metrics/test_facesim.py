"""FaceSim: the official rules, scores on small weights, odd references, weights that are missing or wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fill import uint8_image
from PIL import Image

from kit.goldens import read
from refbench.bench.dataset import load_track
from refbench.bench.environment import Environment
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.sample import Reference, Sample, category_of, kind_of
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.video import ALL_FRAMES, Video, VideoError, write_video
from refbench.metrics.facesim import (
    NETWORK_FILE,
    FaceSim,
    FaceSimOptions,
    FaceSimScorer,
    arc_average,
    cosines,
    cur_average,
    person_reference,
)
from refbench.metrics.frame_boxes import in_thousandths
from refbench.metrics.small.facesim import PACK, write_tiny
from refbench.metrics.weights import OPENS2V_WEIGHT

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")
pytest.importorskip("insightface")

RULES = read("opens2v_eval/facesim.json")
REPOSITORY = OPENS2V_WEIGHT.repository


# --- the rules -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("track", ["Open-Domain", "Human-Domain", "Single-Domain"])
def test_the_official_lists(track: str, opens2v: Path) -> None:
    golden = RULES["benchmark_lists"][track]
    samples = load_track(track.lower(), opens2v).samples
    scored = sorted(
        (sample for sample in samples if FaceSim().not_applicable(sample) is None),
        key=lambda sample: sample.id,
    )
    assert (len(samples), len(scored)) == (golden["samples"], golden["scored"])
    lines = "\n".join(f"{sample.id}\t{person_reference(sample).path}" for sample in scored)
    assert hashlib.sha256(lines.encode()).hexdigest() == golden["chosen_paths_sha256"]


# --- scores on small weights -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(small_weights: Path) -> FaceSimScorer:
    return FaceSim().load(Environment(weights=small_weights, threads=2))


def picture() -> np.ndarray:
    """A picture bright enough for the tiny detector."""
    return (110 + 0.55 * uint8_image("facesim/person", 96, 128)).astype(np.uint8)


def clip(path: Path, images: list[np.ndarray]) -> Video:
    write_video(path, images, 8)
    return Video(path)


@pytest.fixture
def person(tmp_path: Path) -> Sample:
    (tmp_path / "Images" / "man").mkdir(parents=True)
    Image.fromarray(picture()).save(tmp_path / "Images" / "man" / "1.png")
    return sample_with("singleface_1", ["Images/man/1.png"], tmp_path)


def test_a_score_and_its_details(scorer: FaceSimScorer, person: Sample, tmp_path: Path) -> None:
    from refbench.metrics.nets.curricularface import face_embeddings

    images = [np.roll(picture(), 9 * shift, axis=1) for shift in range(4)] + [
        np.zeros((96, 128, 3), np.uint8)
    ]
    video = clip(tmp_path / "singleface_1.mp4", images)
    score = scorer.score(person, video)

    def embedding(image: np.ndarray) -> np.ndarray | None:
        face = scorer.search.faces.find(image)
        return None if face is None else face_embeddings(scorer.search.network, face.crop_HWC[None])

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
    # Each frame's face once, at its first place among the 32, in thousandths of 128×96 pixels.
    faces = {number: scorer.search.faces.find(frame) for number, frame in enumerate(video.frames(ALL_FRAMES))}
    places = np.linspace(0, 4, 32).astype(int).tolist()
    assert score.details["face_boxes"] == [
        [places.index(number), *in_thousandths(face.box_4, 128, 96)]
        for number, face in faces.items()
        if face is not None
    ]
    assert len(json.dumps(score.details["face_boxes"])) <= 32 * 30
    json.dumps(score.details, allow_nan=False)


@dataclass
class CountingFinder:
    """Passes pictures on and remembers their shapes."""

    finder: Any
    searched: list[tuple[int, ...]] = field(default_factory=list)

    def find(self, image: np.ndarray) -> Any:
        self.searched.append(image.shape)
        return self.finder.find(image)

    def find_all(self, image: np.ndarray) -> Any:
        self.searched.append(image.shape)
        return self.finder.find_all(image)

    def arcface(self, face: Any) -> Any:
        return self.finder.arcface(face)


def test_each_distinct_frame_and_each_reference_is_searched_once(
    scorer: FaceSimScorer, person: Sample, tmp_path: Path
) -> None:
    finder: Any = CountingFinder(scorer.search.faces)
    counted = FaceSimScorer(search=replace(scorer.search, faces=finder, known_references={}))
    path = tmp_path / "a.mp4"
    video = clip(path, [np.roll(picture(), 20 * shift, axis=0) for shift in range(3)])
    first = counted.score(person, video)
    assert len(finder.searched) == 1 + 3 and first.details["frames"] == 32
    # The same video is known, also to another metric; opened anew it may be another.
    assert counted.score(person, video) == first
    assert len(finder.searched) == 1 + 3
    assert counted.score(person, Video(path)) == first
    assert len(finder.searched) == 1 + 3 + 3


def test_no_face_anywhere_scores_zero_as_officially(
    scorer: FaceSimScorer, person: Sample, tmp_path: Path
) -> None:
    video = clip(tmp_path / "dark.mp4", [np.zeros((96, 128, 3), np.uint8)] * 3)
    score = scorer.score(person, video)
    assert score.value == 0.0
    assert (score.details["frames_with_face"], score.details["frames_kept"]) == (0, 0)


def test_a_reference_without_a_face_leaves_no_score(scorer: FaceSimScorer, tmp_path: Path) -> None:
    (tmp_path / "man").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "man" / "1.png")
    sample = sample_with("singleface_1", ["./man/1.png"], tmp_path)
    video = clip(tmp_path / "a.mp4", [picture()])
    with pytest.raises(SampleError, match="no face is found in the reference image"):
        scorer.score(sample, video)


def test_a_missing_reference_is_that_sample_s_reason(scorer: FaceSimScorer, tmp_path: Path) -> None:
    sample = sample_with("singleface_1", ["./man/none.png"], tmp_path)
    with pytest.raises(SampleError, match="is missing"):
        scorer.score(sample, clip(tmp_path / "a.mp4", [picture()]))


@pytest.mark.parametrize("kind", ["alpha", "exif", "cmyk", "grey", "palette"])
def test_odd_references_are_opened_as_plain_rgb(
    kind: str, scorer: FaceSimScorer, person: Sample, tmp_path: Path
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
    score = scorer.score(sample_with("singleface_1", [path], tmp_path), video)
    if kind in ("alpha", "exif"):
        # Transparency is dropped and the rotation ignored: the same pixels, the same score.
        assert score == scorer.score(person, video)
    else:
        assert 0 <= score.value <= 1 + 1e-6


def test_a_video_that_cannot_be_read(scorer: FaceSimScorer, person: Sample, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        scorer.score(person, Video(tmp_path / "a.mp4"))


# --- weights ---------------------------------------------------------------------------------------------


@pytest.fixture
def copied(small_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_weights, tmp_path / "weights"))


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
    place = copied / REPOSITORY
    pack = place / PACK
    if place / layout != pack:
        shutil.move(pack, place / layout)
    assert FaceSim().unavailable(Environment(weights=copied)) is None
    assert FaceSim().load(Environment(weights=copied)).search.faces.recogniser is not None


@pytest.mark.usefixtures("offline")
def test_a_pack_elsewhere_can_be_named(copied: Path, tmp_path: Path) -> None:
    shutil.move(copied / REPOSITORY / PACK, tmp_path / "own" / "models" / "buffalo_l")
    for pack in (tmp_path / "own", tmp_path / "own" / "models" / "buffalo_l"):
        made = FaceSim(FaceSimOptions(pack=str(pack)))
        assert made.unavailable(Environment(weights=copied)) is None
        made.load(Environment(weights=copied))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("emptied", [False, True])
def test_a_missing_pack_is_named_and_not_downloaded(emptied: bool, copied: Path) -> None:
    pack = copied / REPOSITORY / PACK
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


@pytest.mark.usefixtures("no_hub")
def test_missing_weights_are_named(tmp_path: Path, copied: Path) -> None:
    reason = FaceSim().unavailable(Environment(weights=tmp_path / "nothing"))
    assert reason is not None and "BestWishYsh/OpenS2V-Weight" in reason
    (copied / REPOSITORY / NETWORK_FILE).unlink()
    reason = FaceSim().unavailable(Environment(weights=copied))
    assert reason is not None and NETWORK_FILE in reason


@pytest.mark.parametrize("name", ["det_10g.onnx", "w600k_r50.onnx"])
def test_a_damaged_pack_is_one_line(name: str, copied: Path) -> None:
    file = copied / REPOSITORY / PACK / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"InsightFace pack .* is damaged") as caught:
        FaceSim().load(Environment(weights=copied))
    assert "\n" not in str(caught.value)


def test_a_pack_without_a_detector_is_refused(copied: Path) -> None:
    (copied / REPOSITORY / PACK / "det_10g.onnx").unlink()
    with pytest.raises(UserError, match="holds no face detector"):
        FaceSim().load(Environment(weights=copied))


def test_a_pack_without_a_recogniser_has_no_arc_score(copied: Path, person: Sample, tmp_path: Path) -> None:
    (copied / REPOSITORY / PACK / "w600k_r50.onnx").unlink()
    scorer = FaceSim().load(Environment(weights=copied))
    score = scorer.score(person, clip(tmp_path / "a.mp4", [picture()]))
    assert score.value > 0 and "arc_score" not in score.details


@pytest.mark.parametrize("fault", ["truncated", "missing key", "wrong shape", "another network"])
def test_a_wrong_network_file_is_one_line(fault: str, copied: Path) -> None:
    file = copied / REPOSITORY / NETWORK_FILE
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
    assert "\n" not in str(caught.value) and NETWORK_FILE in str(caught.value)


def test_another_depth_is_only_taken_from_a_tiny_folder(copied: Path) -> None:
    (copied / REPOSITORY / "REFBENCH_TINY").unlink()
    with pytest.raises(UserError, match="not CurricularFace IR-101"):
        FaceSim().load(Environment(weights=copied))


def test_provenance_names_every_file_and_marks_tiny_ones(scorer: FaceSimScorer, small_weights: Path) -> None:
    provenance = scorer.provenance()
    assert provenance["dtype"] == "float32" and provenance["batch_size"] == 32
    assert provenance["device"] == "cpu, CPUExecutionProvider"
    place = small_weights / REPOSITORY
    digests = {
        Path(name).name: digest.removeprefix("tiny:") for name, digest in provenance["weights"].items()
    }
    assert all(digest.startswith("tiny:") for digest in provenance["weights"].values())
    for file in (place / NETWORK_FILE, *(place / PACK).glob("*.onnx")):
        assert digests[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_small_weights_are_the_same_each_time(small_weights: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path)
    for name in (f"{PACK}/det_10g.onnx", f"{PACK}/w600k_r50.onnx", NETWORK_FILE):
        again = (tmp_path / REPOSITORY / name).read_bytes()
        assert again == (small_weights / REPOSITORY / name).read_bytes()


@pytest.mark.parametrize("sample_id", ["faceobj_14", "singleface_3"])
def test_small_weights_give_a_value_on_the_sample_videos(
    sample_id: str, scorer: FaceSimScorer, opens2v: Path
) -> None:
    sample = load_track("open-domain", opens2v).sample(sample_id)
    assert sample is not None
    score = scorer.score(sample, Video(opens2v / "videos" / f"{sample_id}.mp4"))
    assert 0 < score.value < 1
    assert score.details["frames_kept"] > 0


@pytest.mark.weights
def test_the_released_weights_give_the_published_score(opens2v: Path, released_weights: Path) -> None:
    published = json.loads((opens2v / "official_scores" / "facesim.json").read_text())["singleface_3"]
    scorer = FaceSim().load(Environment(threads=2, weights=released_weights))
    sample = load_track("open-domain", opens2v).sample("singleface_3")
    assert sample is not None
    score = scorer.score(sample, Video(opens2v / "videos" / "singleface_3.mp4"))
    # The published run used ONNX Runtime on a GPU, whose detector differs in the last digits.
    assert score.value == pytest.approx(published["cur_score"], abs=1e-3)
    assert score.details["arc_score"] == pytest.approx(published["arc_score"], abs=1e-3)


# --- the module ------------------------------------------------------------------------------------------


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
