/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libcuda.so.1 of a simulated host: enough of the CUDA driver API to find GPUs and to occupy them. Asks the mock NVML.
 *
 * As with the real one, cuInit fails with SYSTEM_NOT_READY (802) on an NVSwitch machine whose fabric manager has not run, and
 * with SYSTEM_DRIVER_MISMATCH (803) when the loaded driver is another version. A context holds the GPU's device nodes, so
 * the driver cannot be unloaded and NVML lists the process.
 */
#define _GNU_SOURCE
#include "nvml.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
typedef int CUresult;
enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_READY = 802, MISMATCH = 803 };

struct context {
    int nodes[2];
};

static void *library;
static nvmlReturn_t (*get_count)(unsigned *);
static nvmlReturn_t (*get_handle)(unsigned, nvmlDevice_t *);
static nvmlReturn_t (*get_name)(nvmlDevice_t, char *, unsigned);
static nvmlReturn_t (*get_memory)(nvmlDevice_t, nvmlMemory_t *);
static nvmlReturn_t (*get_capability)(nvmlDevice_t, int *, int *);
static nvmlReturn_t (*get_minor)(nvmlDevice_t, unsigned *);
static nvmlReturn_t (*get_fabric)(nvmlDevice_t, nvmlGpuFabricInfo_t *);

static void *symbol(const char *name) { return dlsym(library, name); }

static CUresult fabric_is_ready(void) {
    nvmlDevice_t device;
    nvmlGpuFabricInfo_t info;
    if (get_handle(0, &device) || get_fabric(device, &info))
        return INVALID_DEVICE;
    return info.state == NVML_FABRIC_NOT_SUPPORTED || info.state == NVML_FABRIC_COMPLETED ? SUCCESS : NOT_READY;
}

EXPORT CUresult cuInit(unsigned flags) {
    unsigned count;
    if (flags)
        return INVALID_VALUE;
    if (!library && !(library = dlopen("libnvidia-ml.so.1", RTLD_NOW)))
        return NO_DEVICE;
    nvmlReturn_t (*initialise)(void) = symbol("nvmlInit_v2");
    get_count = symbol("nvmlDeviceGetCount_v2");
    get_handle = symbol("nvmlDeviceGetHandleByIndex_v2");
    get_name = symbol("nvmlDeviceGetName");
    get_memory = symbol("nvmlDeviceGetMemoryInfo");
    get_capability = symbol("nvmlDeviceGetCudaComputeCapability");
    get_minor = symbol("nvmlDeviceGetMinorNumber");
    get_fabric = symbol("nvmlDeviceGetGpuFabricInfo");
    nvmlReturn_t result = initialise();
    if (result)
        return result == NVML_ERROR_LIB_RM_VERSION_MISMATCH ? MISMATCH : NO_DEVICE;
    if (get_count(&count) || !count)
        return NO_DEVICE;
    return fabric_is_ready();
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    if (!version)
        return INVALID_VALUE;
    *version = CUDA_VERSION;
    return SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    unsigned found;
    if (!library || get_count(&found))
        return NOT_INITIALIZED;
    *count = (int)found;
    return SUCCESS;
}

EXPORT CUresult cuDeviceGet(int *device, int ordinal) {
    nvmlDevice_t handle;
    if (!library)
        return NOT_INITIALIZED;
    if (ordinal < 0 || get_handle((unsigned)ordinal, &handle))
        return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

static CUresult handle_of(int device, nvmlDevice_t *handle) {
    if (!library)
        return NOT_INITIALIZED;
    return device < 0 || get_handle((unsigned)device, handle) ? INVALID_DEVICE : SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, int device) {
    nvmlDevice_t handle;
    CUresult result = handle_of(device, &handle);
    return result ? result : get_name(handle, name, (unsigned)length) ? INVALID_VALUE : SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    nvmlDevice_t handle;
    nvmlMemory_t memory;
    CUresult result = handle_of(device, &handle);
    if (result || get_memory(handle, &memory))
        return result ? result : INVALID_DEVICE;
    *bytes = memory.total;
    return SUCCESS;
}

EXPORT CUresult cuDeviceComputeCapability(int *major_part, int *minor_part, int device) {
    nvmlDevice_t handle;
    CUresult result = handle_of(device, &handle);
    return result ? result : get_capability(handle, major_part, minor_part) ? INVALID_DEVICE : SUCCESS;
}

EXPORT CUresult cuCtxCreate_v2(struct context **context, unsigned flags, int device) {
    nvmlDevice_t handle;
    unsigned minor_number;
    char path[64];
    (void)flags;
    CUresult result = handle_of(device, &handle);
    if (result || get_minor(handle, &minor_number))
        return result ? result : INVALID_DEVICE;
    if (!(*context = calloc(1, sizeof **context)))
        return INVALID_VALUE;
    snprintf(path, sizeof path, "/dev/nvidia%u", minor_number);
    (*context)->nodes[0] = open(path, O_PATH | O_CLOEXEC);
    (*context)->nodes[1] = open("/dev/nvidia-uvm", O_PATH | O_CLOEXEC);
    return SUCCESS;
}

EXPORT CUresult cuCtxDestroy_v2(struct context *context) {
    if (!context)
        return INVALID_VALUE;
    close(context->nodes[0]);
    close(context->nodes[1]);
    free(context);
    return SUCCESS;
}

EXPORT CUresult cuGetErrorString(CUresult error, const char **words) {
    static const struct {
        CUresult code;
        const char *words;
    } known[] = {
        {SUCCESS, "no error"},
        {INVALID_VALUE, "invalid argument"},
        {NOT_INITIALIZED, "initialization error"},
        {NO_DEVICE, "no CUDA-capable device is detected"},
        {INVALID_DEVICE, "invalid device ordinal"},
        {NOT_READY, "system not yet initialized"},
        {MISMATCH, "system has unsupported display driver / cuda driver combination"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].code == error) {
            *words = known[i].words;
            return SUCCESS;
        }
    }
    return INVALID_VALUE;
}
