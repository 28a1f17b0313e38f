/* libcudart.so.13: the CUDA runtime. Device memory is zeroed host memory, copies are real, kernels
   do nothing. What it knows it takes from the library that registers its kernels: their names, and
   for which cards their fat binaries hold code. The signatures are checked against NVIDIA's header.

   It answers as a card would where the caller decides something by the answer: properties of the
   card, out of memory, a lost device, a card without code, and what a stream forbids while its work
   is captured (docs.nvidia.com/cuda, "CUDA Graphs", prohibited operations). */
#include "cudart.h"

static __thread cudaError_t last;

cudaError_t result(cudaError_t error)
{
    if (error == cudaSuccess && lost())
        error = cudaErrorIllegalAddress;
    if (error != cudaSuccess)
        last = error;
    return error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t found = result(last);
    last = cudaSuccess;
    return found;
}

cudaError_t cudaPeekAtLastError(void) { return result(last); }

static const struct { cudaError_t code; const char *name, *text; } ERRORS[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
};

static int find_error(cudaError_t code)
{
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code)
            return (int)i;
    abort(); /* nothing else is returned here */
}

const char *cudaGetErrorName(cudaError_t code) { return ERRORS[find_error(code)].name; }
const char *cudaGetErrorString(cudaError_t code) { return ERRORS[find_error(code)].text; }

/* ---- the card ---- */

/* From "Technical Specifications per Compute Capability" of the CUDA programming guide, and the
   multiprocessors of A100, A10, L4, H100 and RTX 5090. */
struct card { int sm, multiprocessors, shared_optin, shared_all, threads; };
static const struct card CARDS[] = {
    {75, 40, 65536, 65536, 1024},     {80, 108, 166912, 167936, 2048},
    {86, 72, 101376, 102400, 1536},   {89, 58, 101376, 102400, 1536},
    {90, 132, 232448, 233472, 2048},  {100, 148, 232448, 233472, 2048},
    {120, 170, 101376, 102400, 1536},
};

static struct card card(void)
{
    for (size_t i = 0; i < sizeof CARDS / sizeof *CARDS; i++)
        if (CARDS[i].sm == capability())
            return CARDS[i];
    abort();
}

size_t memory_bytes(void)
{
    const char *found = getenv("FAKE_MEMORY");
    return found ? strtoull(found, NULL, 0) : (size_t)64 << 30;
}

cudaError_t cudaGetDeviceCount(int *count) { *count = 1; return result(cudaSuccess); }
cudaError_t cudaGetDevice(int *device) { *device = 0; return result(cudaSuccess); }
cudaError_t cudaSetDevice(int device) { (void)device; return result(cudaSuccess); }
cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device)
{
    (void)device;
    struct card one = card();
    memset(found, 0, sizeof *found);
    strcpy(found->name, "fake");
    found->major = one.sm / 10, found->minor = one.sm % 10;
    found->multiProcessorCount = one.multiprocessors;
    found->totalGlobalMem = memory_bytes();
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerBlockOptin = (size_t)one.shared_optin;
    found->sharedMemPerMultiprocessor = (size_t)one.shared_all;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->warpSize = 32;
    found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxThreadsPerMultiProcessor = one.threads;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->totalConstMem = 65536;
    found->l2CacheSize = 50 << 20;
    found->memoryPoolsSupported = found->unifiedAddressing = found->canMapHostMemory = 1;
    found->concurrentKernels = found->cooperativeLaunch = 1;
    return result(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    (void)device;
    struct card one = card();
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = one.sm / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = one.sm % 10; break;
    case cudaDevAttrMultiProcessorCount: *value = one.multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = one.shared_optin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = one.shared_all; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = one.threads; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMemoryPoolsSupported: case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default:
        trace("unanswered cudaDeviceGetAttribute %d", (int)attribute);
        *value = 0;
    }
    return result(cudaSuccess);
}

/* Without entry points of the driver, the tensor maps of Hopper's kernels are not made. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function,
                                             unsigned int version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *found)
{
    (void)symbol, (void)version, (void)flags;
    *function = NULL;
    if (found)
        *found = cudaDriverEntryPointSymbolNotFound;
    return result(cudaSuccess);
}
