"""Rows `equal-…`: the same random weights on the CPU and on the device, with the goldens' limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu_rows import networks
from gpu_rows.bench import PROMPT, Bench, exact_convolutions, largest, relative
from gpu_rows.denoising import IMAGE_TEXT_PASS
from gpu_rows.metrics import normal_pixels
from gpu_rows.rows import Fact, Measured
from gpu_rows.training import drawn_features, training_config
from refbench.baselines.wan.checkpoint import stays_float32
from refbench.baselines.wan.conditioning import ReferenceLatents
from refbench.baselines.wan.sampler import WanSampler
from refbench.metrics.nets.clip import ClipImageTower
from refbench.metrics.nets.curricularface import FACE_SIDE_PX, face_embeddings
from refbench.metrics.nets.gme import TEXT_INSTRUCTION
from refbench.metrics.nets.yolo_world.boxes import INPUT_SIZE_PX
from refbench.refalign.alignment import AlignmentProjectors
from refbench.refalign.flow_matching import FlowSchedule
from refbench.refalign.training.batch import collate
from refbench.refalign.training.model import TrainingModel

# Largest differences that the goldens' tests allow: tests/refalign/test_transformer.py and
# test_training_golden.py, tests/metrics/test_gmescore.py, test_motion_smoothness.py, test_yolo_world.py (root
# mean square and largest of logits, of distances), test_facesim.py, test_aesthetics.py.
LIMITS: Mapping[str, float] = {
    "refalign": 5e-5,
    "loss": 1e-5,
    "gme": 2e-6,
    "gme half": 2e-3,
    "motion": 2e-6,
    "motion half": 5e-3,
    "logits rms": 1e-3,
    "logits largest": 1e-2,
    "distances rms": 3e-3,
    "distances largest": 0.05,
    "face": 2e-6,
    "aesthetics": 1e-5,
}


def judged(facts: dict[str, Fact], *pairs: tuple[float, float]) -> Measured:
    """Facts with whether each difference is within its limit; a difference that is no number is not."""
    return Measured(
        facts={**facts, "within": "yes" if all(found <= limit for found, limit in pairs) else "NO"}
    )


def equal_refalign(bench: Bench) -> Measured:
    """The whole network at full depth on a small video."""
    sizes = bench.sizes
    frames, rows, columns = sizes.compared.latent_shape
    arguments = networks.architecture(sizes.spec, sizes.text_width)
    network = networks.transformer(arguments, bench.device, torch.float32)
    inputs = {
        "hidden_states": bench.noise(1, 16, frames, rows, columns),
        "timestep": torch.tensor([700.0], device=bench.device),
        "encoder_hidden_states": bench.noise(1, 512, sizes.text_width),
        "reference_hidden_states": bench.noise(1, 16, 2, rows, columns),
    }

    def predicted(model: Any, place: str | torch.device, dtype: torch.dtype) -> torch.Tensor:
        moved = {
            name: value.to(place, torch.float32 if name == "timestep" else dtype)
            for name, value in inputs.items()
        }
        with torch.no_grad():
            sample: torch.Tensor = model(**moved).sample
        return sample.float().cpu()

    def predicted_by_the_sampler() -> torch.Tensor:
        codec = networks.bare_codec(bench.device, torch.float32)
        sampler = WanSampler(codec=codec, transformer=network, scheduler=None)
        texts = {"prompt": inputs["encoder_hidden_states"]}
        condition = ReferenceLatents(latents_BCNHW=inputs["reference_hidden_states"])
        with torch.no_grad():
            made = sampler.predict(
                inputs["hidden_states"], inputs["timestep"], texts, condition, [IMAGE_TEXT_PASS], "no"
            )
        return made[IMAGE_TEXT_PASS.name].float().cpu()

    expected = predicted(networks.on(network, "cpu"), "cpu", torch.float32)
    scale = float(expected.abs().max())
    tensor_float = predicted(network, bench.device, torch.float32)
    sampled = predicted_by_the_sampler()
    with exact_convolutions():
        exact = predicted(network, bench.device, torch.float32)
    half = networks.cast(network, torch.bfloat16, stays_float32)
    rounded = predicted(half, bench.device, torch.bfloat16)
    error, limit = largest(sampled, expected) / scale, LIMITS["refalign"]
    facts: dict[str, Fact] = {
        "float32 as sampled, largest / largest output": error,
        "limit": limit,
        "float32 with torch's defaults": largest(tensor_float, expected) / scale,
        "float32 without TF32": largest(exact, expected) / scale,
        "bfloat16 relative": relative(rounded, expected),
    }
    return judged(facts, (error, limit))


def equal_vae(bench: Bench) -> Measured:
    """The autoencoder on a small clip, there and back; differences in grey levels of the decoded frames."""
    sizes = bench.sizes
    network = networks.vae(sizes, bench.device)
    video = sizes.compared
    pixels = bench.noise(1, 3, video.num_frames, video.height // 2, video.width // 2).clamp(-1, 1)

    def there_and_back(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        codec = networks.bare_codec(model.device, torch.float32, vae=model)
        with torch.no_grad():
            latents = codec.encode(pixels)
            decoded = model.decode(encoded.to(model.device)).sample
        return latents.cpu(), decoded.cpu()

    with torch.no_grad():
        encoded = network.encode(pixels).latent_dist.mode()
    expected_latents, expected = there_and_back(networks.on(network, "cpu"))
    latents, decoded = there_and_back(network)
    with exact_convolutions():
        exact_latents, exact = there_and_back(network)
    facts: dict[str, Fact] = {
        "latents relative": relative(exact_latents, expected_latents),
        "frames relative": relative(exact, expected),
        "latents relative with torch's defaults": relative(latents, expected_latents),
        "frames relative with torch's defaults": relative(decoded, expected),
        "largest grey level with torch's defaults": 127.5
        * largest(decoded.clamp(-1, 1), expected.clamp(-1, 1)),
    }
    return Measured(facts=facts)


def equal_gme(bench: Bench) -> Measured:
    """Embeddings of a text and of a picture, two layers of 28 and two blocks of 32."""
    model = networks.gme_model(bench.sizes.short_gme, bench.device, torch.float32)
    pictures = networks.noise_pictures(2, 448, 448)

    def embedded(one: Any, device: torch.device) -> torch.Tensor:
        embedder = networks.gme_embedder(one, bench.subfolder(), device)
        with exact_convolutions():
            found = [embedder.embed_texts([PROMPT], TEXT_INSTRUCTION), embedder.embed_images(pictures)]
        return torch.cat(found).float()

    cpu = torch.device("cpu")
    expected = embedded(networks.on(model, cpu), cpu)
    errors = {"float32": largest(embedded(model, bench.device), expected)}
    for dtype in (torch.float16, torch.bfloat16):
        one = networks.on(model, bench.device, dtype)
        errors[str(dtype).removeprefix("torch.")] = largest(embedded(one, bench.device), expected)
    limits = LIMITS["gme"], LIMITS["gme half"]
    facts: dict[str, Fact] = {**errors, "limits": f"{limits[0]:g}, half {limits[1]:g}"}
    return judged(facts, (errors["float32"], limits[0]), (errors["float16"], limits[1]))


def equal_motion(bench: Bench) -> Measured:
    """Scores of four frames, two layers of each part."""
    sizes = bench.sizes
    network = networks.owl_network(sizes.short_owl, bench.device, torch.float32)
    pixels = normal_pixels(4, sizes.short_owl.vision.image_size)

    def scores(one: Any) -> list[float]:
        with exact_convolutions():
            return networks.window_rater(one, sizes.prompt).frame_scores(pixels)

    expected = scores(networks.on(network, "cpu"))
    errors = {"float32": largest(scores(network), expected)}
    for dtype in (torch.float16, torch.bfloat16):
        one = networks.on(network, bench.device, dtype)
        errors[str(dtype).removeprefix("torch.")] = largest(scores(one), expected)
    limits = LIMITS["motion"], LIMITS["motion half"]
    facts: dict[str, Fact] = {
        **errors,
        "limits": f"{limits[0]:g}, half {limits[1]:g}",
        "spread of the scores": float(np.ptp(expected)),
    }
    return judged(facts, (errors["float32"], limits[0]), (errors["float16"], limits[1]))


def equal_detector(bench: Bench) -> Measured:
    """Logits and distances of one frame and two prompts at full size.

    Random contrast gives logits in the hundreds, the golden's are around one: they are divided by their
    deviation.
    """
    network = networks.detector(bench.sizes, bench.device).network
    image = bench.noise(1, 3, INPUT_SIZE_PX, INPUT_SIZE_PX).abs().clamp(max=1)
    prompts = torch.nn.functional.normalize(bench.noise(2, 1, bench.sizes.detector.prompt), dim=-1)

    def outputs(one: Any, place: str | torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        with torch.inference_mode(), exact_convolutions():
            maps = one.features(image.to(place, dtype))
            logits, distances = one.predict(maps, prompts.to(place, dtype))
        return [
            torch.cat([level.flatten().cpu().double() for level in levels]) for levels in (logits, distances)
        ]

    expected = outputs(networks.on(network, "cpu"), "cpu", torch.float32)
    exact = outputs(networks.on(network, "cpu", torch.float64), "cpu", torch.float64)
    found = outputs(network, bench.device, torch.float32)
    facts: dict[str, Fact] = {}
    pairs: list[tuple[float, float]] = []
    for position, name in enumerate(("logits", "distances")):
        scale = float(expected[position].std()) if name == "logits" else 1.0
        difference = (found[position] - expected[position]) / scale
        errors = {
            f"{name} rms": float(difference.square().mean().sqrt()),
            f"{name} largest": float(difference.abs().max()),
        }
        pairs += [(error, LIMITS[key]) for key, error in errors.items()]
        facts |= {**errors, f"{name} limits": ", ".join(f"{LIMITS[key]:g}" for key in errors)}
        for side, values in (("device", found), ("CPU", expected)):
            facts[f"{name}, {side} from float64, relative"] = relative(values[position], exact[position])
    return judged(facts, *pairs)


def equal_faces(bench: Bench) -> Measured:
    """Unit embeddings of four faces."""
    network = networks.face_network(bench.sizes, bench.device)
    faces = np.stack(networks.noise_frames(4, FACE_SIDE_PX, FACE_SIDE_PX))
    error = largest(face_embeddings(network, faces), face_embeddings(networks.on(network, "cpu"), faces))
    limit = LIMITS["face"]
    return judged({"float32": error, "limit": limit}, (error, limit))


def equal_aesthetics(bench: Bench) -> Measured:
    """Scores of four frames."""
    scorer = networks.aesthetic_scorer(bench.sizes, bench.device)
    tower = ClipImageTower(model=networks.on(scorer.tower.model, "cpu"))
    on_cpu = replace(scorer, tower=tower, head=networks.on(scorer.head, "cpu"))
    pixels = np.stack(normal_pixels(4, scorer.crop.crop_px))
    error = largest(scorer.frame_scores(pixels), on_cpu.frame_scores(pixels))
    limit = LIMITS["aesthetics"]
    facts: dict[str, Fact] = {
        "float32": error,
        "limit": limit,
        "embedding relative": relative(
            scorer.tower.embed(torch.from_numpy(pixels)), tower.embed(torch.from_numpy(pixels))
        ),
    }
    return judged(facts, (error, limit))


def equal_training(bench: Bench) -> Measured:
    """Losses and gradients of ten blocks at full width, RA at the recipe's blocks."""
    sizes = bench.sizes
    video = sizes.compared
    overrides = [f"data.clip.{name}={getattr(video, name)}" for name in ("width", "height", "num_frames")]
    config = training_config(sizes, *overrides)
    source = drawn_features(sizes, config)
    layers = min(config.alignment.blocks[-1] + 2, sizes.spec.network.layers)
    arguments = networks.architecture(sizes.spec, sizes.text_width, layers=layers)
    network = networks.transformer(arguments, bench.device, torch.float32)
    projectors = networks.made(
        lambda: AlignmentProjectors(
            config.alignment, width=sizes.spec.network.width, teacher_widths=source.teacher_widths
        ),
        bench.device,
    )
    model = TrainingModel(network, projectors, config.alignment).requires_grad_(True)
    batch = collate([next(source.examples(start=0, rank=0, world_size=1))], FlowSchedule(), seed=0)

    def step(one: Any, place: str | torch.device, *, half: bool = False) -> dict[str, torch.Tensor]:
        with exact_convolutions(), torch.autocast(torch.device(place).type, torch.bfloat16, enabled=half):
            losses = one(batch.to(place))
        one.zero_grad()
        losses.total.mean().backward()
        gradients = {
            "query gradient": one.transformer.blocks[0].attn1.to_q.weight.grad,
            "projector gradient": one.projectors.by_teacher[0][0][0].weight.grad,
        }
        terms = {"flow": losses.flow, "RA": losses.ra, **gradients}
        return {name: value.detach().float().cpu().clone() for name, value in terms.items()}

    expected = step(networks.on(model, "cpu"), "cpu")
    exact = step(model, bench.device)
    rounded = step(model, bench.device, half=True)
    facts: dict[str, Fact] = {}
    for name, value in expected.items():
        facts[f"{name}, float32"] = relative(exact[name], value)
        facts[f"{name}, bfloat16"] = relative(rounded[name], value)
    limit = LIMITS["loss"]
    facts["limit of float32 losses"] = limit
    return judged(facts, *((relative(exact[name], expected[name]), limit) for name in ("flow", "RA")))
