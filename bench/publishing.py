"""A folder to a repository of the Hugging Face hub: first what would go, then, when asked, exactly that."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refbench.bench.errors import UserError, one_line
from refbench.bench.files import LARGEST_TEXT_BYTES, PARTIAL_NAME, leaves_its_folder

RepositoryKind = Literal["dataset", "model", "space"]
KINDS: tuple[RepositoryKind, ...] = ("dataset", "model", "space")
# Hidden, and yet what a repository of results is about.
SENT_HIDDEN = (".eval_results",)
REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# How the hub's tokens look, for messages of others that may quote one.
TOKEN_FORM = re.compile(r"hf_[A-Za-z0-9_]{8,}|(?i:bearer)\s+\S+")
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file, the place in the repository where it goes, and its size."""

    file: Path
    place: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What goes where. `left_out` names, a line each, what is in the folder and does not go."""

    repository: str
    kind: RepositoryKind
    files: tuple[PlannedFile, ...]
    left_out: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files."""
        return sum(one.size_bytes for one in self.files)


def plan_publication(folder: Path, repository: str, kind: str = "dataset", into: str = "") -> Publication:
    """List what of a folder would go to `repository` (`owner/name`), below `into`; nothing is sent.

    Links, hidden files other than `.eval_results`, and what is no regular file stay here. Raises UserError
    for a folder that is missing or holds nothing to send, a name that no repository can have, a place that
    climbs out of the repository, and a file that holds the hub's token or the judge's key.
    """
    if kind not in KINDS:
        raise UserError(f"--kind is {', '.join(KINDS)}, not {one_line(kind, 60)!r}")
    if not REPOSITORY_NAME.fullmatch(repository):
        raise UserError(f"--repo takes owner/name as on the hub, not {one_line(repository, 80)!r}")
    if into and leaves_its_folder(into):
        raise UserError(f"--into {one_line(into, 80)!r} leads out of the repository")
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist")
    files: list[PlannedFile] = []
    left_out: list[str] = []
    for path in _walked(folder, folder, left_out):
        place = path.relative_to(folder).as_posix()
        placed = f"{into.strip('/')}/{place}" if into.strip("/") else place
        files.append(PlannedFile(file=path, place=placed, size_bytes=path.stat().st_size))
    if not files:
        raise UserError(f"{folder} holds no file that could be published")
    _refuse_secrets(files)
    chosen: RepositoryKind = next(one for one in KINDS if one == kind)
    return Publication(repository=repository, kind=chosen, files=tuple(files), left_out=tuple(left_out))


def _walked(folder: Path, root: Path, left_out: list[str]) -> Iterator[Path]:
    """The files to send in order of their names; what is left out is noted."""
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if path.name.startswith(".") and path.name not in SENT_HIDDEN:
            # What another process is writing is nobody's business.
            if not PARTIAL_NAME.fullmatch(path.name):
                left_out.append(f"{name}: hidden")
        elif path.is_symlink():
            left_out.append(f"{name}: a link")
        elif path.is_dir():
            yield from _walked(path, root, left_out)
        elif path.is_file():
            yield path
        else:
            left_out.append(f"{name}: no regular file")


def _refuse_secrets(files: Sequence[PlannedFile]) -> None:
    secrets = [secret.encode() for secret in _secrets()]
    for one in files if secrets else ():
        if one.size_bytes <= LARGEST_TEXT_BYTES:
            content = one.file.read_bytes()
            if any(secret in content for secret in secrets):
                raise UserError(
                    f"{one.file} holds your hub token or the judge's key: it must not be published"
                )


def _secrets() -> list[str]:
    """The keys that this process knows, in no order."""
    from huggingface_hub import get_token

    known = {os.environ.get(name, "").strip() for name in SECRET_VARIABLES} | {get_token() or ""}
    return [secret for secret in known if len(secret) >= 8]


def send(publication: Publication, *, public: bool = False, pull_request: bool = False) -> str:
    """Send exactly the planned files as one commit, and return its address.

    A repository that is not there yet is made, private unless `public`; with `pull_request` it must be there,
    and the files are proposed to its owner. The token is the one that the hub's own client finds. Raises
    UserError, in which no token stands, where the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    try:
        api = HfApi()
        if not pull_request:
            api.create_repo(
                publication.repository,
                repo_type=publication.kind,
                private=not public,
                exist_ok=True,
                **({"space_sdk": "static"} if publication.kind == "space" else {}),
            )
        done = api.create_commit(
            publication.repository,
            [
                CommitOperationAdd(path_in_repo=one.place, path_or_fileobj=str(one.file))
                for one in publication.files
            ],
            commit_message="Published by refalign-bench",
            repo_type=publication.kind,
            create_pr=pull_request,
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all mean one thing here
        said = one_line(without_secrets(str(error)), 200)
        raise UserError(f"{publication.repository}: the hub took nothing: {said}") from None
    return str((done.pr_url if pull_request else None) or done.commit_url)


def without_secrets(text: str) -> str:
    """A text of others without the keys that this process knows, and without what looks like one."""
    for secret in _secrets():
        text = text.replace(secret, "…")
    return TOKEN_FORM.sub("…", text)
