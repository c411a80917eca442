"""One error type for bad input: it says which node, which input, what was found and what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager


class StylizationError(ValueError):
    """Bad input to an operator or node.

    Args:
        subject: the input or file the message is about, in the user's words (an input id, a file name).
        found: what was found, as a statement.
        remedy: what the user can do about it, as an imperative.
        node: display name of the node; filled in by :func:`naming` when an operator raises.
    """

    def __init__(self, subject: str, found: str, remedy: str, node: str | None = None):
        self.subject, self.found, self.remedy, self.node = quotable(subject), quotable(found), quotable(remedy), node
        super().__init__(self.subject, self.found, self.remedy)

    def __str__(self) -> str:
        head = f"{self.node}, {self.subject}" if self.node else self.subject
        return f"{head}: {_sentence(self.found)} {_sentence(self.remedy)}"


LONGEST = 1200
"""Characters of a part of a message; of longer ones begin and end are kept."""


def quotable(text: str) -> str:
    """``text`` as it can stand in a message of one line, whatever a user or a file has put in.

    What no terminal and no log can take, such as half an emoji or a control character, is written as an escape: raw, it
    would end the thread that logs it.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
    return "".join(sign if _plain(sign) else sign.encode("unicode_escape").decode("ascii") for sign in text)


def _plain(sign: str) -> bool:
    # control characters, surrogates, and separators of lines and paragraphs
    return unicodedata.category(sign) not in ("Cc", "Cs", "Zl", "Zp")


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else text + "."


@contextmanager
def naming(node: str) -> Iterator[None]:
    """Put the node's display name on every :class:`StylizationError` that leaves the block without one."""
    try:
        yield
    except StylizationError as error:
        error.node = error.node or node
        raise
