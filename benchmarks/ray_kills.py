"""Random kills of actors, nodes and drivers on a Ray cluster of this machine, and the tables after them.

    python benchmarks/ray_kills.py [KILLS] [SECONDS]

Rounds of `refbench generate` and `refbench evaluate` run on three nodes of one core each while, at random
moments, the process of an actor, a node or the driver is killed by SIGKILL. A killed node is replaced; after
a killed driver the same command is given again. When a round is over, its videos and its table are compared
byte for byte with those of one process that nobody disturbed. Ends after KILLS kills (50) or SECONDS (1800).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SAMPLES = 24
NODES = 3
# Starting Ray's actors takes seconds: between two kills some work is to be done.
SECONDS_BETWEEN_KILLS = (1.0, 6.0)
PLUGIN = '''
"""A method and a metric that are slow enough to be killed at their work."""
import time

import numpy as np

from refbench.bench.method import Frames, Generator, Method, MethodCard, silent
from refbench.bench.metric import Metric, MetricDeclaration, Score, Scorer
from refbench.bench.registry import methods, metrics
from refbench.bench.video import ALL_FRAMES

STEP_S = 0.3


@methods.register
class SlowGrey(Method):
    name = "slow-grey"
    summary = "grey frames whose level depends on the sample and the seed"

    def card(self):
        return MethodCard(name=self.name, summary=self.summary)

    def load(self, environment):
        return SlowGenerator()


class SlowGenerator(Generator):
    def generate(self, sample, seed, on_step=silent):
        time.sleep(STEP_S)
        level = (7 * sum(map(ord, sample.id)) + 31 * seed) % 200
        return Frames(images=(np.full((48, 64, 3), level + i, np.uint8) for i in range(4)), fps=8)


@metrics.register
class SlowBrightness(Metric):
    declaration = MetricDeclaration(
        name="slow-brightness", version="1", summary="mean pixel value", source="this script"
    )

    def load(self, environment):
        return SlowScorer()


class SlowScorer(Scorer):
    def score(self, sample, video):
        time.sleep(STEP_S)
        return Score(value=float(np.mean([frame.mean() for frame in video.frames(ALL_FRAMES)])))
'''


def generate(plugin: Path, suite: Path, *more: str) -> list[str]:
    """The command that makes the videos in the working folder; `more` says on what."""
    common = ["--suite", str(suite), "--plugin", str(plugin), *more]
    return [sys.executable, "-m", "refbench", "generate", "slow-grey", *common]


def evaluate(plugin: Path, suite: Path, track: str, *more: str) -> list[str]:
    """The command that scores them; a suite's track has a name of its own."""
    common = ["--suite", str(suite), "--plugin", str(plugin), "--metrics", "slow-brightness", *more]
    return [sys.executable, "-m", "refbench", "evaluate", f"runs/slow-grey/{track}", *common, "--json"]


def result(folder: Path, plugin: Path, suite: Path, track: str) -> tuple[dict[str, bytes], bytes]:
    """The videos by name, and the table; what is missing would be scored here, and is not: all is there."""
    command = evaluate(plugin, suite, track)
    table = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    return {path.name: path.read_bytes() for path in sorted(folder.glob("runs/**/*.mp4"))}, table


def actors_of(raylet: int) -> list[int]:
    """The processes of a node's actors."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                name = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == raylet and name.startswith(b"ray::RayWorker"):
                found.append(int(entry.name))
    return found


def kill_one(cluster: Any, driver: subprocess.Popen[bytes], choice: random.Random) -> str | None:
    """Kill something by SIGKILL and say what, or None where it was not there."""
    what = choice.choices(("actor", "node", "driver"), weights=(8, 1, 1))[0]
    workers = [node for node in cluster.list_all_nodes() if not node.head]
    if what == "driver":
        driver.kill()
        return what
    node = choice.choice(workers)
    raylet = node.all_processes["raylet"][0].process.pid
    if what == "actor":
        found = actors_of(raylet)
        if not found:
            return None
        try:
            os.kill(choice.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return None
        return what
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    return what


def disturbed(folder: Path, command: list[str], cluster: Any, choice: random.Random) -> Counter[str]:
    """Give a command until it ends well, and kill at random moments meanwhile; what was killed."""
    killed: Counter[str] = Counter()
    while True:
        driver = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                driver.wait(timeout=choice.uniform(*SECONDS_BETWEEN_KILLS))
                break
            except subprocess.TimeoutExpired:
                what = kill_one(cluster, driver, choice)
                if what is not None:
                    killed[what] += 1
        if driver.returncode == 0:
            return killed


def main(kills: int, seconds: float) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["OMP_NUM_THREADS"] = "1"
    from ray.cluster_utils import Cluster

    choice = random.Random(0)
    killed: Counter[str] = Counter()
    rounds = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plugin = folder / "plugin.py"
        plugin.write_text(PLUGIN)
        suite = folder / "kills.jsonl"
        rows = [{"id": f"thing_{number}", "prompt": "grey", "references": []} for number in range(SAMPLES)]
        suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "alone").mkdir()
        subprocess.run(generate(plugin, suite), cwd=folder / "alone", check=True, capture_output=True)
        (track,) = [path.name for path in (folder / "alone/runs/slow-grey").iterdir()]
        expected = result(folder / "alone", plugin, suite, track)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False},
        )
        for _ in range(NODES):
            cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray = ("--executor", "ray", "--ray-address", cluster.address)
        try:
            while killed.total() < kills and time.monotonic() - begun < seconds:
                rounds += 1
                place = folder / f"round-{rounds}"
                place.mkdir()
                for command in (generate(plugin, suite, *ray), evaluate(plugin, suite, track, *ray)):
                    killed += disturbed(place, command, cluster, choice)
                if result(place, plugin, suite, track) != expected:
                    raise SystemExit(f"round {rounds} differs, after {dict(killed)}")
                spent = time.monotonic() - begun
                print(f"round {rounds}: equal; so far {dict(killed)} killed in {spent:.0f} s", flush=True)
        finally:
            cluster.shutdown()
    print(f"{killed.total()} kills in {rounds} rounds: videos and tables equal to the byte")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kills", nargs="?", type=int, default=50, help="when to end (default: 50)")
    parser.add_argument("seconds", nargs="?", type=float, default=1800, help="at the latest (default: 1800)")
    given = parser.parse_args()
    main(given.kills, given.seconds)
