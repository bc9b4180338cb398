"""`bilstm-server` whose long sequences cost no computing: what is left is what the wire costs.

    BENCH_CHUNK_BYTES=1048576 python -m benchmarks.wire_server serve …

Their states are zeros. Results are sent in chunks of so many bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bilstm_server.__main__ import main
from bilstm_server.engine.engine import Engine
from bilstm_server.engine.sequences import SequenceInput, SequenceOutput
from bilstm_server.model.incremental.slices import SlicedRun
from bilstm_server.rpc.encoder.streams import outbox
from bilstm_server.serving import loading


class WireRun(SlicedRun):
    advanced = False

    @property
    def done(self) -> bool:
        return self.advanced


class WireEngine(Engine):
    def begin(self, sequence: SequenceInput) -> WireRun:
        return WireRun(self._encoder, lambda *_: [], sequence.tokens, sequence.outputs)

    def advance(self, runs: Sequence[SlicedRun], steps: int) -> None:
        for run in runs:
            assert isinstance(run, WireRun)
            run.advanced = True

    def finish(self, run: SlicedRun, sequence: SequenceInput) -> SequenceOutput:
        shape = (sequence.tokens, self.config.output_values["states"].width)
        return SequenceOutput({"states": np.zeros(shape, np.float32)})


if __name__ == "__main__":
    vars(loading).update(Engine=WireEngine)
    vars(outbox).update(CHUNK_BYTES=int(os.environ["BENCH_CHUNK_BYTES"]))
    main()
