"""How ConsisID reads a face: the random reader of tiny weights, what diffusers' code is handed, real
networks.

The real networks' packages are not among this project's own; their test runs where facexlib and
consisid_eva_clip are installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")

from fill import uint8_image  # noqa: E402
from PIL import Image  # noqa: E402

import refbench.baselines.consisid.faces as faces_module  # noqa: E402
from refbench.baselines.consisid.faces import ConsisIDFaces  # noqa: E402
from refbench.baselines.consisid.method import CONSISID, FACE_FILES  # noqa: E402
from refbench.baselines.consisid.random_faces import RandomFaces  # noqa: E402
from refbench.baselines.small import consisid as tiny  # noqa: E402
from refbench.bench.errors import MissingWeights, SampleError, UserError  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    tiny.write_tiny(folder)
    return folder


def test_the_random_reader_reads_the_picture_in_the_real_shapes(weights: Path) -> None:
    folder = weights / CONSISID.repository / "face_encoder"
    reader = RandomFaces(folder, device="cpu", dtype=torch.bfloat16)
    pictures = [Image.fromarray(uint8_image(f"consisid.{index}", 300, 200)) for index in range(2)]
    one, two = (reader.read(picture) for picture in pictures)
    assert one.identity_1D.shape == (1, tiny.IDENTITY_WIDTH) and one.identity_1D.dtype == torch.bfloat16
    assert [layer.shape for layer in one.layers_1ND] == [(1, 16, tiny.LAYER_WIDTH)] * tiny.LAYERS
    assert one.picture.size == (512, 512) and one.landmarks_52.shape == (5, 2)
    assert ((one.landmarks_52 > 0) & (one.landmarks_52 < [200, 300])).all()
    assert not torch.equal(one.identity_1D, two.identity_1D)
    assert not torch.equal(one.layers_1ND[0], two.layers_1ND[0])
    assert not torch.equal(one.layers_1ND[0], one.layers_1ND[1])
    assert not np.array_equal(one.landmarks_52, two.landmarks_52)
    with pytest.raises(MissingWeights, match=r"lacks stand_in\.safetensors"):
        RandomFaces(folder.parent, device="cpu", dtype=torch.float32)


class FakeFaceCode(ModuleType):
    """diffusers' module for the face networks, which cannot be imported without their packages."""

    def __init__(self, answer: Any) -> None:
        super().__init__("consisid_utils")
        self.answer = answer
        self.prepared: tuple[Any, ...] = ()
        self.asked: tuple[Any, ...] = ()

    def prepare_face_models(self, place: str, device: str, dtype: Any) -> tuple[str, ...]:
        from facexlib.utils.face_restoration_helper import init_parsing_model

        self.prepared = (place, device, dtype, init_parsing_model(model_name="parsenet"))
        return ("helper", "recogniser", "clip", "finder", "mean", "std")

    def process_face_embeddings_infer(self, *arguments: Any, is_align_face: bool) -> Any:
        self.asked = (*arguments, is_align_face, torch.is_grad_enabled())
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def face_code(monkeypatch: pytest.MonkeyPatch, answer: Any) -> tuple[FakeFaceCode, SimpleNamespace]:
    code = FakeFaceCode(answer)
    helper = SimpleNamespace(init_parsing_model=lambda **settings: pytest.fail("would download ParseNet"))
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.consisid.consisid_utils", code)
    for name in ("facexlib", "facexlib.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "facexlib.utils.face_restoration_helper", helper)  # type: ignore[misc]
    monkeypatch.setattr(faces_module, "check_clip", lambda network, file: None)
    return code, helper


def test_the_real_reader_hands_everything_to_diffusers_code(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(uint8_image("consisid.0", 30, 20))
    answer = (torch.ones(1, 4), [torch.zeros(1, 3, 2)] * 5, picture, [[1.0, 2.0]] * 5)
    code, helper = face_code(monkeypatch, answer)
    original = helper.init_parsing_model
    reader = ConsisIDFaces(Path("place"), device="cpu", dtype=torch.float32)
    # No second parser within, and facexlib as it was after.
    assert code.prepared == ("place", "cpu", torch.float32, None)
    assert helper.init_parsing_model is original
    face = reader.read(picture)
    models, (device, dtype, pixels), rest = code.asked[:6], code.asked[6:9], code.asked[9:]
    assert models == ("helper", "clip", "recogniser", "mean", "std", "finder")
    assert (device, dtype, rest) == ("cpu", torch.float32, (True, False))
    assert np.array_equal(pixels, np.asarray(picture))
    assert face.identity_1D is answer[0] and len(face.layers_1ND) == 5 and face.picture is picture
    assert face.landmarks_52.shape == (5, 2)


@pytest.mark.parametrize(
    ("fault", "expected", "message"),
    [
        (IndexError("list index out of range"), SampleError, "no face was found in the reference"),
        (RuntimeError("facexlib align face fail"), SampleError, "could be aligned"),
        (RuntimeError("CUDA error"), RuntimeError, "CUDA error"),
    ],
)
def test_no_face_fails_the_sample_and_other_faults_stay(
    fault: Exception, expected: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    face_code(monkeypatch, fault)
    reader = ConsisIDFaces(Path("place"), device="cpu", dtype=torch.float32)
    with pytest.raises(expected, match=message):
        reader.read(Image.new("RGB", (20, 30)))
    with pytest.raises(SampleError, match="2000×3 pixels is too narrow"):
        reader.read(Image.new("RGB", (2000, 3)))


def write_real_faces(place: Path, factory: Any) -> None:
    """Random face networks in the published files: real ones but for InsightFace's, CLIP as configured."""
    onnx = pytest.importorskip("onnx")
    from facexlib.detection import RetinaFace
    from facexlib.parsing import BiSeNet

    from refbench.metrics.small.facesim import detector_model, recogniser_model

    pack = place / "face_encoder/models/antelopev2"
    pack.mkdir(parents=True)
    onnx.save(detector_model(), str(pack / "scrfd_10g_bnkps.onnx"))
    onnx.save(recogniser_model(), str(pack / "glintr100.onnx"))
    detector = RetinaFace(network_name="resnet50", half=False, device="cpu")
    torch.save(detector.state_dict(), place / FACE_FILES[0])
    torch.save(BiSeNet(num_class=19).state_dict(), place / FACE_FILES[1])
    clip = factory.create_model("EVA02-CLIP-L-14-336", force_custom_clip=True)
    visual = {key: value for key, value in clip.state_dict().items() if key.startswith("visual.")}
    torch.save(visual, place / FACE_FILES[2])


def test_the_real_face_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the real reader's code, where its packages are: random weights, off the network."""
    pytest.importorskip("facexlib", reason="reading a face needs the extra 'consisid'")
    pytest.importorskip("insightface", reason="reading a face needs the extra 'consisid'")
    factory = pytest.importorskip("consisid_eva_clip.factory", reason="reading a face needs 'consisid'")
    from facexlib.detection import RetinaFace
    from facexlib.utils import misc

    monkeypatch.setattr(misc, "download_url_to_file", lambda *all, **named: pytest.fail("a download"))
    config = factory.get_model_config("EVA02-CLIP-L-14-336")
    config["vision_cfg"]["width"], config["text_cfg"]["layers"] = 128, 1
    monkeypatch.setitem(factory._MODEL_CONFIGS, "EVA02-CLIP-L-14-336", config)
    torch.manual_seed(0)
    write_real_faces(tmp_path, factory)
    before = sorted(tmp_path.rglob("*"))
    reader = ConsisIDFaces(tmp_path, device="cpu", dtype=torch.float32)
    assert sorted(tmp_path.rglob("*")) == before
    picture = Image.fromarray(uint8_image("consisid.0", 300, 260))
    box = [60, 50, 200, 250, 0.99, 100, 110, 160, 110, 130, 150, 105, 190, 155, 190]
    found = {"faces": np.array([box], np.float32)}
    monkeypatch.setattr(RetinaFace, "detect_faces", lambda network, image, least: found["faces"])
    face = reader.read(picture)
    # The tiny ArcFace's 32 values and CLIP's 768.
    assert face.identity_1D.shape == (1, 32 + 768) and not face.identity_1D.requires_grad
    assert [layer.shape for layer in face.layers_1ND] == [(1, 577, 128)] * 5
    assert face.picture.size == (512, 512) and face.landmarks_52.shape == (5, 2)
    # InsightFace finds nothing in the dark; RetinaFace's face then counts for both.
    dark = reader.read(Image.new("RGB", (260, 300)))
    assert np.array_equal(dark.landmarks_52, np.array(box[5:]).reshape(5, 2))
    found["faces"] = np.zeros((0, 15), np.float32)
    with pytest.raises(SampleError, match="no face was found"):
        reader.read(Image.new("RGB", (260, 300)))
    with pytest.raises(SampleError, match="could be aligned"):
        reader.read(picture)
    stored = torch.load(tmp_path / FACE_FILES[2])
    torch.save(
        {key: value for key, value in stored.items() if "blocks.3.norm1" not in key}, tmp_path / FACE_FILES[2]
    )
    with pytest.raises(UserError, match=r"lacks visual\.blocks\.3\.norm1"):
        ConsisIDFaces(tmp_path, device="cpu", dtype=torch.float32)
    (tmp_path / FACE_FILES[1]).write_bytes(b"damaged")
    with pytest.raises(UserError, match="face_encoder cannot be loaded"):
        ConsisIDFaces(tmp_path, device="cpu", dtype=torch.float32)
