"""The operator and the service on a GPU: `benchmarks/gpu.sh` runs all of it."""
