"""Settings as files keep them: by dotted names, and what earlier versions of a file stood for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from refbench.baselines.wan.prompts import MAX_TEXT_TOKENS
from refbench.baselines.wan.spec import WAN22_T2V_BOUNDARY
from refbench.bench.registry import Registry
from refbench.refalign.losses import losses as known_losses
from refbench.refalign.reference_inputs import reference_inputs as known_inputs
from refbench.refalign.training.settings import RELEASED_PATCH, TrainingConfig

# The sections that plugins fill, by what stands in them.
PLUGIN_SECTIONS: dict[str, Registry[Any]] = {"losses": known_losses, "reference_inputs": known_inputs}
# What settings that older files do not name stood for.
SETTINGS_OF_BEFORE: dict[str, Any] = {
    "data.open_shards": 1,
    "data.mixture": [],
    "data.buckets": [],
    "data.references.augmentation.rotation_degrees": 0.0,
    "data.references.augmentation.scale": 0.0,
    "data.references.augmentation.flip": 0.0,
    "data.references.augmentation.shear_degrees": 0.0,
    "data.references.augmentation.blur_px": 0.0,
    "data.references.augmentation.colour": 0.0,
    "model.expert": None,
    "model.boundary": WAN22_T2V_BOUNDARY,
    "lora.rslora": False,
    "lora.dora": False,
    "model.text_rows": MAX_TEXT_TOKENS,
    "model.patch": RELEASED_PATCH,
    "flow.sampling": "bell",
    "flow.logit_mean": 0.0,
    "flow.logit_scale": 1.0,
    "flow.lowest_timestep": 0.0,
    "flow.highest_timestep": 1000.0,
    "optimizer.schedule": "constant",
    "optimizer.final_rate": 0.0,
    "optimizer.schedule_steps": None,
    "optimizer.weight_decay_on": "all",
}
# Where the settings are that stood directly in `data` in version 1 of the files that store a configuration.
MOVED_DATA_SETTINGS = {
    "width": "clip.width",
    "height": "clip.height",
    "num_frames": "clip.num_frames",
    "stride": "clip.stride",
    "max_references": "clip.max_references",
    "cross_pair_probability": "references.cross_pair",
    "gpt_probability": "references.gpt",
    "no_text": "dropout.text",
    "no_references": "dropout.references",
    "neither": "dropout.both",
}


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by their dotted names: `{"data": {"workers": 2}}` is `{"data.workers": 2}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": each for key, each in flat_settings(value).items()}
        else:
            flat[name] = value
    return flat


def without_idle(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings without those of losses and inputs of plugins that are not enabled: they change nothing,
    and are there only while the plugin is.
    """

    def idle(key: str) -> bool:
        section, _, rest = key.partition(".")
        owner = f"{section}.{rest.partition('.')[0]}"
        return section in PLUGIN_SECTIONS and flat.get(f"{owner}.enabled") is not True

    return {key: value for key, value in flat.items() if not idle(key)}


def in_stored_order(config: TrainingConfig, stored: Mapping[str, Any]) -> TrainingConfig:
    """The configuration, going through one shard after the other where stored settings are from before
    `data.open_shards` was one: that was the order then.
    """
    data = stored.get("data")
    if isinstance(data, Mapping) and "open_shards" in data:
        return config
    return replace(config, data=replace(config.data, open_shards=1))


def nested_data_settings(settings: Any) -> Any:
    """Stored settings of version 1, whose `data` was flat, in the layout of `TrainingConfig`.

    What is no such mapping is returned as it is, for the reader of the file to refuse.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("data"), Mapping):
        return settings
    data = {name: value for name, value in settings["data"].items() if name not in MOVED_DATA_SETTINGS}
    sections: dict[str, dict[str, Any]] = {}
    for name, new_name in MOVED_DATA_SETTINGS.items():
        if name in settings["data"]:
            section, _, field_name = new_name.partition(".")
            sections.setdefault(section, {})[field_name] = settings["data"][name]
    return {**settings, "data": data | sections}
