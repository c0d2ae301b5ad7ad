/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libcuda.so.1 of a simulated host: enough of the CUDA driver API to find devices and to occupy them. Asks the mock NVML.
 *
 * As with the real one, cuInit fails with SYSTEM_NOT_READY (802) on an NVSwitch machine whose fabric manager has not run, and
 * with SYSTEM_DRIVER_MISMATCH (803) when the loaded driver is another version. A process gets one MIG device, the first it sees,
 * and then no GPU; a GPU in MIG mode is no device itself. $CUDA_VISIBLE_DEVICES chooses: UUIDs, or indexes of whole GPUs.
 * A context holds the device's nodes (of a MIG device the GPU's and both capabilities'), so the driver cannot be unloaded, the
 * instances cannot be destroyed, and NVML lists the process. Tests set $SILICON_DEV (instead of /dev).
 */
#define _GNU_SOURCE
#include "nvml.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_DEVICES 64
#define MOST_NODES 4
typedef int CUresult;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    OPERATING_SYSTEM = 304,
    NOT_READY = 802,
    MISMATCH = 803
};

struct context {
    int nodes[MOST_NODES], count;
};

static void *library;
static nvmlDevice_t devices[MOST_DEVICES];
static unsigned device_count;
static nvmlReturn_t (*get_count)(unsigned *);
static nvmlReturn_t (*get_handle)(unsigned, nvmlDevice_t *);
static nvmlReturn_t (*get_handle_by_uuid)(const char *, nvmlDevice_t *);
static nvmlReturn_t (*get_name)(nvmlDevice_t, char *, unsigned);
static nvmlReturn_t (*get_memory)(nvmlDevice_t, nvmlMemory_t *);
static nvmlReturn_t (*get_capability)(nvmlDevice_t, int *, int *);
static nvmlReturn_t (*get_minor)(nvmlDevice_t, unsigned *);
static nvmlReturn_t (*get_fabric)(nvmlDevice_t, nvmlGpuFabricInfo_t *);
static nvmlReturn_t (*get_mig_mode)(nvmlDevice_t, unsigned *, unsigned *);
static nvmlReturn_t (*get_most_mig_devices)(nvmlDevice_t, unsigned *);
static nvmlReturn_t (*get_mig_device)(nvmlDevice_t, unsigned, nvmlDevice_t *);
static nvmlReturn_t (*get_mig_nodes)(nvmlDevice_t, unsigned *, unsigned *);

static void *symbol(const char *name) { return dlsym(library, name); }

/* -- devices ------------------------------------------------------------------------------------------------------- */

static bool is_mig_device(nvmlDevice_t device) {
    unsigned nodes[2];
    return !get_mig_nodes(device, &nodes[0], &nodes[1]);
}

static bool is_in_mig_mode(nvmlDevice_t gpu) {
    unsigned current, pending;
    return !get_mig_mode(gpu, &current, &pending) && current;
}

/* All that this process could use: whole GPUs by index, then MIG devices. */
static unsigned find_candidates(nvmlDevice_t *found) {
    unsigned count = 0, gpus = 0, most;
    nvmlDevice_t gpu, device;
    get_count(&gpus);
    for (unsigned i = 0; i < gpus && count < MOST_DEVICES; i++)
        if (!get_handle(i, &gpu) && !is_in_mig_mode(gpu))
            found[count++] = gpu;
    for (unsigned i = 0; i < gpus; i++)
        if (!get_handle(i, &gpu) && is_in_mig_mode(gpu) && !get_most_mig_devices(gpu, &most))
            for (unsigned j = 0; j < most && count < MOST_DEVICES; j++)
                if (!get_mig_device(gpu, j, &device))
                    found[count++] = device;
    return count;
}

/* One word of $CUDA_VISIBLE_DEVICES; NULL when it names none of the candidates. */
static nvmlDevice_t chosen(const char *word, nvmlDevice_t *candidates, unsigned count) {
    nvmlDevice_t device = NULL;
    char *end;
    unsigned long index = strtoul(word, &end, 10);
    if (*word && !*end)
        return index < count && !is_mig_device(candidates[index]) ? candidates[index] : NULL;
    if (get_handle_by_uuid(word, &device))
        return NULL;
    for (unsigned i = 0; i < count; i++)
        if (candidates[i] == device)
            return device;
    return NULL;
}

/* Keep the devices that the list names, in its order, up to the first word that names none. */
static unsigned choose(const char *list, nvmlDevice_t *candidates, unsigned count) {
    nvmlDevice_t kept[MOST_DEVICES], device;
    unsigned found = 0;
    char *words = strdup(list), *rest = NULL;
    for (char *word = strtok_r(words, ",", &rest); word && found < MOST_DEVICES; word = strtok_r(NULL, ",", &rest)) {
        if (!(device = chosen(word, candidates, count)))
            break;
        kept[found++] = device;
    }
    free(words);
    memcpy(candidates, kept, found * sizeof *kept);
    return found;
}

static void find_devices(void) {
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    device_count = find_candidates(devices);
    if (list)
        device_count = choose(list, devices, device_count);
    for (unsigned i = 0; i < device_count; i++) {
        if (is_mig_device(devices[i])) {
            devices[0] = devices[i];
            device_count = 1;
        }
    }
}

static CUresult fabric_is_ready(void) {
    nvmlGpuFabricInfo_t info;
    if (get_fabric(devices[0], &info))
        return INVALID_DEVICE;
    return info.state == NVML_FABRIC_NOT_SUPPORTED || info.state == NVML_FABRIC_COMPLETED ? SUCCESS : NOT_READY;
}

EXPORT CUresult cuInit(unsigned flags) {
    if (flags)
        return INVALID_VALUE;
    if (!library && !(library = dlopen("libnvidia-ml.so.1", RTLD_NOW)))
        return NO_DEVICE;
    nvmlReturn_t (*initialise)(void) = symbol("nvmlInit_v2");
    get_count = symbol("nvmlDeviceGetCount_v2");
    get_handle = symbol("nvmlDeviceGetHandleByIndex_v2");
    get_handle_by_uuid = symbol("nvmlDeviceGetHandleByUUID");
    get_name = symbol("nvmlDeviceGetName");
    get_memory = symbol("nvmlDeviceGetMemoryInfo");
    get_capability = symbol("nvmlDeviceGetCudaComputeCapability");
    get_minor = symbol("nvmlDeviceGetMinorNumber");
    get_fabric = symbol("nvmlDeviceGetGpuFabricInfo");
    get_mig_mode = symbol("nvmlDeviceGetMigMode");
    get_most_mig_devices = symbol("nvmlDeviceGetMaxMigDeviceCount");
    get_mig_device = symbol("nvmlDeviceGetMigDeviceHandleByIndex");
    get_mig_nodes = symbol("siliconGetCapabilities");
    nvmlReturn_t result = initialise();
    if (result)
        return result == NVML_ERROR_LIB_RM_VERSION_MISMATCH ? MISMATCH : NO_DEVICE;
    find_devices();
    return device_count ? fabric_is_ready() : NO_DEVICE;
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    if (!version)
        return INVALID_VALUE;
    *version = CUDA_VERSION;
    return SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    if (!library)
        return NOT_INITIALIZED;
    *count = (int)device_count;
    return SUCCESS;
}

static CUresult handle_of(int device, nvmlDevice_t *handle) {
    if (!library)
        return NOT_INITIALIZED;
    if (device < 0 || (unsigned)device >= device_count)
        return INVALID_DEVICE;
    *handle = devices[device];
    return SUCCESS;
}

EXPORT CUresult cuDeviceGet(int *device, int ordinal) {
    nvmlDevice_t handle;
    CUresult result = handle_of(ordinal, &handle);
    if (!result)
        *device = ordinal;
    return result;
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

/* -- contexts ------------------------------------------------------------------------------------------------------ */

EXPORT CUresult cuCtxDestroy_v2(struct context *context) {
    if (!context)
        return INVALID_VALUE;
    while (context->count > 0)
        close(context->nodes[--context->count]);
    free(context);
    return SUCCESS;
}

static bool hold(struct context *context, const char *format, ...) {
    const char *folder = getenv("SILICON_DEV");
    char path[300];
    va_list arguments;
    int length = snprintf(path, sizeof path, "%s/", folder ? folder : "/dev");
    va_start(arguments, format);
    vsnprintf(path + length, sizeof path - (size_t)length, format, arguments);
    va_end(arguments);
    int node = open(path, O_PATH | O_CLOEXEC);
    if (node >= 0)
        context->nodes[context->count++] = node;
    return node >= 0;
}

EXPORT CUresult cuCtxCreate_v2(struct context **context, unsigned flags, int device) {
    nvmlDevice_t handle;
    unsigned minor_number, nodes[2];
    (void)flags;
    CUresult result = handle_of(device, &handle);
    if (result || get_minor(handle, &minor_number))
        return result ? result : INVALID_DEVICE;
    if (!(*context = calloc(1, sizeof **context)))
        return INVALID_VALUE;
    bool held = hold(*context, "nvidia%u", minor_number) && hold(*context, "nvidia-uvm");
    if (!get_mig_nodes(handle, &nodes[0], &nodes[1]))
        held = held && hold(*context, "nvidia-caps/nvidia-cap%u", nodes[0]) &&
               hold(*context, "nvidia-caps/nvidia-cap%u", nodes[1]);
    if (held)
        return SUCCESS;
    cuCtxDestroy_v2(*context);
    return OPERATING_SYSTEM;
}

/* -- words --------------------------------------------------------------------------------------------------------- */

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
        {OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"},
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
