"""Buffers of a producer that gives them back as NULL when they are revoked, as XIMEA's does."""

from typing import Any


def bear_null_on_revoke(stream: Any) -> None:
    """Makes Harvesters' data stream stop and start again with such a producer.

    The buffer is revoked all the same, but the wheel raises SystemError (Harvesters issue 257), which would leave the device open and
    unusable in this process, and it never frees the memory. So that is announced again in place of new memory that is no larger.
    """
    announced: list[tuple[Any, Any]] = []
    spare: list[Any] = []
    announce_buffer, revoke_buffer = stream.announce_buffer, stream.revoke_buffer

    def announce(token: Any) -> Any:
        large_enough = [kept for kept in spare if len(kept.raw_buffer) >= len(token.raw_buffer)]
        if large_enough:
            token = min(large_enough, key=lambda kept: len(kept.raw_buffer))
            spare.remove(token)
        buffer = announce_buffer(token)
        announced.append((buffer, token))
        return buffer

    def revoke(buffer: Any) -> Any:
        (entry,) = [entry for entry in announced if entry[0] is buffer]
        announced.remove(entry)
        try:
            return revoke_buffer(buffer)
        except SystemError:
            spare.append(entry[1])
            return None

    stream.announce_buffer, stream.revoke_buffer = announce, revoke
