#!/bin/sh
# Starts Triton on the model repository beside this file, at the ports that open-rerank's server
# expects: TRITON_HTTP_ENDPOINT=http://127.0.0.1:8003 (or TRITON_GRPC_ENDPOINT=127.0.0.1:8004).
# The Python of Triton must find the packages runtime and profiles, msgspec, tokenizers, numpy and
# onnxruntime. TRITON_BIND_ADDR=0.0.0.0 listens on every address.
# Triton's own ONNX Runtime, which may be built to report to Microsoft, asks no Python.
export ORT_DISABLE_TELEMETRY=1
exec "${TRITONSERVER:-tritonserver}" \
    --model-repository="$(cd "$(dirname "$0")" && pwd)" \
    --http-address="${TRITON_BIND_ADDR:-127.0.0.1}" --http-port="${TRITON_HTTP_PORT:-8003}" \
    --grpc-address="${TRITON_BIND_ADDR:-127.0.0.1}" --grpc-port="${TRITON_GRPC_PORT:-8004}" \
    --metrics-address="${TRITON_BIND_ADDR:-127.0.0.1}" --metrics-port="${TRITON_METRICS_PORT:-8005}" \
    --rate-limit="${NIM_TRITON_RATE_LIMIT:-off}" \
    --log-verbose="${NIM_TRITON_LOG_VERBOSE:-0}" \
    "$@"
