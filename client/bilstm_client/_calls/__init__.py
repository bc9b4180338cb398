"""One call: arrays to messages and back, the way to a server, when to try again, and what goes
wrong. Knows nothing of streams.
"""
