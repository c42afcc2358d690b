"""What a run is made from: its data or prepared features, its frozen networks, the network it started from,
and the code of plugins.

A run records them at its start and in every checkpoint (`inputs`, `commit` of `state.json`), and a resumed
one is compared with the record: other data under the same settings is another training. Paths are recorded
and not compared, so folders may move.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from refbench.baselines.wan.checkpoint import checkpoint_files, network_fingerprint, sharded_folder
from refbench.baselines.wan.loading import find_network
from refbench.bench.errors import MissingWeights, UserError, one_line
from refbench.bench.weights.catalogue import get_entry
from refbench.refalign.bases import network_files
from refbench.refalign.data.dataset import TrainingData
from refbench.refalign.training.checkpoints import NETWORK, Checkpoint
from refbench.refalign.training.parts import PLUGIN, code_digests
from refbench.refalign.training.prepare import sample_digest, weight_fingerprints
from refbench.refalign.training.prepared import PreparedSource
from refbench.refalign.training.settings import TrainingConfig

PATH_SUFFIX = ".path"
# Of prepared features: their digest, and how many positions there were.
FILES, POSITIONS = "features.files", "features.positions"


def describe_inputs(
    config: TrainingConfig,
    weights: Path | None,
    data: TrainingData | None,
    features: PreparedSource | None,
    plugins: Iterable[Path] = (),
) -> dict[str, str]:
    """The inputs of a run by name, digests and lengths as text.

    `data.files` is the digest of the lists of clips, `data.first_sample` that of the first clip's pixels;
    features know what they were made of, so a run may change from one to the other. `plugin.NAME` is the
    digest of a plugin's file. Raises UserError.
    """
    found = code_digests(config, plugins)
    if data is not None:
        found |= {
            "data.path": data.path,
            "data.files": data.content_digest(),
            "data.length": str(len(data)),
            "data.first_sample": sample_digest(data),
        }
    if features is not None:
        found |= {
            "features.path": str(features.folder.resolve()),
            FILES: features.digest(),
            POSITIONS: str(features.positions),
        }
        if data is None:
            found |= {"data.length": str(features.length), "data.first_sample": features.first_sample}
            if features.data_files is not None:
                found["data.files"] = features.data_files
    known = features.weights if features is not None else {}
    for name, digest in (known | weight_fingerprints(config, weights)).items():
        found[f"weights.{name}"] = digest
    network = network_digest(config, weights)
    return found if network is None else found | {NETWORK: network}


def network_digest(config: TrainingConfig, weights: Path | None) -> str | None:
    """The digest of the network that a configuration starts from; None where its files are not there."""
    if config.model.transformer is None and config.model.random:
        return f"random, seed {config.run.seed}"
    try:
        if config.model.transformer is not None:
            shards = sharded_folder(config.model.transformer)
            files = checkpoint_files(config.model.transformer) if shards is None else sorted(shards.iterdir())
        else:
            patterns = network_files(config.model.expert)
            files = find_network(get_entry(config.model.base), patterns, weights)
        return network_fingerprint(files)
    except (MissingWeights, UserError):
        # Whoever reads the network says what is missing; a resumed run may not need it any more.
        return None


def other_inputs(before: Mapping[str, str], now: Mapping[str, str], *, adapter: bool) -> list[str]:
    """What differs between a run's record and the inputs at hand, each as `name (before, not now)`.

    What only one of them knows is not compared, nor the network of a run that trains all of it: it goes on
    with its own. `adapter`: the run trains one on top of that network. Plugins are compared by their code,
    whatever their files are called, and their absence counts.
    """
    return _other_code(before, now) + [
        f"{name} ({one_line(before[name], 24)}, not {one_line(now[name], 24)})"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
        and not name.endswith(PATH_SUFFIX)
        and not name.startswith(PLUGIN)
        and (adapter or name != NETWORK)
    ]


def _other_code(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The plugins whose code only one of the two records has."""

    def codes(inputs: Mapping[str, str]) -> dict[str, str]:
        return {
            digest: name
            for name, digest in inputs.items()
            if name.startswith(PLUGIN) and not name.endswith(PATH_SUFFIX)
        }

    then, today = codes(before), codes(now)
    names = sorted({then[digest] for digest in then.keys() - today.keys()})
    names += sorted({today[digest] for digest in today.keys() - then.keys()} - set(names))
    return [
        f"{name} ({one_line(before.get(name, 'none'), 24)}, not {one_line(now.get(name, 'none'), 24)})"
        for name in names
    ]


def grown_features(
    resumed: Checkpoint | None, features: PreparedSource | None, skip: Collection[str]
) -> dict[str, str]:
    """What is compared of features to which positions were added since a run took its last ones; nothing
    where there is no such thing.

    A run that went through its positions again, or that draws substitutes among them, has seen how many there
    were: for it more of them are other features.
    """
    if resumed is None or features is None or skip:
        return {}
    recorded = resumed.state.inputs.get(POSITIONS, "")
    if not recorded.isdecimal() or not resumed.state.consumed_positions <= int(recorded) < features.positions:
        return {}
    return {FILES: features.digest(int(recorded)), POSITIONS: recorded}


def continued_inputs(
    resumed: Checkpoint | None,
    now: Mapping[str, str],
    *,
    adapter: bool,
    accept: bool,
    grown: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, str], list[str]]:
    """(the record that the run goes on with, what differs from the run's own where that is accepted).

    `grown` is what `grown_features` gives. Raises UserError for a run that was made from something else,
    unless `accept`.
    """
    if resumed is None:
        return dict(now), []
    before = resumed.state.inputs
    differing = other_inputs(before, {**now, **grown}, adapter=adapter)
    if differing and not accept:
        raise UserError(
            f"{resumed.folder} was trained with other inputs: {', '.join(differing)}; give the same ones, "
            "start a new run in another --out, or add --accept-other-data to go on with these"
        )
    kept = {NETWORK: before[NETWORK]} if NETWORK in before and not adapter else {}
    # Plugins that are not given any more are no part of what the run is made from.
    gone = {name for name in before.keys() - now.keys() if name.startswith(PLUGIN)}
    goes_on = {name: value for name, value in before.items() if name not in gone}
    return goes_on | dict(now) | kept, differing
