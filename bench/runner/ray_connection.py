"""The connection to a Ray cluster, which is begun and ended where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from refbench.bench.devices import AUTO
from refbench.bench.environment import usable_cores
from refbench.bench.errors import UserError, one_line

# How long a cluster may take to answer.
LONGEST_ANSWER_S = 30.0
# No reports to Ray's makers, and none of the lines on dead workers that Ray prints on standard output, which
# may be JSON: the driver says itself what becomes of a job.
RAY_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}
# Ray's own name for a cluster of this machine alone, begun for the purpose.
ALONE = "local"
CLIENT_SCHEME = "ray://"
# In a process of its own: an address that accepts connections and then says nothing holds Ray for minutes.
TRY_ADDRESS = """
import os, sys
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
try:
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
except ConnectionError:
    sys.exit(3)
sys.stdout.write(ray.get_runtime_context().gcs_address)
ray.shutdown()
"""
NO_CLUSTER_CODE = 3


def require_ray() -> None:
    """Raises UserError where Ray is not installed."""
    if find_spec("ray") is None:
        raise UserError("--executor ray needs Ray: pip install 'refalign-bench[ray]'")


@contextmanager
def connected(address: str | None, threads: int) -> Iterator[None]:
    """Within the block this process is connected to a cluster, which is left (or ended, if we began it).

    `address` is HOST:PORT, `auto` (the cluster of this machine, which must be there), `local` (Ray is started
    on this machine alone) or None: the cluster of RAY_ADDRESS or of this machine if there is one, else as
    `local`. A connection that is there already is used and stays. Raises UserError for a cluster that is not
    there or does not answer in time.
    """
    require_ray()
    for name, value in RAY_VARIABLES.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    where = _answering(address)
    alone = {} if where else {"num_cpus": usable_cores(), "include_dashboard": False}
    try:
        ray.init(
            address=where or ALONE,
            log_to_driver=False,
            logging_level="ERROR",
            # As in worker processes of this machine; Ray would set the cores of each actor.
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            **alone,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(f"Ray could not be used ({where or 'this machine'}): {one_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _answering(address: str | None) -> str | None:
    """The address of a cluster that answers, or None where none was asked for and none is there."""
    named = address or os.environ.get("RAY_ADDRESS") or None
    if named == ALONE:
        return None
    if named is not None and named.startswith(CLIENT_SCHEME):
        raise UserError(
            f"--ray-address {named}: Ray's client is not supported; run refbench on a node of the cluster "
            "(ray job submit) and give HOST:PORT or auto"
        )
    text = f"--ray-address {one_line(named or AUTO, 80)}"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TRY_ADDRESS, named or AUTO],
            capture_output=True,
            text=True,
            timeout=LONGEST_ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{text}: no answer within {LONGEST_ANSWER_S:g} s") from None
    if tried.returncode == 0:
        return tried.stdout.strip()
    if tried.returncode == NO_CLUSTER_CODE and named is None:
        return None
    if tried.returncode == NO_CLUSTER_CODE:
        raise UserError(f"{text}: there is no Ray cluster; start one with ray start, or leave the option out")
    last = (tried.stderr.strip().splitlines() or ["no reason is known"])[-1]
    raise UserError(f"{text} cannot be used: {one_line(last)}")
