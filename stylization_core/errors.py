"""One error type for bad input: it says which node, which input, what was found and what to do."""

from __future__ import annotations

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
        self.subject, self.found, self.remedy, self.node = subject, found, remedy, node
        super().__init__(subject, found, remedy)

    def __str__(self) -> str:
        head = f"{self.node}, {self.subject}" if self.node else self.subject
        return f"{head}: {_sentence(self.found)} {_sentence(self.remedy)}"


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
