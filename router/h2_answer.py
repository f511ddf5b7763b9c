"""The answer of one call, as DATA frames bring it: cut into gRPC messages. Pure.

A message is five bytes (a flag for compression, a length of 32 bits) and then its payload; frames may cut it anywhere,
and one frame may hold several.
"""

from __future__ import annotations

from registry.failure import Code
from registry.http2.frames import PREFIX

_PREFIX_BYTES = PREFIX.size


class AnswerError(Exception):
    """The answer can't be read on; the call ends with this status."""

    def __init__(self, status: Code, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Answer:
    """`opened`: the head of the answer came. `partial`: the beginning of a message. `ungranted`: bytes received since
    the last WINDOW_UPDATE of the stream.
    """

    __slots__ = ("opened", "partial", "ungranted")

    def __init__(self) -> None:
        self.opened = False
        self.partial: bytearray | None = None
        self.ungranted = 0

    def read(self, data: bytes, max_message_bytes: int) -> list[bytes]:
        """Take the next bytes and return the messages that are now whole. Raises AnswerError.

        The copying is linear in the bytes, however small the pieces are.
        """
        partial = bytearray() if self.partial is None else self.partial
        partial += data
        messages: list[bytes] = []
        at = 0
        with memoryview(partial) as view:
            while len(view) - at >= _PREFIX_BYTES:
                compressed, size = PREFIX.unpack_from(view, at)
                _check(compressed, size, max_message_bytes)
                start = at + _PREFIX_BYTES
                if len(view) < start + size:
                    break
                at = start + size
                messages.append(bytes(view[start:at]))
        del partial[:at]
        self.partial = partial or None
        return messages


def _check(compressed: int, size: int, max_message_bytes: int) -> None:
    if compressed:
        raise AnswerError(Code.INTERNAL, "the server sent a compressed message")
    if size > max_message_bytes:
        raise AnswerError(Code.RESOURCE_EXHAUSTED, f"a message of {size} bytes is over the size limit")
