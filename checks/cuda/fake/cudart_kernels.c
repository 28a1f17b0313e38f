/* Kernels of the fake CUDA runtime: their names, and the cards that there is code for. */
#define _GNU_SOURCE
#include "cudart.h"
#include <pthread.h>
#include <search.h>
#include <stdint.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

struct image { int is_ptx, architecture; struct image *next; };
struct module { struct image *images; };
struct kernel { const void *host; const char *name; const struct module *module; };
static void *kernels; /* a tree of struct kernel, by `host` */

static int by_host(const void *one, const void *other)
{
    uintptr_t a = (uintptr_t)((const struct kernel *)one)->host;
    uintptr_t b = (uintptr_t)((const struct kernel *)other)->host;
    return (a > b) - (a < b);
}

static const struct kernel *find_kernel(const void *host)
{
    struct kernel wanted = {host, NULL, NULL};
    pthread_mutex_lock(&lock);
    void *found = tfind(&wanted, &kernels, by_host);
    pthread_mutex_unlock(&lock);
    return found ? *(struct kernel **)found : NULL;
}

static void add_kernel(const void *host, const char *name, const struct module *module)
{
    struct kernel *made = malloc(sizeof *made);
    *made = (struct kernel){host, name, module};
    pthread_mutex_lock(&lock);
    tsearch(made, &kernels, by_host);
    pthread_mutex_unlock(&lock);
}

/* A fat binary: magic, version, size of the header, size of all images; then for each image its
   kind (1 PTX, 2 machine code), the sizes of header and content, and the architecture. */
static struct image *read_images(const char *fat)
{
    struct image *found = NULL;
    uint16_t header, kind;
    uint32_t magic, image_header, architecture;
    uint64_t size, content;
    memcpy(&magic, fat, 4);
    memcpy(&header, fat + 6, 2);
    memcpy(&size, fat + 8, 8);
    if (magic != 0xba55ed50)
        abort();
    for (const char *at = fat + header, *end = at + size; at < end; at += image_header + content) {
        memcpy(&kind, at, 2);
        memcpy(&image_header, at + 4, 4);
        memcpy(&content, at + 8, 8);
        memcpy(&architecture, at + 28, 4);
        struct image *made = malloc(sizeof *made);
        *made = (struct image){kind == 1, (int)architecture, found};
        found = made;
    }
    return found;
}

void **__cudaRegisterFatBinary(void *wrapper)
{
    const char *fat;
    memcpy(&fat, (char *)wrapper + 8, sizeof fat);
    struct module *made = malloc(sizeof *made);
    made->images = read_images(fat);
    return (void **)made;
}

void __cudaRegisterFatBinaryEnd(void **module) { (void)module; }
void __cudaUnregisterFatBinary(void **module) { (void)module; }
void __cudaRegisterVar(void **module, char *host, char *device, const char *name, int external,
                       size_t size, int constant, int global)
{
    (void)module, (void)host, (void)device, (void)name, (void)external, (void)size, (void)constant;
    (void)global;
}

void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name,
                            int threads, void *a, void *b, void *c, void *d, int *e)
{
    (void)device, (void)threads, (void)a, (void)b, (void)c, (void)d, (void)e;
    add_kernel(host, name, (const struct module *)module);
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *host)
{
    *kernel = (cudaKernel_t)host;
    return result(cudaSuccess);
}

/* Libraries that are loaded while running (cuDNN-like engines of ONNX Runtime): their code is not
   read, so it counts as fitting. */
cudaError_t cudaLibraryLoadData(cudaLibrary_t *library, const void *code,
                                enum cudaJitOption *options, void **values, unsigned int count,
                                enum cudaLibraryOption *more, void **more_values,
                                unsigned int more_count)
{
    (void)code, (void)options, (void)values, (void)count, (void)more, (void)more_values;
    (void)more_count;
    *library = malloc(1);
    return result(cudaSuccess);
}

cudaError_t cudaLibraryGetKernel(cudaKernel_t *kernel, cudaLibrary_t library, const char *name)
{
    (void)library;
    *kernel = calloc(1, 1);
    add_kernel(*kernel, strdup(name), NULL);
    return result(cudaSuccess);
}

/* Machine code fits cards of its major version from its minor one on, PTX all later cards. */
static int has_code(const struct module *module)
{
    if (module == NULL)
        return 1;
    int card = capability();
    for (const struct image *image = module->images; image; image = image->next) {
        int same = image->architecture / 10 == card / 10;
        if (image->architecture <= card && (image->is_ptx || same))
            return 1;
    }
    return 0;
}

static cudaError_t launch(const void *host, dim3 grid, dim3 block, size_t shared)
{
    const struct kernel *kernel = find_kernel(host);
    if (kernel == NULL)
        abort();
    if (!has_code(kernel->module))
        return result(cudaErrorNoKernelImageForDevice);
    trace("launch %s grid=%u,%u,%u block=%u shared=%zu", kernel->name, grid.x, grid.y, grid.z,
          block.x * block.y * block.z, shared);
    return result(cudaSuccess);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments,
                               size_t shared, cudaStream_t stream)
{
    (void)arguments, (void)stream;
    return launch((const void *)kernel, grid, block, shared);
}

cudaError_t cudaLaunchKernel(const void *host, dim3 grid, dim3 block, void **arguments,
                             size_t shared, cudaStream_t stream)
{
    (void)arguments, (void)stream;
    return launch(host, grid, block, shared);
}

cudaError_t cudaLaunchCooperativeKernel(const void *host, dim3 grid, dim3 block, void **arguments,
                                        size_t shared, cudaStream_t stream)
{
    (void)arguments, (void)stream;
    return launch(host, grid, block, shared);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *host,
                                void **arguments)
{
    (void)arguments;
    return launch(host, config->gridDim, config->blockDim, config->dynamicSmemBytes);
}

static __thread struct { dim3 grid, block; size_t shared; cudaStream_t stream; } pushed;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream)
{
    pushed.grid = grid, pushed.block = block, pushed.shared = shared, pushed.stream = stream;
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream)
{
    *grid = pushed.grid, *block = pushed.block, *shared = pushed.shared;
    memcpy(stream, &pushed.stream, sizeof pushed.stream);
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *host)
{
    const struct kernel *kernel = find_kernel(host);
    if (kernel == NULL || !has_code(kernel->module))
        return result(cudaErrorNoKernelImageForDevice);
    memset(found, 0, sizeof *found);
    found->binaryVersion = found->ptxVersion = capability();
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 64;
    return result(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void *host, enum cudaFuncAttribute attribute, int value)
{
    (void)host, (void)attribute, (void)value;
    return result(cudaSuccess);
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t kernel, enum cudaFuncAttribute attribute,
                                            int value, int device)
{
    (void)kernel, (void)attribute, (void)value, (void)device;
    return result(cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *host,
                                                                   int threads, size_t shared,
                                                                   unsigned int flags)
{
    (void)host, (void)threads, (void)shared, (void)flags;
    *blocks = 2;
    return result(cudaSuccess);
}
