"""Names of models on the Hugging Face Hub: `hf:org/name` and `hf:org/name@revision`.

Knows how a name is written; knows no network and no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from segformer.errors import CheckpointError

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?://)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./+-]*))?", re.A)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PAGE = re.compile(
    r"https://(?:huggingface\.co|hf\.co)/(\w[\w.-]*/\w[\w.-]*)(?:/tree/(\w[\w./+-]*?))?/?", re.A
)
"""The address of a model's page, for people."""


def is_hub_name(checkpoint: str) -> bool:
    """Whether a checkpoint is named as one of the Hub's. A local path that begins like that is
    written with `./`."""
    return checkpoint.startswith(PREFIX)


def name_of_page(url: str) -> str | None:
    """The name of the model whose page on the Hub has this address; None for other addresses."""
    match = _PAGE.fullmatch(url)
    return None if match is None else str(HubName(*match.groups()))


@dataclass(frozen=True)
class HubName:
    """A model on the Hub, at a revision."""

    repo: str
    """Its owner and its name, as `org/name`."""
    revision: str | None = None
    """A branch, a tag or a commit; None: the main branch."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The model of a name; the Hub's own form, `hf://org/name`, is understood, too. Raises
        CheckpointError."""
        match = _NAME.fullmatch(text)
        if match is None or ".." in text:
            raise CheckpointError(
                f"{text}: a model on the Hub is named hf:org/name, or hf:org/name@revision with a"
                " branch, a tag or a commit"
            )
        return cls(**match.groupdict())

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit in full, which cannot move."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> Self:
        return replace(self, revision=commit)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")
