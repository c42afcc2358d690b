"""What metrics share that compare what NexusScore's search for subjects and FaceSim's search for faces find.

Registers nothing. In a turn with NexusScore and FaceSim their networks are in memory once, and a video is
looked at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from refbench.bench.environment import Environment
from refbench.bench.metric import Metric, Scorer
from refbench.metrics.facesim import FaceSim, FaceSimOptions, FaceSimScorer
from refbench.metrics.nexusscore import NexusScore, NexusScorer
from refbench.metrics.weights import CLIP_VIT_B32, GME_QWEN2_VL, OPENS2V_WEIGHT

WEIGHTS = (OPENS2V_WEIGHT, CLIP_VIT_B32, GME_QWEN2_VL)
PACKAGES = tuple(dict.fromkeys((*NexusScore.declaration.packages, *FaceSim.declaration.packages)))
JOB_LIMIT_S = NexusScore.declaration.job_limit_s + FaceSim.declaration.job_limit_s
SHARES = (NexusScore.declaration.name, FaceSim.declaration.name)


@dataclass(frozen=True, kw_only=True)
class OfBothScorer(Scorer):
    """Compares what NexusScore and FaceSim find; metrics of one turn find it once."""

    nexusscore: NexusScorer
    facesim: FaceSimScorer

    def provenance(self) -> dict[str, Any]:
        """NexusScore's precisions and pairs per pass, and the digests of all files of both."""
        said = self.nexusscore.provenance()
        return said | {"weights": {**said["weights"], **self.facesim.search.weights}}

    def close(self) -> None:
        """Let go of the networks."""
        self.nexusscore.close()
        self.facesim.close()


class OfBoth(Metric):
    """Needs everything of NexusScore and FaceSim; what they hold is shared with them. Subclasses name the
    class of their scorer.
    """

    scorer_class: ClassVar[type[OfBothScorer]]
    modules = tuple(dict.fromkeys((*NexusScore.modules, *FaceSim.modules)))
    Options = FaceSimOptions

    def find_weights(self, environment: Environment) -> tuple[object, object]:
        """What NexusScore and FaceSim find. Raises MissingWeights."""
        return NexusScore().find_weights(environment), FaceSim(self.options).find_weights(environment)

    def load(self, environment: Environment) -> OfBothScorer:
        """A scorer with the networks of both.

        Raises MissingWeights, and UserError for files that are damaged or do not fit.
        """
        self.find_weights(environment)
        return self.scorer_class(
            nexusscore=NexusScore().load(environment), facesim=FaceSim(self.options).load(environment)
        )
