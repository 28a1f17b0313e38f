"""KServe v2 (Open Inference Protocol) with Triton's extensions, for HTTP and gRPC alike."""
