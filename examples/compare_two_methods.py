"""Compare two methods so that the answer means something.

Both get the same samples and seeds, their videos are scored by the same metrics, and the gap is judged by a
paired bootstrap over the samples: either it tells the two apart, or the script says how large a gap would
have had to be. Whatever else differs between the two is printed beside it.

    python examples/compare_two_methods.py pan-reference noise --dataset OpenS2V-Eval --limit 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import refbench
from refbench.reports.compared import verdict


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two registered methods on one track.")
    parser.add_argument("a", help="a method (refbench methods lists them)")
    parser.add_argument("b", help="another one")
    parser.add_argument("--dataset", required=True, help="copy of OpenS2V-Eval, or a drawn one")
    parser.add_argument("--track", default="open-domain")
    parser.add_argument("--limit", type=int, help="only the first samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="the same for both")
    parser.add_argument("--metrics", default="motion-amplitude", help="names, or: components")
    parser.add_argument("--weights", type=Path, help="folder of weights")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of both methods")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    options = parser.parse_args()

    track = refbench.load_track(options.track, options.dataset)
    for method in (options.a, options.b):
        # Equal options for both. What a method does not know it refuses, and the script ends here.
        run = refbench.generate(
            method,
            track=track,
            seeds=options.seeds,
            options=dict(text.split("=", 1) for text in options.set),
            limit=options.limit,
            weights=options.weights,
            out=options.out / "runs",
        )
        refbench.evaluate(
            run.folder,
            track=track,
            metrics=options.metrics,
            limit=options.limit,
            weights=options.weights,
            out=options.out / "results",
        )

    stores = [options.out / "results" / method for method in (options.a, options.b)]
    compared = refbench.compare(*stores, track=options.track)
    scores = compared.scores
    print(f"A = {scores.a}, B = {scores.b}, {scores.samples} samples of {scores.track}")
    for difference in (scores.total, *scores.components):
        print(verdict(difference))
    for note in scores.notes:
        print(f"note: {note}")
    # A gap may come from what the methods were told, and not from the methods.
    for field in (*(compared.cards or ()), *compared.scoring):
        print(f"differs: {field.field}: {field.a} and {field.b}")


if __name__ == "__main__":
    main()
