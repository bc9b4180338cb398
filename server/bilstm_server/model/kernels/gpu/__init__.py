"""The kernel for GPUs of NVIDIA's, in Triton."""
