"""How many things one message may have, whatever its bytes: the server refuses by it, and the
client cuts by it."""

MAX_CHUNKS = 1_024  # of one message to a stream, whatever a call may bring
MAX_INPUTS = 16  # of one sequence, or of a chunk of it
MAX_MESSAGE_INPUTS = 4_096  # named ones, of all sequences or chunks of a message
MAX_NAME_BYTES = 64  # of an input or an output
