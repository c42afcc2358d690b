"""YAML, as plain as a command line: every value is a text, and nothing is built from a tag.

Reading never guesses a type (`no`, `1.10` and `2026-01-02` stay what was typed); whoever knows what a value
is for turns the text into it. Nothing but an empty value, `~` or `null` is nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import read_text, regular_size

# A run's description is a page of text; reading a megabyte takes seconds.
LARGEST_YAML_BYTES = 2**18
NULL_TAG = "tag:yaml.org,2002:null"


class _Reader(yaml.SafeLoader):
    """The safe loader without aliases, repeated keys, tags and guessed types."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own name for it
        first: [(NULL_TAG, re.compile(r"(?:~|null|Null|NULL)?\Z"))] for first in ("~", "n", "N", "")
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the parent; an alias, which can multiply a small file to one of many gigabytes, is refused."""
        event = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "an alias (*name) is not taken here", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "a tag (!name) is not taken here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As the parent; a key that stands twice is refused."""
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                said = f"the key {one_line(key, 60)!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
            seen.add(key)
        return dict(super().construct_mapping(node, deep))


class _Writer(yaml.SafeDumper):
    """The safe dumper without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors, whatever stands twice."""
        return True


def parse_yaml(text: str, where: str) -> Any:
    """Lists, mappings, texts and None from YAML.

    Raises UserError, a line that says `where`, for what is no YAML, for aliases, tags and keys that stand
    twice, and for what is nested too deeply.
    """
    try:
        return yaml.load(text, _Reader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place is not None else ""
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(f"{where}: no plain YAML: {one_line(said, 160)}{line}") from None
    except RecursionError:
        raise UserError(f"{where}: no plain YAML: nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: no plain YAML: {type(error).__name__}") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as `parse_yaml`; a missing or oversized file is a UserError too."""
    regular_size(path, LARGEST_YAML_BYTES)
    return parse_yaml(read_text(path), str(path))


def yaml_text(content: Any) -> str:
    """Plain values as YAML: `parse_yaml` reads the same from it, with numbers as texts.

    Where a text holds something that a terminal would obey or hide, all outside of ASCII is written out.
    """

    def dumped(*, readable: bool) -> str:
        return str(
            yaml.dump(content, Dumper=_Writer, sort_keys=False, allow_unicode=readable, width=float("inf"))
        )

    text = dumped(readable=True)
    return text if text.replace("\n", "").isprintable() else dumped(readable=False)
