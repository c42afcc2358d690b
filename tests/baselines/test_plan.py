"""The planner: its sizes against released manifests and real networks, its operations against the published
table and torch's counter, its memory against live tensors, and the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kit.cli import invoke, printed
from kit.vaes import WIDE_VAE
from refbench.baselines.planning import OFFICIAL_REFERENCES
from refbench.baselines.vace import Vace13B, Vace14B
from refbench.baselines.wan import cost
from refbench.baselines.wan.latents import WAN21_LATENTS, WAN22_5B_LATENTS, LatentSpace
from refbench.baselines.wan.method import WanMethod
from refbench.baselines.wan.spec import (
    WAN22_5B,
    WAN_1_3B,
    WAN_14B,
    WanNetwork,
    WanOptions,
    resolved_settings,
)
from refbench.bench import console, gpus
from refbench.bench.dataset import OFFICIAL_TRACKS
from refbench.bench.errors import UserError
from refbench.bench.registry import methods

MAGREF_LIKE = replace(WAN_14B, in_channels=36, image_branch=True)
# Summary table of the baselines' fact sheet: tokens in thousands, calls, PFLOP of one video, one reference.
# VACE-Fun's calls are VACE-14B's (its sheet has 231: the side branch taken as a flat fifth). The sheet has 37
# for Bernini-R 1.3B; with all passes of 33,390 tokens it would be 36.0, with all of 34,980 39.0.
PUBLISHED = {
    "vace-1.3b": (34, 100, 47),
    "vace-p1.3b": (34, 100, 47),
    "vace-14b": (34, 100, 234),
    "phantom-1.3b": (34, 150, 47),
    "phantom-14b": (50, 150, 520),
    "skyreels-a2-p14b": (33, 100, 182),
    "magref-480p": (33, 80, 145),
    "kaleido-14b": (39, 100, 240),
    "bindweave-14b": (90, 100, 921),
    "skyreels-v3-14b": (126, 8, 132),
    "vace-fun-14b": (34, 100, 234),
    "bernini-r-1.3b": (35, 120, 38),
    "bernini-r-14b": (35, 120, 232),
}


def planned(*arguments: object) -> Any:
    return json.loads(invoke("plan", *arguments, "--json").stdout)


def diffusers_network(network: WanNetwork) -> Any:
    """The network of these sizes, without memory."""
    torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
    diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
    settings: dict[str, Any] = {
        "num_attention_heads": network.heads,
        "attention_head_dim": network.width // network.heads,
        "in_channels": network.in_channels,
        "out_channels": network.latents.channels,
        "ffn_dim": network.ffn_width,
        "num_layers": network.layers,
    }
    if network.image_branch:
        settings |= {"image_dim": 1280, "added_kv_proj_dim": network.width}
    with torch.device("meta"):
        if not network.extra_blocks:
            return diffusers.WanTransformer3DModel(**settings)
        step = -(-network.layers // network.extra_blocks)
        layers = list(range(0, network.layers, step))
        return diffusers.WanVACETransformer3DModel(**settings, vace_layers=layers)


def numel(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_those_of_the_released_manifests(golden: Callable[[str], Any]) -> None:
    for network, name in ((WAN_1_3B, "1.3b"), (WAN_14B, "14b")):
        manifest = golden(f"refalign/manifests/refalign_{name}.json")
        assert cost.parameter_count(network) == manifest["n_parameters_without_projectors"]


@pytest.mark.parametrize(
    "network",
    [Vace13B.spec.network, Vace14B.spec.network, MAGREF_LIKE, WAN22_5B],
    ids=["vace-1.3b", "vace-14b", "i2v-14b", "ti2v-5b"],
)
def test_parameters_are_those_of_the_networks(network: WanNetwork) -> None:
    assert cost.parameter_count(network) == numel(diffusers_network(network))


def test_parameters_of_the_base_models() -> None:
    torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
    diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    umt5 = UMT5Config(
        vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    clip = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14
    )
    with torch.device("meta"):
        assert numel(UMT5EncoderModel(umt5)) == cost.TEXT_ENCODER_PARAMETERS
        assert numel(CLIPVisionModel(clip)) == cost.IMAGE_ENCODER_PARAMETERS
        assert numel(diffusers.AutoencoderKLWan()) == cost.VAES[WAN21_LATENTS].parameters
        assert numel(diffusers.AutoencoderKLWan(**WIDE_VAE)) == cost.VAES[WAN22_5B_LATENTS].parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_of_the_published_table(name: str) -> None:
    if name not in methods.names():
        pytest.skip(f"{name} is not registered")
    method = methods.get(name)
    assert issubclass(method, WanMethod)
    found = cost.video_cost(method.spec, method.spec.native, 1)
    tokens, calls, pflop = PUBLISHED[name]
    assert round(found.tokens / 1000) == tokens
    assert found.calls == calls
    assert found.flops / 1e15 == pytest.approx(pflop, rel=0.015)


def test_phantom_at_matched_settings() -> None:
    spec = methods.get("phantom-14b").spec
    assert cost.video_cost(spec, spec.matched(), 1).flops / 1e15 == pytest.approx(292, rel=0.01)


@pytest.mark.parametrize("network", [WAN_1_3B, WAN_14B, Vace13B.spec.network], ids=["1.3b", "14b", "vace"])
def test_operations_against_torch_s_counter(network: WanNetwork) -> None:
    """The whole network at 832×480, 81 frames, on shapes alone; attention is added as the counter knows no
    kernel of it here.
    """
    torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
    from torch.utils.flop_counter import FlopCounterMode

    model = diffusers_network(network)
    spec = replace(Vace13B.spec, network=network, reference_frames=0)
    counted, attended = 0.0, []

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        attended.append(4.0 * query.shape[-2] * key.shape[-2] * query.shape[1] * query.shape[3])
        return torch.empty_like(query)

    inputs = {
        "hidden_states": torch.empty(1, 16, 21, 60, 104, device="meta"),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, 512, 4096, device="meta"),
    }
    if network.extra_blocks:
        inputs["control_hidden_states"] = torch.empty(1, 96, 21, 60, 104, device="meta")
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), FlopCounterMode(display=False) as counter:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
        model(**inputs)
    blocks = network.layers + network.extra_blocks
    assert len(attended) == 2 * blocks
    counted = counter.get_total_flops() + sum(attended)
    settings = replace(spec.native, steps=1, guidance={"text": 1.0})
    estimate = cost.video_cost(spec, settings, 0)
    assert estimate.calls == 1
    assert 1.0 < estimate.flops / counted < 1.09


class LiveBytes:
    """Bytes of the tensors that are alive at once: every new storage is followed until it is freed."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def follow(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)


def working_bytes(torch: Any, run: Callable[[], Any], module: Any) -> int:
    """Peak of what is alive beside a module's parameters while `run` runs."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    live = LiveBytes()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(made):
                if isinstance(leaf, torch.Tensor):
                    live.follow(leaf)
            return made

    with torch.no_grad(), Watch():
        for parameter in module.parameters():
            live.follow(parameter.data)
        weights, live.peak = live.now, 0
        run()
    return live.peak - weights


@pytest.mark.parametrize(("ratio", "extra"), [(5.833, 0), (2.7, 0), (5.833, 2), (2.7, 2)])
def test_working_memory_of_the_transformer(ratio: float, extra: int) -> None:
    """Measured on a small network with the feed-forward ratio of 1.3B (5.8) or 14B (2.7)."""
    torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
    pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
    from refbench.baselines.wan.checkpoint import stays_float32
    from refbench.baselines.wan.nets.transformer import ReferenceWanTransformer3DModel
    from refbench.baselines.wan.nets.vace import VaceTransformer3DModel

    heads, layers = 8, 2
    width = heads * 128
    settings = {"num_attention_heads": heads, "ffn_dim": int(ratio * width), "num_layers": layers}
    model = (
        VaceTransformer3DModel(**settings, vace_layers=list(range(extra)), text_dim=64)
        if extra
        else ReferenceWanTransformer3DModel(**settings, text_dim=64)
    )
    for key, parameter in model.named_parameters():
        if not stays_float32(key):
            parameter.data = parameter.data.bfloat16()
    half = {"dtype": torch.bfloat16}
    inputs = {
        "hidden_states": torch.zeros(1, 16, 4, 32, 32, **half),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 512, 64, **half),
    }
    if extra:
        inputs["control_hidden_states"] = torch.zeros(1, 96, 4, 32, 32, **half)
    measured = working_bytes(torch, lambda: model(**inputs), model) / (4 * 16 * 16 * width)
    size = WanNetwork(
        width=width, ffn_width=int(ratio * width), layers=layers, heads=heads, extra_blocks=extra
    )
    assert measured == pytest.approx(cost.block_working_bytes(size), rel=0.15)


@pytest.mark.parametrize(
    ("network", "vae_settings"), [(WAN_1_3B, {}), (WAN22_5B, WIDE_VAE)], ids=["wan2.1", "wan2.2-ti2v-5b"]
)
def test_working_memory_of_the_decoder(network: WanNetwork, vae_settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="the generators need the extra 'baselines'")
    diffusers = pytest.importorskip("diffusers", reason="the generators need the extra 'baselines'")
    settings = replace(Vace13B.spec.native, width=64, height=96, num_frames=9)
    space: LatentSpace = network.latents
    with torch.device("meta"):
        vae = diffusers.AutoencoderKLWan(**vae_settings).eval()
        latents = torch.zeros(1, space.channels, *space.shape(64, 96, 9))
    measured = working_bytes(torch, lambda: vae.decode(latents), vae)
    planned = cost.decode_working_bytes(network, settings, tiled=False)
    assert measured == pytest.approx(planned, rel=0.1)


def test_estimates_against_a_measured_video() -> None:
    """RefAlign-1.3B on one H200, torch 2.11: what torch handed out at most, and the CUDA context, in GiB.

    docs/measured-gpu.md; no estimate may be lower, or a run that was let through would run out of memory.
    """
    spec = methods.get("refalign-1.3b").spec
    measured = {"none": 22.53 + 0.68, "model": 11.40 + 0.85, "group": 8.84 + 0.89}
    peaks = cost.peak_gib(spec, spec.native, 3)
    for offload, peak in measured.items():
        assert peak <= peaks[offload] <= 1.05 * peak


def test_offload_is_chosen_by_memory() -> None:
    spec = Vace14B.spec
    peaks = cost.peak_gib(spec, spec.native, 3)
    assert peaks["none"] > peaks["model"] > peaks["group"]
    assert peaks["model"] > cost.weights_gib(spec)["transformer"]
    assert cost.fits(spec, spec.native, 80) == "none"
    assert cost.fits(spec, spec.native, 48) == "model"
    assert cost.fits(spec, spec.native, 24) == "group"
    assert cost.fits(spec, spec.native, 4) is None
    assert cost.fits(spec, replace(spec.native, width=2560, height=1440), 24) is None
    two = cost.peak_gib(spec, spec.native, 3, joined_passes=2)
    assert two["none"] > peaks["none"]
    tiled = cost.peak_gib(Vace13B.spec, Vace13B.spec.native, 1, vae_tiling=True)
    assert tiled["none"] < cost.peak_gib(Vace13B.spec, Vace13B.spec.native, 1)["none"]


def test_too_little_memory_is_one_clear_line() -> None:
    def check(memory: float, **options: Any) -> None:
        chosen = WanOptions(**options)
        cost.check_memory(Vace14B.spec, resolved_settings(Vace14B.spec, chosen), chosen, memory)

    check(80)
    check(48, offload="model")
    with pytest.raises(
        UserError, match=r"vace-14b at 832×480, 81 frames, needs about 5\d GiB.*offload=model"
    ):
        check(48)
    with pytest.raises(UserError, match="offload=group needs about 10 GiB"):
        check(24, offload="model")
    with pytest.raises(UserError, match="no offload makes it fit"):
        check(4)
    with pytest.raises(UserError, match="needs about 104 GiB"):
        check(80, dtype="float32")


def test_official_counts_are_those_of_the_tracks() -> None:
    for name, counts in OFFICIAL_REFERENCES.items():
        assert sum(counts.values()) == len(OFFICIAL_TRACKS[name].sample_ids)


def test_official_counts_are_those_of_the_data_set(shared: Path) -> None:
    for name, counts in OFFICIAL_REFERENCES.items():
        file = next(iter(shared.rglob(OFFICIAL_TRACKS[name].files[0])), None)
        if file is None:
            pytest.skip("the sample lists are not in the shared folder")
        lengths = [len(row["img_paths"]) for row in json.loads(file.read_text()).values()]
        assert {count: lengths.count(count) for count in set(lengths)} == counts


def test_command_counts_a_track() -> None:
    found = planned(
        "vace-1.3b", "Wan_T2V-1.3b", "noise", "videos", "--gpu-memory", 24, "--seeds", 2, "--tflops", 450
    )
    vace, text, noise, videos = found["methods"]
    assert (vace["method"], text["method"], noise["method"]) == ("vace-1.3b", "wan-t2v-1.3b", "noise")
    assert vace["videos"] == 360
    assert [(kind["references"], kind["videos"]) for kind in vace["by_references"]] == [
        (1, 180),
        (2, 80),
        (3, 100),
    ]
    assert [kind["tokens"] for kind in vace["by_references"]] == [34_320, 35_880, 37_440]
    total = sum(kind["videos"] * kind["pflop"] for kind in vace["by_references"])
    assert vace["pflop"] == pytest.approx(total)
    assert vace["hours"] == pytest.approx(total / 0.45 / 3600)
    assert {kind["tokens"] for kind in text["by_references"]} == {32_760}
    assert vace["fits_with"] == "model"
    assert noise["pflop"] == 0
    # `videos` has a required option, which a plan does not need.
    assert "nothing to count" in noise["note"] and noise["note"] == videos["note"]
    assert found["total"]["videos"] == 4 * 360
    assert found["total"]["pflop"] == pytest.approx(vace["pflop"] + text["pflop"])


def test_weights_of_a_method_outside_of_the_family_are_its_entries() -> None:
    (consisid,) = planned("consisid", "--gpu-memory", 24)["methods"]
    assert consisid["weights_gib"] == {"consisid": 21.8}
    assert (consisid["peak_gib"], consisid["fits_with"], consisid["pflop"]) == ({}, None, 0)
    assert consisid["note"] == "not of the Wan family: not counted"
    table = invoke("plan", "consisid", "--gpu-memory", 24).stdout
    assert "21.8" in table and "fits" not in table


def test_command_reads_a_data_set_and_a_suite(dataset: Path, tmp_path: Path) -> None:
    found = planned("vace-1.3b", "--dataset", dataset)
    assert found["references_from"] == "the data set"
    kinds = found["methods"][0]["by_references"]
    assert [(kind["references"], kind["videos"]) for kind in kinds] == [(1, 3), (2, 3)]
    suite = tmp_path / "mine.jsonl"
    rows = [{"id": f"s_{n}", "prompt": "p", "references": [f"{i}.png" for i in range(n)]} for n in (1, 5)]
    suite.write_text("\n".join(map(json.dumps, rows)))
    one = planned("phantom-1.3b", "--suite", suite)["methods"][0]
    assert (one["videos"], one["refused"]) == (1, 1)
    first = planned("phantom-1.3b", "--suite", suite, "--set", "phantom-1.3b.overflow=first")["methods"][0]
    assert (first["videos"], first["refused"], first["by_references"][-1]["references"]) == (2, 0, 4)


def test_command_follows_settings_and_options() -> None:
    native = planned("phantom-14b")["methods"][0]
    matched = planned("phantom-14b", "--settings", "matched")["methods"][0]
    half = planned("phantom-14b", "--settings", "matched", "--set", "phantom-14b.steps=25")["methods"][0]
    assert matched["pflop"] < native["pflop"]
    assert half["pflop"] == pytest.approx(matched["pflop"] / 2)
    alone = planned("vace-1.3b", "--set", "vace-1.3b.guidance=text=1")["methods"][0]
    assert alone["by_references"][0]["calls"] == 50


def test_command_says_what_does_not_fit() -> None:
    done = invoke("plan", "vace-14b", "vace-1.3b", "--gpu-memory", 10)
    assert "vace-14b: does not fit into 10 GiB, with no offload (at least 10.1 GiB)" in done.output
    assert "vace-1.3b: fits into 10 GiB with --set offload=group" in done.output
    assert "in all: 360 videos" in done.output


def test_hours_and_memory_follow_the_card() -> None:
    default, small = planned("vace-14b"), planned("vace-14b", "--gpu", "RTX 4090")
    assert (default["gpu"]["name"], default["gpu_named"]) == ("h100", False)
    assert (small["gpu"]["name"], small["gpu_named"]) == ("4090", True)
    (one,), (other,) = default["methods"], small["methods"]
    assert one["pflop"] == other["pflop"]
    assert other["hours"] / one["hours"] == pytest.approx(989 / 165.2)
    assert (one["fits_with"], other["fits_with"]) == ("none", "group")
    assert small["gpu_memory_gib"] == pytest.approx(24e9 / 2**30)
    given = planned("vace-14b", "--gpu", "4090", "--gpu-memory", 48, "--tflops", 100)
    assert (given["gpu_memory_gib"], given["tflops"]) == (48, 100)
    assert given["methods"][0]["fits_with"] == "model"


def test_float32_is_counted_with_the_plain_cores() -> None:
    words = ("vace-1.3b", "--set", "vace-1.3b.dtype=float32")
    (own,), (given,) = planned(*words)["methods"], planned(*words, "--tflops", 450)["methods"]
    assert own["tflops"] == pytest.approx(0.455 * 67)
    assert given["tflops"] == 67
    assert "vace-1.3b: float32: 67 TFLOP/s of a peak of 67" in printed("plan", *words, "--tflops", 450)


def test_the_plan_says_which_card_it_assumed() -> None:
    assert "GPU: H100 SXM (assumed; --gpu names another), 74.5 GiB (80 GB), 450 TFLOP/s" in printed(
        "plan", "vace-1.3b"
    )
    text = printed("plan", "vace-1.3b", "--gpu", "l40s", "--gpu-memory", 40)
    assert "GPU: L40S, 40 GiB (--gpu-memory), 164.7 TFLOP/s sustained (45.5 %) of a peak of 362" in text
    assert "NVIDIA L40S data sheet, https://" in text


@pytest.mark.parametrize("gpu", gpus.GPUS.values(), ids=lambda gpu: gpu.name)
def test_no_card_sustains_its_peak_and_each_has_its_source(gpu: gpus.Gpu) -> None:
    for parameter_bytes in (2, 4):
        assert 0 < gpu.sustained_tflops(parameter_bytes) < gpu.peak_tflops(parameter_bytes)
    assert gpu.float32_tflops < gpu.bfloat16_tflops
    assert "https://www.nvidia.com/" in gpu.source or "https://images.nvidia.com/" in gpu.source
    assert gpus.get_gpu(gpu.title.removesuffix(" 80GB").upper()) is gpu
    assert (gpu.memory_gib * 2**30, gpus.gpu_of_device(f"NVIDIA {gpu.title}")) == (gpu.memory_gb * 1e9, gpu)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_a_driver_s_name_is_the_card_s(device: str, name: str | None) -> None:
    found = gpus.gpu_of_device(device)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("width", [80, 100])
def test_no_cell_of_a_narrow_plan_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("plan", "phantom-14b", "vace-14b", "skyreels-a2-p14b", "consisid", "noise")
    whole = printed(*words)
    monkeypatch.setattr(console, "screen_width", lambda: width)
    text = printed(*words)
    assert max(map(len, text.splitlines())) <= width
    assert "not shown in" in text and "weights GiB" in text.partition("not shown in")[2]
    lines = text.partition("not shown in")[0].split("─\n")[1].splitlines()
    cells = {cell for line in whole.split("─\n")[1].splitlines() for cell in line.split()}
    assert lines and all(cell in cells for line in lines for cell in line.split())
    assert "97,324" in text and "skyreels-a2-p14b " in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vace-2b"], "unknown method 'vace-2b'"),
        (["vace-1.3b", "--set", "steps=3"], "needs the method's name"),
        (["vace-1.3b", "--set", "vace-14b.steps=3"], "vace-14b is not among the methods"),
        (["vace-1.3b", "--set", "vace-1.3b.width=100"], "width must be a multiple of 16"),
        (["vace-1.3b", "--settings", "fast"], "settings"),
        (["noise", "--set", "noise.loudness=9"], "has no option 'loudness'"),
        (["vace-1.3b", "--track", "closed-domain"], "unknown track"),
        (["vace-1.3b", "--gpu", "h10"], "unknown GPU 'h10'; did you mean h100"),
        (
            ["vace-1.3b", "--gpu", "4090", "--tflops", "300"],
            "is above the peak of the GeForce RTX 4090, 165.2",
        ),
        (["vace-1.3b", "--tflops", "1979"], "is above the peak of the H100 SXM, 989"),
    ],
)
def test_command_s_user_errors_are_one_line(arguments: list[str], words: str) -> None:
    assert words in invoke("plan", *arguments, expect=2).stderr


def test_planning_loads_no_network_library(tmp_path: Path) -> None:
    code = (
        "import sys, typer; from typer.testing import CliRunner; import refbench.baselines.vace\n"
        "import refbench.baselines.planning\n"
        "from refbench.baselines.wan.cost import check_memory\n"
        "from refbench.bench.gpus import get_gpu\n"
        "from refbench.baselines.planning import AssumedGpu, plan_method, planned_samples\n"
        "samples, _ = planned_samples(None, None, None)\n"
        "assumed = AssumedGpu(gpu=get_gpu('4090'))\n"
        "plan_method('vace-1.3b', {}, samples, settings='native', seeds=1, assumed=assumed)\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"
