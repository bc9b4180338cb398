"""`BatchCost`: what batches have cost, and so how long a number of tokens will take. Pure.

A batch costs something whatever its size, and something for each token, so the cost of a token in a
small batch says little of a large one. Only the larger batches are counted. And nothing is said of
many more tokens than the largest batch had: they would make larger batches than were ever seen.
"""

from __future__ import annotations

_FORGETTING = 0.9  # of the largest batch's size, with each smaller one
_LARGE = 0.5  # of the largest batch's size: smaller ones are not counted
_WEIGHT = 0.3  # of the newest batch that is counted
_REACH = 16  # times the largest batch: more tokens are not known
_GUESSED_SECONDS = 0.5  # for a batch, until there was one


class BatchCost:
    """What batches have cost."""

    def __init__(self) -> None:
        self._largest = 0.0  # tokens
        self.seconds_per_token = 0.0  # until a batch was computed
        self.last_seconds = _GUESSED_SECONDS  # which the last batch took

    def observe(self, tokens: int, seconds: float) -> None:
        """Take into account a batch of that many tokens, which took that long."""
        self.last_seconds = seconds
        self._largest = max(float(tokens), _FORGETTING * self._largest)
        if tokens < _LARGE * self._largest:
            return
        newest = seconds / tokens
        known = self.seconds_per_token
        self.seconds_per_token = known + _WEIGHT * (newest - known) if known else newest

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take at least, as far as that is known; otherwise 0."""
        return tokens * self.seconds_per_token if tokens <= _REACH * self._largest else 0.0
