"""A run as a file: every option of `refbench run` has its key, and nothing else has one.

    methods: [static-reference, noise]
    tracks: [open-domain]
    seeds: [0, 1]
    options:
      noise: {num_frames: 9}
    judge: {model: gpt-4o-2024-11-20}

A key that is left out has the default of the command line. The key of a judge's endpoint has no place here:
it is read from the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from refbench.bench import DEFAULT_TRACK
from refbench.bench.errors import UserError, first_fault, one_line
from refbench.bench.files import write_text
from refbench.bench.leaderboard_settings import default_seeds
from refbench.bench.options import assignments_by_owner
from refbench.bench.registry import unknown_name
from refbench.bench.scores.record import plain_name
from refbench.bench.yaml_files import read_yaml, yaml_text

RUN_FILE = "run.yaml"
# The metric whose options the section `judge` holds.
JUDGED_METRIC = "naturalscore"
JUDGE_KEYS = ("model", "url", "budget")


def _listed(value: Any) -> Any:
    """A list; one text alone is a list of one."""
    return [value] if isinstance(value, str | Path) else value


def _joined(value: Any) -> Any:
    """A selection of metrics or devices, which may be a list of names."""
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return ",".join(value)
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
# A method's name may hold a dot.
OwnerName = Annotated[str, StringConstraints(pattern=r"^[^=]+$")]
OptionName = Annotated[str, StringConstraints(pattern=r"^[^.=]+$")]


class JudgeConfig(BaseModel):
    """NaturalScore's judge: its name at the endpoint, the endpoint, and the dollars that it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    url: str | None = None
    budget: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class RunConfig(BaseModel):
    """The options of `refbench run` by their names in a file; `tracks` is empty where a suite is given.

    `options` are those of methods and metrics by the owner's name, as texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Literal["1"] = "1"
    methods: Names = ()
    tracks: Names = ()
    dataset: str | None = None
    suite: Path | None = None
    seeds: Annotated[tuple[int, ...], BeforeValidator(_listed)] = Field(default=(0,), min_length=1)
    metrics: Annotated[str | None, BeforeValidator(_joined)] = None
    options: dict[OwnerName, dict[OptionName, str]] = Field(default_factory=dict)
    settings: str | None = None
    prompts: Path | None = None
    references: str = "own"
    shuffle_seed: int = Field(default=0, ge=0)
    samples: Names = ()
    limit: int | None = Field(default=None, ge=1)
    workers: int = Field(default=1, ge=1)
    devices: Annotated[str, BeforeValidator(_joined)] = "auto"
    job_timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    weights: Path | None = None
    plugins: Annotated[tuple[Path, ...], BeforeValidator(_listed)] = ()
    runs: Path = Path("runs")
    out: Path = Path("results")
    report: Path = Path("report")
    protocol: str | None = None
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    # `json` is taken by pydantic itself.
    json_output: bool = Field(default=False, alias="json")

    @model_validator(mode="after")
    def _seeds_of_settings(self) -> RunConfig:
        """A run that names no seeds has those of its methods' settings.

        Raises UserError where one method has the leaderboard's and another has not: all have the same seeds.
        """
        if "seeds" in self.model_fields_set:
            return self
        options = {plain_name(owner): values for owner, values in self.options.items()}
        by_method = {
            method: default_seeds(self.settings, options.get(plain_name(method), {}))
            for method in self.methods
        }
        if len(set(by_method.values())) > 1:
            said = ", ".join(f"{method} {seeds[0]}" for method, seeds in by_method.items())
            raise UserError(f"the methods' settings have different seeds ({said}): say which with --seed")
        seeds = next(iter(by_method.values()), default_seeds(self.settings, {}))
        # A frozen model is complete only now.
        object.__setattr__(self, "seeds", seeds)
        return self

    @property
    def assignments(self) -> list[str]:
        """The options of methods and metrics, the judge's among them, as `NAME.KEY=VALUE`."""
        judge = {key: value for key, value in self.judge.model_dump().items() if value is not None}
        return [
            f"{owner}.{key}={value}"
            for owner, values in [*self.options.items(), *([(JUDGED_METRIC, judge)] if judge else [])]
            for key, value in values.items()
        ]

    def text(self) -> str:
        """The file that gives this run, with every key in it."""
        return yaml_text(self.model_dump(mode="json", by_alias=True))

    def write(self, folder: Path) -> Path:
        """Keep the file as `run.yaml` in a folder, whole or not at all."""
        path = folder / RUN_FILE
        write_text(path, self.text())
        return path


KEYS = tuple(field.alias or name for name, field in RunConfig.model_fields.items())


def read_run_file(path: Path) -> dict[str, Any]:
    """The keys that a file gives, with the judge's options below `judge`.

    Raises UserError, one line, for what is no plain YAML and for an unknown key, with the nearest known ones.
    """
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a run is a list of keys with values (methods: …), not one {_kind(content)}")
    _check_keys(content, KEYS, f"{path}: ")
    judge = content.get("judge")
    if isinstance(judge, dict):
        _check_keys(judge, JUDGE_KEYS, f"{path}: judge: ")
    # What is left empty has its default.
    given = {key: value for key, value in content.items() if value is not None}
    if isinstance(given.get("options"), dict):
        empty = [name for name, values in given["options"].items() if values is None]
        given["options"] = {name: {} if name in empty else held for name, held in given["options"].items()}
    return _with_judge(given, str(path))


def options_by_owner(assignments: Sequence[str]) -> dict[str, dict[str, str]]:
    """`NAME.KEY=VALUE` of a command line as the key `options`."""
    return assignments_by_owner(list(assignments))


def resolved(
    file: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> tuple[RunConfig, tuple[str, ...]]:
    """The run of a file and a command line, and the keys in which the command line wins over the file.

    Lists are replaced as a whole; of options and of the judge each one by itself. A suite takes the place of
    the tracks and the data set, and the other way round. Raises UserError for a value of the wrong kind;
    `where` is what the message calls the file.
    """
    given = _with_judge(given, "the command line")
    merged = dict(file)
    won: list[str] = []
    for rival, own in (("suite", ("tracks", "dataset")), ("tracks", ("suite",)), ("dataset", ("suite",))):
        if given.get(rival) is not None:
            won += [key for key in own if key not in given and merged.pop(key, None) is not None]
    for key, value in given.items():
        held = merged.get(key)
        if key == "judge" and isinstance(held, Mapping) and value:
            won += [f"{key}.{name}" for name in value if held.get(name) is not None]
            merged[key] = {**held, **value}
        elif key == "options" and isinstance(held, Mapping):
            options = dict(held)
            for owner, values in value.items():
                before = options.get(owner)
                before = before if isinstance(before, Mapping) else {}
                won += [f"{key}.{owner}.{name}" for name in values if name in before]
                options[owner] = {**before, **values}
            merged[key] = options
        else:
            won += [key] if key in merged else []
            merged[key] = value
    try:
        config = RunConfig.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}") from None
    if config.suite is None and not config.tracks:
        config = config.model_copy(update={"tracks": (DEFAULT_TRACK,)})
    return config, tuple(dict.fromkeys(won))


def _with_judge(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The keys with the judge's model, url and budget in `judge`, wherever they were given."""
    result = dict(given)
    options = result.get("options")
    judge = result.get("judge") or {}
    if not isinstance(options, Mapping) or not isinstance(judge, Mapping):
        return result
    held = options.get(JUDGED_METRIC)
    if not isinstance(held, Mapping):
        return result
    moved = {key: held[key] for key in JUDGE_KEYS if key in held}
    twice = [key for key in moved if judge.get(key) is not None]
    if twice:
        raise UserError(f"{where}: the judge's {twice[0]} is given twice, as an option and as the judge's")
    if moved:
        rest = {key: value for key, value in held.items() if key not in moved}
        result["options"] = {
            owner: rest if owner == JUDGED_METRIC else values
            for owner, values in options.items()
            if owner != JUDGED_METRIC or rest
        }
        result["judge"] = {**judge, **moved}
    return result


def _check_keys(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(where + unknown_name("key", one_line(key, 60), known))


def _kind(content: Any) -> str:
    return "list" if isinstance(content, list) else "text"
