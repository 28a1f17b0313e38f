"""The real ONNX Runtime for GPUs on a machine without one; `make check-cuda` runs it. Not shipped.

A fake CUDA answers and traces, and computes nothing. Under it the real library opens sessions,
places nodes, chooses kernels, copies, captures graphs and runs out of memory. That proves control
flow, never numbers and never speed.
"""
