"""Losses, inputs, teachers, recipes and data of one's own: what goes wrong is one line with its place, and
what a loss is given is what the interface says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="RefAlign needs the extra 'refalign'")
for package in ("diffusers", "accelerate", "pycocotools"):
    pytest.importorskip(package, reason="RefAlign needs the extra 'refalign'")

from kit.cli import invoke  # noqa: E402
from kit.training import SHORT_RUN, files_of, logged_steps, own_registries  # noqa: E402
from refbench.bench.errors import UserError  # noqa: E402
from refbench.bench.registry import load_plugins  # noqa: E402
from refbench.refalign.alignment import AlignmentConfig, ReferenceAlignment, timestep_gate  # noqa: E402
from refbench.refalign.losses import LossInputs, TokenWidths, losses  # noqa: E402
from refbench.refalign.teacher import Teacher, get_teacher_spec  # noqa: E402
from refbench.refalign.training.recipes import build_config  # noqa: E402

LOSS = """\
import torch
from refbench.refalign.losses import *
from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class Wide(LossOptions):
    width: int
@losses.register
class Mine(AlignmentLoss):
    declaration = LossDeclaration(name="mine", terms=("size",), summary="s", source="t")
    def needs(self):
        return LossNeeds(reference_blocks=(0,), video_blocks=(1, 0), frame_teachers=("dinov3-vitb16",))
    def build(self, widths):
        return MineModule(widths)

class MineModule(LossModule):
    def __init__(self, widths):
        super().__init__()
        self.layer = torch.nn.Linear(widths.generator, widths.teachers["dinov3-vitb16"])
    def terms(self, inputs):
        tokens = self.layer(inputs.video_tokens[0] + inputs.video_tokens[1])
        size = (tokens - inputs.frame_features["dinov3-vitb16"]).square().mean(dim=(1, 2))
        return {"size": size + inputs.reference_tokens[0].square().mean(dim=(1, 2))}
"""
MINE = "losses.mine.enabled=true"
Train = Callable[..., str]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Other tests do not see what the plugins register."""
    with own_registries():
        yield


@pytest.fixture
def train(weights: Path, clips: Path, tmp_path: Path) -> Train:
    """`refbench train tiny` with a plugin of this text, as in a process of its own; what it said on standard
    error.
    """
    from accelerate.state import AcceleratorState

    def run(text: str, *words: object, steps: int = 1, data: str = "", expect: int = 0) -> str:
        AcceleratorState._reset_state(reset_partial_state=True)
        plugin = tmp_path / "mine.py"
        plugin.write_text(text)
        given = ("--plugin", plugin, "--weights", weights, "--data", f"{data}{clips}")
        words = (*given, *SHORT_RUN, *words, f"run.max_steps={steps}")
        if "--out" not in words:
            words = (*words, "--out", tmp_path / "run")
        with own_registries():
            return invoke("train", "tiny", *words, expect=expect).stderr

    return run


def line_of(text: str, part: str) -> int:
    """The line of the first `part` in a text, from 1 on."""
    return text[: text.index(part)].count("\n") + 1


def test_a_loss_beside_ra_is_logged_under_its_own_name(train: Train, tmp_path: Path) -> None:
    train(LOSS, MINE, "losses.mine.weight=0.25", "log.every=1", "--out", tmp_path / "both", steps=2)
    for row in logged_steps(tmp_path / "both"):
        assert row["mine"] == pytest.approx(0.25 * row["mine_size"], rel=1e-6)
        assert row["loss"] == pytest.approx(row["flow"] + row["ra"] + row["mine"], rel=1e-6)
    keys = {
        key for file in files_of(tmp_path / "both" / "checkpoints" / "step-00000002").values() for key in file
    }
    assert {"mine.layer.weight", "losses.mine.layer.weight/exp_avg"} <= keys
    assert sum(".input_mlp." in key for key in keys) == 2 * 2


def test_a_loss_of_weight_zero_is_measured_and_changes_nothing(train: Train, tmp_path: Path) -> None:
    train(LOSS, "--out", tmp_path / "without", steps=2)
    train(LOSS, MINE, "losses.mine.weight=0", "--out", tmp_path / "measured", steps=2)
    without, measured = (tmp_path / name / "checkpoints/step-00000002" for name in ("without", "measured"))
    assert files_of(without)["optimizer.safetensors"] == files_of(measured)["optimizer.safetensors"]
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert files_of(without)[name] == files_of(measured)[name]
    rows = logged_steps(tmp_path / "measured")
    assert all(row["mine"] == 0 < row["mine_size"] for row in rows)
    plain = [{key: row[key] for key in row if not key.startswith("mine")} for row in rows]
    assert plain == logged_steps(tmp_path / "without")


def test_an_idle_loss_does_not_hinder_a_resumed_run(train: Train, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    train(LOSS, *out)
    assert "step 2 is reached" in train(LOSS, *out, "--resume", "losses.mine.weight=3", steps=2)
    told = train(LOSS, *out, "--resume", MINE, steps=3, expect=2)
    assert "was trained with losses.mine.enabled=None, not True; give the same settings" in told


@pytest.mark.parametrize(
    ("wrong", "right", "told", "marks"),
    [
        ("size.mean()", "size", r"for the term 'size' the shape \(\), not \(1,\): one value", "def terms"),
        ("size.long()", "size", r"for the term 'size' torch\.int64, not floating", "def terms"),
        ("{}", '{"size": size}', r"no terms: a mapping of names", "def terms"),
        ('{"width": size}', '{"size": size}', r"the terms width, its declaration names size", "def terms"),
        (
            "size / 0",
            "size",
            r"the term mine_size of the loss 'mine' .* of step 1 is not finite",
            "def terms",
        ),
        ("undefined", "size", r"failed: NameError: name 'undefined' is not defined", "return {"),
    ],
)
def test_wrong_terms_are_one_line(
    train: Train, tmp_path: Path, wrong: str, right: str, told: str, marks: str
) -> None:
    start = LOSS.index("        size = ")
    good = (
        '        size = inputs.reference_tokens[0].square().mean(dim=(1, 2))\n        return {"size": size}\n'
    )
    given = good.replace(right, wrong) if right.startswith("{") else good.replace(": size", f": {wrong}")
    text = LOSS[:start] + given
    said = train(text, MINE, "run.samples_per_step=1", expect=2)
    complaint = said.splitlines()[-1]
    assert re.search(told, complaint), complaint
    assert f"{tmp_path / 'mine.py'}, line {line_of(text, marks)})" in complaint
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('name="mine"', 'name="ra"', r", line 7: two losses are called 'ra': "),
        ('name="mine"', 'name="Mine"', r", line 8: Mine: a name is of a-z, 0-9 and _, 'Mine' is not$"),
        ('terms=("size",)', "terms=()", r", line 8: the loss 'mine' declares no terms$"),
        ("import torch\n", "import torche\n", r", line 1, failed to load: ModuleNotFoundError: No module"),
        ("import torch\n", "import torch torch\n", r", line 1, failed to load: SyntaxError: invalid syntax"),
        ("def build(self", "def built(self", r", line 7: the loss 'mine' .* lacks build$"),
        ("LossNeeds(", "LostNeeds(", r"the loss 'mine' \(\S+, line 11\) failed: NameError"),
        ("video_blocks=(1, 0)", "video_blocks=(4,)", r"the loss 'mine' asks for block 4, the network has 4"),
        ("MineModule(widths)", "None", r"the loss 'mine' \(\S+, line 12\): build\(\) returned NoneType"),
        ('source="t")\n', 'source="t")\n    Options = int\n', r", line 8: Mine\.Options must be a dataclass"),
        (
            'source="t")\n',
            'source="t")\n    Options = Wide\n',
            r"Options needs plain values .*'width'$",
        ),
        ("self.layer =", "self.idle = torch.nn.Linear(1, 1); self.layer =", r"idle\.weight took no part in"),
        ("self.layer =", "self.register_buffer('b', torch.ones(1)); self.layer =", r"keeps the buffer 'b'"),
        (
            'terms=("size",)',
            'terms=("size", "size_x")',
            r"terms size, its declaration names size, size_x",
        ),
        ('name="mine", terms=("size",)', 'name="ra", terms=("x",)', r"two losses are called 'ra'"),
        ('name="mine"', 'name="flow"', r"the loss 'flow' .*, line 7\) would have the column 'flow'"),
        ("dinov3-vitb16", "dinov9", r"no teacher is called 'dinov9'; known: dinov3-vitb16"),
    ],
)
def test_a_plugin_that_does_not_fit_is_one_line(train: Train, before: str, after: str, told: str) -> None:
    assert before in LOSS
    name = "flow" if "flow" in after else "mine"
    said = train(LOSS.replace(before, after), f"losses.{name}.enabled=true", expect=2)
    complaint = said.splitlines()[-1]
    assert re.search(told, complaint), complaint
    assert "Traceback" not in said


def test_names_that_are_taken(tmp_path: Path) -> None:
    head = "from refbench.refalign.training.recipes import *\n"
    teacher = "from refbench.refalign.teacher import *\n"
    data = "from refbench.refalign.data.registered import *\n"
    for number, (text, told) in enumerate(
        (
            (
                f"{head}@register_recipe\ndef tiny(): ...\n",
                r"line 2: two recipes are called 'tiny': .*recipes",
            ),
            (
                f"{teacher}register_teacher('dinov2-base', TeacherSpec(\n"
                "    repository='a/b', kind='own', patch_px=8, width=4, load=print))\n",
                r"line 2: two teachers are called 'dinov2-base'$",
            ),
            (f"{teacher}TeacherSpec(repository='a', kind='own', patch_px=8, width=4)\n", r"needs `load`"),
            (
                f"{data}@register_data_source('a')\ndef one(path, cache): ...\n"
                "@register_data_source('a')\ndef two(path, cache): ...\n",
                r"line 4: two data sources are called 'a': .*, line 2 and .*, line 4$",
            ),
        )
    ):
        file = tmp_path / f"plugin_{number}.py"
        file.write_text(text)
        with pytest.raises(UserError, match=told) as caught:
            load_plugins([file])
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    text = LOSS + (
        "\nfrom dataclasses import replace\n"
        "from refbench.refalign.training.recipes import register_recipe, tiny\n\n"
        "@register_recipe\ndef small_mine():\n"
        "    chosen = {'mine': LossOptions(enabled=True, weight=0.5)}\n"
        "    return replace(tiny(), recipe='small_mine', losses=chosen)\n\n"
        "@register_recipe\ndef misnamed():\n    return tiny()\n"
    )
    (tmp_path / "mine.py").write_text(text)
    load_plugins([tmp_path / "mine.py"])
    config = build_config("small_mine", ["losses.mine.weight=2"])
    assert config.losses["mine"].weight == 2 and config.losses["mine"].enabled
    assert config.plain()["losses"] == {"mine": {"enabled": True, "weight": 2.0}}
    assert build_config("tiny").losses["mine"].enabled is False
    with pytest.raises(
        UserError, match=r"the recipe 'misnamed' \(\S+, line \d+\) returns 'tiny', not a Train"
    ):
        build_config("misnamed")
    with pytest.raises(UserError, match=r"unknown loss 'mime'; did you mean mine\?"):
        build_config("tiny", ["losses.mime.weight=2"])


def test_what_a_loss_is_given(train: Train, weights: Path, clips: Path, tmp_path: Path) -> None:
    """Frames 0, 4, … on the grid of the video's tokens, in the order of the tokens."""
    spy = LOSS.replace(
        "        tokens = self", "        torch.save(vars(inputs), KEPT)\n        tokens = self"
    )
    kept = tmp_path / "kept.pt"
    train(f"KEPT = {str(kept)!r}\n" + spy, MINE, "run.samples_per_step=1", "data.dropout.references=0")
    seen: dict[str, Any] = torch.load(kept, weights_only=True)
    frames, rows, columns = seen["grid"]
    assert (frames, rows, columns) == (2, 3, 4)
    assert seen["video_tokens"][0].shape == (1, 24, 96) and sorted(seen["video_tokens"]) == [0, 1]
    references = seen["subject_BT"].shape[1]
    assert seen["reference_tokens"][0].shape == (1, references, 96) and references % (rows * columns) == 0
    assert 0 <= float(seen["sigmas_B"]) <= 1 and float(seen["timesteps_B"]) > float(seen["sigmas_B"])
    from refbench.refalign.training.run import open_data

    config = build_config("tiny", SHORT_RUN)
    clip = open_data(config, clips, tmp_path / "cache").sample(0, 0).clip
    teacher = Teacher.load("dinov3-vitb16", weights)
    for number, frame in enumerate((0, 4)):
        expected = teacher.features(torch.from_numpy(clip.video_FHWC[frame][None]), (rows, columns))[0]
        found = seen["frame_features"]["dinov3-vitb16"][0].unflatten(0, (frames, rows * columns))[number]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ra_goes_through_the_interface() -> None:
    """Its terms and its loss are those of the functions that the goldens hold."""
    config = AlignmentConfig(blocks=(0, 2), weight=0.3, negative_weight=0.7, teachers=("dinov2-base",))
    loss = ReferenceAlignment(config)
    assert losses.get("ra") is ReferenceAlignment and loss.columns == ("ra", "ra_positive", "ra_negative")
    module = loss.build(TokenWidths(generator=12, teachers={"dinov2-base": 5}))
    torch.manual_seed(0)
    inputs = LossInputs(
        reference_tokens={0: torch.randn(2, 6, 12), 2: torch.randn(2, 6, 12)},
        video_tokens={},
        reference_features={"dinov2-base": torch.randn(2, 6, 5)},
        frame_features={},
        subject_BT=torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1]]),
        timesteps_B=torch.tensor([300.0, 900.0]),
        sigmas_B=torch.tensor([0.3, 0.9]),
        grid=(1, 1, 3),
    )
    from refbench.refalign.alignment import alignment_terms

    projected = module([inputs.reference_tokens[0], inputs.reference_tokens[2]])[0]
    features = inputs.reference_features["dinov2-base"]
    expected = alignment_terms(projected, features, inputs.subject_BT, config)
    terms = module.terms(inputs)
    assert torch.equal(terms["positive"], expected.positive_B)
    assert torch.equal(terms["negative"], expected.negative_B)
    found = module.loss(terms, inputs, weight=config.weight)
    gate_B = timestep_gate(inputs.timesteps_B, config)
    assert torch.equal(found, config.weight * gate_B * expected.total(config))
    absent = replace(inputs, reference_features={"dinov2-base": features * torch.tensor([[[1.0]], [[0.0]]])})
    assert module.applies(inputs).tolist() == [True, True]
    assert module.applies(absent).tolist() == [True, False]


INPUT = """\
import torch
from refbench.refalign.reference_inputs import *

@reference_inputs.register
class Mine(ReferenceInput):
    declaration = InputDeclaration(name="mine", summary="s", source="t")
    def teachers(self):
        return ("dinov3-vitb16",)
    def build(self, widths):
        return Layer(widths.teachers["dinov3-vitb16"], widths.generator)

class Layer(torch.nn.Linear):
    def forward(self, given):
        return super().forward(given.features["dinov3-vitb16"])
"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "(given.feat",
            "(2 * given.fit",
            r"input 'mine' \(\S+, line 14\) failed: AttributeError",
        ),
        (
            "widths.generator",
            "5",
            r"'mine' \(\S+, line 13\) returned \(1, \d+, 5\), not .* \(1, \d+, 96\)$",
        ),
        ("return Layer(", "return max(", r"'mine' \(\S+, line 9\): build\(\) returned int, not a module"),
        ('vitb16",)', 'vitx",)', r"no teacher is called 'dinov3-vitx'"),
        ("return super().forward(", "return self.weight.sum() * (", r"returned \(1, \d+, \d+\), not"),
        ('name="mine"', 'name="my input"', r"line 5: Mine: a name is of a-z, 0-9 and _, 'my input' is not$"),
    ],
)
def test_an_input_that_does_not_fit_is_one_line(train: Train, before: str, after: str, told: str) -> None:
    assert before in INPUT
    words = ("reference_inputs.mine.enabled=true", "run.samples_per_step=1")
    said = train(INPUT.replace(before, after, 1), *words, expect=2)
    assert re.search(told, said.splitlines()[-1]), said


TEACHER = """\
import torch
from refbench.refalign.teacher import TeacherSpec, register_teacher

class Colours(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, pixels):
        patches = torch.nn.functional.avg_pool2d(pixels, 8) * self.scale
        return patches.flatten(2).transpose(1, 2)

register_teacher("colours", TeacherSpec(
    repository="me/colours", kind="own", patch_px=8, width=3, load=lambda folder: Colours(),
))
"""
COLOURS = ("alignment.teachers=colours", "data.dropout.references=0", "data.dropout.both=0")


@pytest.fixture
def colours(weights: Path) -> None:
    """The files of the teacher: it needs a folder to be found by."""
    folder = weights / "me" / "colours"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")


@pytest.mark.usefixtures("colours")
def test_a_teacher_of_ones_own(train: Train, weights: Path, tmp_path: Path) -> None:
    train(TEACHER, *COLOURS)
    (row,) = logged_steps(tmp_path / "run")
    assert row["ra_positive"] is not None
    load_plugins([tmp_path / "mine.py"])
    teacher = Teacher.load("colours", weights)
    picture = torch.full((1, 16, 24, 3), 255, dtype=torch.uint8)
    white = (1 - torch.tensor(get_teacher_spec("colours").mean)) / torch.tensor(teacher.spec.std)
    torch.testing.assert_close(teacher.features(picture, (2, 3)), white.expand(1, 6, 3))


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("transpose(1, 2)", "transpose(0, 1)", r"\(\S+, line 8\) returned \(.*\), not tokens \(1, 48, 3\)"),
        ("self.scale\n", "self.scale / 0\n", r"\(\S+, line 8\) returned tokens that are not finite"),
        ("pixels, 8", "pixels, '8'", r"the teacher \(\S+, line 9\) failed: TypeError"),
        ("Colours(),", "1 / 0,", r"the teacher's load\(\) \(\S+, line 13\) failed: ZeroDivisionError"),
    ],
)
def test_a_teacher_that_does_not_fit_is_one_line(train: Train, before: str, after: str, told: str) -> None:
    assert before in TEACHER
    said = train(TEACHER.replace(before, after), *COLOURS, expect=2)
    assert re.search(told, said.splitlines()[-1]), said


DATA = """\
import numpy as np
from refbench.refalign.data.registered import register_data_source
from refbench.refalign.data.sample import Clip
from refbench.refalign.data.source import ClipSource

class Part:
    name = "all"
    def __len__(self):
        return 3
    def digest(self):
        return "0" * 64

class Drawn(ClipSource):
    def __init__(self, path):
        self.path = path
        self.shards = [Part()]
    def name(self, shard, number):
        return f"drawn {number}"
    def clip(self, shard, number, rule, rates, draws):
        size = (rule.height, rule.width, 3)
        video = np.full((rule.num_frames, *size), 40 * number, np.uint8)
        return Clip(key=f"drawn {number}", prompt="grey", video_FHWC=video,
                    references_NHWC=video[:1], labels=("grey",), first_frame=0)

@register_data_source("drawn")
def open_drawn(path, cache):
    return Drawn(path)
"""


def test_data_of_ones_own(train: Train, tmp_path: Path) -> None:
    said = train(DATA, data="drawn:")
    assert "data: 3 clips in" in said and np.isfinite(logged_steps(tmp_path / "run")[0]["loss"])


def test_buckets_of_data_of_ones_own(train: Train, tmp_path: Path) -> None:
    size = "    def size(self, shard, number):\n        return ClipSize(width=64, height=48, frames=5)\n"
    text = DATA.replace("    def clip(", size + "    def clip(").replace(
        "import Clip\n", "import Clip, ClipSize\n"
    )
    train(text, "data.buckets=64x48x5,48x64x5", data="drawn:")
    assert np.isfinite(logged_steps(tmp_path / "run")[0]["loss"])


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "np.uint8)",
            "np.float32)",
            r"the data source 'drawn' \(\S+, line 19\) returned a video of .*float32",
        ),
        ("video[:1]", "video[0]", r"returned references of \(48, 64, 3\) uint8, not \(3, 48, 64, 3\) uint8"),
        ("return Clip(", "return dict(", r"returned a dict, not a Clip"),
        ("40 * number", "40 * nummer", r"the data source 'drawn' \(\S+, line 21\) failed: NameError"),
        ("return Drawn(path)", "return None", r"line 25\) returned a NoneType, not a ClipSource"),
    ],
)
def test_data_that_do_not_fit_are_one_line(train: Train, before: str, after: str, told: str) -> None:
    assert before in DATA
    wrong = train(DATA.replace(before, after), data="drawn:", expect=2)
    assert re.search(told, wrong.splitlines()[-1]), wrong
