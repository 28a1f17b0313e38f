/* Streams, captures and events of the fake CUDA runtime. */
#include "cudart.h"


__thread int capturing;
/* Captures of all threads in the global mode, which forbids unsafe calls to every thread. */
static int global_captures;

static cudaError_t refuse(const char *what)
{
    trace("illegal %s", what);
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t while_capturing(const char *what)
{
    return capturing ? refuse(what) : cudaSuccess;
}

cudaError_t unsafe_while_capturing(const char *what)
{
    int captures = __atomic_load_n(&global_captures, __ATOMIC_SEQ_CST);
    return capturing || captures ? refuse(what) : cudaSuccess;
}

/* A capture waits for as long as the file FAKE_HOLD exists, so that others meet it. */
static void hold(void)
{
    const char *file = getenv("FAKE_HOLD");
    while (file != NULL && access(file, F_OK) == 0)
        usleep(1000);
}

static cudaError_t handle(void **made) { *made = malloc(1); return result(cudaSuccess); }

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return handle((void **)stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    (void)flags;
    return handle((void **)stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { (void)stream; return result(cudaSuccess); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    (void)stream;
    trace("sync stream");
    return result(while_capturing("cudaStreamSynchronize"));
}
cudaError_t cudaDeviceSynchronize(void)
{
    trace("sync device");
    return result(unsafe_while_capturing("cudaDeviceSynchronize"));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    (void)stream, (void)event, (void)flags;
    return result(cudaSuccess);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    (void)stream;
    if (capturing) /* it would be recorded, and run at each replay: here neither */
        trace("illegal cudaLaunchHostFunc");
    trace("host function");
    function(data);
    return result(cudaSuccess);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void)stream;
    capturing = mode == cudaStreamCaptureModeGlobal ? 2 : 1;
    __atomic_add_fetch(&global_captures, capturing == 2, __ATOMIC_SEQ_CST);
    trace("graph begin");
    hold();
    return result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    (void)stream;
    __atomic_sub_fetch(&global_captures, capturing == 2, __ATOMIC_SEQ_CST);
    capturing = 0;
    trace("graph end");
    return handle((void **)graph);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    (void)stream;
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return result(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long flags)
{
    (void)graph, (void)flags;
    trace("graph instantiate");
    return handle((void **)made);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    (void)graph, (void)stream;
    trace("graph launch");
    return result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { (void)graph; return result(cudaSuccess); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { (void)graph; return result(cudaSuccess); }

cudaError_t cudaEventCreate(cudaEvent_t *event) { return handle((void **)event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    (void)flags;
    return handle((void **)event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { (void)event; return result(cudaSuccess); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    (void)event, (void)stream;
    return result(cudaSuccess);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    (void)event;
    trace("sync event");
    return result(while_capturing("cudaEventSynchronize"));
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end)
{
    (void)begin, (void)end;
    *milliseconds = 1;
    return result(cudaSuccess);
}
