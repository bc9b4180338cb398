"""What gRPC's core writes to standard error: nothing. Import it before gRPC, which reads the
variable then.

It would write what it makes of malformed frames and handshakes: as many lines as a caller likes,
past the log that bounds its own, with bytes of the caller's in them. And where nobody reads them it
would wait.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
