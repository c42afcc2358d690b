"""The main job in small: methods of the drawn world and controls, generated, scored and ranked on the track.

All is done by the commands' own functions, so a contest is resumable, and its folders are those of
`refbench run`: OUT/dataset, OUT/runs, OUT/results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from refbench.bench.dataset import Track, load_track
from refbench.bench.devices import one_device
from refbench.bench.environment import missing_packages
from refbench.bench.errors import UserError
from refbench.bench.runner.evaluate import Evaluated, Evaluation, PreparedEvaluation
from refbench.bench.runner.run import MethodsDone, MethodsRun, run_methods
from refbench.bench.runs.folder import run_folder
from refbench.mini.benchmark import write_mini_dataset
from refbench.mini.track import MINI, SAMPLES_PER_CATEGORY
from refbench.mini.weights import TRAINED
from refbench.mini.world import FPS, NUM_FRAMES, SIZE_PX

DATASET, RUNS, RESULTS = "dataset", "runs", "results"
CEILING = "world-truth"
OURS, TEXT_ONLY = "refalign-mini", "mini-text-only"
GENERATORS = (OURS, "refalign-mini-no-ra", TEXT_ONLY)
CONTROLS = ("static-reference", "pan-reference", "flash-frame", "noise", "black")
# The judge of the drawn world runs here; a contest asks nobody and spends nobody's money.
METRIC_OPTIONS = {"naturalscore": {"backend": "local"}}
SHUFFLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What is generated and scored, and where; `per_category` samples of each of the eight categories.

    `shuffled`: our method is generated once more, with other samples' references.
    """

    out: Path
    per_category: int = SAMPLES_PER_CATEGORY
    methods: Sequence[str] = (CEILING, *GENERATORS, *CONTROLS)
    weights: Path = TRAINED
    device: str = "auto"
    shuffled: bool = True

    @property
    def results(self) -> Path:
        """The folder of the score stores."""
        return self.out / RESULTS

    @property
    def limit(self) -> int:
        """How many samples that is: the track's list goes through the categories in turn."""
        return self.per_category * len(MINI.category_counts)

    @cached_property
    def track(self) -> Track:
        """The track, whose pictures are written first. Raises OSError."""
        write_mini_dataset(self.out / DATASET)
        return load_track(MINI.name, self.out / DATASET)

    def run(self) -> MethodsDone:
        """Generate and score all methods, then the first generator with other samples' references.

        Raises UserError where packages or weights are missing.
        """
        if not self.weights.is_dir():
            raise UserError(
                f"there are no trained weights in {self.weights}: refbench mini build makes them, then "
                "--weights mini-build/weights; refbench demo --quick needs none"
            )
        absent = missing_packages(("torch", "diffusers", "onnxruntime", "openai"), "metrics,baselines")
        if absent is not None:
            raise UserError(absent)
        run = MethodsRun(
            methods=self.methods,
            track=self.track,
            limit=self.limit,
            assignments=_assignments(self.methods),
            devices=one_device(self.device),
            weights=self.weights,
            runs=self.out / RUNS,
            out=self.results,
        )
        done = run_methods(run)
        if not self.shuffled:
            return done
        shuffled = run_methods(
            replace(run, methods=[OURS], assignments=_assignments([OURS]), shuffled_references=SHUFFLE_SEED)
        )
        return MethodsDone(
            evaluated=[*done.evaluated, *shuffled.evaluated],
            generation_failed=done.generation_failed or shuffled.generation_failed,
        )

    def score_against_others(self, done: MethodsDone) -> Evaluated:
        """Score the first generator's own videos again, against other samples' references."""
        ours = next(one for one in done.evaluated if one.run_key.method == OURS)
        assert ours.folder.info is not None
        return PreparedEvaluation(
            Evaluation(
                videos=run_folder(self.out / RUNS, OURS, MINI.name, ours.folder.info.variant),
                track=self.track,
                limit=self.limit,
                options=METRIC_OPTIONS,
                devices=one_device(self.device),
                weights=self.weights,
                out=self.results,
                shuffled_references=SHUFFLE_SEED,
            )
        ).run()


def _assignments(methods: Sequence[str]) -> list[str]:
    """The metrics' options, and the controls' for the size of the world's videos, as `NAME.KEY=VALUE`."""
    size = {"width": SIZE_PX, "height": SIZE_PX, "num_frames": NUM_FRAMES, "fps": FPS}
    options = METRIC_OPTIONS | {method: size for method in methods if method in CONTROLS}
    return [f"{owner}.{key}={value}" for owner, values in options.items() for key, value in values.items()]
