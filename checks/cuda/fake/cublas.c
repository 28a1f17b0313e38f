/* libcublas.so.13 and libcublasLt.so.13 in one source; LIGHT builds the second. No product is
   computed; each is traced with its shape and types. On a lost device a product fails as cuBLAS
   does when an earlier kernel has: CUBLAS_STATUS_EXECUTION_FAILED, without a code of CUDA.

   Types (cudaDataType_t): 0 float32, 2 float16, 14 bfloat16. NVIDIA's header comes only with the
   half gigabyte of the library, so signatures are written down from docs.nvidia.com/cuda/cublas as
   far as they are read. */
#include "trace.h"
#include <string.h>

enum { SUCCESS = 0, EXECUTION_FAILED = 13 };

#ifndef LIGHT

static int product(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    trace("product %s", text);
    fault();
    return lost() ? EXECUTION_FAILED : SUCCESS;
}

int cublasCreate_v2(void **handle) { *handle = malloc(1); return SUCCESS; }
int cublasDestroy_v2(void *handle) { free(handle); return SUCCESS; }
int cublasSetStream_v2(void *handle, void *stream) { (void)handle, (void)stream; return SUCCESS; }
int cublasSetMathMode(void *handle, int mode) { (void)handle, (void)mode; return SUCCESS; }
int cublasGetMathMode(void *handle, int *mode) { (void)handle; *mode = 0; return SUCCESS; }

const char *cublasGetStatusName(int status)
{
    return status == SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_EXECUTION_FAILED";
}
const char *cublasGetStatusString(int status)
{
    return status == SUCCESS ? "success" : "the GPU program failed to execute";
}

int cublasGemmEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha,
                 const void *a, int a_type, int lda, const void *b, int b_type, int ldb,
                 const void *beta, void *c, int c_type, int ldc, int computed_in, int algorithm)
{
    (void)handle, (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)b, (void)ldb;
    (void)beta, (void)c, (void)ldc, (void)algorithm;
    return product("GemmEx m=%d n=%d k=%d count=1 a=%d b=%d c=%d in=%d", m, n, k, a_type, b_type,
                   c_type, computed_in);
}

int cublasGemmStridedBatchedEx(void *handle, int ta, int tb, int m, int n, int k,
                               const void *alpha, const void *a, int a_type, int lda,
                               long long a_stride, const void *b, int b_type, int ldb,
                               long long b_stride, const void *beta, void *c, int c_type, int ldc,
                               long long c_stride, int count, int computed_in, int algorithm)
{
    (void)handle, (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)a_stride, (void)b;
    (void)ldb, (void)b_stride, (void)beta, (void)c, (void)ldc, (void)c_stride, (void)algorithm;
    return product("GemmStridedBatchedEx m=%d n=%d k=%d count=%d a=%d b=%d c=%d in=%d", m, n, k,
                   count, a_type, b_type, c_type, computed_in);
}

int cublasSgemm_v2(void *handle, int ta, int tb, int m, int n, int k)
{
    (void)handle, (void)ta, (void)tb;
    return product("Sgemm m=%d n=%d k=%d count=1 a=0 b=0 c=0 in=68", m, n, k);
}

int cublasSgemmStridedBatched(void *handle, int ta, int tb, int m, int n, int k,
                              const float *alpha, const float *a, int lda, long long a_stride,
                              const float *b, int ldb, long long b_stride, const float *beta,
                              float *c, int ldc, long long c_stride, int count)
{
    (void)handle, (void)ta, (void)tb, (void)alpha, (void)a, (void)lda, (void)a_stride, (void)b;
    (void)ldb, (void)b_stride, (void)beta, (void)c, (void)ldc, (void)c_stride;
    return product("SgemmStridedBatched m=%d n=%d k=%d count=%d a=0 b=0 c=0 in=68", m, n, k, count);
}

#else

/* Descriptions are not kept; only that a product is computed, and that an algorithm is found. */
static int made(void **handle) { *handle = malloc(1); return SUCCESS; }

int cublasLtCreate(void **handle) { return made(handle); }
int cublasLtMatmulDescCreate(void **handle) { return made(handle); }
int cublasLtMatmulPreferenceCreate(void **handle) { return made(handle); }
int cublasLtMatrixLayoutCreate(void **handle) { return made(handle); }
int cublasLtMatrixTransformDescCreate(void **handle) { return made(handle); }
int cublasLtDestroy(void *handle) { free(handle); return SUCCESS; }
int cublasLtMatmulDescDestroy(void *handle) { free(handle); return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(void *handle) { free(handle); return SUCCESS; }
int cublasLtMatrixLayoutDestroy(void *handle) { free(handle); return SUCCESS; }
int cublasLtMatrixTransformDescDestroy(void *handle) { free(handle); return SUCCESS; }
int cublasLtMatmulDescSetAttribute(void *handle) { (void)handle; return SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(void *handle) { (void)handle; return SUCCESS; }
int cublasLtMatrixLayoutSetAttribute(void *handle) { (void)handle; return SUCCESS; }

struct algorithm {
    unsigned long long data[8];
    size_t workspace;
    int status;
    float waves;
    int more[4];
};

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c,
                                   void *d, void *preference, int wanted, struct algorithm *found,
                                   int *count)
{
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference;
    (void)wanted;
    memset(found, 0, sizeof *found);
    *count = 1;
    return SUCCESS;
}

int cublasLtMatmul(void *handle)
{
    (void)handle;
    trace("product LtMatmul");
    return lost() ? EXECUTION_FAILED : SUCCESS;
}

#endif
