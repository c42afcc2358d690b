"""Examples in docstrings (`>>> …`) as code blocks: Markdown alone would read them as quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

PROMPTED = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Puts a fence around each run of prompted lines and what they print."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = PROMPTED.sub(
                lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value
            )
