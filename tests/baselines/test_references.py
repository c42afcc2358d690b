"""Reference preparation of the Wan family: fitting, transparency and EXIF, and background removal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from refbench.baselines.wan.references import (  # noqa: E402
    OnnxSegmenter,
    fit_and_pad,
    fitted_size,
    on_white,
    open_without_background,
    to_tensor,
)
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.sample import Reference, Sample  # noqa: E402
from refbench.refalign.method import RefAlign13B  # noqa: E402

SIDES = st.integers(1, 3000)


@settings(max_examples=200, deadline=None)
@given(width=SIDES, height=SIDES)
def test_the_fitted_image_fills_one_side_and_stays_inside(width: int, height: int) -> None:
    fitted_width, fitted_height = fitted_size(width, height, 832, 480)
    assert 1 <= fitted_width <= 832 and 1 <= fitted_height <= 480
    assert fitted_width == 832 or fitted_height == 480
    if fitted_width > 20 and fitted_height > 20:
        assert fitted_width / fitted_height == pytest.approx(width / height, rel=0.06)


def test_padding_is_white_and_centred() -> None:
    canvas = np.asarray(fit_and_pad(Image.new("RGB", (10, 30), (0, 0, 0)), 96, 60))
    assert canvas.shape == (60, 96, 3)
    columns = np.flatnonzero((canvas == 0).all(axis=(0, 2)))
    assert (columns[0], columns[-1], len(columns)) == (38, 57, 20)
    assert (canvas[:, :38] == 255).all() and (canvas[:, 58:] == 255).all()


def test_pixels_span_minus_one_to_one() -> None:
    tensor = to_tensor(Image.fromarray(np.array([[[0, 127, 255]]], np.uint8)))
    torch.testing.assert_close(tensor.flatten(), torch.tensor([-1.0, 127 * 2 / 255 - 1, 1.0]))


def brightness_network(path: Path) -> Path:
    """An ONNX network whose logit is positive where the first channel is bright."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Slice", ["image", "start", "end", "axis"], ["red"]),
        helper.make_node("Mul", ["red", "gain"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("start", TensorProto.INT64, [1], [0]),
        helper.make_tensor("end", TensorProto.INT64, [1], [1]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("gain", TensorProto.FLOAT, [1], [50.0]),
    ]
    shape = [1, 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, "height", "width"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_backgrounds_of_subjects_become_white(tmp_path: Path) -> None:
    """A dark background goes, a bright subject stays; scenes are left as they are."""
    pytest.importorskip("onnx")
    pixels = np.full((45, 70, 3), 20, np.uint8)
    pixels[10:30, 20:50] = (230, 40, 60)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    segmenter = OnnxSegmenter(brightness_network(tmp_path / "net.onnx"))
    found = np.asarray(on_white(Image.fromarray(pixels), segmenter))
    np.testing.assert_array_equal(found[12:28, 22:48], pixels[12:28, 22:48])
    assert (found[:9] == 255).all() and (found[:, 52:] == 255).all()

    references = tuple(
        Reference(path="a.png", root=tmp_path, label="x", kind=kind) for kind in ("person", "object", "scene")
    )
    sample = Sample(id="s_1", category="s", prompt="p", references=references)
    method = RefAlign13B(RefAlign13B.Options(segmenter=tmp_path / "net.onnx"))
    assert "background removed" in str(method.card().reference_preparation)
    person, thing, scene = (
        np.asarray(open_without_background(reference, segmenter)) for reference in method.references(sample)
    )
    assert (person == found).all() and (thing == found).all() and (scene == pixels).all()


def test_a_file_that_is_no_network_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("no")
    with pytest.raises(UserError, match="is no segmentation network") as caught:
        OnnxSegmenter(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_transparency_is_white_and_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 8), (10, 20, 30, 0))
    image.save(tmp_path / "clear.png")
    turned = Image.new("RGB", (4, 8), (1, 2, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    clear, jpeg = (
        Reference(path=name, root=tmp_path, label="x", kind="object").open_on_white()
        for name in ("clear.png", "turned.jpg")
    )
    assert np.asarray(clear).min() == 255
    assert jpeg.size == (8, 4)
