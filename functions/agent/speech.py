"""What an agent says in one run, from the events of the model's stream and the messages of the CLI.

A request may be repeated inside a run: an answer that broke off in its first block comes again from its start, and one
that broke off after a complete block goes on where it was (the CLI asks the model to). Seen with CLI 2.1.329: only a
complete block comes as a message of the CLI's (`block`), and only a complete answer says why it ended (`ends`).
"""

from __future__ import annotations


def paragraphs(*parts: str) -> str:
    """Texts, one after another."""
    return "\n\n".join(part for part in parts if part.strip())


class Speech:
    """The texts of one run. A *passage* is one answer of the model's, in as many pieces as it came."""

    def __init__(self) -> None:
        self._passages: list[list[str]] = [[]]
        self._unfinished = ""
        self._message: str | None = None
        self._ended = True

    def begins(self, message: str | None) -> None:
        """A message of this id begins: a new passage, unless the last one broke off. What was unfinished is void."""
        if self._ended:
            self._passages.append([])
        self._passages[-1].append("")
        self._message, self._unfinished, self._ended = message, "", False

    def grows(self, text: str) -> None:
        """More of the present block."""
        self._unfinished += text

    def block(self, message: str | None, text: str) -> None:
        """A block is complete; without a stream, its message begins with it."""
        if message != self._message or not self._passages[-1]:
            self.begins(message)
        self._passages[-1][-1] += text
        self._unfinished = ""

    def ends(self) -> None:
        """The message is complete, or a tool has answered it: what comes next is another passage."""
        self._ended = True

    @property
    def broke_off(self) -> bool:
        """Whether the present message ended, or stands, after a complete block and before its end."""
        return not self._ended and any(piece.strip() for piece in self._passages[-1])

    @property
    def passage(self) -> str:
        """The present answer, the last one when the run is over."""
        return paragraphs(*self._passages[-1][:-1], "".join(self._passages[-1][-1:]) + self._unfinished)

    @property
    def everything(self) -> str:
        """All that was said."""
        return paragraphs(*(piece for passage in self._passages[:-1] for piece in passage), self.passage)
