"""Every large network of the project on a GPU at full size: time, memory against the plan, and equality with
the CPU.

    python benchmarks/gpu.py --out results [--seconds 440] [--rows video,train] [--device cpu --tiny] [--list]

Weights are random and made on the device, inputs are noise: nothing is read from disk. One row is one
measurement; rows come in order of importance, each builds what it needs and gives it back, and one that fails
or runs out of memory says so. Rows that are left when `--seconds` are spent are named as not run. With
`--tiny` the same code runs on small networks, on a CPU in a few minutes. Without a GPU nothing is measured
unless `--tiny` or `--device` asks for it.

Seconds are medians of wall time between two moments at which the device is idle. Operations are counted by
torch while the first run, which is not timed, goes through (training: 3 × the forward pass). `plan GiB` is
what `refbench plan` (`baselines/wan/cost.py`) counts for what the row holds, without its allowance for the
CUDA context. Rows `equal-…` run the same random weights on the CPU in float32 and on the device in float32
and in half precision; of the 7B models two layers of each part, at full width. Their limits are those that
the goldens' tests have for the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from gpu_rows import denoising, equality, from_files, metrics, networks, training
from gpu_rows.bench import GIB, REFERENCES, ceilings, make_bench
from gpu_rows.rows import Outcome, Row, run_rows, table, write_results
from machine import describe

from refbench.metrics.clip_i import ClipImage
from refbench.metrics.clip_t import ClipText
from refbench.metrics.dino_i import DinoImage
from refbench.metrics.gmescore import GmeScore
from refbench.metrics.motion_smoothness import MotionSmoothness
from refbench.metrics.naturalscore import NaturalScore, NaturalScoreOptions
from refbench.metrics.nexusscore import NexusScore
from refbench.metrics.small import gmescore as small_gme
from refbench.metrics.small import motion_smoothness as small_motion
from refbench.metrics.small import naturalscore as small_judge
from refbench.metrics.small import nexusscore as small_nexus
from refbench.metrics.small import similarity as small_similarity
from refbench.refalign.training.flops import peak_flops

ATTENTION_BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient")


def all_rows(sizes: networks.Sizes) -> list[Row]:
    """In order of importance."""
    checkpointing, whole = "run.gradient_checkpointing=true", "run.gradient_checkpointing=false"
    fewer = f"data.clip.num_frames={sizes.fewer_frames}"
    plain = "alignment.enabled=false"
    spec, larger = sizes.spec.name, sizes.larger_spec.name
    frames, most = f"{sizes.fewer_frames} frames", f"{sizes.geometry.num_frames} frames"
    judge, scored = NaturalScoreOptions(backend="local"), sizes.scored_frames
    return [
        Row(name="ceilings", what="matrix product in the generator's dtype; copy", measure=ceilings),
        Row(name="denoise", what=f"{spec}: guided step, passes apart", measure=denoising.denoise),
        Row(
            name="denoise-joined",
            what=f"{spec}: guided step, passes in one call",
            measure=partial(denoising.denoise, batch_passes="yes"),
        ),
        Row(
            name="denoise-small",
            what=f"{spec}: guided step of a small video, passes apart",
            measure=partial(denoising.denoise, small_video=True),
        ),
        Row(
            name="denoise-small-joined",
            what="the same, passes in one call",
            measure=partial(denoising.denoise, small_video=True, batch_passes="yes"),
        ),
        Row(name="video", what=f"{spec}: a video, all models resident", measure=denoising.video),
        Row(
            name="train",
            what=f"{spec}: update with RA, blocks recomputed, {most}",
            measure=lambda bench: training.train(bench, checkpointing),
        ),
        Row(
            name="train-plain",
            what=f"{spec}: update without RA, blocks recomputed, {most}",
            measure=lambda bench: training.train(bench, checkpointing, plain),
        ),
        Row(name="equal-refalign", what=f"{spec}: device against CPU", measure=equality.equal_refalign),
        Row(name="equal-training", what=f"{spec}: losses and gradients", measure=equality.equal_training),
        Row(name="equal-gme", what="GME, two layers: device against CPU", measure=equality.equal_gme),
        Row(
            name="equal-motion",
            what="OneAlign, two layers: device against CPU",
            measure=equality.equal_motion,
        ),
        Row(name="equal-detector", what="YOLO-World: device against CPU", measure=equality.equal_detector),
        Row(name="equal-faces", what="CurricularFace: device against CPU", measure=equality.equal_faces),
        Row(
            name="equal-aesthetics",
            what="CLIP and head: device against CPU",
            measure=equality.equal_aesthetics,
        ),
        Row(name="equal-vae", what="Wan's VAE: device against CPU", measure=equality.equal_vae),
        Row(
            name="motion-smoothness",
            what=f"OneAlign, {sizes.video_frames} prepared frames",
            measure=metrics.motion_smoothness,
        ),
        Row(name="gmescore", what=f"GME, prompt and {scored} frames", measure=metrics.gmescore),
        Row(
            name="nexus-detector",
            what=f"YOLO-World, {scored} frames, {REFERENCES} references",
            measure=metrics.nexus_detector,
        ),
        Row(name="facesim", what=f"CurricularFace, {scored} aligned faces", measure=metrics.face_video),
        Row(
            name="aesthetics",
            what=f"CLIP and head, {scored} prepared frames",
            measure=metrics.aesthetics_video,
        ),
        *(
            Row(
                name=f"attention-{backend}",
                what=f"{spec}: one pass, attention_backend={backend}",
                measure=partial(denoising.one_pass, backend=backend),
                gpu_only=True,
            )
            for backend in ATTENTION_BACKENDS
        ),
        Row(
            name="profile", what=f"{spec}: kernels of one pass", measure=denoising.profile_pass, gpu_only=True
        ),
        Row(
            name="profile-train",
            what=f"{spec}: kernels of an update with RA",
            measure=training.profile_update,
            gpu_only=True,
        ),
        Row(
            name="train-short",
            what=f"{spec}: update with RA, blocks recomputed, {frames}",
            measure=lambda bench: training.train(bench, checkpointing, fewer),
        ),
        Row(
            name="train-short-whole",
            what=f"{spec}: update with RA, nothing recomputed, {frames}",
            measure=lambda bench: training.train(bench, whole, fewer),
        ),
        Row(
            name="train-whole",
            what=f"{spec}: update with RA, nothing recomputed, {most}",
            measure=lambda bench: training.train(bench, whole),
        ),
        Row(
            name="train-lora",
            what=f"{spec}: update of adapters with RA, blocks recomputed, {most}",
            measure=lambda bench: training.train(bench, checkpointing, "lora.enabled=true"),
        ),
        Row(
            name="decode",
            what="Wan's VAE: decoding a video",
            measure=partial(denoising.decode_alone, tiling=False),
        ),
        Row(
            name="decode-tiled", what="the same, tiled", measure=partial(denoising.decode_alone, tiling=True)
        ),
        Row(
            name="files-method",
            what="refalign-tiny as used: device against CPU",
            measure=from_files.method_from_files,
        ),
        Row(name="files-train", what="the tiny recipe as used", measure=from_files.train_from_files),
        *(
            Row(
                name=f"files-{metric.declaration.name}",
                what="the metric as used, tiny weights: device against CPU",
                measure=partial(
                    from_files.metric_from_files, metric_class=metric, small=small, options=options
                ),
            )
            for metric, small, options in (
                (GmeScore, small_gme, None),
                (NexusScore, from_files.Together(small_nexus, small_gme), None),
                (MotionSmoothness, small_motion, None),
                (ClipText, small_similarity, None),
                (ClipImage, small_similarity, None),
                (DinoImage, small_similarity, None),
                (NaturalScore, small_judge, judge),
            )
        ),
        Row(
            name="compile",
            what=f"{spec}: one pass, compiled blocks",
            measure=partial(denoising.one_pass, compiled=True),
            gpu_only=True,
        ),
        Row(
            name="denoise-larger",
            what=f"{larger}: guided step, passes apart",
            measure=partial(denoising.denoise, larger=True),
        ),
        Row(
            name="offload-model",
            what=f"{spec}: a video, offload=model",
            measure=partial(denoising.video, offload="model"),
            gpu_only=True,
        ),
        Row(
            name="offload-group",
            what=f"{spec}: a video, offload=group",
            measure=partial(denoising.video, offload="group"),
            gpu_only=True,
        ),
        Row(
            name="two-workers",
            what="OneAlign in two processes on one device",
            measure=metrics.two_workers,
            gpu_only=True,
        ),
    ]


def machine_facts(device: torch.device) -> dict[str, str]:
    """What the figures belong to."""
    packages = ("torch", "torchvision", "transformers", "diffusers", "accelerate", "open_clip_torch")
    facts = {"machine": describe(*packages), "threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / GIB
        facts["GPU"] = f"{torch.cuda.get_device_name(device)}, {total:.1f} GiB, CUDA {torch.version.cuda}"
    return facts


def main(arguments: Sequence[str] | None = None) -> list[Outcome]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="as torch names it; default: the GPU where there is one")
    parser.add_argument("--tiny", action="store_true", help="small networks; always so on a CPU")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no row is begun after so many")
    parser.add_argument("--rows", help="only these, by name, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    given = parser.parse_args(arguments)
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not (given.device or given.tiny or given.list):
        print("not run: needs a GPU; --tiny tries the same code with small networks on the processor")
        return []
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(device, tiny=given.tiny or device.type == "cpu", folder=Path(folder))
        rows = all_rows(bench.sizes)
        if given.rows:
            wanted = given.rows.split(",")
            if unknown := set(wanted) - {row.name for row in rows}:
                parser.error(f"no row is named {', '.join(sorted(unknown))}")
            rows = [row for row in rows if row.name in wanted]
        if given.list:
            print("\n".join(f"{row.name:22} {row.what}" for row in rows))
            return []
        facts = machine_facts(device)
        peak = peak_flops(device, half=True)
        peak_tflops = None if peak is None else peak / 1e12
        print("\n".join(facts.values()), flush=True)

        def told(outcomes: list[Outcome]) -> None:
            last = outcomes[-1]
            line = table([last], peak_tflops).splitlines()[-1]
            print(f"{line} [{last.took_s:.1f} s]", flush=True)
            if given.out is not None:
                write_results(given.out, facts, outcomes, peak_tflops)

        return run_rows(rows, bench, given.seconds, told)


if __name__ == "__main__":
    main()
