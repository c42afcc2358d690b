"""The page of votes: what voters are given, the server, and what happens to a vote when things go wrong."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from kit.pages import Page
from kit.processes import wait_for
from kit.stored_runs import run_records, store
from kit.voters import ballot_of
from refbench.bench.errors import UserError
from refbench.bench.video import ALL_FRAMES, Video
from refbench.reports.votes.ballot import Ballot, ballot_path, read_ballot
from refbench.reports.votes.collect import export_votes, open_votes
from refbench.reports.votes.server import VoteServer
from refbench.reports.votes.session import LEASE_S, Refused, Sessions
from refbench.reports.votes.sources import Sources, find_sources
from refbench.reports.votes.vote_file import VoteWriter, check_ballot, read_votes, standing

METHODS = ("secretalpha", "secretbeta")
IDS = ("singlehuman_1", "singleobj_1")
ANSWERS = {"subject": "left", "text": "tie", "naturalness": "right", "overall": "left"}
HOSTILE = "</script><img src=x onerror=alert(1)>"
Say = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """Records of two methods on two samples."""
    for method in METHODS:
        store(tmp_path / "scores", run_records(method, ids=IDS))
    return tmp_path / "scores"


@pytest.fixture
def runs(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    """Their videos, no two alike."""
    for number, method in enumerate(METHODS):
        for sample in IDS:
            place = f"runs/{method}/open-domain/seed-0/{sample}.mp4"
            make_clip(place, frames=4, width=32, height=32, seed=number)
    return tmp_path / "runs"


@pytest.fixture
def sources(stores: Path, runs: Path, dataset: Path) -> Sources:
    return find_sources([stores], runs, dataset=dataset)


@contextmanager
def serving(server: VoteServer) -> Iterator[Say]:
    """Run a server in a thread; gives `say(path, content)`: status and answer of a post."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def say(path: str, content: object, **headers: str) -> tuple[int, dict[str, Any]]:
        return post(server.port, path, content, **headers)

    try:
        yield say
    finally:
        server.shutdown()
        thread.join()


def post(port: int, path: str, content: object, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    sent = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): one for name, one in headers.items()
    }
    connection.request("POST", path, json.dumps(content), sent)
    reply = connection.getresponse()
    said = json.loads(reply.read())
    connection.close()
    return reply.status, said


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, dict(reply.getheaders()), content


def act(
    ballot: Ballot, seat: dict[str, Any], number: int, place: int | None = None, **fields: Any
) -> dict[str, Any]:
    """A vote on the voter's pair at `place` (default: number - 1), as the page sends it."""
    shown = list(ballot.sides(seat["arrangement"]).items())
    pair, (left, right) = shown[number - 1 if place is None else place]
    made = {"kind": "vote", "number": number, "pair": pair, "left": left, "right": right, "answers": ANSWERS}
    return {name: value for name, value in (made | fields).items() if value is not None}


def who(seat: dict[str, Any]) -> dict[str, str]:
    return {"voter": seat["voter"], "token": seat["token"]}


def test_nothing_in_the_export_says_whose_a_video_is(sources: Sources, tmp_path: Path) -> None:
    named = sources.videos[next(iter(sources.videos))]
    for file in named.values():
        with_title(file, "made by secretalpha")
    for seed in (0, 1):
        ballot_file = export_votes(sources, tmp_path / f"page {seed}", seed=seed)
        for file in (tmp_path / f"page {seed}").rglob("*"):
            assert "secret" not in str(file.relative_to(tmp_path)).lower()
            assert file.is_dir() or b"secret" not in file.read_bytes().lower()
        assert not ballot_file.is_relative_to(tmp_path / f"page {seed}")
        assert {video.method for video in read_ballot(ballot_file).videos} == set(METHODS)
    # The names of files do not sort by method, either: another seed gives other names.
    names = [{file.name for file in (tmp_path / f"page {seed}/media").glob("*.mp4")} for seed in (0, 1)]
    assert not names[0] & names[1]


def with_title(file: Path, title: str) -> None:
    """Write a title into a video's metadata."""
    import av

    titled = file.with_suffix(".titled.mp4")
    with av.open(str(file)) as source, av.open(str(titled), "w") as target:
        target.metadata["title"] = title
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert b"secretalpha" in titled.read_bytes()
    titled.replace(file)


def test_the_export_shows_every_pair_with_prompt_and_references(sources: Sources, tmp_path: Path) -> None:
    export_votes(sources, tmp_path / "page", seed=3)
    text = (tmp_path / "page/index.html").read_text()
    page = Page(text)
    assert page.open == []
    ballot = read_ballot(tmp_path / "page.ballot.json")
    data = page_data(text)
    assert [pair["id"] for pair in data["pairs"]] == [pair.id for pair in ballot.pairs]
    assert data["ballot"] == ballot.digest
    assert {pair["prompt"] for pair in data["pairs"]} == {f"prompt of {sample}" for sample in IDS}
    assert {one["label"] for pair in data["pairs"] for one in pair["references"]} == {"Cup", "Man"}
    assert "kind" not in data["pairs"][0] and set(data["pairs"][0]) == {
        "id", "prompt", "references", "first", "second",
    }  # fmt: skip
    for pair in data["pairs"]:
        for file in (
            f"{pair['first']}.mp4",
            f"{pair['second']}.mp4",
            *(one["file"] for one in pair["references"]),
        ):
            assert (tmp_path / "page/media" / file).is_file()
    assert page.links == ["data:,"]
    assert "default-src 'none'" in text and "connect-src 'none'" in text


def page_data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_videos_are_the_same_frames_and_checks_are_black_and_noise(sources: Sources, tmp_path: Path) -> None:
    ballot = read_ballot(export_votes(sources, tmp_path / "page", seed=3))
    for video in ballot.videos:
        shown = list(Video(tmp_path / f"page/media/{video.id}.mp4").frames(ALL_FRAMES))
        real = list(Video(sources.file(video)).frames(ALL_FRAMES))
        assert shown[0].shape == real[0].shape and len(shown) == len(real)
        if video.content == "method":
            assert all((one == other).all() for one, other in zip(shown, real, strict=True))
        elif video.content == "black":
            assert max(int(frame.max()) for frame in shown) < 20
        else:
            assert shown[0].std() > 40 and (shown[0] != shown[1]).mean() > 0.5
    assert {video.content for video in ballot.videos} == {"method", "black", "noise"}


def test_what_browsers_do_not_play_is_encoded_again(sources: Sources, tmp_path: Path) -> None:
    import av

    (key, videos) = next(iter(sources.videos.items()))
    file = videos["singleobj_1", 0]
    frames = list(Video(file).frames(ALL_FRAMES))
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    assert Video(file).probe.codec == "mpeg4"
    ballot = read_ballot(export_votes(sources, tmp_path / "page", seed=3))
    video = next(one for one in ballot.videos if one.method == key.method and one.sample == "singleobj_1")
    shown = Video(tmp_path / f"page/media/{video.id}.mp4").probe
    assert (shown.codec, shown.frames, shown.fps) == ("h264", len(frames), 8)


def test_hostile_prompts_and_labels_are_escaped(
    stores: Path, runs: Path, dataset: Path, tmp_path: Path
) -> None:
    file = dataset / "Open-Domain_Eval.json"
    samples = json.loads(file.read_text())
    for sample in samples.values():
        sample["prompt"] = HOSTILE
        sample["class_label"] = [HOSTILE for _ in sample["class_label"]]
    file.write_text(json.dumps(samples))
    export_votes(find_sources([stores], runs, dataset=dataset), tmp_path / "page", seed=0)
    text = (tmp_path / "page/index.html").read_text()
    assert "onerror=alert" in text and "<img src=x" not in text
    assert page_data(text)["pairs"][0]["prompt"] == HOSTILE
    assert "img" not in Page(text).tags


def test_a_missing_reference_is_said_on_the_page(sources: Sources, dataset: Path, tmp_path: Path) -> None:
    (dataset / "Images/singleobject/cup/1.png").unlink()
    export_votes(sources, tmp_path / "page", seed=0)
    pairs = page_data((tmp_path / "page/index.html").read_text())["pairs"]
    files = {one["label"]: one["file"] for pair in pairs for one in pair["references"]}
    assert files["Cup"] is None and files["Man"] is not None


def test_an_export_is_never_written_over(sources: Sources, tmp_path: Path) -> None:
    export_votes(sources, tmp_path / "page")
    with pytest.raises(UserError, match=r"page is already there: choose another --export"):
        export_votes(sources, tmp_path / "page")


def test_a_voter_votes_skips_and_undoes_and_the_file_says_so(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    with open_votes(sources, out, seed=0, port=0) as server, serving(server) as say:
        ballot = read_ballot(ballot_path(out))
        status, seat = say("/join", {"voter": " Ann  Lee "})
        assert (status, seat["voter"], seat["lines"]) == (200, "Ann Lee", [])
        assert say("/write", who(seat) | {"act": act(ballot, seat, 1)}) == (200, {"number": 1})
        undo = act(ballot, seat, 2, 0, kind="undo", undoes=1, answers=None)
        assert say("/write", who(seat) | {"act": undo}) == (200, {"number": 2})
        assert say("/write", who(seat) | {"act": act(ballot, seat, 3, 0, seconds=2.5)})[0] == 200
        assert (
            say("/write", who(seat) | {"act": act(ballot, seat, 4, 1, kind="skip", answers=None)})[0] == 200
        )
        # Each is on the disk as soon as it is acknowledged.
        assert [line.kind for line in read_votes(out).lines] == ["vote", "undo", "vote", "skip"]
        assert say("/leave", who(seat))[0] == 200
        again = say("/join", {"voter": "Ann Lee"})[1]
        assert again["arrangement"] == seat["arrangement"] and len(again["lines"]) == 4
    file = read_votes(out)
    check_ballot(file, ballot)
    assert [(line.kind, line.number) for line in standing(file.lines).values()] == [("vote", 3), ("skip", 4)]


def test_the_server_goes_on_with_file_and_ballot_that_are_there(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    for number in (1, 2):
        with open_votes(sources, out, port=0) as server, serving(server) as say:
            ballot = read_ballot(ballot_path(out))
            seat = say("/join", {"voter": "ann"})[1]
            assert say("/write", who(seat) | {"act": act(ballot, seat, number)})[0] == 200
    assert [line.number for line in read_votes(out).lines] == [1, 2]
    with (
        pytest.raises(UserError, match="was drawn with --pairs 2: leave --pairs out"),
        open_votes(sources, out, pairs=1, port=0),
    ):
        pass


def test_a_changed_or_missing_video_is_not_voted_on_as_if_it_were_the_same(
    stores: Path, runs: Path, dataset: Path, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "votes.jsonl"
    with (
        open_votes(find_sources([stores], runs, dataset=dataset), out, port=0) as server,
        serving(server) as say,
    ):
        seat = say("/join", {"voter": "ann"})[1]
        assert say("/write", who(seat) | {"act": act(read_ballot(ballot_path(out)), seat, 1)})[0] == 200
    place = f"runs/{METHODS[0]}/open-domain/seed-0/{IDS[0]}.mp4"
    make_clip(place, frames=3, width=32, height=32, seed=9)
    with (
        pytest.raises(UserError, match="is not the video that the ballot was drawn with"),
        open_votes(find_sources([stores], runs, dataset=dataset), out, port=0),
    ):
        pass
    (tmp_path / place).unlink()
    with (
        pytest.raises(UserError, match=r"singlehuman_1 \(seed 0\) by secretalpha is missing"),
        open_votes(find_sources([stores], runs, dataset=dataset), out, port=0),
    ):
        pass
    ballot_path(out).unlink()
    with (
        pytest.raises(UserError, match=r"votes.jsonl is there, and its ballot .* is not"),
        open_votes(find_sources([stores], runs, dataset=dataset), out, port=0),
    ):
        pass


def test_media_are_served_whole_and_in_parts_and_nothing_else_is(sources: Sources, tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    with open_votes(sources, out, seed=0, port=0) as server, serving(server):
        status, headers, page = get(server.port, "/")
        assert status == 200 and b"Which video is better?" in page and b"secret" not in page.lower()
        assert headers["X-Frame-Options"] == "DENY" and "secret" not in str(headers)
        name = f"/media/{read_ballot(ballot_path(out)).videos[0].id}.mp4"
        status, headers, whole = get(server.port, name)
        assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "video/mp4", "bytes")
        status, headers, part = get(server.port, name, Range="bytes=10-19")
        assert (status, part) == (206, whole[10:20])
        assert headers["Content-Range"] == f"bytes 10-19/{len(whole)}"
        assert get(server.port, name, Range="bytes=20-")[2] == whole[20:]
        assert get(server.port, name, Range="bytes=9-2")[0] == 200
        for other in (
            "/votes.jsonl",
            "/votes.ballot.json",
            "/../votes.jsonl",
            "/media/",
            "/media/..%2f",
            "//etc/passwd",
        ):
            assert get(server.port, other)[0] == 404, other


def test_other_sites_are_not_listened_to(sources: Sources, tmp_path: Path) -> None:
    with open_votes(sources, tmp_path / "votes.jsonl", seed=0, port=0) as server, serving(server) as say:
        assert server.server_address[0] == "127.0.0.1"
        assert get(server.port, "/", Host="evil.example")[0] == 404
        assert say("/join", {"voter": "x"}, Host="evil.example")[0] == 403
        assert say("/join", {"voter": "x"}, Origin="http://evil.example")[0] == 403
        assert say("/join", {"voter": "x"}, Content_Type="text/plain")[0] == 403
        assert say("/join", {"voter": "x"}, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
        assert say("/join", ["x"])[0] == 409
        assert say("/join", {"voter": "y" * 20_000})[0] == 413
        assert say("/nowhere", {})[0] == 403


def test_a_port_in_use_is_one_line(sources: Sources, tmp_path: Path) -> None:
    with open_votes(sources, tmp_path / "1.jsonl", port=0) as server:
        message = f"port {server.port} is in use: choose another with --port"
        with (
            pytest.raises(UserError, match=message),
            open_votes(sources, tmp_path / "2.jsonl", port=server.port),
        ):
            pass


def test_two_voters_with_one_name_are_told_apart(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"))
    clock = [0.0]
    with VoteWriter(tmp_path / "votes.jsonl", ballot) as writer:
        sessions = Sessions(ballot, writer, now=lambda: clock[0])
        seat = sessions.join("ann")
        with pytest.raises(Refused, match="somebody is voting as ann at this moment: choose another name"):
            sessions.join(" ann ")
        # The same page, loaded again, has its token.
        assert sessions.join("ann", seat["token"])["session"] == seat["session"]
        clock[0] = LEASE_S - 1
        sessions.keep("ann", seat["token"])
        clock[0] += LEASE_S - 1
        with pytest.raises(Refused, match="choose another name"):
            sessions.join("ann")
        clock[0] += 2
        second = sessions.join("ann")
        # Who was silent too long, and whose name went on without him, cannot write any more.
        with pytest.raises(Refused, match="no longer holds its name"):
            sessions.write("ann", seat["token"], act(ballot, seat, 1))
        assert sessions.write("ann", second["token"], act(ballot, second, 1)) == 1
        with pytest.raises(Refused, match="1 to 60 printable"):
            sessions.join("")


def test_voters_get_the_arrangements_in_turns(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"))
    with VoteWriter(tmp_path / "votes.jsonl", ballot) as writer:
        sessions = Sessions(ballot, writer)
        given = [sessions.join(f"voter {number}")["arrangement"] for number in range(20)]
    assert sorted(given[:16]) == list(range(16)) and given[16:] == given[:4]


def test_a_line_that_is_sent_twice_is_written_once_and_nonsense_is_not(tmp_path: Path) -> None:
    ballot = ballot_of(("a", "b"))
    with VoteWriter(tmp_path / "votes.jsonl", ballot) as writer:
        sessions = Sessions(ballot, writer)
        seat = sessions.join("ann")
        first = act(ballot, seat, 1)
        assert [sessions.write("ann", seat["token"], first) for _ in range(2)] == [1, 1]
        turned = {**act(ballot, seat, 2), "left": first["right"]}
        for wrong, reason in (
            ({**first, "answers": {**ANSWERS, "overall": "right"}}, "behind the vote file"),
            (act(ballot, seat, 3), "behind the vote file"),
            (turned, "not shown that way"),
            ({**act(ballot, seat, 2), "answers": {}}, "a vote answers"),
            ({**act(ballot, seat, 2), "voter": "bob"}, "Extra inputs"),
            (act(ballot, seat, 2, kind="undo", undoes=2, answers=None), "an earlier line"),
            ("nonsense", "not a vote"),
            (None, "not a vote"),
        ):
            with pytest.raises(Refused, match=reason):
                sessions.write("ann", seat["token"], wrong)
        undo = act(ballot, seat, 2, 0, kind="undo", undoes=1, answers=None)
        assert sessions.write("ann", seat["token"], undo) == 2
        with pytest.raises(Refused, match="cannot be taken back"):
            sessions.write("ann", seat["token"], {**undo, "number": 3})
    assert len(read_votes(tmp_path / "votes.jsonl").lines) == 2


def vote_until_it_dies(
    port: int, ballot: Ballot, seat: dict[str, Any], acknowledged: int, process: subprocess.Popen[bytes]
) -> int:
    """Vote on, and kill the process after the third and the seventh vote; the number of votes that were
    acknowledged.
    """
    while acknowledged < 10:
        number = acknowledged + 1
        try:
            status, said = post(port, "/write", who(seat) | {"act": act(ballot, seat, number)})
        except (OSError, ValueError):
            break
        assert (status, said) == (200, {"number": number})
        acknowledged = number
        if acknowledged in (3, 7):
            process.send_signal(signal.SIGKILL)
    return acknowledged


def test_kill_9_loses_no_acknowledged_vote(stores: Path, runs: Path, dataset: Path, tmp_path: Path) -> None:
    """The process is killed while votes come in; what it said it wrote is there, and the next goes on."""
    out = tmp_path / "votes.jsonl"
    code = (
        "from pathlib import Path\nfrom refbench.reports.votes.commands import vote\n"
        f"vote([Path({str(stores)!r})], Path({str(runs)!r}), dataset={str(dataset)!r}, "
        f"out=Path({str(out)!r}), checks=8, port=0)\n"
    )
    acknowledged = 0
    for start in range(2):
        said = tmp_path / f"said {start}"
        with said.open("w") as output:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=output, cwd=tmp_path)
        try:
            wait_for(said)
            port = int(said.read_text().partition("http://127.0.0.1:")[2].partition("/")[0])
            ballot = read_ballot(ballot_path(out))
            seat = post(port, "/join", {"voter": "ann"})[1]
            assert len(seat["lines"]) == acknowledged

            acknowledged = vote_until_it_dies(port, ballot, seat, acknowledged, process)
        finally:
            process.kill()
            process.wait()
        # A vote whose acknowledgement was lost may be there as well; a torn line may not be read.
        numbers = [line.number for line in read_votes(out).lines]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) - acknowledged in (0, 1)
        acknowledged = len(numbers)
        # As a kill amid a write leaves it.
        with out.open("ab") as torn:
            torn.write(b'{"kind":"vote","voter":"an')
    assert acknowledged >= 7


# Votes by keyboard as a person would, takes one back, skips one, and shows the lines in the page.
VOTE_ON_ALL = """<script>
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const settled = async () => { do await new Promise((done) => setTimeout(done, 20)); while (busy); };
(async () => {
  by("name").value = "Ann <b>";
  by("join").requestSubmit();
  while (voter === null) await settled();
  let undone = false, skipped = false;
  while (shown !== null) {
    for (const key of ["ArrowLeft", "ArrowDown", "ArrowRight", "ArrowLeft"]) press(key);
    press("Enter");
    await settled();
    if (!undone) { undone = true; press("u"); await settled(); }
    else if (!skipped) { skipped = true; press("s"); await settled(); }
  }
  const out = document.createElement("pre");
  out.id = "out";
  const wide = document.documentElement.scrollWidth > innerWidth;
  out.textContent = JSON.stringify({ lines, wide, text: by("who").value });
  document.body.append(out);
})();
</script></body>"""


@pytest.mark.parametrize("served", [True, False])
def test_a_browser_votes_by_keyboard(served: bool, sources: Sources, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")

    def browse(address: str) -> dict[str, Any]:
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=500,900", "--virtual-time-budget=20000", address,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found is not None, done.stderr[-2000:]
        read: dict[str, Any] = json.loads(html.unescape(found[1]))
        return read

    out = tmp_path / "votes.jsonl"
    if served:
        with open_votes(sources, out, seed=0, port=0) as server, serving(server):
            page = server.files["/"]
            page.write_text(page.read_text().replace("</body>", VOTE_ON_ALL))
            said = browse(server.address)
            ballot = read_ballot(ballot_path(out))
        lines = read_votes(out).lines
        assert [line["number"] for line in said["lines"]] == [line.number for line in lines]
    else:
        ballot = read_ballot(export_votes(sources, tmp_path / "page", seed=0))
        page = tmp_path / "page/index.html"
        page.write_text(page.read_text().replace("</body>", VOTE_ON_ALL))
        said = browse(page.as_uri())
        header = {"kind": "header", "schema_version": 1, "ballot": ballot.digest, "track": ballot.track}
        out.write_text("".join(json.dumps(one) + "\n" for one in (header, *said["lines"])))
        lines = read_votes(out).lines
    check_ballot(read_votes(out), ballot)
    kinds = [line.kind for line in lines]
    assert kinds.count("undo") == kinds.count("skip") == 1 and len(kinds) == len(ballot.pairs) + 2
    assert len(standing(lines)) == len(ballot.pairs)
    assert lines[0].answers == ANSWERS and {line.voter for line in lines} == {"Ann <b>"}
    assert said["text"] == "Ann <b> ·" and said["wide"] is False
