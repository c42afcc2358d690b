"""MotionSmoothness: the share of frames without a sudden jump of perceived quality.

    s_i   = softmax(logits of excellent, good, fair, poor, bad) · (1, 0.75, 0.5, 0.25, 0) of frame i's window
    score = 1 - |{i, i+1 : |s_{i+1} - s_i| > 0.025}| / frames

One window of three frames per frame of the video is rated by OneAlign (mPLUG-Owl2) as one "video"; both
frames beside a jump count as artefacts. All frames are used. Range 0 to 1.

Source: `eval/get_motion_smoothness.py` and `eval/utils/Q-Align/q_align` of
PKU-YuanGroup/OpenS2V-Nexus@ef17513, weights `q-future/one-align`, key `motion_smoothness`. Kept on purpose:
the first window is frame 0 three times and ignores its neighbour; the last one repeats its earliest frame; a
video of one frame scores 1, and one shorter than a window is filled up by repetition; on a GPU everything is
float16, from the weights to the weighted sum of the five words (bfloat16 errs by more than the threshold).

Different, with equal scores: a frame goes through tower and abstractor once instead of three times, the text
before the image and equal windows are computed once, and the last layer and the head only where they are read
(`metrics/nets/mplug_owl2/network.py`). Different on purpose: scores that are not finite are a failure instead
of a smooth video; a video without frames is a failure instead of a crash; the tokenizer's model is read by
sentencepiece directly, so that no code or setting of the checkpoint decides how. The details hold
`smallest_margin`, how near a difference came to the threshold: within a few thousandths another GPU or batch
size may decide otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refbench.bench.environment import Environment
from refbench.bench.errors import SampleError, UserError, one_line
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.streams import mapped
from refbench.bench.video import ALL_FRAMES, LARGEST_FRAME_PIXELS, Video
from refbench.bench.weights.entry import WeightEntry
from refbench.bench.weights.hf_folder import indexed_files, read_config
from refbench.bench.weights.store import file_digests, require_file
from refbench.metrics.nets.pixels import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    import torch

    from refbench.metrics.nets.mplug_owl2.network import MplugOwl2

# The official command line: window of three, threshold on the difference of neighbouring scores.
WINDOW_SIZE = 3
JUMP_THRESHOLD = 0.025

# q_align/evaluate/scorer.py: the words, what they are worth, and the text around the image.
RATING_WEIGHTS = {"excellent": 1.0, "good": 0.75, "fair": 0.5, "poor": 0.25, "bad": 0.0}
TEXT_BEFORE = "USER: How would you rate the quality of this video?\n"
TEXT_AFTER = "\nASSISTANT: The quality of the video is"

# CLIP's mean colour cut to integers; its mean and deviation are those of the checkpoint's preprocessor.
PADDING_RGB = (122, 116, 104)

ONE_ALIGN = WeightEntry(
    name="one-align",
    repository="q-future/one-align",
    holds="OneAlign (mPLUG-Owl2)",
    memory_gib=15.3,
    required=("config.json", "tokenizer.model"),
)
TOKENIZER_FILE = "tokenizer.model"
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")

# Frames encoded, and windows rated, at a time.
BATCH_SIZE_CPU = 4
BATCH_SIZE_GPU = 32


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Token ids before and after the image, and the first id of each rating word, best word first."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    words: tuple[int, ...]


# What LLaMA's tokenizer returns (goldens `q_align/prompt.json`); the checkpoint's is expected to agree.
LLAMA_VOCABULARY = 32000
LLAMA_PROMPT = Prompt(
    before=(1, 3148, 1001, 29901, 1128, 723, 366, 6554, 278, 11029, 310, 445, 4863, 29973, 13),
    after=(29871, 13, 22933, 9047, 13566, 29901, 450, 11029, 310, 278, 4863, 338),
    words=(15129, 1781, 6534, 6460, 4319),
)


@metrics.register
class MotionSmoothness(Metric):
    """Needs OneAlign."""

    declaration = MetricDeclaration(
        name="motion-smoothness",
        version="1",
        component="motion_smoothness",
        summary="share of frames without a jump of perceived quality (OneAlign on windows of 3 frames)",
        source="OpenS2V-Nexus@ef17513 eval/get_motion_smoothness.py",
        uses=frozenset({"video"}),
        weights=(ONE_ALIGN,),
        # On a processor; a GPU takes seconds.
        job_limit_s=7200.0,
        # docs/measured-gpu.md, `motion-smoothness`.
        cost=ScoringCost(
            gpu_s=0.725,
            parallel_s=1.71,
            tflop=275.0,
            parameter_bytes=2,
            peak_gib=19.5,
            grows_with="frames",
            measured_at=81,
        ),
        packages=("torch", "sentencepiece", "pillow", "numpy"),
    )
    modules = ("torch", "sentencepiece")

    def find_weights(self, environment: Environment) -> tuple[Path, list[Path]]:
        """The checkpoint's tokenizer and tensor files; config.json lies beside them.

        Raises MissingWeights for a file that is not there, and UserError for a damaged index.
        """
        files = tensor_files(environment.weights)
        return require_file(ONE_ALIGN, [TOKENIZER_FILE], environment.weights), files

    def load(self, environment: Environment) -> MotionSmoothnessScorer:
        """A scorer with OneAlign: float16, or float32 on a CPU.

        Raises MissingWeights, and UserError for files that do not fit.
        """
        tokenizer_file, files = self.find_weights(environment)
        import torch

        from refbench.metrics.nets.mplug_owl2.network import MplugOwl2Config, load_network

        config_file = tokenizer_file.with_name("config.json")
        config = MplugOwl2Config.from_json(read_config(config_file.parent), config_file)
        prompt = read_prompt(tokenizer_file, config.language.vocab_size)
        on_cpu = torch.device(environment.device).type == "cpu"
        network = load_network(
            config,
            files,
            config_file.parent,
            environment.device,
            torch.float32 if on_cpu else torch.float16,
        )
        loaded = {f"{ONE_ALIGN.name}/{file.name}": file for file in (config_file, tokenizer_file, *files)}
        return MotionSmoothnessScorer(
            rater=WindowRater(network, prompt, batch_size=BATCH_SIZE_CPU if on_cpu else BATCH_SIZE_GPU),
            threads=max(environment.threads, 1),
            weights=file_digests(config_file.parent, loaded),
        )


@dataclass(frozen=True, kw_only=True)
class MotionSmoothnessScorer(Scorer):
    """Streams over the frames: a batch of encoded frames and the few before it are in memory."""

    rater: WindowRater
    threads: int
    weights: Mapping[str, str]

    def score(self, sample: Sample, video: Video) -> Score:
        """The share of smooth frames; SampleError for an undecodable video and for scores that are not
        finite.
        """
        pixels = prepared(video.frames(ALL_FRAMES), self.rater.image_size, self.threads)
        scores = self.rater.frame_scores(pixels)
        bad = [frame for frame, score in enumerate(scores) if not np.isfinite(score)]
        if bad:
            raise SampleError(f"the score of frame {bad[0]} is not finite ({len(bad)} of {len(scores)})")
        artifacts = artifact_frames(scores)
        margins = [abs(abs(later - earlier) - JUMP_THRESHOLD) for earlier, later in pairwise(scores)]
        return Score(
            value=smoothness(scores),
            details={
                "frames": len(scores),
                "artifact_frames": artifacts,
                "smallest_margin": min(margins, default=None),
                "frame_scores": scores,
            },
        )

    def provenance(self) -> dict[str, Any]:
        """Dtype, batch size, and the SHA-256 of each file that was loaded."""
        return {
            "dtype": str(self.rater.dtype).removeprefix("torch."),
            "batch_size": self.rater.batch_size,
            "weights": dict(self.weights),
        }

    def close(self) -> None:
        """Give the network's memory back."""
        from refbench.metrics.nets.inference import release

        release(self.rater.network)


class WindowRater:
    """Rates one window per frame while frames stream in; each distinct frame and window is computed once.

    Args:
        network: in evaluation mode, on its device.
        prompt: the text around the image and the rated words.
        window_size: frames per window; the protocol's is 3.
        batch_size: frames encoded at a time; as many windows (and one or two more at the end) are rated.
    """

    def __init__(
        self, network: MplugOwl2, prompt: Prompt, *, window_size: int = WINDOW_SIZE, batch_size: int
    ) -> None:
        import torch

        self.network = network
        self.batch_size = batch_size
        self.dtype: torch.dtype = network.lm_head.weight.dtype
        self.image_size: int = network.config.vision.image_size
        self._prompt = prompt
        self._window_size = window_size
        self._device: torch.device = network.lm_head.weight.device
        with torch.inference_mode():
            self._prefix = network.prefix(prompt.before)

    def frame_scores(self, pixels: Iterable[np.ndarray]) -> list[float]:
        """A score in 0..1 for each frame, from normalised float32 pixels (3, side, side) in order of time."""
        import torch

        right = self._window_size - 1 - before_centre(self._window_size)
        vectors: dict[int, torch.Tensor] = {}
        windows: list[tuple[int, ...]] = []
        row_of: dict[tuple[int, ...], int] = {}
        scores: list[torch.Tensor] = []
        seen = 0
        with torch.inference_mode():
            for chunk, is_last in chunks(pixels, self.batch_size):
                vectors.update(enumerate(self.encode(chunk), start=seen))
                seen += len(chunk)
                complete = seen if is_last else seen - right
                new = [
                    window_indices(centre, seen, self._window_size)
                    for centre in range(len(windows), complete)
                ]
                windows += new
                fresh = [window for window in dict.fromkeys(new) if window not in row_of]
                if fresh:
                    row_of |= {window: row for row, window in enumerate(fresh, start=len(row_of))}
                    scores.append(self.rate(fresh, vectors))
                oldest = len(windows) - before_centre(self._window_size)
                vectors = {index: vector for index, vector in vectors.items() if index >= oldest}
        # Read once at the end: until then a GPU works while the next frames are decoded.
        values: list[float] = torch.cat(scores).tolist() if scores else []
        return [values[row_of[window]] for window in windows]

    def encode(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Normalised float32 pixels (3, side, side) of frames to the network's vectors (F, Q + 1, D)."""
        import torch

        pixels_F3YX = torch.from_numpy(np.stack(pixels))
        if self._device.type == "cuda":
            pixels_F3YX = pixels_F3YX.pin_memory()
        return self.network.encode_frames(pixels_F3YX.to(self._device, non_blocking=True).to(self.dtype))

    def rate(self, windows: Sequence[tuple[int, ...]], vectors: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """Scores (B,) of windows of equal length, in the network's dtype as the original reads them out.

        `windows` are frame numbers, `vectors` what `encode` made of these frames (Q + 1, D), by number.
        """
        import torch

        image_BID = torch.stack([torch.cat([vectors[index] for index in window]) for window in windows])
        logits_BW = self.network.word_logits(self._prefix, image_BID, self._prompt.after, self._prompt.words)
        worth_W = torch.tensor(list(RATING_WEIGHTS.values()), device=self._device, dtype=self.dtype)
        return logits_BW.softmax(-1) @ worth_W


def before_centre(size: int) -> int:
    """How many frames of a window lie before its centre."""
    return (size - 1) // 2


def window_indices(centre: int, frames: int, size: int = WINDOW_SIZE) -> tuple[int, ...]:
    """The frames of the window around `centre` in a video of `frames` frames, by the original's rules.

    A centre too near the start gives frame 0 only. What is missing at the end of the video is filled with the
    first frame of the window, put in front; in a video shorter than a window, with its last frame.
    """
    left = before_centre(size)
    if centre < left:
        return (0,) * size
    inside = tuple(range(centre - left, min(frames, centre - left + size)))
    missing = size - len(inside)
    return inside + inside[-1:] * missing if inside[0] == 0 else inside[:1] * missing + inside


def artifact_frames(scores: Sequence[float], threshold: float = JUMP_THRESHOLD) -> list[int]:
    """Both frames beside each difference strictly above the threshold (float64), ascending."""
    jumps = [
        index for index, (earlier, later) in enumerate(pairwise(scores)) if abs(later - earlier) > threshold
    ]
    return sorted({frame for index in jumps for frame in (index, index + 1)})


def smoothness(scores: Sequence[float], threshold: float = JUMP_THRESHOLD) -> float:
    """The share of frames that are no artefact, 0..1; one frame gives 1."""
    return 1 - len(artifact_frames(scores, threshold)) / len(scores)


def square(frame_HWC: np.ndarray, side: int) -> np.ndarray:
    """A frame, RGB uint8 (H, W, 3), in the middle of a mean-coloured square: RGB uint8 (side, side, 3).

    Pillow's bicubic resizes it; an odd rest of padding goes to the bottom or the right. Raises SampleError
    when the square would be too large.
    """
    from PIL import Image

    height, width = frame_HWC.shape[:2]
    longer = max(height, width)
    if longer**2 > LARGEST_FRAME_PIXELS:
        raise SampleError(f"frames of {width}×{height} pixels are too long to be padded to a square")
    canvas = np.empty((longer, longer, 3), dtype=np.uint8)
    canvas[:] = PADDING_RGB
    top, start = (longer - height) // 2, (longer - width) // 2
    canvas[top : top + height, start : start + width] = frame_HWC
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BICUBIC))


def normalised_pixels(frame_HWC: np.ndarray, side: int) -> np.ndarray:
    """A frame, RGB uint8 (H, W, 3), as the network's input, float32 (3, side, side)."""
    scaled_HWC = square(frame_HWC, side).astype(np.float32) / np.float32(255)
    normalised_HWC = (scaled_HWC - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)
    return np.ascontiguousarray(normalised_HWC.transpose(2, 0, 1))


def prepared(frames: Iterable[np.ndarray], side: int, threads: int) -> Iterator[np.ndarray]:
    """`normalised_pixels` of each frame, in order; `threads` threads work a few frames ahead."""
    return mapped(partial(normalised_pixels, side=side), frames, threads)


def chunks(items: Iterable[np.ndarray], size: int) -> Iterator[tuple[list[np.ndarray], bool]]:
    """Lists of `size` items (the last may be shorter), each with whether it is the last."""
    chunk: list[np.ndarray] = []
    for item in items:
        if len(chunk) == size:
            yield chunk, False
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk, True


def tensor_files(folder: Path | None) -> list[Path]:
    """The checkpoint's tensor files: those of its index, else a single file; safetensors first.

    `folder` is where weights are looked for. MissingWeights names the first file that is not there; an index
    that is damaged or names a file elsewhere is a UserError.
    """
    first = require_file(ONE_ALIGN, [*INDEX_FILES, *SINGLE_FILES], folder)
    require_file(ONE_ALIGN, ["config.json"], folder)
    if first.name in SINGLE_FILES:
        return [first]
    return [require_file(ONE_ALIGN, [file.name], folder) for file in indexed_files(first)]


def read_prompt(file: Path, vocabulary: int) -> Prompt:
    """The prompt's ids by a SentencePiece model, as the original joins them.

    Each text is tokenised alone, so the one after the image starts with the lone space piece; one BOS stands
    at the very front. A word is worth its first piece. Raises UserError for a model that cannot be read or
    does not fit the vocabulary; warns when LLaMA's vocabulary gives other ids than expected.
    """
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
        bos: int = pieces.bos_id()
        before, after, *words = (
            tuple(pieces.encode(text)) for text in (TEXT_BEFORE, TEXT_AFTER, *RATING_WEIGHTS)
        )
    except (OSError, RuntimeError) as error:
        raise UserError(f"{file} is no SentencePiece model: {one_line(error, 120)}") from None
    if bos < 0 or not all((before, after, *words)):
        raise UserError(f"{file} does not tokenise the prompt")
    prompt = Prompt(before=(bos, *before), after=after, words=tuple(word[0] for word in words))
    largest = max(*prompt.before, *prompt.after, *prompt.words)
    if largest >= vocabulary or len(set(prompt.words)) < len(RATING_WEIGHTS):
        raise UserError(
            f"{file} does not fit the network: id {largest} of {vocabulary}, words {prompt.words}"
        )
    if vocabulary == LLAMA_VOCABULARY and prompt != LLAMA_PROMPT:
        warnings.warn(f"{file} gives other ids than LLaMA's tokenizer; is it OneAlign's?", stacklevel=2)
    return prompt
