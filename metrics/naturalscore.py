"""NaturalScore: how natural a vision-language judge finds a video, 1 to 5.

    score = mean over the runs of the number that the judge answers

The judge sees up to 16 frames (every s-th, s = max(n // 16, 1)), the longer side 512 pixels, as JPEG of
quality 95, and an instruction; three independent runs.

Source: `eval/get_naturalscore.py` of PKU-YuanGroup/OpenS2V-Nexus v1.1 (commit 210eb08). Kept on purpose:
frames after 15·s are never seen, a short video sends fewer pictures, small pictures are enlarged (with the
area filter that also shrinks), and the request has no system message and no temperature. As in the official
merge, runs without an answer are left out of the mean. The details name them and say how many there are
(`runs_present`: "2 of 3"); the same command asks for them again. Different:

* the instruction is ours (`metrics/judges/instruction.py`) unless a file with the official one is given;
* an answer must be a number from 1 to 5: another one is asked again, then that run has failed, where the
  official code would store the text and its merge would stop or clip. Of another judge than the official one
  a number after `<think>…</think>`, in Markdown's emphasis (`**4**`) or in parts of text is read too, and the
  details name such a run under `readings`;
* a video that cannot be decoded has failed; the official code judges it from the text alone;
* a judge that runs locally marks its details as `unofficial`.

The details hold every raw reply, and `differs_from_official` says what keeps the number from comparing with
published ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np

from refbench.bench.environment import Environment, missing_packages
from refbench.bench.errors import MissingWeights, SampleError, UserError
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer, ScoringCost
from refbench.bench.registry import metrics
from refbench.bench.sample import Sample
from refbench.bench.video import Video, stride_frames
from refbench.bench.weights.common import QWEN25_VL
from refbench.bench.weights.store import require_model_folder
from refbench.metrics.judges.cache import AnswerCache, CachedJudge, default_cache_folder
from refbench.metrics.judges.cost import TOKENS_PER_IMAGE, Account, CostEstimate, Prices, estimate_cost
from refbench.metrics.judges.instruction import Instruction, read_instruction
from refbench.metrics.judges.judge import Answer, Judge, Question, parse_score

FRAMES = 16
LONG_SIDE_PX = 512
JPEG_QUALITY = 95
OFFICIAL_MODEL = "gpt-4o-2024-11-20"
OFFICIAL_RUNS = 3
LOCAL_PACKAGES = ("torch", "transformers")
OPENAI_URL = "https://api.openai.com/v1"
# Sent where a user's own endpoint wants no key; the openai package insists on one.
NO_KEY = "none"


@dataclass(frozen=True, kw_only=True)
class NaturalScoreOptions:
    """Which judge is asked, and within which bounds."""

    backend: Literal["endpoint", "local"] = "endpoint"
    """Where the judge runs: behind an OpenAI-compatible endpoint, or here, from a model folder."""
    model: str = OFFICIAL_MODEL
    """The judge's name at the endpoint, or the OWNER/NAME or path of a local model."""
    url: str = OPENAI_URL
    """Base address of the endpoint, http or https."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key."""
    runs: int = OFFICIAL_RUNS
    """Independent answers per video, whose mean is the score; 1 or more."""
    instruction: Path | None = None
    """A text file with another instruction for the judge, such as a copy of the official one."""
    cache: Path | None = None
    """Folder where an endpoint's answers are kept; by default refbench/judge in the user's cache folder."""
    use_cache: bool = True
    """Whether answers are kept and answers from earlier runs are used."""
    budget: float | None = None
    """Dollars that one run of the program, with all its workers, may spend; needs price_in and price_out."""
    price_in: float | None = None
    """Dollars per million tokens sent."""
    price_out: float | None = None
    """Dollars per million tokens returned."""
    tokens_per_image: int = TOKENS_PER_IMAGE
    """Tokens that one picture costs, for the estimate; 255 is gpt-4o's count."""
    concurrency: int = 4
    """Requests of all workers that wait for the endpoint at the same time; 1 or more."""
    timeout_s: float = 120.0
    """Seconds after which a request counts as failed."""
    attempts: int = 5
    """Requests per run before it counts as failed; 1 or more."""
    first_wait_s: float = 2.0
    """Seconds before the second attempt; every further wait is twice as long."""
    longest_wait_s: float = 120.0
    """The longest wait in seconds between two attempts; an endpoint that asks for more is not waited for."""

    def __post_init__(self) -> None:
        for name in ("runs", "concurrency", "attempts", "tokens_per_image", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("budget", "price_in", "price_out", "first_wait_s", "longest_wait_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in and price_out go together")
        if self.budget is not None and self.price_in is None:
            raise ValueError("a budget needs price_in and price_out, in dollars per million tokens")
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("url must be an http or https address")
        if address.username or address.password or address.query or address.fragment:
            raise ValueError("url must hold no key: the key is read from the environment")


@metrics.register
class NaturalScore(Metric):
    """Needs an endpoint and its key, or a local model."""

    declaration = MetricDeclaration(
        name="naturalscore",
        version="2",
        component="naturalscore",
        summary="how natural a vision-language judge finds the video (1 to 5); needs an endpoint and its key",
        source="OpenS2V-Nexus@210eb08 eval/get_naturalscore.py",
        uses=frozenset({"video"}),
        optional_weights=(QWEN25_VL,),
        # A judge's endpoint may have it wait.
        job_limit_s=7200.0,
        packages=("opencv-python", "numpy", "openai"),
    )
    Options = NaturalScoreOptions
    options: NaturalScoreOptions

    def __init__(self, options: NaturalScoreOptions | None = None) -> None:
        super().__init__(options)
        self.instruction = read_instruction(self.options.instruction)

    @property
    def is_local(self) -> bool:
        """Whether the judge is a model that runs here."""
        return self.options.backend == "local"

    @property
    def model(self) -> str:
        """The judge's name; the official one, which no one can run, stands for the local default."""
        if self.is_local and self.options.model == OFFICIAL_MODEL:
            return QWEN25_VL.repository
        return self.options.model

    @property
    def prices(self) -> Prices | None:
        """What tokens cost, where the options say so."""
        if self.options.price_in is None or self.options.price_out is None:
            return None
        return Prices(tokens_in=self.options.price_in, tokens_out=self.options.price_out)

    @property
    def differences(self) -> tuple[str, ...]:
        """What keeps these scores from comparing with published ones."""
        differences = []
        if self.is_local or self.model != OFFICIAL_MODEL:
            differences.append(f"judge {self.model} instead of {OFFICIAL_MODEL}")
        if not self.instruction.is_official:
            differences.append(self.instruction.label)
        if self.options.runs != OFFICIAL_RUNS:
            differences.append(f"{self.options.runs} runs instead of {OFFICIAL_RUNS}")
        return tuple(differences)

    def settings(self) -> dict[str, Any]:
        """What the score depends on: judge, runs, instruction. Limits, prices and the cache do not matter."""
        return {
            "backend": self.options.backend,
            "model": self.model,
            "url": None if self.is_local else self.options.url,
            "runs": self.options.runs,
            "instruction": self.instruction.digest,
        }

    def find_weights(self, environment: Environment) -> Path | None:
        """The local model's folder, None for an endpoint.

        Raises MissingWeights without the folder or the endpoint's key, and UserError for a key that cannot be
        one.
        """
        if self.is_local:
            return self._local_folder(environment)
        self._key()
        return None

    def packages(self) -> tuple[str, ...]:
        """What reads the video, and what asks the judge or is it."""
        reading = tuple(name for name in self.declaration.packages if name != "openai")
        return reading + (LOCAL_PACKAGES if self.is_local else ("openai",))

    def unavailable(self, environment: Environment) -> str | None:
        """Which package, key or model folder is missing, or None."""
        packages = LOCAL_PACKAGES if self.is_local else ("openai",)
        return missing_packages(packages) or super().unavailable(environment)

    def forecast(self, videos: int) -> str | None:
        """What judging so many videos is going to take, before the first request."""
        if self.is_local:
            return None
        cost = self.estimate_cost(videos)
        price = "price unknown" if cost.dollars is None else f"about ${cost.dollars:.2f}"
        return (
            f"judge {self.model}: up to {cost.requests:,} requests, {cost.images:,} images, "
            f"{cost.tokens_in:,} tokens in and {cost.tokens_out:,} out, {price}"
        )

    def cost(self) -> ScoringCost | None:
        """Nothing of this machine's devices for an endpoint; a local judge was not measured."""
        if self.is_local:
            return None
        return ScoringCost(remarks=("the judge's answers are waited for, which is left out",))

    def estimate_cost(self, videos: int) -> CostEstimate:
        """What judging so many videos should take, without asking anybody; cached answers and retries are
        not foreseen.
        """
        return estimate_cost(
            requests=videos * self.options.runs,
            images_per_request=FRAMES,
            instruction=self.instruction.text,
            prices=self.prices,
            tokens_per_image=self.options.tokens_per_image,
        )

    def load(self, environment: Environment) -> NaturalScorer:
        """A scorer with the local model, or connected to the endpoint (nothing is sent).

        Raises MissingWeights without a key or model folder, and UserError for a key that cannot be one.
        """
        return NaturalScorer(
            judge=self._load_local(environment) if self.is_local else self._connect(environment),
            name=self.model,
            is_local=self.is_local,
            instruction=self.instruction,
            runs=self.options.runs,
            prices=self.prices,
            differences=self.differences,
        )

    def _load_local(self, environment: Environment) -> Judge:
        from refbench.metrics.judges.local import LocalJudge

        return LocalJudge.load(self._local_folder(environment), environment.device, self.model)

    def _connect(self, environment: Environment) -> Judge:
        from refbench.metrics.judges.endpoint import EndpointJudge, Limits

        account = Account(self.prices, self.options.budget)
        shared: dict[str, Any] = {}
        if environment.shared is not None:
            from refbench.metrics.judges.shared import SharedAccount, SharedSlots

            account = SharedAccount(environment.shared, self.prices, self.options.budget)
            shared["slots"] = SharedSlots(folder=environment.shared, count=self.options.concurrency).one
        judge = EndpointJudge(
            model=self.model,
            url=self.options.url,
            key=self._key(),
            limits=Limits(
                concurrency=self.options.concurrency,
                timeout_s=self.options.timeout_s,
                attempts=self.options.attempts,
                first_wait_s=self.options.first_wait_s,
                longest_wait_s=self.options.longest_wait_s,
            ),
            account=account,
            tokens_per_image=self.options.tokens_per_image,
            is_official=self.model == OFFICIAL_MODEL,
            **shared,
        )
        if not self.options.use_cache:
            return judge
        folder = self.options.cache or default_cache_folder()
        cache = AnswerCache(folder=folder, model=self.model, endpoint=self.options.url)
        return CachedJudge(asked=judge, cache=cache)

    def _key(self) -> str:
        """The endpoint's key. Raises MissingWeights without one, and UserError for one that cannot be one."""
        variable = self.options.key_variable
        key = os.environ.get(variable, "").strip()
        if not key and self.options.url != OPENAI_URL:
            return NO_KEY
        if not key:
            raise MissingWeights(f"the judge needs a key in the environment variable {variable}")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"the environment variable {variable} holds no key: characters that no key has")
        return key

    def _local_folder(self, environment: Environment) -> Path:
        """The local model's folder: a path, or a repository found where the other weights are."""
        given = Path(self.model).expanduser()
        if (given / "config.json").is_file():
            return given
        return require_model_folder(self.model, environment.weights)


@dataclass(frozen=True, kw_only=True)
class NaturalScorer(Scorer):
    """Asks a judge; `score` may be called from several threads, an endpoint's limits hold for all together.

    `name` is the judge's, `prices` are None where they are not known, and `differences` are what keeps the
    scores from comparing with published ones.
    """

    judge: Judge
    name: str
    is_local: bool
    instruction: Instruction
    runs: int
    prices: Prices | None
    differences: tuple[str, ...]

    def score(self, sample: Sample, video: Video) -> Score:
        """The mean of the runs, 1 to 5. Raises SampleError when no run has an answer, for a video that cannot
        be decoded, and when the budget does not cover it.
        """
        question = Question(jpegs=tuple(judge_jpegs(video)), instruction=self.instruction.text)
        answers = self.judge.judge(question, range(1, self.runs + 1))
        stopped = next((answer for answer in answers if answer.over_budget), None)
        if stopped is not None:
            raise SampleError(stopped.failure)
        scores = [parse_score(answer.verdict) for answer in answers if answer.verdict is not None]
        valid = [score for score in scores if score is not None]
        if not valid:
            raise SampleError(f"no run has an answer; the first: {answers[0].failure}")
        return Score(value=sum(valid) / len(valid), details=self._details(question, answers))

    def provenance(self) -> dict[str, Any]:
        """Of a local model its precision and digests; an endpoint tells neither."""
        return self.judge.provenance()

    def close(self) -> None:
        """Close the connections, or give the model's memory back."""
        self.judge.close()

    def _details(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """`runs` holds the stripped replies that are scores, as the official files do; `replies` all."""
        tokens_in = sum(answer.tokens_in for answer in answers)
        tokens_out = sum(answer.tokens_out for answer in answers)
        details: dict[str, Any] = {
            "runs": {str(answer.run): answer.verdict for answer in answers if answer.verdict is not None},
            "replies": {str(answer.run): list(answer.replies) for answer in answers},
            "failed_runs": {str(answer.run): answer.failure for answer in answers if answer.verdict is None},
            "runs_present": f"{sum(answer.verdict is not None for answer in answers)} of {len(answers)}",
            "readings": {str(answer.run): answer.reading for answer in answers if answer.reading},
            "judge": self.name,
            "instruction": self.instruction.label,
            "instruction_sha256": self.instruction.digest,
            "images": len(question.jpegs),
            "tokens_in": tokens_in,
            "tokens_out": tokens_out,
            "differs_from_official": list(self.differences),
        }
        if self.prices is not None:
            details["dollars"] = self.prices.dollars(tokens_in, tokens_out)
        if self.is_local:
            details["unofficial"] = f"local judge {self.name}"
        return details


def judge_jpegs(video: Video) -> Iterator[bytes]:
    """The JPEG files that a judge gets of a video, at most 16. Raises SampleError for a video that cannot be
    decoded.
    """
    for frame_HWC in video.frames(stride_frames(FRAMES)):
        yield jpeg_of(judge_frame(frame_HWC))


def judge_frame(rgb_HWC: np.ndarray) -> np.ndarray:
    """A frame, RGB uint8 (H, W, 3), as BGR with a longer side of 512 pixels, the other one rounded down.

    Raises SampleError for a frame so narrow that no pixel is left across.
    """
    import cv2

    height, width = judge_size(*rgb_HWC.shape[:2])
    if min(height, width) < 1:
        raise SampleError("the video is too narrow for a judge")
    bgr_HWC = cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2BGR)
    resized: np.ndarray = cv2.resize(bgr_HWC, (width, height), interpolation=cv2.INTER_AREA)
    return resized


def judge_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels of a frame as the judge sees it."""
    if height >= width:
        return LONG_SIDE_PX, int(width * LONG_SIDE_PX / height)
    return int(height * LONG_SIDE_PX / width), LONG_SIDE_PX


def jpeg_of(bgr_HWC: np.ndarray) -> bytes:
    """The JPEG file of a picture, BGR uint8 (H, W, 3), by OpenCV, quality 95, 4:2:0."""
    import cv2

    encoded, jpeg = cv2.imencode(".jpg", bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not encoded:
        raise SampleError("a frame cannot be written as JPEG")
    return bytes(jpeg.tobytes())
