/* libcudnn.so.9: built apart from the others, for graphs that still ask for it. ONNX Runtime loads
   it when the first kernel wants it, so its absence is a case of its own. Nothing is computed; each
   call is traced, so that a graph which needs cuDNN is seen. */
#include "trace.h"

unsigned long cudnnGetVersion(void) { return 91500; }
unsigned long cudnnGetCudartVersion(void) { return 13000; }
const char *cudnnGetErrorString(int status) { (void)status; return "fake"; }

static int made(const char *name, void **handle)
{
    trace("cudnn %s", name);
    *handle = malloc(1);
    return 0;
}
int cudnnCreate(void **handle) { return made("cudnnCreate", handle); }
int cudnnCreateTensorDescriptor(void **handle)
{
    return made("cudnnCreateTensorDescriptor", handle);
}
int cudnnCreateReduceTensorDescriptor(void **handle)
{
    return made("cudnnCreateReduceTensorDescriptor", handle);
}
int cudnnGetReductionWorkspaceSize(void *handle, void *how, void *from, void *to, size_t *size)
{
    (void)handle, (void)how, (void)from, (void)to;
    *size = 1024;
    return 0;
}
int cudnnGetReductionIndicesSize(void *handle, void *how, void *from, void *to, size_t *size)
{
    (void)handle, (void)how, (void)from, (void)to;
    *size = 1024;
    return 0;
}
