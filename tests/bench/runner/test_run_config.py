"""Runs from a file: what is read, what is refused, what wins, and that a printed file gives the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.cli import Run, complaint, invoke, printed
from refbench.bench.errors import UserError
from refbench.bench.runner import run as runner
from refbench.bench.runner.run_config import KEYS, RUN_FILE, RunConfig, read_run_file, resolved
from refbench.bench.yaml_files import LARGEST_YAML_BYTES, parse_yaml, yaml_text

SMALL = ("num_frames=3", "width=64", "height=48")

TEXTS = st.text(min_size=1)
NAMES = st.text(min_size=1).filter(lambda text: not set(".=") & set(text))
PATHS = st.text(min_size=1).map(Path)
MAYBE_TEXT = st.none() | TEXTS
CONFIGS = st.builds(
    RunConfig,
    methods=st.lists(TEXTS, min_size=1, max_size=3),
    tracks=st.lists(TEXTS, min_size=1, max_size=3),
    dataset=MAYBE_TEXT,
    suite=st.none(),
    seeds=st.lists(st.integers(0, 2**40), min_size=1, max_size=3),
    metrics=MAYBE_TEXT,
    options=st.dictionaries(
        NAMES.filter(lambda name: name != "naturalscore"),
        st.dictionaries(NAMES, st.text(), min_size=1, max_size=3),
        max_size=3,
    ),
    settings=MAYBE_TEXT,
    prompts=st.none() | PATHS,
    references=st.sampled_from(["own", "shuffled"]),
    shuffle_seed=st.integers(0, 9),
    limit=st.none() | st.integers(1, 200),
    workers=st.integers(1, 8),
    devices=TEXTS,
    weights=st.none() | PATHS,
    plugins=st.lists(PATHS, max_size=2),
    runs=PATHS,
    out=PATHS,
    report=PATHS,
    protocol=MAYBE_TEXT,
    judge=st.fixed_dictionaries(
        {}, optional={"model": TEXTS, "url": TEXTS, "budget": st.floats(0, 1e6, allow_subnormal=False)}
    ),
    json_output=st.booleans(),
)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[runner.MethodsRun]:
    """What `refbench run` would do, instead of its being done."""
    runs: list[runner.MethodsRun] = []

    def note_run(run: runner.MethodsRun) -> Any:
        runs.append(run)
        raise UserError("noted")

    monkeypatch.setattr(runner, "run_methods", note_run)
    return runs


@given(config=CONFIGS)
@settings(max_examples=50)
def test_a_written_file_gives_the_same_run(config: RunConfig) -> None:
    text = config.text()
    assert text.replace("\n", "").isprintable()
    content = {key: value for key, value in parse_yaml(text, "x").items() if value is not None}
    again, won = resolved(content, {}, "x")
    assert (again, won) == (config, ())
    assert again.text() == text
    assert again.assignments == config.assignments


WORDS = st.fixed_dictionaries(
    {},
    optional={
        "--seed": st.integers(0, 9),
        "--track": st.sampled_from(["open-domain", "human-domain"]),
        "--metrics": st.sampled_from(["components", "motion-amplitude", "all", "naturalscore,gmescore"]),
        "--set": st.sampled_from(["noise.num_frames=5", "noise.width=0064", "naturalscore.runs=1"]),
        "--references": st.sampled_from(["own", "shuffled"]),
        "--shuffle-seed": st.integers(0, 3),
        "--limit": st.integers(1, 9),
        "--workers": st.integers(1, 3),
        "--device": st.sampled_from(["cpu", "auto"]),
        "--out": st.sampled_from(["results", "no", "1.10", "a b: c", "\u4e2d", "'#"]),
        "--weights": st.sampled_from(["null", "~", "w"]),
        "--protocol": st.sampled_from(["opens2v-1.0", "opens2v-1.1"]),
        "--judge-model": st.sampled_from(["true", "a model"]),
    },
)


@given(options=WORDS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_command_line_and_the_file_it_prints_are_the_same_run(
    options: dict[str, object],
    dataset: Path,
    tmp_path: Path,
    planned: list[runner.MethodsRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "require_named", lambda *_: None)
    # A judge, or its runs, can be set for where it runs only.
    if options.get("--metrics") == "motion-amplitude":
        options = {key: value for key, value in options.items() if key not in ("--judge-model", "--set")}
    words = [f"{key}={value}" for key, value in options.items()]
    command = ("run", "noise", "static-reference", "--dataset", dataset, *words)
    text = printed(*command, "--print-config")
    file = tmp_path / "printed.yaml"
    file.write_text(text, encoding="utf-8")
    assert printed("run", "--config", file, "--print-config") == text
    planned.clear()
    assert complaint(*command) == complaint("run", "--config", file) == "noted"
    first, second = planned
    # What `NAME.KEY=VALUE` stands first in is not part of a run.
    assert sorted(first.assignments) == sorted(second.assignments)
    assert first == second
    stored = first.out / RUN_FILE
    assert stored.read_text(encoding="utf-8") == text


def test_every_option_of_run_has_its_key() -> None:
    from typer.main import get_command

    from refbench.bench.cli.main import app
    from refbench.bench.cli.work import RUN_KEYS

    command = get_command(app).get_command(None, "run")  # type: ignore[attr-defined]
    of_every_command = {"wide", "quiet", "verbose", "help", "config", "print_config"}
    names = {option.name for option in command.params} - of_every_command
    assert {RUN_KEYS.get(name, name) for name in names} == set(KEYS) - {"schema_version"}


def test_a_run_from_a_file_is_done_over_its_tracks_and_kept_beside_the_scores(
    refbench: Run, dataset: Path
) -> None:
    options = "".join(f"    {one.replace('=', ': ')}\n" for one in SMALL)
    (refbench.folder / "mine.yaml").write_text(
        f"methods: noise\ntracks: [open-domain, human-domain]\ndataset: {dataset}\nlimit: 2\n"
        f"metrics: [motion-amplitude]\nout: scores\noptions:\n  noise:\n{options}"
    )
    done = refbench("run", "--config", "mine.yaml", "--limit", 1)
    assert "the command line wins over mine.yaml: limit" in done.stderr
    stored = refbench.folder / "scores" / RUN_FILE
    config, _ = resolved(read_run_file(stored), {}, "stored")
    assert (config.limit, config.metrics) == (1, "motion-amplitude")
    assert sorted(path.name for path in (refbench.folder / "scores").iterdir()) == ["noise", RUN_FILE]
    for track in ("open-domain", "human-domain"):
        assert (refbench.folder / f"scores/noise/{track}.jsonl").is_file()
        assert len(list((refbench.folder / f"runs/noise/{track}").rglob("*.mp4"))) == 1
        assert track in done.stdout
    before = stored.read_bytes()
    refbench("run", "--config", stored)
    assert stored.read_bytes() == before


def test_what_is_wrong_ends_before_anything_is_written(refbench: Run, dataset: Path) -> None:
    for words in (["nose"], ["noise", "--set=noise.frames=3"], ["noise", "--metrics=aesthetics"]):
        refbench("run", *words, "--dataset", dataset, expect=2)
    assert not list(refbench.folder.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("track: open-domain", "unknown key 'track'; did you mean tracks"),
        ("metods: [a]", "unknown key 'metods'; did you mean methods"),
        ("judge: {modle: x}", "judge: unknown key 'modle'; did you mean model?"),
        ("judge: {api_key: sk-12345}", "judge: unknown key 'api_key'; known: model, url, budget"),
        ("judge: gpt", "judge: "),
        ("- noise", "a run is a list of keys with values (methods: …), not one list"),
        ("noise", "not one text"),
        ("methods: noise\nmethods: noise", "the key 'methods' stands twice"),
        ("methods: &m [a, b]\ntracks: *m", "an alias (*name) is not taken here (line 2)"),
        ("methods: !!python/object/apply:os.system [ls]", "a tag (!name) is not taken here"),
        ("methods: [a", "no plain YAML"),
        ("methods: a\n\tlimit: 3", "no plain YAML"),
        ("\0", "no plain YAML"),
        ("limit: many", "limit: Input should be a valid integer"),
        ("limit: 0", "limit: Input should be greater"),
        ("seeds: []", "seeds: "),
        ("seeds: {a: b}", "seeds: "),
        ("methods: [[a]]", "methods.0: Input should be a valid string"),
        ("options: {noise: 3}", "options.noise: Input should be a valid dict"),
        ("options: {noise: {width: [1, 2]}}", "options.noise.width: Input should be a valid string"),
        ("devices: {a: b}", "devices: Input should be a valid string"),
        ("schema_version: '2'", "schema_version: "),
        ("json: perhaps", "json: "),
        ("[" * 5000, "no plain YAML: nested too deeply"),
        ("? [a]\n: b", "no plain YAML"),
        ("judge: {model: a}\noptions: {naturalscore: {model: b}}", "the judge's model is given twice"),
        ("x: '" + "a" * LARGEST_YAML_BYTES + "'", "is larger than 256 KiB"),
        ("methods: []", "name a method to run"),
        ("", "name a method to run"),
    ],
)  # fmt: skip
def test_hostile_and_mistaken_files_are_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    line = complaint("run", "--config", file)
    assert said in line
    assert len(line) < 500 and "sk-12345" not in line


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "naturalscore.api_key=sk-12345"],
        ["--judge-url", "https://me:sk-12345@host/v1"],
        ["--set", "naturalscore.url=https://host/v1?key=sk-12345"],
    ],
)
def test_a_judges_key_is_never_written(words: list[str], dataset: Path, tmp_path: Path) -> None:
    for more in (["--print-config"], ["--dataset", str(dataset), "--out", str(tmp_path / "out")]):
        done = invoke("run", "noise", *words, *more, expect=2)
        assert "sk-12345" not in done.output
    assert not (tmp_path / "out").exists()


def test_of_two_the_command_line_wins_and_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "methods: [noise]\nseeds: [1, 2]\nsuite: mine.jsonl\nout: a\nweights:\n"
        "options: {noise: {width: 64, num_frames: 3}}\njudge: {model: a, url: 'http://a'}\n"
    )
    words = ("--seed=5", "--set=noise.width=32", "--set=noise.height=32", "--judge-model=b", "--out=results")
    done = invoke("run", "--config", file, *words, "--dataset=d", "--print-config")
    said = "seeds, options.noise.width, out, judge.model"
    assert sorted(done.stderr.rstrip("\n").rpartition(": ")[2].split(", ")) == sorted(
        [*said.split(", "), "suite"]
    )
    config, _ = resolved(parse_yaml(done.stdout, "x"), {}, "x")
    assert config.seeds == (5,) and config.suite is None and config.dataset == "d"
    assert config.tracks == ("open-domain",) and str(config.out) == "results"
    assert config.options == {"noise": {"width": "32", "num_frames": "3", "height": "32"}}
    assert (config.judge.model, config.judge.url) == ("b", "http://a")
    assert not invoke("run", "--config", file, "--limit=1", "--print-config").stderr


def test_values_stay_what_was_typed() -> None:
    content = parse_yaml("a: no\nb: 1.10\nc: 2026-01-02\nd: ~\ne: '~'\nf:\ng: ''\nh: 0o7\n", "x")
    expected = ["no", "1.10", "2026-01-02", None, "~", None, "", "0o7"]
    assert list(content.values()) == expected
    assert parse_yaml(yaml_text(content), "x") == content


@given(text=st.text(st.sampled_from("[]{}:,-?&*!|>'\"%@#~ \n\tab0\x00\x85\ufeff\ud800"), max_size=40))
@settings(max_examples=200)
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        content = parse_yaml(text, "x")
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith("x: ")
    else:
        assert content is None or isinstance(content, str | list | dict)
