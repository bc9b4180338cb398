"""`BatchCost`: what batches have cost, and so how long a number of tokens will take. Pure.

A batch costs something whatever its size, and something for each token: what a small batch cost a
token says little of a large one. So only the larger ones are asked, and what is far beyond all that
were seen is not known: more tokens would make larger batches.
"""

from __future__ import annotations

_FORGETTING = 0.9  # of the largest batch, with each smaller one
_LARGE = 0.5  # of the largest one: which batches are asked
_WEIGHT = 0.3  # of the newest of these
_REACH = 16  # times the largest one: how far it is known


class BatchCost:
    def __init__(self) -> None:
        self._largest = 0.0  # tokens
        self.seconds_per_token = 0.0  # until a batch was computed

    def observe(self, tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long."""
        self._largest = max(float(tokens), _FORGETTING * self._largest)
        if tokens < _LARGE * self._largest:
            return
        newest = seconds / tokens
        known = self.seconds_per_token
        self.seconds_per_token = known + _WEIGHT * (newest - known) if known else newest

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take at the least, as far as that is known."""
        return tokens * self.seconds_per_token if tokens <= _REACH * self._largest else 0.0
