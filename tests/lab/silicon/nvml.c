/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libnvidia-ml.so.1 of a simulated host. It answers as the driver loaded in "state" would, about the GPUs of "board".
 *
 * Built once per driver version with DRIVER_VERSION ("580.95.05") and CUDA_VERSION (13000). Board and state are found at
 * $SILICON, else /var/lib/silicon, else where a container gets them: as the driver's two firmware files, which every CDI
 * specification mounts. Tests set $SILICON and $SILICON_DEV (instead of /dev).
 *
 * As with the real library: no loaded driver is DRIVER_NOT_LOADED, another driver version is LIB_RM_VERSION_MISMATCH, a device
 * cgroup that denies the control device is UNKNOWN, and only GPUs whose device node is there are counted. Between init and
 * shutdown the device nodes are held open (as paths: the kernel knows no such driver), so the module is in use.
 *
 * MIG is in mig.c, lists of processes in processes.c.
 */
#define _GNU_SOURCE
#include "library.h"
#include <pthread.h>
#include <stddef.h>
#include <sys/sysmacros.h>
#include <time.h>

#define GPU_MAJOR 195

struct event_set {
    bool registered[MOST_GPUS];
    unsigned last; /* number of the newest event seen */
};

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static unsigned initialised; /* times */
static int control_node = -1;
struct pairs board;
struct gpu gpus[MOST_GPUS];
unsigned gpu_count;
char state_path[256];

/* -- finding things ------------------------------------------------------------------------------------------------ */

const char *device_folder(void) {
    const char *folder = getenv("SILICON_DEV");
    return folder ? folder : "/dev";
}

static int find_file(char *path, size_t size, const char *name, const char *firmware) {
    const char *folder = getenv("SILICON");
    snprintf(path, size, "%s/%s", folder ? folder : "/var/lib/silicon", name);
    if (!access(path, R_OK) || folder)
        return access(path, R_OK);
    snprintf(path, size, "/lib/firmware/nvidia/" DRIVER_VERSION "/%s", firmware);
    return access(path, R_OK);
}

static const char *of_gpu(const struct pairs *pairs, const struct gpu *gpu, const char *property) {
    char key[64];
    snprintf(key, sizeof key, "gpu.%u.%s", gpu->board_index, property);
    return pairs_get(pairs, key);
}

const char *text(const struct gpu *gpu, const char *property) {
    const char *value = of_gpu(&board, gpu, property);
    return value ? value : "";
}

unsigned long number(const struct gpu *gpu, const char *property) {
    return strtoul(text(gpu, property), NULL, 0);
}

unsigned long board_number(const char *key) {
    const char *value = pairs_get(&board, key);
    return value ? strtoul(value, NULL, 0) : 0;
}

/* A value that "state" may override. */
unsigned long reading(const struct gpu *gpu, const char *property, unsigned long otherwise) {
    struct pairs state;
    if (pairs_load(state_path, &state))
        return otherwise;
    const char *value = of_gpu(&state, gpu, property);
    unsigned long result = value ? strtoul(value, NULL, 0) : otherwise;
    pairs_free(&state);
    return result;
}

/* -- init and shutdown --------------------------------------------------------------------------------------------- */

static nvmlReturn_t check_driver(void) {
    struct pairs state;
    if (pairs_load(state_path, &state))
        return NVML_ERROR_DRIVER_NOT_LOADED;
    const char *loaded = pairs_get(&state, "module.nvidia"); /* "580.95.05 open" */
    size_t length = strlen(DRIVER_VERSION);
    nvmlReturn_t result = !loaded ? NVML_ERROR_DRIVER_NOT_LOADED
                          : strncmp(loaded, DRIVER_VERSION, length) || (loaded[length] && loaded[length] != ' ')
                              ? NVML_ERROR_LIB_RM_VERSION_MISMATCH
                              : NVML_SUCCESS;
    pairs_free(&state);
    return result;
}

/* Hold a device node. Returns its descriptor, or -1 with errno EPERM when the device cgroup says no. */
static int hold_node(const char *name, unsigned minor_number) {
    char path[300];
    struct stat status;
    snprintf(path, sizeof path, "%s/%s", device_folder(), name);
    if (stat(path, &status))
        return -1;
    if (!getenv("SILICON_DEV") && (!S_ISCHR(status.st_mode) || status.st_rdev != makedev(GPU_MAJOR, minor_number))) {
        errno = ENODEV;
        return -1;
    }
    int opened = open(path, O_RDWR | O_CLOEXEC); /* the cgroup's word; without one the answer is "no such driver" */
    if (opened >= 0)
        close(opened);
    else if (errno == EPERM || errno == EACCES)
        return -1;
    return open(path, O_PATH | O_CLOEXEC);
}

static void release_all(void) {
    for (unsigned i = 0; i < gpu_count; i++)
        close(gpus[i].node);
    if (control_node >= 0)
        close(control_node);
    control_node = -1;
    gpu_count = 0;
    mig_forget_handles();
    pairs_free(&board);
}

static void find_gpus(void) {
    unsigned long total = board_number("gpus");
    for (unsigned i = 0; i < total && gpu_count < MOST_GPUS; i++) {
        struct gpu *gpu = &gpus[gpu_count];
        char name[32];
        gpu->board_index = i;
        gpu->minor = (unsigned)number(gpu, "minor");
        sscanf(text(gpu, "pci"), "%*x:%x", &gpu->bus);
        snprintf(name, sizeof name, "nvidia%u", gpu->minor);
        gpu->node = hold_node(name, gpu->minor);
        if (gpu->node >= 0)
            gpu_count++;
    }
}

static nvmlReturn_t initialise(void) {
    char board_path[256];
    if (find_file(board_path, sizeof board_path, "board", "gsp_ga10x.bin") ||
        find_file(state_path, sizeof state_path, "state", "gsp_tu10x.bin"))
        return NVML_ERROR_DRIVER_NOT_LOADED;
    nvmlReturn_t result = check_driver();
    if (result)
        return result;
    control_node = hold_node("nvidiactl", 255);
    if (control_node < 0)
        return errno == EPERM || errno == EACCES ? NVML_ERROR_UNKNOWN : NVML_ERROR_DRIVER_NOT_LOADED;
    if (pairs_load(board_path, &board)) {
        release_all();
        return NVML_ERROR_UNKNOWN;
    }
    find_gpus();
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&guard);
    nvmlReturn_t result = initialised ? NVML_SUCCESS : initialise();
    if (!result)
        initialised++;
    pthread_mutex_unlock(&guard);
    return result;
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t result = NVML_ERROR_UNINITIALIZED;
    pthread_mutex_lock(&guard);
    if (initialised) {
        if (!--initialised)
            release_all();
        result = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&guard);
    return result;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    static const struct {
        nvmlReturn_t code;
        const char *words;
    } known[] = {
        {0, "Success"},
        {1, "Uninitialized"},
        {2, "Invalid Argument"},
        {3, "Not Supported"},
        {4, "Insufficient Permissions"},
        {5, "Already Initialized"},
        {6, "Not Found"},
        {7, "Insufficient Size"},
        {8, "Insufficient External Power"},
        {9, "Driver Not Loaded"},
        {10, "Timeout"},
        {11, "Interrupt Request Issue"},
        {12, "NVML Shared Library Not Found"},
        {13, "Function Not Found"},
        {14, "Corrupted infoROM"},
        {15, "GPU is lost"},
        {16, "GPU requires reset"},
        {17, "GPU access blocked by the operating system"},
        {18, "Driver/library version mismatch"},
        {19, "In use by another client"},
        {20, "Insufficient Memory"},
        {21, "No data"},
        {22, "The requested vGPU operation is not available on target device, becasue ECC is enabled"},
        {23, "Insufficient Resources"},
        {24, "Requested Frequency Not Supported"},
        {25, "Argument Version Mismatch"},
        {26, "Deprecated"},
        {27, "Not Ready"},
        {28, "GPU Not Found"},
        {29, "Invalid State"},
        {30, "Reset Type Not Supported"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].code == result)
            return known[i].words;
    return "Unknown Error";
}

/* -- the system ---------------------------------------------------------------------------------------------------- */

nvmlReturn_t check_initialised(void) { return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED; }

nvmlReturn_t give_text(char *to, unsigned size, const char *value) {
    if (!to)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(value) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, value);
    return NVML_SUCCESS;
}

nvmlReturn_t give(unsigned *to, unsigned value) {
    if (!to)
        return NVML_ERROR_INVALID_ARGUMENT;
    *to = value;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    NEED_INIT;
    return give_text(version, length, DRIVER_VERSION);
}

EXPORT nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *info, unsigned length) {
    NEED_INIT;
    (void)length;
    if (!info || info->version != NVML_STRUCT_VERSION(nvmlSystemDriverBranchInfo_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    snprintf(info->branch, sizeof info->branch, "r%.3s_00", DRIVER_VERSION);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length) {
    char own[80];
    snprintf(own, sizeof own, "%d.%s", CUDA_VERSION / 1000, DRIVER_VERSION);
    return give_text(version, length, own);
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { return give((unsigned *)version, CUDA_VERSION); }
EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return give((unsigned *)version, CUDA_VERSION); }

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
    char path[64], line[4096] = "";
    NEED_INIT;
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return NVML_ERROR_NOT_FOUND;
    ssize_t size = read(file, line, sizeof line - 1);
    close(file);
    return size < 0 ? NVML_ERROR_NOT_FOUND : give_text(name, length, line);
}

EXPORT nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state) {
    NEED_INIT;
    if (!state)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(state, 0, sizeof *state);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlUnitGetCount(unsigned *count) { return give(count, 0); }

/* -- handles ------------------------------------------------------------------------------------------------------- */

static bool is_lost(const struct gpu *gpu) { return reading(gpu, "lost", 0) != 0; }

nvmlReturn_t check(const struct gpu *gpu) {
    NEED_INIT;
    bool whole = gpu >= gpus && gpu < gpus + gpu_count;
    if (!whole && !mig_is_handle(gpu))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (is_lost(gpu))
        return NVML_ERROR_GPU_IS_LOST;
    return whole ? NVML_SUCCESS : mig_check(gpu);
}

static nvmlReturn_t give_handle(nvmlDevice_t *to, unsigned index) {
    if (!to)
        return NVML_ERROR_INVALID_ARGUMENT;
    NEED(&gpus[index]);
    *to = &gpus[index];
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    NEED_INIT;
    return give(count, gpu_count);
}
EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    NEED_INIT;
    return index < gpu_count ? give_handle(device, index) : NVML_ERROR_INVALID_ARGUMENT;
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

static nvmlReturn_t handle_by(const char *property, const char *value, nvmlDevice_t *device) {
    NEED_INIT;
    if (!value)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < gpu_count; i++)
        if (!strcmp(text(&gpus[i], property), value))
            return give_handle(device, i);
    return NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    NEED_INIT;
    if (uuid && device && !strncmp(uuid, "MIG-", 4))
        return mig_handle_by_uuid(uuid, device);
    return handle_by("uuid", uuid, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    return handle_by("serial", serial, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *address, nvmlDevice_t *device) {
    unsigned domain, bus, slot;
    NEED_INIT;
    if (!address || sscanf(address, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < gpu_count; i++)
        if (!domain && gpus[i].bus == bus && !slot)
            return give_handle(device, i);
    return NVML_ERROR_NOT_FOUND;
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *address, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByPciBusId_v2(address, device);
}

/* -- identity ------------------------------------------------------------------------------------------------------ */

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t gpu, unsigned *index) {
    NEED(gpu);
    return gpu->parent ? mig_index(gpu, index) : give(index, (unsigned)(gpu - gpus));
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t gpu, char *name, unsigned length) {
    NEED(gpu);
    return gpu->parent ? mig_name(gpu, name, length) : give_text(name, length, text(gpu, "name"));
}

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t gpu, char *uuid, unsigned length) {
    NEED(gpu);
    return gpu->parent ? mig_uuid(gpu, uuid, length) : give_text(uuid, length, text(gpu, "uuid"));
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t gpu, char *serial, unsigned length) {
    NEED(gpu);
    return give_text(serial, length, text(gpu, "serial"));
}

EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t gpu, unsigned *minor_number) {
    NEED(gpu);
    return give(minor_number, gpu->minor);
}

EXPORT nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t gpu, unsigned *board_id) {
    NEED(gpu);
    return give(board_id, gpu->bus << 8);
}

EXPORT nvmlReturn_t nvmlDeviceGetModuleId(nvmlDevice_t gpu, unsigned *module_id) {
    NEED(gpu);
    return give(module_id, gpu->board_index + 1);
}

EXPORT nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t gpu, unsigned *multi) {
    NEED(gpu);
    return give(multi, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t gpu, unsigned *brand) {
    NEED(gpu);
    return give(brand, strncmp(text(gpu, "name"), "Tesla", 5) ? 14 : 2); /* NVIDIA, Tesla */
}

EXPORT nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t gpu, char *part, unsigned length) {
    NEED(gpu);
    return give_text(part, length, "900-00000-0000-000");
}

EXPORT nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t gpu, char *version, unsigned length) {
    NEED(gpu);
    return give_text(version, length, "96.00.00.00.00");
}

EXPORT nvmlReturn_t nvmlDeviceGetInforomImageVersion(nvmlDevice_t gpu, char *version, unsigned length) {
    NEED(gpu);
    return give_text(version, length, "G500.0200.00.05");
}

EXPORT nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t gpu, char *version) {
    NEED(gpu);
    return give_text(version, 80, DRIVER_VERSION);
}

EXPORT nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t gpu, unsigned *enabled, unsigned *by_default) {
    NEED(gpu);
    return give(enabled, 1) || give(by_default, 1) ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t gpu, unsigned *architecture) {
    NEED(gpu);
    return give(architecture, (unsigned)number(gpu, "architecture"));
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t gpu, int *major_part, int *minor_part) {
    NEED(gpu);
    if (!major_part || !minor_part || sscanf(text(gpu, "compute_capability"), "%d.%d", major_part, minor_part) != 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t gpu, nvmlPciInfo_t *pci) {
    NEED(gpu);
    if (!pci)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    pci->bus = gpu->bus;
    pci->pciDeviceId = (unsigned)number(gpu, "device_id") << 16 | 0x10DE;
    pci->pciSubSystemId = (unsigned)number(gpu, "subsystem_id") << 16 | 0x10DE;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", gpu->bus & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", gpu->bus & 0xFF);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t gpu, nvmlPciInfo_t *pci) {
    nvmlPciInfo_t whole;
    nvmlReturn_t result = pci ? nvmlDeviceGetPciInfo_v3(gpu, &whole) : NVML_ERROR_INVALID_ARGUMENT;
    if (!result)
        memcpy(pci, &whole, offsetof(nvmlPciInfo_t, busId)); /* version 2 ends there */
    return result;
}
EXPORT nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t gpu, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetPciInfo_v2(gpu, pci);
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t gpu, nvmlPciInfoExt_t *pci) {
    nvmlPciInfo_t plain;
    NEED(gpu);
    if (!pci || pci->version != NVML_STRUCT_VERSION(nvmlPciInfoExt_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = nvmlDeviceGetPciInfo_v3(gpu, &plain);
    if (result)
        return result;
    pci->domain = pci->device = 0;
    pci->bus = plain.bus;
    pci->pciDeviceId = plain.pciDeviceId;
    pci->pciSubSystemId = plain.pciSubSystemId;
    pci->baseClass = (unsigned)number(gpu, "class") >> 16;
    pci->subClass = (unsigned)number(gpu, "class") >> 8 & 0xFF;
    memcpy(pci->busId, plain.busId, sizeof pci->busId);
    return NVML_SUCCESS;
}

/* -- memory, modes, sensors ---------------------------------------------------------------------------------------- */

static unsigned long long total_bytes(const struct gpu *gpu) {
    return gpu->parent ? mig_memory(gpu) : number(gpu, "memory_mib") * MIB;
}

static unsigned long long used_bytes(const struct gpu *gpu) {
    return gpu->parent ? 0 : reading(gpu, "used_mib", 0) * MIB;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t gpu, nvmlMemory_t *memory) {
    NEED(gpu);
    if (!memory)
        return NVML_ERROR_INVALID_ARGUMENT;
    memory->total = total_bytes(gpu);
    memory->used = used_bytes(gpu);
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t gpu, nvmlMemory_v2_t *memory) {
    NEED(gpu);
    if (!memory || memory->version != NVML_STRUCT_VERSION(nvmlMemory_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = total_bytes(gpu);
    memory->reserved = memory->total / 128;
    memory->used = used_bytes(gpu);
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t gpu, nvmlMemory_t *memory) {
    NEED(gpu);
    if (!memory)
        return NVML_ERROR_INVALID_ARGUMENT;
    memory->total = number(gpu, "memory_mib") * MIB;
    memory->used = 2 * MIB;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, (unsigned)reading(gpu, "persistence", 0));
}

EXPORT nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t gpu, unsigned mode) {
    char key[64];
    NEED(gpu);
    if (mode > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (geteuid())
        return NVML_ERROR_NO_PERMISSION;
    snprintf(key, sizeof key, "gpu.%u.persistence", gpu->board_index);
    return pairs_change(state_path, key, mode ? "1" : NULL) ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t gpu, unsigned *current, unsigned *pending) {
    NEED(gpu);
    unsigned now = (unsigned)reading(gpu, "ecc", 1);
    return give(current, now) || give(pending, (unsigned)reading(gpu, "ecc_pending", now)) ? NVML_ERROR_INVALID_ARGUMENT
                                                                                          : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetDefaultEccMode(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, 1);
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t gpu, unsigned kind, unsigned counter,
                                                unsigned long long *errors) {
    NEED(gpu);
    (void)counter;
    if (!errors)
        return NVML_ERROR_INVALID_ARGUMENT;
    *errors = reading(gpu, kind ? "ecc_uncorrected" : "ecc_corrected", 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t gpu, unsigned *correctable, unsigned *uncorrectable,
                                              unsigned *pending, unsigned *failed) {
    NEED(gpu);
    if (number(gpu, "architecture") < ARCHITECTURE_AMPERE)
        return NVML_ERROR_NOT_SUPPORTED;
    return give(correctable, (unsigned)reading(gpu, "remapped_correctable", 0)) ||
                   give(uncorrectable, (unsigned)reading(gpu, "remapped_uncorrectable", 0)) ||
                   give(pending, (unsigned)reading(gpu, "remap_pending", 0)) ||
                   give(failed, (unsigned)reading(gpu, "remap_failed", 0))
               ? NVML_ERROR_INVALID_ARGUMENT
               : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t gpu, unsigned *mode) {
    NEED(gpu);
    return give(mode, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t gpu, nvmlDeviceAddressingMode_t *mode) {
    NEED(gpu);
    if (!mode || mode->version != NVML_STRUCT_VERSION(nvmlDeviceAddressingMode_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return give(&mode->value, 1); /* HMM */
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t gpu, unsigned sensor, unsigned *celsius) {
    NEED(gpu);
    return sensor ? NVML_ERROR_INVALID_ARGUMENT : give(celsius, (unsigned)reading(gpu, "celsius", 30 + gpu->board_index));
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t gpu, nvmlTemperature_t *temperature) {
    if (!temperature || temperature->version != NVML_STRUCT_VERSION(nvmlTemperature_t, 1))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    return nvmlDeviceGetTemperature(gpu, (unsigned)temperature->sensorType, (unsigned *)&temperature->temperature);
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t gpu, unsigned threshold, unsigned *celsius) {
    static const unsigned values[] = {92, 90, 95, 87}; /* shutdown, slowdown, memory, GPU */
    NEED(gpu);
    return threshold < 4 ? give(celsius, values[threshold]) : NVML_ERROR_NOT_SUPPORTED;
}

static unsigned limit_milliwatts(const struct gpu *gpu) { return (unsigned)number(gpu, "power_w") * 1000; }

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t gpu, unsigned *milliwatts) {
    NEED(gpu);
    return give(milliwatts, (unsigned)reading(gpu, "milliwatts", limit_milliwatts(gpu) / 10));
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t gpu, unsigned *milliwatts) {
    NEED(gpu);
    return give(milliwatts, limit_milliwatts(gpu));
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t gpu, unsigned *milliwatts) {
    return nvmlDeviceGetPowerManagementLimit(gpu, milliwatts);
}
EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t gpu, unsigned *milliwatts) {
    return nvmlDeviceGetPowerManagementLimit(gpu, milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t gpu, unsigned *least, unsigned *most) {
    NEED(gpu);
    return give(least, limit_milliwatts(gpu) / 3) || give(most, limit_milliwatts(gpu)) ? NVML_ERROR_INVALID_ARGUMENT
                                                                                      : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t gpu, nvmlUtilization_t *rates) {
    NEED(gpu);
    return rates ? give(&rates->gpu, (unsigned)reading(gpu, "utilization", 0)) || give(&rates->memory, 0)
                 : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t gpu, unsigned kind, unsigned *mhz) {
    NEED(gpu);
    return kind < 4 ? give(mhz, kind == 2 ? 2619 : 345) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t gpu, unsigned kind, unsigned *mhz) {
    NEED(gpu);
    return kind < 4 ? give(mhz, kind == 2 ? 2619 : 1980) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t gpu, unsigned *state) {
    NEED(gpu);
    return give(state, 0);
}

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t gpu, unsigned long long *reasons) {
    NEED(gpu);
    if (!reasons)
        return NVML_ERROR_INVALID_ARGUMENT;
    *reasons = reading(gpu, "clock_reasons", 1); /* idle */
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t gpu, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(gpu, reasons);
}

EXPORT nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t gpu, unsigned *percent) {
    NEED(gpu);
    (void)percent;
    return NVML_ERROR_NOT_SUPPORTED; /* passively cooled */
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t gpu, unsigned *generation) {
    NEED(gpu);
    return give(generation, number(gpu, "architecture") < ARCHITECTURE_HOPPER ? 4 : 5);
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t gpu, unsigned *generation) {
    return nvmlDeviceGetMaxPcieLinkGeneration(gpu, generation);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t gpu, unsigned *width) {
    NEED(gpu);
    return give(width, 16);
}
EXPORT nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t gpu, unsigned *width) {
    return nvmlDeviceGetMaxPcieLinkWidth(gpu, width);
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t gpu, int count, nvmlFieldValue_t *values) {
    NEED(gpu);
    if (count < 1 || !values)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *field = &values[i];
        field->timestamp = (long long)time(NULL) * 1000000;
        field->latencyUsec = 0;
        field->valueType = NVML_VALUE_UNSIGNED;
        field->nvmlReturn = NVML_SUCCESS;
        field->value.ull = 0;
        if (field->fieldId == NVML_FIELD_ECC_CURRENT)
            field->nvmlReturn = nvmlDeviceGetEccMode(gpu, &field->value.u, &(unsigned){0});
        else if (field->fieldId == NVML_FIELD_ECC_PENDING)
            field->nvmlReturn = nvmlDeviceGetEccMode(gpu, &(unsigned){0}, &field->value.u);
        else if (field->fieldId == NVML_FIELD_NVLINK_COUNT)
            field->value.u = (unsigned)number(gpu, "nvlinks");
        else if (field->fieldId == NVML_FIELD_RESETLESS_MIG)
            field->value.u = number(gpu, "mig") && number(gpu, "architecture") >= ARCHITECTURE_HOPPER;
        else if (field->fieldId == NVML_FIELD_MIG_MODE_INDEPENDENT_QUERY)
            field->value.u = mig_independent_queries(gpu);
        else
            field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    }
    return NVML_SUCCESS;
}

/* -- topology ------------------------------------------------------------------------------------------------------ */

static void add_cpus(const char *list, unsigned words, unsigned long *set) {
    const unsigned bits = 8 * sizeof *set;
    for (const char *part = list; part && *part; part = strchr(part, ',') ? strchr(part, ',') + 1 : NULL) {
        unsigned first, last;
        int found = sscanf(part, "%u-%u", &first, &last);
        if (found < 1)
            return;
        for (unsigned cpu = first; cpu <= (found == 2 ? last : first) && cpu / bits < words; cpu++)
            set[cpu / bits] |= 1UL << cpu % bits;
    }
}

EXPORT nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t gpu, unsigned words, unsigned long *set) {
    NEED(gpu);
    if (!words || !set)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(set, 0, words * sizeof *set);
    add_cpus(text(gpu, "cpus"), words, set);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t gpu, unsigned words, unsigned long *set, unsigned scope) {
    NEED(gpu);
    (void)scope;
    if (!words || !set)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(set, 0, words * sizeof *set);
    set[0] = 1UL << number(gpu, "numa_node");
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t gpu, unsigned *node) {
    NEED(gpu);
    (void)node;
    return NVML_ERROR_NOT_SUPPORTED; /* only where GPU memory is a NUMA node */
}

EXPORT nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t gpu, nvmlDevice_t other, unsigned *level) {
    NEED(gpu);
    NEED(other);
    if (gpu == other)
        return give(level, 0);
    return give(level, number(gpu, "numa_node") == number(other, "numa_node") ? 40 : 50); /* node, system */
}

EXPORT nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t gpu, nvmlDevice_t other, unsigned capability, unsigned *status) {
    NEED(gpu);
    NEED(other);
    bool nvlink = number(gpu, "nvlinks") && number(other, "nvlinks");
    return give(status, capability == 2 && !nvlink ? 5 : 0); /* 2: over NVLink; 5: not supported */
}

static nvmlReturn_t check_link(const struct gpu *gpu, unsigned link) {
    unsigned links = (unsigned)number(gpu, "nvlinks");
    return !links ? NVML_ERROR_NOT_SUPPORTED : link < links ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t gpu, unsigned link, unsigned *active) {
    NEED(gpu);
    nvmlReturn_t result = check_link(gpu, link);
    return result ? result : give(active, 1);
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t gpu, unsigned link, unsigned *version) {
    static const unsigned of_architecture[] = {[5] = 2, [6] = 3, [7] = 4, [8] = 4, [9] = 6, [10] = 7};
    NEED(gpu);
    unsigned long architecture = number(gpu, "architecture");
    nvmlReturn_t result = check_link(gpu, link);
    return result || architecture > 10 ? result : give(version, of_architecture[architecture]);
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t gpu, unsigned link, unsigned capability, unsigned *has) {
    NEED(gpu);
    (void)capability;
    nvmlReturn_t result = check_link(gpu, link);
    return result ? result : give(has, 1);
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t gpu, unsigned link, unsigned *type) {
    NEED(gpu);
    nvmlReturn_t result = check_link(gpu, link);
    return result ? result : give(type, 2); /* a switch */
}

EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t gpu, unsigned link, nvmlPciInfo_t *pci) {
    char key[32];
    unsigned long switches = board_number("nvswitches");
    NEED(gpu);
    nvmlReturn_t result = check_link(gpu, link);
    if (result || !switches || !pci)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    snprintf(key, sizeof key, "nvswitch.%lu.pci", link % switches);
    const char *address = pairs_get(&board, key);
    memset(pci, 0, sizeof *pci);
    if (!address || sscanf(address, "%*x:%x", &pci->bus) != 1)
        return NVML_ERROR_NOT_FOUND;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xFF);
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t gpu, unsigned link, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetNvLinkRemotePciInfo_v2(gpu, link, pci);
}

/* The fabric of Hopper and later: complete once a fabric manager has run since the last boot. */
static nvmlReturn_t fabric_state(const struct gpu *gpu, unsigned char *state) {
    struct pairs pairs;
    if (number(gpu, "architecture") < ARCHITECTURE_HOPPER || !number(gpu, "nvlinks")) {
        *state = NVML_FABRIC_NOT_SUPPORTED;
        return NVML_SUCCESS;
    }
    if (pairs_load(state_path, &pairs))
        return NVML_ERROR_UNKNOWN;
    *state = pairs_get(&pairs, "fabric.manager") ? NVML_FABRIC_COMPLETED : NVML_FABRIC_NOT_STARTED;
    pairs_free(&pairs);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t gpu, nvmlGpuFabricInfo_t *info) {
    NEED(gpu);
    if (!info)
        return NVML_ERROR_INVALID_ARGUMENT;
    memset(info, 0, sizeof *info);
    return fabric_state(gpu, &info->state);
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t gpu, void *info) {
    NEED(gpu);
    unsigned version = info ? *(unsigned *)info : 0;
    if (version == NVML_STRUCT_VERSION(nvmlGpuFabricInfo_v3_t, 3)) {
        nvmlGpuFabricInfo_v3_t *third = info;
        memset(third, 0, sizeof *third);
        third->version = version;
        return fabric_state(gpu, &third->state);
    }
    if (version != NVML_STRUCT_VERSION(nvmlGpuFabricInfo_v2_t, 2))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlGpuFabricInfo_v2_t *second = info;
    memset(second, 0, sizeof *second);
    second->version = version;
    return fabric_state(gpu, &second->state);
}

/* -- events: XIDs that tests put into "state" as event.<number>=<gpu> <xid> ------------------------------------------ */

static unsigned last_event(const struct pairs *state) {
    const char *last = pairs_get(state, "event.last");
    return last ? (unsigned)strtoul(last, NULL, 10) : 0;
}

EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    struct pairs state;
    NEED_INIT;
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!(*set = calloc(1, sizeof **set)))
        return NVML_ERROR_MEMORY;
    if (!pairs_load(state_path, &state)) {
        (*set)->last = last_event(&state);
        pairs_free(&state);
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    free(set);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t gpu, unsigned long long *types) {
    NEED(gpu);
    if (!types)
        return NVML_ERROR_INVALID_ARGUMENT;
    *types = 0x1F; /* ECC single and double, performance state, XID, clock */
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t gpu, unsigned long long types, nvmlEventSet_t set) {
    NEED(gpu);
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (types & NVML_EVENT_XID)
        set->registered[(gpu->parent ? gpu->parent : gpu) - gpus] = true;
    return NVML_SUCCESS;
}

/* Take the next event that concerns the set out of the state. */
static bool next_event(nvmlEventSet_t set, nvmlEventData_t *data) {
    struct pairs state;
    bool found = false;
    if (pairs_load(state_path, &state))
        return false;
    unsigned newest = last_event(&state);
    if (newest < set->last)
        set->last = 0; /* the host was rebooted */
    while (!found && set->last < newest) {
        char key[32];
        unsigned index, xid;
        snprintf(key, sizeof key, "event.%u", ++set->last);
        const char *event = pairs_get(&state, key);
        if (!event || sscanf(event, "%u %u", &index, &xid) != 2)
            continue;
        for (unsigned i = 0; i < gpu_count; i++) {
            if (gpus[i].board_index != index || !set->registered[i])
                continue;
            *data = (nvmlEventData_t){&gpus[i], NVML_EVENT_XID, xid, NVML_NO_INSTANCE, NVML_NO_INSTANCE};
            found = true;
        }
    }
    pairs_free(&state);
    return found;
}

EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    const struct timespec step = {.tv_nsec = 50 * 1000000L};
    struct timespec now, started;
    NEED_INIT;
    if (!set || !data)
        return NVML_ERROR_INVALID_ARGUMENT;
    clock_gettime(CLOCK_MONOTONIC, &started);
    while (!next_event(set, data)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long long waited = (now.tv_sec - started.tv_sec) * 1000LL + (now.tv_nsec - started.tv_nsec) / 1000000;
        if (waited >= timeout_ms)
            return NVML_ERROR_TIMEOUT;
        nanosleep(&step, NULL);
    }
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}
