"""What the card of a checkpoint, the README.md in its folder, says of its license and of itself.

Knows the Hub's form of cards: fields in YAML, then Markdown.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

from segformer.checkpoints.files import is_weight_file, open_folder
from segformer.errors import CheckpointError

README = "README.md"
WORDS_LENGTH = 160
"""The length of a card's first words, in characters."""
_NO_PROSE = ("#", "<", "!", "[!", "|", "-", "*", ">", "=", "```")
"""Beginnings of lines that are no sentences: headings, HTML, pictures, badges, tables, lists."""


class Card(NamedTuple):
    """What a card says."""

    license: str | None = None
    """The license's identifier on the Hub, its name and its address, as far as they are there."""
    words: str | None = None
    """The first words of the text."""


def read_card(path_or_url: str, *, storage_options: Mapping[str, Any] | None = None) -> Card:
    """The card in a checkpoint's folder; an empty one if there is none that can be read, and for a
    file of weights."""
    if is_weight_file(path_or_url):
        return Card()
    try:
        data = open_folder(path_or_url, storage_options).read(README)
    except CheckpointError:  # a store that lists nothing may refuse to say that there is none
        return Card()
    return Card() if data is None else card_of(data.decode(errors="replace"))


def card_of(text: str) -> Card:
    """The card in the text of a README.md."""
    try:
        fields, body = _parsed(text)
    except ValueError:
        return Card(words=_first_words(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)))
    parts = [fields.get(name) for name in ("license", "license_name", "license_link")]
    named = [_plain(str(part)) for part in parts if part]
    return Card(", ".join(named) or None, _first_words(body))


def _parsed(text: str) -> tuple[dict[str, Any], str]:
    """The fields at the top of a README.md, and the text below them. Raises ValueError if these
    are no fields."""
    # Half a second, for those checkpoints alone that have a card.
    from huggingface_hub import ModelCard  # noqa: PLC0415

    from segformer.checkpoints.hub.calls import quiet  # noqa: PLC0415

    with quiet():
        try:
            card = ModelCard(text, ignore_metadata_errors=True)
        except Exception as error:  # YAML's own
            raise ValueError(f"no model card: {type(error).__name__}") from error
    return card.data.to_dict(), card.text


def _first_words(body: str) -> str | None:
    """The beginning of the first paragraph of sentences."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)):
        lines = [line.strip() for line in paragraph.splitlines()]
        prose = " ".join(line for line in lines if line and not line.startswith(_NO_PROSE))
        if words := _plain(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)):
            return textwrap.shorten(words, WORDS_LENGTH, placeholder=" ...")
    return None


def _plain(text: str) -> str:
    """The text on one line, without marks of Markdown and characters that a terminal obeys."""
    text = " ".join(re.sub(r"[*`]|__", "", text).split())
    return "".join(character for character in text if character.isprintable())
