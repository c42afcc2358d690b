"""Score videos of your own, made from prompts and references of your own.

You need a folder of videos and a suite: a file with a line for each sample, whose `id` is the video's name.

    {"id": "cup_1", "prompt": "a cup on a table", "references": ["cup.png"], "labels": ["cup"]}

    python examples/score_your_videos.py my_videos/ my_suite.jsonl
    python examples/score_your_videos.py my_videos/ my_suite.jsonl --weights weights --metrics components

Without weights only MotionAmplitude can be scored; the script says what is missing and counts nothing as
zero.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import refbench


def main() -> None:
    parser = argparse.ArgumentParser(description="Score videos of your own.")
    parser.add_argument("videos", type=Path, help="folder of <sample id>.mp4")
    parser.add_argument("suite", type=Path, help="your samples, JSON lines")
    parser.add_argument("--metrics", default="motion-amplitude", help="names, or: components")
    parser.add_argument("--weights", type=Path, help="folder of weights")
    parser.add_argument("--out", type=Path, default=Path("results"), help="where the scores are kept")
    options = parser.parse_args()

    # What is in the store already is not scored again; a video that changed is.
    done = refbench.evaluate(
        options.videos,
        track=refbench.load_suite(options.suite),
        name="mine",
        metrics=options.metrics,
        weights=options.weights,
        out=options.out,
    )

    board = refbench.scoreboard(done.store)
    for result in board.components:
        if result.value is None:
            print(f"{result.label}: not scored")
            continue
        # A mean without its coverage and its interval says little.
        interval = ""
        if result.interval is not None:
            low, high = result.interval
            interval = f", 95 % interval {100 * low:.2f} to {100 * high:.2f}"
        coverage = f"{result.counted} of {result.expected} videos"
        print(f"{result.label}: {100 * result.value:.2f} ({coverage}{interval})")
    if board.total is None:
        print(f"no TotalScore: {board.no_total_because}")
    else:
        print(f"TotalScore: {100 * board.total:.2f}")

    # Every score is a row of a pandas table: here the lowest one of each metric, to look at that video.
    table = refbench.records(done.store)
    lowest = table.loc[table.dropna(subset="value").groupby("metric").value.idxmin()]
    for row in lowest.itertuples():
        print(f"lowest {row.metric}: {row.sample} ({row.value:.4f})")


if __name__ == "__main__":
    main()
