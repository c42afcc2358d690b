"""What all pages share: the template engine, pictures within a page, and how long a reason may be on it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST_REASON = 200


def page_environment() -> Environment:
    """The template engine of every page: what is put into a template is escaped, and must be there."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("refbench.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def data_uri(content: bytes, kind: str = "png") -> str:
    """A picture as a URI that needs no request."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
