"""The groups of settings: each limit declared once, and what follows from several."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import BaseModel, ValidationError

from bilstm_server.settings import (
    QueueLimits,
    ReceiveLimits,
    RequestLimits,
    Settings,
    StreamLimits,
    limits,
)
from tests.support.servers import settings

GROUPS = [
    group
    for group in vars(limits).values()
    if isinstance(group, type) and issubclass(group, limits._Limits) and group is not limits._Limits
]


def test_settings_are_every_group() -> None:
    """A room that takes a group of limits takes the settings as they are, with nothing copied."""
    assert GROUPS
    loaded = settings()
    assert all(isinstance(loaded, group) for group in GROUPS)


def test_each_setting_is_declared_once() -> None:
    """No two groups declare a setting of the same name, and each says what it means."""
    classes = [c for c in Settings.__mro__ if issubclass(c, BaseModel)]
    declared = Counter(
        name
        for c in classes
        for name in vars(c).get("__annotations__", {})
        if name in Settings.model_fields
    )
    assert declared == dict.fromkeys(Settings.model_fields, 1)
    assert all(field.description for field in Settings.model_fields.values())


def test_a_group_is_made_of_what_a_test_cares_for() -> None:
    """The rest of a group's limits have their defaults; what is none of its limits is refused."""
    queue = QueueLimits(max_batch_tokens=10)
    assert queue.max_batch_tokens == 10
    assert queue.max_batch_sequences == Settings.model_fields["max_batch_sequences"].default
    with pytest.raises(ValidationError):
        QueueLimits.model_validate({"max_streams": 1})


@pytest.mark.parametrize(("max_batch_tokens", "whole"), [(1_000, 1_000), (10_000, 2_048)])
def test_no_more_is_computed_whole_than_a_batch_holds(max_batch_tokens: int, whole: int) -> None:
    """A sequence or a live block is computed whole as far as a batch has room for it."""
    bounds = RequestLimits(max_batch_tokens=max_batch_tokens, max_whole_tokens=2_048)
    assert bounds.whole_tokens == bounds.max_block_tokens == whole
    assert bounds.max_request_tokens == max_batch_tokens


@pytest.mark.parametrize(("max_receive_bytes", "slow"), [(1, 1), (99, 9), (100, 10)])
def test_slow_requests_fit_into_their_bytes(max_receive_bytes: int, slow: int) -> None:
    """There may be as many slow requests as fit at their largest, and one in any case."""
    bounds = ReceiveLimits(max_receive_bytes=max_receive_bytes, max_message_bytes=10)
    assert bounds.max_slow_requests == slow


def test_a_wanted_stream_has_a_tenth_of_the_time() -> None:
    """Where others wait for what a stream holds, its client may stand still a tenth as long."""
    assert StreamLimits(stream_idle_seconds=50.0).stream_wanted_seconds == 5.0
