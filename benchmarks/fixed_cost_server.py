"""`bilstm-server` on a device that takes the same time for the same batch, whatever else goes on.

    python -m benchmarks.fixed_cost_server serve …

What a batch takes beyond its own computation is slept, so a small model leaves the processors to
those who call.
"""

from __future__ import annotations

import time

from bilstm_server.__main__ import main
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceOutput
from bilstm_server.engine.staging import StagedBatch

BATCH_SECONDS = 0.005  # for a batch, whatever is in it
TOKEN_SECONDS = 0.00005

_compute = Engine.compute


def _slowly(engine: Engine, staged: StagedBatch) -> list[SequenceOutput]:
    started_at = time.perf_counter()
    tokens = sum(sequence.tokens for sequence in staged.sequences)
    outputs = _compute(engine, staged)
    left = started_at + BATCH_SECONDS + tokens * TOKEN_SECONDS - time.perf_counter()
    time.sleep(max(left, 0.0))
    return outputs


if __name__ == "__main__":
    Engine.compute = _slowly  # type: ignore[method-assign, assignment]
    main()
