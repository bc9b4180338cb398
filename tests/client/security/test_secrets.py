"""What never shows a token: errors, reports, pickles, logs and the standard streams."""

from __future__ import annotations

import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from bilstm_client import (
    AsyncClient,
    Client,
    EncoderError,
    NotTrusted,
    Unauthenticated,
    Unavailable,
)
from tests.client.clients import Connect
from tests.client.security.calls import CALLS
from tests.client.security.servers import World, secured

SECRET = "s3cret-t0ken"


def shown(error: BaseException) -> str:
    """All that an error shows of itself, also in a report with variables, as services of error
    reports make it."""
    with_variables = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = with_variables.stack
    own = [frame for frame in frames if "bilstm_client" in frame.filename]
    assert own
    return "\n".join(
        (
            *(repr(error), str(error), *traceback.format_exception(error)),
            *(str(frame.locals) for frame in own),
            *(repr(vars(error)), repr(pickle.dumps(error)), repr(error.__context__)),
        )
    )


@pytest.mark.parametrize("form", ["str", "function", "file"])
def test_secrets(
    form: str,
    world: World,
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """However a call ends, no error, report, pickle, log or standard stream has the token."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(SECRET)
    token: Any = {"str": SECRET, "function": lambda: SECRET, "file": file}[form]
    errors: list[EncoderError] = []
    with secured(world.issue("127.0.0.1"), "one") as server:
        failing = [
            (connect(server.target, tls=world.ca, token=token), Unauthenticated),
            (connect(server.target, tls=world.other_ca, token=token), NotTrusted),
            (connect(server.target, token=token), Unavailable),
        ]
        for client, kind in failing:
            for call in CALLS.values():
                with pytest.raises(kind) as caught:
                    call(client) if kind is not Unavailable else client.is_ready()
                errors.append(caught.value)
    for client in (client for client, _ in failing):
        assert SECRET not in repr(client)
    assert not any(SECRET in shown(error) for error in errors)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


def test_clients_show_nothing() -> None:
    """Nor does a client, or what it is made of, where it is printed."""
    for kind in (Client, AsyncClient):
        client = kind("localhost", token=SECRET, metadata={"x-key": SECRET})
        call = client._session.begin(None, {"x-key": SECRET})
        assert SECRET not in repr((client, client._session, call, call.token))
        assert SECRET not in repr(call.token.header() if call.token else SECRET)
