"""How torch's threads wait for each other, set for the whole process. Import it before torch.

Where torch is built with GNU OpenMP, a thread that waits spins, by default for about a
millisecond, at the end of every parallel operation, and an LSTM has several of those a step. As
soon as another process wants the cores, spinning threads keep the working ones from running: on
two busy cores that made the engine some ten times slower. Spinning for a few microseconds costs
nothing on an idle machine.
"""

from __future__ import annotations

import os

SPINS = 2_000

os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
