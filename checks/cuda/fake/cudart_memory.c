/* Memory and copies of the fake CUDA runtime. */
#include "cudart.h"
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;


enum place { PAGEABLE, PINNED, DEVICE };
static const char *const PLACES[] = {"pageable", "pinned", "device"};
struct block { char *at; size_t size; enum place place; struct block *next; };
static struct block *blocks;
static size_t used;

static cudaError_t take(void **address, size_t size, enum place place, const char *call)
{
    cudaError_t refused = unsafe_while_capturing(call);
    if (refused != cudaSuccess)
        return result(refused);
    pthread_mutex_lock(&lock);
    int full = place == DEVICE && used + size > memory_bytes();
    *address = full ? NULL : calloc(1, size ? size : 1);
    if (*address != NULL) {
        struct block *made = malloc(sizeof *made);
        *made = (struct block){*address, size, place, blocks};
        blocks = made;
        used += place == DEVICE ? size : 0;
    }
    pthread_mutex_unlock(&lock);
    trace("%s %s %zu", *address ? "take" : "full", PLACES[place], size);
    return result(*address ? cudaSuccess : cudaErrorMemoryAllocation);
}

static cudaError_t give(void *address, const char *call)
{
    cudaError_t refused = address ? unsafe_while_capturing(call) : cudaSuccess;
    if (refused != cudaSuccess)
        return result(refused);
    pthread_mutex_lock(&lock);
    for (struct block **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->at == address) {
            struct block *found = *at;
            used -= found->place == DEVICE ? found->size : 0;
            *at = found->next;
            free(found);
            break;
        }
    pthread_mutex_unlock(&lock);
    free(address);
    return result(cudaSuccess);
}

cudaError_t cudaMalloc(void **address, size_t size)
{
    return take(address, size, DEVICE, "cudaMalloc");
}
cudaError_t cudaMallocFromPoolAsync(void **address, size_t size, cudaMemPool_t pool,
                                    cudaStream_t stream)
{
    (void)pool, (void)stream;
    return take(address, size, DEVICE, "cudaMallocFromPoolAsync");
}
cudaError_t cudaMallocHost(void **address, size_t size)
{
    return take(address, size, PINNED, "cudaMallocHost");
}
cudaError_t cudaHostAlloc(void **address, size_t size, unsigned int flags)
{
    (void)flags;
    return take(address, size, PINNED, "cudaHostAlloc");
}
cudaError_t cudaFree(void *address) { return give(address, "cudaFree"); }
cudaError_t cudaFreeAsync(void *address, cudaStream_t stream)
{
    (void)stream;
    return give(address, "cudaFreeAsync");
}
cudaError_t cudaFreeHost(void *address) { return give(address, "cudaFreeHost"); }

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total)
{
    *total = memory_bytes();
    *unused = *total > used ? *total - used : 0;
    return result(cudaSuccess);
}

static enum place place_of(const void *address)
{
    enum place found = PAGEABLE;
    pthread_mutex_lock(&lock);
    for (struct block *one = blocks; one; one = one->next)
        if ((const char *)address >= one->at && (const char *)address < one->at + one->size)
            found = one->place;
    pthread_mutex_unlock(&lock);
    return found;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *address)
{
    memset(found, 0, sizeof *found);
    switch (place_of(address)) {
    case DEVICE: found->type = cudaMemoryTypeDevice; break;
    case PINNED: found->type = cudaMemoryTypeHost; break;
    case PAGEABLE: found->type = cudaMemoryTypeUnregistered; break;
    }
    found->devicePointer = found->hostPointer = (void *)address;
    return result(cudaSuccess);
}

/* A captured copy from the host reads the same address at each replay: "frozen". Pageable memory
   and waiting copies are forbidden. */
static cudaError_t copy(void *to, const void *from, size_t size, int waits)
{
    enum place source = place_of(from), target = place_of(to);
    trace("copy %s->%s %zu%s", PLACES[source], PLACES[target], size, waits ? " waiting" : "");
    if (waits && !capturing && unsafe_while_capturing("waiting copy") != cudaSuccess)
        return result(cudaErrorStreamCaptureUnsupported);
    if (capturing && (waits || source == PAGEABLE || target == PAGEABLE)) {
        trace("illegal copy %s->%s %zu", PLACES[source], PLACES[target], size);
        return result(cudaErrorStreamCaptureUnsupported);
    }
    if (capturing && source != DEVICE)
        trace("frozen %s->%s %zu", PLACES[source], PLACES[target], size);
    if (!lost())
        memcpy(to, from, size);
    return result(cudaSuccess);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    (void)kind;
    return copy(to, from, size, 1);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    (void)kind, (void)stream;
    return copy(to, from, size, 0);
}
cudaError_t cudaMemset(void *at, int value, size_t size)
{
    memset(at, value, size);
    return result(unsafe_while_capturing("cudaMemset"));
}
cudaError_t cudaMemsetAsync(void *at, int value, size_t size, cudaStream_t stream)
{
    (void)stream;
    trace("fill %zu", size);
    memset(at, value, size);
    return result(cudaSuccess);
}
