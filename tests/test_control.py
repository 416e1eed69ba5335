"""The socket carries requests to the main thread and their replies back, whatever is sent into it."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from station.control import Control, ControlError, ask


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    made = Control(tmp_path / "control.sock")
    yield made
    made.close()


def serve(control: Control, requests: int = 1) -> threading.Thread:
    """A main thread that answers so many requests with what they asked."""

    def turn() -> None:
        served = 0
        while served < requests:
            if request := control.request():
                request.reply.set_result({"ok": True, "asked": request.words})
                served += 1

    thread = threading.Thread(target=turn)
    thread.start()
    return thread


def test_a_request_gets_its_reply(control: Control, tmp_path: Path) -> None:
    thread = serve(control)
    assert ask(tmp_path / "control.sock", {"command": "status"}) == {"ok": True, "asked": {"command": "status"}}
    thread.join()


def test_several_can_ask_at_once(control: Control, tmp_path: Path) -> None:
    thread = serve(control, 5)
    replies: list[object] = []
    askers = [threading.Thread(target=lambda n=n: replies.append(ask(tmp_path / "control.sock", {"n": n}))) for n in range(5)]
    for asker in askers:
        asker.start()
    for asker in (*askers, thread):
        asker.join()
    assert sorted(reply["asked"]["n"] for reply in replies) == list(range(5))  # type: ignore[index]


@pytest.mark.parametrize("line", [b"not json\n", b"[1, 2]\n", b"\xff\xfe\n", b"{" * 70_000 + b"\n"])
def test_what_is_no_request_is_answered_and_reaches_nobody(control: Control, tmp_path: Path, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "control.sock"))
        connection.sendall(line)
        reply = json.loads(connection.makefile("rb").readline())
    assert reply == {"ok": False, "error": "a request is one JSON object a line"}
    assert control.request() is None


def test_without_a_daemon_the_error_says_what_to_start(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="station run"):
        ask(tmp_path / "control.sock", {"command": "status"})


@pytest.mark.usefixtures("control")
def test_the_socket_is_for_owner_and_group_only(tmp_path: Path) -> None:
    assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o660


def test_a_socket_left_behind_by_a_kill_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control.sock"))
    left.close()
    control = Control(tmp_path / "control.sock")
    thread = serve(control)
    assert ask(tmp_path / "control.sock", {})["ok"]
    thread.join()
    control.close()
    assert not (tmp_path / "control.sock").exists()
