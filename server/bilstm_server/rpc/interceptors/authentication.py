"""`Authentication`: who makes a call, how urgent it may be, and whether it is let in at all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...callers import Caller, Priority
from ...errors import PermissionDenied, ServiceError, Unauthenticated
from ...metrics import DropMetrics, RefusedCalls
from ...security.tokens import Token, Tokens
from ...security.watched import Watched
from ..context import Context
from ..identity import (
    AuthContext,
    Metadata,
    asked_priority,
    caller_certificate_end,
    caller_certificate_name,
    forwarded_name,
    has_certificate,
    has_token,
    peer_name,
    presented_token,
)
from .method import Method, Respond
from .outcomes import Call, current_call


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerRules:
    """By what callers are known."""

    tokens: Watched[Tokens] | None = None  # None: calls need none
    # Which connections have a certificate of their caller's. Where some have, calls on these need
    # no token.
    certificates: Literal["none", "some", "all"] = "none"
    header: str = ""  # the metadata in which a proxy says whose call it is; empty: none
    # The most that callers of these names may ask for. Others have NORMAL.
    max_priorities: Mapping[str, Priority] = field(default_factory=dict)
    open_services: frozenset[str] = frozenset()  # that everybody may ask


class Authentication:
    """The layer that knows callers, and refuses those that have no right to be here."""

    def __init__(self, rules: CallerRules, refused: RefusedCalls, no_model: DropMetrics):
        """Count the calls that are refused in `refused`, those with tensors in `no_model` too."""
        self._rules = rules
        self._refused = refused
        self._no_model = no_model
        self._streams: dict[Call, Token] = {}  # that are open, each with the token it has shown

    def around(self, method: Method, respond: Respond) -> Respond:
        """Give each call of the method its caller and its priority.

        It raises `Unauthenticated` before anything of the call is read.
        """
        if method.service in self._rules.open_services:
            return respond

        async def known(requests: Any, context: Context) -> bytes | None:
            call = current_call.get()
            metadata: Any = context.invocation_metadata() or ()
            auth: Any = context.auth_context() if self._rules.certificates != "none" else {}
            certified = has_certificate(auth)
            try:
                if certified or self._rules.certificates == "all":
                    self._check_certificate(method, auth)
                token = self._token(method, metadata, certified)
            except Unauthenticated:
                call.caller = self._caller(None, auth, metadata, context)  # for the log
                raise
            call.caller = self._caller(token, auth, metadata, context)
            call.priority = min(asked_priority(metadata), call.caller.max_priority)
            if token is not None and method.is_stream:
                self._streams[call] = token
            try:
                return await respond(requests, context)
            except PermissionDenied:
                self._refused.refuse("no_right")
                raise
            finally:
                self._streams.pop(call, None)

        return known

    def _check_certificate(self, method: Method, auth: AuthContext) -> None:
        """Raise `Unauthenticated` where the connection's certificate has ended: since it was made,
        or before, as one that resumes a session of TLS is made without a look at it."""
        if time.time() < caller_certificate_end(auth):
            return
        self._refused.refuse("ended_certificate")
        if method.tensor is not None:
            self._no_model.drop("unauthorized")
        raise Unauthenticated("the client certificate has ended")

    def _token(self, method: Method, metadata: Metadata, certified: bool) -> Token | None:
        if self._rules.tokens is None:
            return None
        if certified and self._rules.certificates == "some" and not has_token(metadata):
            return None
        reason: Literal["no_token", "wrong_token"] = "no_token"
        try:
            presented = presented_token(metadata)
            reason = "wrong_token"
            if token := self._rules.tokens.value.find(presented):
                return token
            raise Unauthenticated("the token is none that this server knows")
        except Unauthenticated:
            self._refused.refuse(reason)
            if method.tensor is not None:
                self._no_model.drop("unauthorized")
            raise

    def _caller(
        self, token: Token | None, auth: AuthContext, metadata: Metadata, context: Context
    ) -> Caller:
        kind: Literal["token", "certificate", "peer"] = "peer"
        name, models = "", None
        if token is not None:
            kind, name, models = "token", token.name, token.models
        elif has_certificate(auth):
            name = caller_certificate_name(auth)
            kind = "certificate" if name else "peer"
        elif self._rules.header:
            name = forwarded_name(metadata, self._rules.header)
        name = name or peer_name(context.peer())
        most = self._rules.max_priorities.get(name, Priority.NORMAL)
        return Caller(name, kind, most, models)

    def tokens_changed(self) -> None:
        """End the streams whose token is no longer in the file, or has lost a right. Calls that
        were let in are answered."""
        assert self._rules.tokens is not None
        tokens = self._rules.tokens.value
        for call, token in list(self._streams.items()):
            now = tokens.find_digest(token.digest)
            if now is None:
                self._end(call, Unauthenticated("the token was withdrawn"))
            elif not now.covers(token):
                self._end(call, PermissionDenied("a right was taken from the token"))

    def _end(self, call: Call, error: ServiceError) -> None:
        if call.end is not None and not call.end.done():
            self._refused.refuse("removed_token")
            call.end.set_result(error)
