"""`refbench audit`: printed tables held against the formulas and against published rows."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.cli import complaint, invoke, printed, printed_json
from kit.stored_runs import run_info, run_records, store
from refbench.bench.errors import UserError
from refbench.bench.scores.columns import COMPONENTS
from refbench.bench.scores.protocol import get_protocol
from refbench.reports.audit import TableAudit, audit, audit_lines, formulas
from refbench.reports.printed_table import LARGEST_TABLE_BYTES, read_tables
from refbench.reports.published import PublishedRow, disagrees, published_rows, published_sources

SOURCES = {source.file: source for source in published_sources()}
V1_0_SINGLE = "opens2v_leaderboard_1.0_single-domain.csv"
V1_0_OPEN = "opens2v_leaderboard_1.0_open-domain.csv"
V1_1_OPEN = "opens2v_leaderboard_1.1_open-domain.csv"
V1_1_SINGLE = "opens2v_leaderboard_1.1_single-domain.csv"
Row = tuple[str, float, dict[str, float]]


def rows_of(file: str, *names: str) -> list[Row]:
    """The published rows of a file; those of these names, where some are given."""
    rows = [row for row in published_rows(SOURCES[file]) if not names or row.method in names]
    return [(row.method, row.total, dict(row.components)) for row in rows]


def write(path: Path, rows: list[Row], heading: str = "Total") -> Path:
    """A table in the format that the path names, as a paper prints it."""
    names = [name for name in COMPONENTS if any(name in components for _, _, components in rows)]
    headings = ["Method", heading, *(f"{COMPONENTS[name].label}↑" for name in names)]
    cells = [
        [method, f"{total:.2f}", *(f"{parts[name]:.2f}" if name in parts else "-" for name in names)]
        for method, total, parts in rows
    ]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([headings, *cells])
    elif path.suffix == ".md":
        lines = [headings, [":---", *["---:"] * (len(headings) - 1)], *cells]
        path.write_text("# Results\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    else:
        lines = [[text.replace("↑", r"$\uparrow$") for text in headings], *cells]
        body = " \\\\\n".join(" & ".join(line) for line in lines)
        path.write_text(
            "\\begin{tabular}{@{}l"
            + "c" * len(headings)
            + "@{}}\n\\toprule\n"
            + body
            + " \\\\\n\\end{tabular}\n"
        )
    return path


def only(tables: list[TableAudit]) -> TableAudit:
    (table,) = tables
    return table


def components_giving(total: float, protocol: str) -> dict[str, float]:
    """Components of no published row whose total by the protocol is this, before rounding."""
    weights = get_protocol(protocol).open_weights
    made = {name: 41.0 + place for place, name in enumerate(weights)}
    rest = total - sum(weight * made[name] for name, weight in weights.items())
    return made | {"facesim": made["facesim"] + rest / weights["facesim"]}


@pytest.mark.parametrize("file", SOURCES)
def test_every_published_table_follows_its_own_formula(file: str, tmp_path: Path) -> None:
    source = SOURCES[file]
    table = only(audit(write(tmp_path / "table.csv", rows_of(file))))
    assert table.formula is not None
    assert table.formula.protocol.name == source.protocol and source.track in table.formula.tracks
    assert table.origin == (source.protocol, source.track)
    published: list[PublishedRow] = list(published_rows(source))
    for row, given_row in zip(table.rows, published, strict=True):
        assert bool(row.fitting) != disagrees(given_row), row.method
        assert any(one.row == given_row and one.is_whole and one.same_name for one in row.known)


def test_ten_single_domain_baselines_of_1_0_and_two_rows_above_their_components(tmp_path: Path) -> None:
    """arXiv 2504.17816v3, Table 3; its own rows' components are made up here to give the same totals."""
    own: list[Row] = [
        ("CogVideoX-5B, ours", 50.05, components_giving(44.54, "opens2v-1.0")),
        ("Wan2.2-5B, ours", 53.26, components_giving(48.01, "opens2v-1.0")),
    ]
    path = write(tmp_path / "table3.tex", rows_of(V1_0_SINGLE)[:10] + own)
    table = only(audit(path))
    assert table.formula is not None and table.formula.protocol.name == "opens2v-1.0"
    assert [len(row.fitting) for row in table.rows] == [1] * 10 + [0] * 2
    assert table.origin == ("opens2v-1.0", "single-domain")
    text = printed("audit", path)
    assert "10 of 12 totals follow opens2v-1.0, open-domain or single-domain" in text
    assert "! CogVideoX-5B, ours: 50.05 follows from no formula; its components give 44.54" in text
    assert "+5.51 points" in text and "+5.25 points" in text
    assert "opens2v-1.1 could not be tried" in text
    assert "equal to rows of leaderboard v1.0, single-domain" in text


def test_a_row_of_1_1_beside_neighbours_of_1_0(tmp_path: Path) -> None:
    """ID-Crafter's table: own row by one version, baselines by the other."""
    path = write(
        tmp_path / "table.md",
        [*rows_of(V1_0_OPEN), ("ID-Crafter", 58.0, components_giving(58.0, "opens2v-1.1"))],
    )
    table = only(audit(path))
    assert table.formula is not None and table.formula.protocol.name == "opens2v-1.0"
    assert [one.formula.protocol.name for one in table.rows[-1].fitting] == ["opens2v-1.1"]
    text = printed("audit", path)
    assert "! ID-Crafter: follows opens2v-1.1, open-domain or single-domain, unlike the table" in text
    assert table.rows[-1].known == ()


def test_one_model_has_four_official_totals(tmp_path: Path) -> None:
    files = (V1_0_SINGLE, V1_0_OPEN, V1_1_OPEN, V1_1_SINGLE)
    rows = [row for file in files for row in rows_of(file, "VACE-14B")]
    assert [total for _, total, _ in rows] == [58.00, 52.87, 57.55, 61.75]
    table = only(audit(write(tmp_path / "table.csv", rows)))
    for row, file in zip(table.rows, files, strict=True):
        source = SOURCES[file]
        assert (source.protocol, source.track) in {one.origin for one in row.likest}
        assert [one.formula.protocol.name for one in row.fitting] == [source.protocol]


def test_a_row_of_another_track_is_told_by_its_published_twin(tmp_path: Path) -> None:
    """The formula cannot tell: open-domain and single-domain have the same weights."""
    rows = [*rows_of(V1_1_OPEN)[:4], *rows_of(V1_1_SINGLE, "VACE-14B")]
    (line,) = [
        line for line in audit_lines(only(audit(write(tmp_path / "t.csv", rows)))) if line.startswith("!")
    ]
    assert line == (
        "! VACE-14B: equal to the row of opens2v-1.1 single-domain, most other rows to those of opens2v-1.1 "
        "open-domain"
    )


def test_equal_figures_under_another_name_or_with_another_total(tmp_path: Path) -> None:
    ((_, total, components),) = rows_of(V1_1_OPEN, "MAGREF-480P")
    text = printed(
        "audit",
        write(tmp_path / "t.csv", [("MAGREF", total, components), ("Ours", total + 3, components)]),
    )
    assert "! MAGREF: equal to MAGREF-480P in leaderboard v1.1, open-domain, which is another name" in text
    assert "! Ours: its 7 components are those of MAGREF-480P in leaderboard v1.1" in text
    assert "whose total is 52.51 and not 55.51" in text


def test_a_total_alone_is_found_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Model,Total,FaceSim\nVACE-14B,58.00,64.65\nOther,58.00,64.65\n")
    text = printed("audit", path)
    assert "VACE-14B: its total is that of VACE-14B in leaderboard v1.0, single-domain" in text
    assert "none of 2 rows has a total and the components of any formula" in text
    assert "Other: its total" not in text
    assert text.count("not recomputable, without") == 2


def test_the_format_changes_nothing(tmp_path: Path) -> None:
    rows = rows_of(V1_1_OPEN)
    of_csv, of_md, of_tex = (audit(write(tmp_path / f"t.{suffix}", rows)) for suffix in ("csv", "md", "tex"))
    assert of_csv == of_md == of_tex


def test_fractions_are_read_as_percent(tmp_path: Path) -> None:
    rows = rows_of(V1_1_OPEN)
    fractions = [
        (name, round(total / 100, 4), {key: round(value / 100, 4) for key, value in parts.items()})
        for name, total, parts in rows
    ]
    path = tmp_path / "t.csv"
    headings = ["Method", "Total", *COMPONENTS]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [headings, *([name, total, *parts.values()] for name, total, parts in fractions)]
        )
    table = only(audit(path))
    assert [row.total for row in table.rows] == pytest.approx([total for _, total, _ in rows])
    assert all(row.fitting and row.known for row in table.rows)
    assert all(not row.fitting for row in only(audit(path, scale="percent")).rows if row.total == 0)


def test_a_row_of_an_almost_still_video_is_no_mix(tmp_path: Path) -> None:
    rows = rows_of(V1_1_OPEN)[:3]
    rows[0][2]["motion_amplitude"] = 0.87
    assert only(audit(write(tmp_path / "t.csv", rows))).rows[0].components["motion_amplitude"] == 0.87


def test_latex_as_papers_write_it(tmp_path: Path) -> None:
    path = tmp_path / "t.tex"
    path.write_text(
        r"""
% \begin{tabular}{c} not & a \\ table \end{tabular}
\begin{table*}[t]\caption{Results \& more}
\resizebox{\linewidth}{!}{%
\begin{tabular}{@{}l|c ccccccc@{}}
\toprule
\multirow{2}{*}{Method} & \multicolumn{8}{c}{OpenS2V-Eval} \\ \cmidrule(lr){2-9}
Method & Total$\uparrow$ & \shortstack[r]{Motion \\ Smoothness$\uparrow$} & Motion & Aesthetics & FaceSim-Cur
  & \begin{tabular}{c}Gme\\Score\end{tabular} & NexusScore & NaturalScore \\
\midrule
\rowcolor{gray!20}\multicolumn{9}{c}{\textit{Open source}} \\
VACE-14B~\cite{vace,other} & \textbf{57.55\%} & 94.97 & 15.02 & 47.21 & 55.09 & 67.27 & 44.08
  & \underline{67.04}$^{\dagger}$ \\[2pt]
Phantom-14B & 56.77 $\pm$ 0.3 & 96.31 & 33.42 & 46.39 & 51.46 & 70.65 & \textcolor{red}{37.43} (+1) & 69.35\\
None & -- & 96.31 & -- & 46.39 & N/A & & 37.43 & 69.35 \\
\bottomrule
\end{tabular}}
\end{table*}
"""
    )
    vace, phantom, none = only(audit(path)).rows
    assert vace.method == "VACE-14B" and phantom.method == "Phantom-14B"
    assert [one.row.source.file for one in vace.likest] == ["refalign_table1.csv", V1_1_OPEN]
    assert [one.formula.protocol.name for one in phantom.fitting] == ["opens2v-1.1"]
    assert none.total is None and set(none.components) == {
        "motion_smoothness", "aesthetics", "nexusscore", "naturalscore",
    }  # fmt: skip


def test_the_official_leaderboards_own_file(shared: Path) -> None:
    folder = shared / "data" / "opens2v_eval" / "leaderboard"
    for version in ("1.0", "1.1"):
        for file in sorted((folder / f"v{version}").glob("results_*.csv")):
            table = only(audit(file))
            track = file.stem.removeprefix("results_").lower()
            assert table.origin == (f"opens2v-{version}", track)
            assert all(any(one.is_whole and one.same_name for one in row.known) for row in table.rows)


def test_the_tables_of_a_report_can_be_audited(tmp_path: Path) -> None:
    store(tmp_path / "s", run_records("m", ids=("singlehuman_1",)), run_info())
    store(tmp_path / "s", run_records("n", 0.4, ids=("singlehuman_1",)), run_info())
    invoke("report", tmp_path / "s", "-o", tmp_path / "out")
    for suffix in ("md", "tex"):
        (file,) = (tmp_path / "out" / "tables").glob(f"open-domain.components.{suffix}")
        table = audit(file)[0]
        assert [row.method for row in table.rows] == ["m", "n"]
        assert all(row.fitting[0].formula.protocol.name == "opens2v-1.1" for row in table.rows)


def test_json_says_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", rows_of("opens2v_leaderboard_1.0_human-domain.csv"))
    (table,) = printed_json("audit", path)["tables"]
    assert table["formula"] == {"protocol": "opens2v-1.0", "tracks": ["human-domain"]}
    assert table["equal_rows_of"] == ["opens2v-1.0", "human-domain"]
    odd = [row for row in table["rows"] if not any(one["fits"] for one in row["recomputed"])]
    assert [row["method"] for row in odd] == ["EchoVideo"]
    assert odd[0]["recomputed"][0]["difference_points"] == pytest.approx(0.088)
    assert json.loads(json.dumps(table)) == table


def test_open_and_single_domain_are_one_formula() -> None:
    assert [formula.label for formula in formulas()] == [
        "opens2v-1.1, open-domain or single-domain",
        "opens2v-1.1, human-domain",
        "opens2v-1.0, open-domain or single-domain",
        "opens2v-1.0, human-domain",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "Method,Total,CLIP\nA,50,30\n", "holds no table with a total and components"),
        ("t.csv", "Method,FaceSim\nA,50\n", "holds no table with a total and components"),
        ("t.csv", "Method,Total,FaceSin\nA,50,30\nB,1,2\n", "holds no table with a total and components"),
        ("t.csv", "Method,Total,FaceSim,NexusScor\nA,50,30,2\n", "unknown column 'NexusScor'; did you mean"),
        ("t.csv", "Method,Total,FaceSim,Params\nA,50,30,14\n", "--column 'Params=ignore'"),
        ("t.csv", "Method,Total,FaceSim\nA,57.55,0.55\n", "mixes percent and fractions: 57.55 (A, Total)"),
        ("t.csv", "Method,Total,FaceSim\nA,0.57,0.55\nB,57.1,55.1\n", "mixes percent and fractions"),
        ("t.csv", "Method,Total,FaceSim\nA,0.57%,0.55\n", "mixes percent and fractions"),
        (
            "t.csv",
            "Method,Total,FaceSim,Motion\nA,57,55,0.3\nB,57,55,0.4\n",
            "mixes percent and fractions",
        ),
        ("t.csv", "Method,Total,FaceSim\nA,57,abc\n", "'abc' (A, FaceSim) is no number"),
        ("t.csv", "Method,Total,FaceSim\nA,57,nan\n", "'nan' (A, FaceSim) is no number"),
        ("t.csv", "Method,Total,FaceSim\nA,5755,50\n", "5755 (A, Total) is no percentage"),
        ("t.csv", "Method,Total,FaceSim,Face\nA,57,50,50\n", "'FaceSim' and 'Face' are both facesim"),
        ("t.csv", "Method,Total,FaceSim\nA,-,-\n", "holds no row of numbers"),
        ("t.csv", "", "holds no table"),
        ("t.md", "no table here\n", "holds no table"),
        ("t.tex", "\\begin{tabular}{cc} Method & Total", "holds no table with a total and components"),
        ("t.txt", "Method,Total\n", "a printed table is a .csv, .tsv, .tex or .md file"),
        ("t.csv", "Method,Total,FaceSim\nA,57," + "5" * 200_000 + "\n", "cannot be read as a table"),
        ("t.csv", "a," * 200 + "\n", "more than 100 columns"),
        ("t.csv", "Method,Total,FaceSim\n" + "A,57,50\n" * 3000, "more than 2000 rows"),
        ("t.csv", "x" * (LARGEST_TABLE_BYTES + 1), "is larger than 1 MiB"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    assert message in complaint("audit", tmp_path / name)


def test_a_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Method,Total,FaceSim,Params,Nx\nA,57,50,14,40\n")
    (row,) = only(audit(path, columns={"Params": "ignore", "Nx": "nexusscore"})).rows
    assert row.components == {"facesim": 50.0, "nexusscore": 40.0}
    assert "did you mean nexusscore" in complaint("audit", path, "--column", "Nx=nexuscore")
    assert "has no column 'Other'" in complaint(
        "audit", path, "--column", "Other=total", "--column", "Params=ignore", "--column", "Nx=ignore"
    )
    assert "--column takes HEADING=NAME" in complaint("audit", path, "--column", "Nx")
    assert "did you mean percent" in complaint("audit", path, "--scale", "percents")
    assert "does not exist" in complaint("audit", tmp_path / "nowhere.csv")
    assert "is a folder" in complaint("audit", (tmp_path / "folder.csv").mkdir() or tmp_path / "folder.csv")


def test_nothing_named_in_a_table_is_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("SECRET & 57.55 & 50.00 \\\\")
    path = tmp_path / "t.tex"
    path.write_text(
        "\\newcommand{\\x}{\\x\\x}\\begin{tabular}{lcc} Method & Total & FaceSim \\\\ \\input{secret.tex} "
        "\\x A\x1b[31m & 57.55 & 50.00 \\\\ \\write18{rm -rf x} B & 51 & 52 \\\\ \\end{tabular}"
    )
    text = printed("audit", path)
    assert "SECRET" not in text and "\x1b" not in text


@pytest.mark.parametrize(
    "pattern",
    [
        "{",
        "}",
        "[",
        "\\\\",
        "\\cite{",
        "\\cite[",
        "\\begin{tabular}{",
        "\\multicolumn{999}{c}{x}&",
        "\\",
        "%",
    ],
)
@pytest.mark.parametrize("before", ["", "\\begin{tabular}{cc} Method & Total & FaceSim \\\\ "])
def test_hostile_latex_costs_no_more_than_its_length(tmp_path: Path, pattern: str, before: str) -> None:
    path = tmp_path / "t.tex"
    path.write_text(before + pattern * (200_000 // len(pattern)))
    with pytest.raises(UserError):
        audit(path)


@given(
    text=st.text(alphabet=st.sampled_from("\\{}[]()&%$|-:,\n \"'*_<>ab12.^~"), max_size=300),
    suffix=st.sampled_from(["csv", "md", "tex"]),
)
def test_any_text_is_a_table_or_one_line(
    text: str, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    head = {
        "csv": "Method,Total,FaceSim\nA,57,50\n",
        "md": "|Method|Total|FaceSim|\n|-|-|-|\n|A|57|50|\n",
        "tex": "\\begin{tabular}{ccc}Method & Total & FaceSim\\\\A&57&50\\\\",
    }[suffix]
    for content in (text, head + text):
        path.write_text(content)
        try:
            grids = read_tables(path)
            assert all(cell == " ".join(cell.split()) for grid in grids for row in grid for cell in row)
            audit(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_damaged_tables_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(3)
    whole = {
        suffix: write(tmp_path / f"whole.{suffix}", rows_of(V1_1_OPEN)).read_bytes()
        for suffix in ("csv", "md", "tex")
    }
    read = 0
    for number in range(150):
        suffix = ("csv", "md", "tex")[number % 3]
        data = bytearray(whole[suffix])
        for _ in range(chance.choice((1, 2, 5))):
            data[chance.randrange(len(data))] = chance.randrange(32, 127)
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(bytes(data))
        try:
            read += bool(audit(path))
        except UserError as error:
            assert "\n" not in str(error)
    assert read > 15
