"""The page that voters see. It holds pairs, prompts and references, and nothing of methods.

Every string is escaped by the template engine; a content policy forbids all other sources. The same page
works from a server, to which it sends each answer, and from a folder, where it keeps the answers in the
browser and saves them as a vote file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from refbench.reports.page_environment import page_environment
from refbench.reports.votes.ballot import CRITERIA
from refbench.reports.votes.vote_file import LONGEST_NAME, LONGEST_S

TEMPLATE = "vote.html.j2"
CRITERION_LABELS = {
    "subject": "Subject",
    "text": "Text",
    "naturalness": "Naturalness",
    "overall": "Overall",
}


@dataclass(frozen=True, kw_only=True)
class PageReference:
    """A reference as it is shown; `file` is None where the picture is missing."""

    file: str | None
    label: str


@dataclass(frozen=True, kw_only=True)
class PagePair:
    """A pair as it is shown: ids of the pair and of its two videos, prompt and references."""

    id: str
    prompt: str
    references: tuple[PageReference, ...]
    first: str
    second: str


def render_vote_page(
    ballot: str,
    track: str,
    pairs: Sequence[PagePair],
    arrangements: Sequence[Sequence[int]],
    *,
    served: bool,
) -> str:
    """The page's HTML; `ballot` is the ballot's digest."""
    data = {
        "ballot": ballot,
        "track": track,
        "served": served,
        "pairs": [asdict(pair) for pair in pairs],
        "arrangements": [list(row) for row in arrangements],
        "criteria": list(CRITERIA),
        "longestSeconds": LONGEST_S,
    }
    return (
        page_environment()
        .get_template(TEMPLATE)
        .render(
            data=data,
            pairs=len(pairs),
            served=served,
            longest_name=LONGEST_NAME,
            criteria=[(name, CRITERION_LABELS[name], question) for name, question in CRITERIA.items()],
        )
    )
