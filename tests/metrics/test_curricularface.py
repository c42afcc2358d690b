"""CurricularFace's network: the checkpoint's manifest and the goldens at full size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fill import uint8_image

from kit.goldens import crc, fill_network, read
from refbench.metrics.facesim import cosines, cur_average

cv2 = pytest.importorskip("cv2")
torch = pytest.importorskip("torch")

from refbench.metrics.nets.curricularface import CurricularFace, face_embeddings  # noqa: E402


@pytest.fixture(scope="module")
def network_golden() -> Any:
    return read("opens2v_eval/curricularface.npz")


@pytest.fixture(scope="module")
def network() -> Any:
    """The full-size network with the plain golden weights."""
    torch.set_num_threads(2)
    with torch.device("meta"):
        made = CurricularFace()
    return fill_network(made)


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

    return np.stack([halved(uint8_image(str(name), 224, 224)) for name in network_golden["input_names"]])


def test_the_manifest_of_the_checkpoint_is_met_at_full_size() -> None:
    manifest = read("opens2v_eval/manifests/curricularface_ir101.json")
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


def test_zero_embeddings_are_dropped_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    class Zero(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pixels: Any) -> Any:
            return torch.zeros(len(pixels), 4)

    embeddings = face_embeddings(Zero(), np.zeros((2, 112, 112, 3), np.uint8))
    assert np.isnan(embeddings).all() and not recwarn.list
    assert cur_average(cosines(np.ones(4, np.float32), embeddings)) == 0.0
