/* What the files of the fake CUDA runtime share. */
#ifndef FAKE_CUDART_H
#define FAKE_CUDART_H

#include "trace.h"
#include <cuda_runtime_api.h>
#include <string.h>

/* The error as the caller gets it, and as cudaGetLastError keeps it: a lost device stays lost. */
cudaError_t result(cudaError_t error);

extern __thread int capturing;

/* Notes a call that a capturing stream forbids, and refuses it as CUDA does. */
cudaError_t while_capturing(const char *what);

/* The same for a call that is potentially unsafe: a capture in another thread forbids it as well
   (cudaThreadExchangeStreamCaptureMode). */
cudaError_t unsafe_while_capturing(const char *what);

size_t memory_bytes(void);

#endif
