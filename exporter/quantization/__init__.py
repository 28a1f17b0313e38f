"""Quantize a finished float32 graph: calibration, smoothing, int8 and weight-only."""
