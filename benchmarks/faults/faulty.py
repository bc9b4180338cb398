"""`bilstm-server` with faults that a sequence's length calls for.

    python -m benchmarks.faults.faulty serve …

A sequence of `HANGS` steps never returns from the engine, one of `LOSES` loses its device, and one
of `STALLS` holds the event loop for good. All others are computed as ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from bilstm_server.__main__ import main
from bilstm_server.batching.batcher import Batcher
from bilstm_server.batching.jobs import Result
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput, SequenceOutput
from bilstm_server.engine.staging import StagedBatch
from bilstm_server.errors import DeviceLost
from bilstm_server.serving import loading, models

HANGS, LOSES, STALLS = 1_013, 1_019, 1_021  # steps
_FOR_GOOD_SECONDS = 24 * 3600.0


class FaultyEngine(Engine):
    def compute(self, staged: StagedBatch) -> list[SequenceOutput]:
        lengths = {sequence.tokens for sequence in staged.sequences}
        if HANGS in lengths:
            threading.Event().wait()
        if LOSES in lengths:
            cause = RuntimeError("CUDA error: misaligned address")
            raise DeviceLost("the GPU is lost: the server ends") from cause
        return super().compute(staged)


class StallingBatcher(Batcher):
    async def submit(
        self, sequences: Sequence[SequenceInput], *how: Any, **more: Any
    ) -> list[Result]:
        if any(sequence.tokens == STALLS for sequence in sequences):
            time.sleep(_FOR_GOOD_SECONDS)  # noqa: ASYNC251 (which is the fault)
        return await super().submit(sequences, *how, **more)


if __name__ == "__main__":
    vars(loading).update(Engine=FaultyEngine)
    vars(models).update(Batcher=StallingBatcher)
    main()
