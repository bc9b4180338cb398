"""Benchmarks; torch's threads wait in them as they do in the server."""

import bilstm_server.process.threads  # noqa: F401  # before any of them imports torch
