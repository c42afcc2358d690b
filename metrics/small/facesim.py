"""Small FaceSim weights: a face detector and an ArcFace as ONNX files, and a narrow CurricularFace network.

The detector calls each bright 32-pixel cell of its 320-pixel input a face, whose box and landmarks lean on
the cell's colour; dark pictures, and grey, have none. Formats, names and output layout are those of
buffalo_l's det_10g.onnx (nine outputs: scores, boxes and landmarks at strides 8, 16 and 32) and
w600k_r50.onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refbench.bench.weights.tiny import marked_folder, random_parameter, random_state_dict
from refbench.metrics.facesim import NETWORK_FILE
from refbench.metrics.nets.faces import OFFICIAL_PACK
from refbench.metrics.weights import OPENS2V_WEIGHT

PACK = f"face_extractor/models/{OFFICIAL_PACK}"
UNIT_WIDTHS = (8, 8, 12, 16, 16, 20)
EMBEDDING_WIDTH = 32

# Input of both models and output of the recogniser, as the published files call them.
PICTURE, EMBEDDING = "input.1", "683"
STRIDES = (8, 16, 32)
ANCHORS = 2
# What the detector says of each anchor, and in how many numbers.
HEADS = {"score": 1, "bbox": 4, "kps": 10}
# A cell is a face when its mean exceeds 0.08 in [-1, 1], a grey value of about 138.
STEEPNESS, BRIGHTNESS = 20.0, 0.08
NEVER = -20.0
# Eyes, nose and mouth corners as shares of half the box, from its middle.
LANDMARKS = ((-0.35, -0.3), (0.35, -0.3), (0.0, 0.1), (-0.3, 0.5), (0.3, 0.5))
HALF_BOX_STRIDES = 2.5


@dataclass(frozen=True, kw_only=True)
class Level:
    """One stride of a detector's graph: the nodes and tensors that make its map, the map's name, and the
    heads on it: weight (out, C, 1, 1) and bias (out,) of scores, boxes and landmarks by head.
    """

    stride: int
    nodes: Sequence[Any]
    tensors: Sequence[Any]
    map: str
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]]


def write_tiny(folder: Path) -> None:
    """Write detector, recogniser and network below `folder`, where weights are looked for."""
    import torch

    from refbench.metrics.nets.curricularface import CurricularFace, Layout

    place = marked_folder(folder, OPENS2V_WEIGHT.repository)
    write_pack(place, detector_model(), recogniser_model())
    layout = Layout(stem_width=8, unit_widths=UNIT_WIDTHS, embedding_width=EMBEDDING_WIDTH)
    torch.save(random_state_dict(CurricularFace(layout)), place / NETWORK_FILE)


def write_pack(place: Path, detector: Any, recogniser: Any) -> None:
    """Write the ONNX models of detector and recogniser as a pack in the folder of the OpenS2V weights."""
    import onnx

    pack = place / PACK
    pack.mkdir(parents=True, exist_ok=True)
    onnx.save(detector, str(pack / "det_10g.onnx"))
    onnx.save(recogniser, str(pack / "w600k_r50.onnx"))


def detector_model() -> Any:
    """The detector as an ONNX model: per stride an average pool, three 1×1 convolutions and a sigmoid."""
    from onnx import helper

    levels = []
    for stride in STRIDES:
        pooled = f"pooled_{stride}"
        node = helper.make_node(
            "AveragePool", [PICTURE], [pooled], kernel_shape=[stride] * 2, strides=[stride] * 2
        )
        heads = {head: _detector_head(head, stride) for head in HEADS}
        levels.append(Level(stride=stride, nodes=[node], tensors=[], map=pooled, heads=heads))
    return scrfd_model("tiny_detector", levels)


def scrfd_model(name: str, levels: Sequence[Level]) -> Any:
    """A detector in det_10g.onnx's layout: nine outputs, two anchors per point of each level."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    tensors: list[Any] = []
    outputs: dict[str, list[Any]] = {head: [] for head in HEADS}
    for level in levels:
        nodes += level.nodes
        tensors += level.tensors
        for head, width in HEADS.items():
            output = f"{head}_{level.stride}"
            weight, bias = level.heads[head]
            shape = np.array([-1, width], dtype=np.int64)
            tensors += [
                tensor(f"{output}_w", weight), tensor(f"{output}_b", bias), tensor(f"{output}_s", shape)
            ]  # fmt: skip
            nodes += [
                helper.make_node("Conv", [level.map, f"{output}_w", f"{output}_b"], [f"{output}_map"]),
                helper.make_node("Transpose", [f"{output}_map"], [f"{output}_last"], perm=[0, 2, 3, 1]),
            ]
            flat = f"{output}_flat" if head == "score" else output
            nodes.append(helper.make_node("Reshape", [f"{output}_last", f"{output}_s"], [flat]))
            if head == "score":
                nodes.append(helper.make_node("Sigmoid", [flat], [output]))
            outputs[head].append(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, [f"n{level.stride}", width])
            )
    picture = helper.make_tensor_value_info(PICTURE, TensorProto.FLOAT, [1, 3, "height", "width"])
    results = [output for head in HEADS for output in outputs[head]]
    return _model(helper.make_graph(nodes, name, [picture], results, tensors))


def _detector_head(head: str, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, 3, 1, 1) and bias (out,) of a head; only the first anchor of stride 32 is ever a face."""
    if head == "score":
        weight = np.zeros((ANCHORS, 3), np.float32)
        bias = np.full(ANCHORS, NEVER, dtype=np.float32)
        if stride == STRIDES[-1]:
            weight[0] = STEEPNESS / 3
            bias[0] = -STEEPNESS * BRIGHTNESS
    elif head == "bbox":
        # The box grows with the cell's colour, so that one face of a picture is the largest.
        weight = np.float32(0.5) * np.abs(random_parameter(f"bbox_{stride}", (ANCHORS * 4, 3)))
        bias = np.full(ANCHORS * 4, HALF_BOX_STRIDES, dtype=np.float32)
    else:
        weight = np.float32(0.1) * random_parameter(f"kps_{stride}", (ANCHORS * 10, 3))
        bias = np.tile(HALF_BOX_STRIDES * np.array(LANDMARKS, dtype=np.float32).ravel(), ANCHORS)
    return weight[:, :, None, None], bias


def recogniser_model() -> Any:
    """The recogniser as an ONNX model: an average pool of 16×16 pixels and a linear layer."""
    from onnx import helper

    width = 3 * 7 * 7
    nodes = [
        helper.make_node("AveragePool", [PICTURE], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], [EMBEDDING]),
    ]
    tensors = [
        tensor("w", random_parameter("arcface.weight", (width, EMBEDDING_WIDTH))),
        tensor("b", random_parameter("arcface.bias", (EMBEDDING_WIDTH,))),
    ]
    return arcface_model("tiny_recogniser", nodes, tensors, EMBEDDING_WIDTH)


def arcface_model(name: str, nodes: Sequence[Any], tensors: Sequence[Any], width: int) -> Any:
    """A recogniser in w600k_r50.onnx's layout: aligned faces of 112 pixels to embeddings of a width."""
    from onnx import TensorProto, helper

    faces = helper.make_tensor_value_info(PICTURE, TensorProto.FLOAT, ["batch", 3, 112, 112])
    embedding = helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width])
    return _model(helper.make_graph(nodes, name, [faces], [embedding], tensors))


def tensor(name: str, value: np.ndarray) -> Any:
    """A constant of a graph."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(value), name)


def _model(graph: Any) -> Any:
    """A checked model in the generation of the published packs, which every ONNX Runtime reads."""
    from onnx import checker, helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    checker.check_model(model)
    return model
