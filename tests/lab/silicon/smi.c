/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nvidia-smi of a simulated host: -L, --query-gpu, --query-compute-apps, -pm, --gpu-reset, and a short table. Exit statuses are NVML's codes,
 * as with the real program. Whatever root asks it, it makes the device nodes of MIG's capabilities.
 */
#define _GNU_SOURCE
#include "capabilities.h"
#include "nvml.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_GPUS 64
#define MOST_COLUMNS 32
#define MIB (1024ULL * 1024ULL)

static void *library;
static bool header = true, units = true;
static const char *wanted; /* -i: indexes, UUIDs or bus ids, separated by commas */

/* Call an NVML function that returns a code. */
#define NVML(name, parameters, ...) (((nvmlReturn_t(*) parameters)symbol(name))(__VA_ARGS__))

static void *symbol(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        printf("Failed to find function %s\n", name);
        exit(NVML_ERROR_FUNCTION_NOT_FOUND);
    }
    return found;
}

static const char *words(nvmlReturn_t result) {
    return ((const char *(*)(nvmlReturn_t))symbol("nvmlErrorString"))(result);
}

static void start(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!library) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver "
             "is properly installed and present in your system.\nPlease also try adding directory that contains "
             "libnvidia-ml.so to your system PATH.");
        exit(12);
    }
    nvmlReturn_t result = NVML("nvmlInit_v2", (void));
    if (result == NVML_ERROR_DRIVER_NOT_LOADED) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
             "driver is installed and running.\n");
        exit(result);
    }
    if (result) {
        printf("Failed to initialize NVML: %s\n", words(result));
        if (result == NVML_ERROR_LIB_RM_VERSION_MISMATCH)
            printf("NVML library version: %.7s\n", DRIVER_VERSION);
        exit(result);
    }
    if (!geteuid())
        make_capability_nodes();
}

/* -- GPUs ---------------------------------------------------------------------------------------------------------- */

static const char *text_of(nvmlDevice_t gpu, const char *function) {
    static char text[128];
    return NVML(function, (nvmlDevice_t, char *, unsigned), gpu, text, sizeof text) ? "[N/A]" : text;
}

static long number_of(nvmlDevice_t gpu, const char *function) {
    unsigned number;
    return NVML(function, (nvmlDevice_t, unsigned *), gpu, &number) ? -1 : (long)number;
}

static const char *bus_id(nvmlDevice_t gpu) {
    static nvmlPciInfo_t pci;
    return NVML("nvmlDeviceGetPciInfo_v3", (nvmlDevice_t, nvmlPciInfo_t *), gpu, &pci) ? "[N/A]" : pci.busId;
}

static bool is_wanted(nvmlDevice_t gpu, unsigned index) {
    char own[16], *list, *rest = NULL;
    bool found = false;
    if (!wanted)
        return true;
    snprintf(own, sizeof own, "%u", index);
    list = strdup(wanted);
    for (char *one = strtok_r(list, ",", &rest); one && !found; one = strtok_r(NULL, ",", &rest))
        found = !strcmp(one, own) || !strcmp(one, text_of(gpu, "nvmlDeviceGetUUID")) || strcasestr(bus_id(gpu), one);
    free(list);
    return found;
}

/* Fill the array with the wanted GPUs and return how many; a lost GPU is named and skipped. */
static unsigned find(nvmlDevice_t *gpus) {
    unsigned total = 0, found = 0;
    NVML("nvmlDeviceGetCount_v2", (unsigned *), &total);
    for (unsigned i = 0; i < total && found < MOST_GPUS; i++) {
        nvmlReturn_t result = NVML("nvmlDeviceGetHandleByIndex_v2", (unsigned, nvmlDevice_t *), i, &gpus[found]);
        if (result)
            printf("Unable to determine the device handle for gpu %u: %s\n", i, words(result));
        else if (is_wanted(gpus[found], i))
            found++;
    }
    if (!found) {
        puts("No devices were found");
        exit(NVML_ERROR_NOT_FOUND);
    }
    return found;
}

/* -- queries ------------------------------------------------------------------------------------------------------- */

static void print_mode(long mode) { fputs(mode < 0 ? "[N/A]" : mode ? "Enabled" : "Disabled", stdout); }

static void print_unit(long number, const char *unit) {
    if (number < 0)
        fputs("[N/A]", stdout);
    else
        printf(units ? "%ld %s" : "%ld", number, unit);
}

static void print_watts(long milliwatts) { printf(units ? "%.2f W" : "%.2f", (double)milliwatts / 1000); }

static void print_memory(nvmlDevice_t gpu, const char *column) {
    nvmlMemory_t memory = {0};
    NVML("nvmlDeviceGetMemoryInfo", (nvmlDevice_t, nvmlMemory_t *), gpu, &memory);
    unsigned long long bytes = strstr(column, "total") ? memory.total : strstr(column, "free") ? memory.free : memory.used;
    print_unit((long)(bytes / MIB), "MiB");
}

static void print_pair(nvmlDevice_t gpu, const char *function, bool pending) {
    unsigned values[2];
    nvmlReturn_t result = NVML(function, (nvmlDevice_t, unsigned *, unsigned *), gpu, &values[0], &values[1]);
    print_mode(result ? -1 : (long)values[pending]);
}

static void print_driver(void) {
    char version[80] = "";
    NVML("nvmlSystemGetDriverVersion", (char *, unsigned), version, sizeof version);
    fputs(version, stdout);
}

static void print_capability(nvmlDevice_t gpu) {
    int parts[2] = {0, 0};
    NVML("nvmlDeviceGetCudaComputeCapability", (nvmlDevice_t, int *, int *), gpu, &parts[0], &parts[1]);
    printf("%d.%d", parts[0], parts[1]);
}

static void print_device_id(nvmlDevice_t gpu) {
    nvmlPciInfo_t pci = {0};
    NVML("nvmlDeviceGetPciInfo_v3", (nvmlDevice_t, nvmlPciInfo_t *), gpu, &pci);
    printf("0x%08X", pci.pciDeviceId);
}

static void print_temperature(nvmlDevice_t gpu) {
    unsigned celsius = 0;
    NVML("nvmlDeviceGetTemperature", (nvmlDevice_t, unsigned, unsigned *), gpu, 0, &celsius);
    printf("%u", celsius);
}

static void print_utilization(nvmlDevice_t gpu) {
    nvmlUtilization_t rates = {0};
    NVML("nvmlDeviceGetUtilizationRates", (nvmlDevice_t, nvmlUtilization_t *), gpu, &rates);
    print_unit(rates.gpu, "%");
}

static void print_count(nvmlDevice_t gpu) {
    unsigned count = 0;
    (void)gpu;
    NVML("nvmlDeviceGetCount_v2", (unsigned *), &count);
    printf("%u", count);
}

/* The columns of --query-gpu: name, unit in the header, how to print. */
#define COLUMN(name, unit, ...)                                                                                        \
    if (!strcmp(column, name)) {                                                                                       \
        if (gpu) {                                                                                                     \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            fputs(name, stdout);                                                                                       \
            if (*unit && units)                                                                                        \
                printf(" [%s]", unit);                                                                                 \
        }                                                                                                              \
        return true;                                                                                                   \
    }

/* Print one column of a GPU, or its header without one. Returns false for a column that does not exist. */
static bool print_column(nvmlDevice_t gpu, const char *column) {
    COLUMN("index", "", printf("%ld", number_of(gpu, "nvmlDeviceGetIndex")))
    COLUMN("count", "", print_count(gpu))
    COLUMN("name", "", fputs(text_of(gpu, "nvmlDeviceGetName"), stdout))
    COLUMN("gpu_name", "", fputs(text_of(gpu, "nvmlDeviceGetName"), stdout))
    COLUMN("uuid", "", fputs(text_of(gpu, "nvmlDeviceGetUUID"), stdout))
    COLUMN("gpu_uuid", "", fputs(text_of(gpu, "nvmlDeviceGetUUID"), stdout))
    COLUMN("serial", "", fputs(text_of(gpu, "nvmlDeviceGetSerial"), stdout))
    COLUMN("vbios_version", "", fputs(text_of(gpu, "nvmlDeviceGetVbiosVersion"), stdout))
    COLUMN("driver_version", "", print_driver())
    COLUMN("pci.bus_id", "", fputs(bus_id(gpu), stdout))
    COLUMN("gpu_bus_id", "", fputs(bus_id(gpu), stdout))
    COLUMN("pci.device_id", "", print_device_id(gpu))
    COLUMN("compute_cap", "", print_capability(gpu))
    COLUMN("memory.total", "MiB", print_memory(gpu, column))
    COLUMN("memory.used", "MiB", print_memory(gpu, column))
    COLUMN("memory.free", "MiB", print_memory(gpu, column))
    COLUMN("persistence_mode", "", print_mode(number_of(gpu, "nvmlDeviceGetPersistenceMode")))
    COLUMN("mig.mode.current", "", print_pair(gpu, "nvmlDeviceGetMigMode", false))
    COLUMN("mig.mode.pending", "", print_pair(gpu, "nvmlDeviceGetMigMode", true))
    COLUMN("ecc.mode.current", "", print_pair(gpu, "nvmlDeviceGetEccMode", false))
    COLUMN("ecc.mode.pending", "", print_pair(gpu, "nvmlDeviceGetEccMode", true))
    COLUMN("temperature.gpu", "", print_temperature(gpu))
    COLUMN("utilization.gpu", "%", print_utilization(gpu))
    COLUMN("power.draw", "W", print_watts(number_of(gpu, "nvmlDeviceGetPowerUsage")))
    COLUMN("power.limit", "W", print_watts(number_of(gpu, "nvmlDeviceGetEnforcedPowerLimit")))
    return false;
}

static int query_gpus(char *columns) {
    char *names[MOST_COLUMNS], *rest = NULL;
    nvmlDevice_t gpus[MOST_GPUS];
    unsigned count = 0, found = find(gpus);
    for (char *name = strtok_r(columns, ", ", &rest); name && count < MOST_COLUMNS; name = strtok_r(NULL, ", ", &rest))
        names[count++] = name;
    for (unsigned row = header ? 0 : 1; row <= found; row++) {
        for (unsigned i = 0; i < count; i++) {
            if (i)
                fputs(", ", stdout);
            if (!print_column(row ? gpus[row - 1] : NULL, names[i])) {
                printf("Field \"%s\" is not a valid field to query.\n\n", names[i]);
                return NVML_ERROR_INVALID_ARGUMENT;
            }
        }
        putchar('\n');
    }
    return 0;
}

static unsigned processes_of(nvmlDevice_t gpu, nvmlProcessInfo_t *infos, unsigned room) {
    unsigned count = room;
    nvmlReturn_t result = NVML("nvmlDeviceGetComputeRunningProcesses_v3", (nvmlDevice_t, unsigned *, nvmlProcessInfo_t *), gpu,
                               &count, infos);
    return result ? 0 : count;
}

/* --query-compute-apps: always gpu_uuid, pid, process_name, used_gpu_memory. */
static int query_processes(void) {
    nvmlDevice_t gpus[MOST_GPUS];
    nvmlProcessInfo_t infos[256];
    unsigned found = find(gpus);
    if (header)
        puts("gpu_uuid, pid, process_name, used_gpu_memory [MiB]");
    for (unsigned i = 0; i < found; i++) {
        unsigned count = processes_of(gpus[i], infos, 256);
        for (unsigned j = 0; j < count; j++) {
            char name[256] = "[Not Found]";
            NVML("nvmlSystemGetProcessName", (unsigned, char *, unsigned), infos[j].pid, name, sizeof name);
            printf("%s, %u, %s, ", text_of(gpus[i], "nvmlDeviceGetUUID"), infos[j].pid, name);
            print_unit((long)(infos[j].usedGpuMemory / MIB), "MiB");
            putchar('\n');
        }
    }
    return 0;
}

/* -- the other ways to call it ------------------------------------------------------------------------------------- */

static void list_mig_devices(nvmlDevice_t gpu) {
    long most = number_of(gpu, "nvmlDeviceGetMaxMigDeviceCount");
    for (unsigned i = 0; (long)i < most; i++) {
        nvmlDevice_t device;
        if (NVML("nvmlDeviceGetMigDeviceHandleByIndex", (nvmlDevice_t, unsigned, nvmlDevice_t *), gpu, i, &device))
            continue; /* a hole */
        const char *profile = strstr(text_of(device, "nvmlDeviceGetName"), " MIG ");
        printf("  MIG %-11s Device %2u: (UUID: ", profile ? profile + 5 : "[N/A]", i);
        printf("%s)\n", text_of(device, "nvmlDeviceGetUUID"));
    }
}

static int list_gpus(void) {
    nvmlDevice_t gpus[MOST_GPUS];
    unsigned found = find(gpus);
    for (unsigned i = 0; i < found; i++) {
        printf("GPU %ld: %s", number_of(gpus[i], "nvmlDeviceGetIndex"), text_of(gpus[i], "nvmlDeviceGetName"));
        printf(" (UUID: %s)\n", text_of(gpus[i], "nvmlDeviceGetUUID"));
        list_mig_devices(gpus[i]);
    }
    return 0;
}

static int set_persistence(const char *mode) {
    nvmlDevice_t gpus[MOST_GPUS];
    unsigned found = find(gpus), enabled = !strcmp(mode, "1") || !strcasecmp(mode, "ENABLED");
    for (unsigned i = 0; i < found; i++) {
        nvmlReturn_t result = NVML("nvmlDeviceSetPersistenceMode", (nvmlDevice_t, unsigned), gpus[i], enabled);
        if (result) {
            printf("Unable to set persistence mode for GPU %s: %s\n", bus_id(gpus[i]), words(result));
            return result;
        }
        printf("%s persistence mode for GPU %s.\n", enabled ? "Enabled" : "Disabled", bus_id(gpus[i]));
    }
    puts("All done.");
    return 0;
}

static int reset_gpus(void) {
    nvmlDevice_t gpus[MOST_GPUS];
    unsigned found = find(gpus);
    for (unsigned i = 0; i < found; i++) {
        nvmlReturn_t result = NVML("siliconResetGpu", (nvmlDevice_t), gpus[i]);
        if (result == NVML_ERROR_IN_USE)
            printf("GPU %s is currently in use by another process.\n\n1 device is currently being used by one or more other "
                   "processes (e.g., Fabric Manager, CUDA application, graphics application such as an X server, or a "
                   "monitoring application such as another instance of nvidia-smi). Please first kill all processes using "
                   "this device and all compute applications running in the system.\n",
                   bus_id(gpus[i]));
        else if (result)
            printf("Unable to reset GPU %s: %s\n", bus_id(gpus[i]), words(result));
        else
            printf("GPU %s was successfully reset.\n", bus_id(gpus[i]));
        if (result)
            return result;
    }
    puts("All done.");
    return 0;
}

static int print_table(void) {
    nvmlDevice_t gpus[MOST_GPUS];
    int cuda = 0;
    unsigned found = find(gpus);
    NVML("nvmlSystemGetCudaDriverVersion_v2", (int *), &cuda);
    printf("| NVIDIA-SMI %s   Driver Version: ", DRIVER_VERSION);
    print_driver();
    printf("   CUDA Version: %d.%d |\n", cuda / 1000, cuda % 1000 / 10);
    for (unsigned i = 0; i < found; i++) {
        nvmlProcessInfo_t infos[256];
        printf("| %3ld  %-44s", number_of(gpus[i], "nvmlDeviceGetIndex"), text_of(gpus[i], "nvmlDeviceGetName"));
        printf(" %s  ", bus_id(gpus[i]));
        print_memory(gpus[i], "used");
        fputs(" / ", stdout);
        print_memory(gpus[i], "total");
        printf("  %u processes |\n", processes_of(gpus[i], infos, 256));
    }
    return 0;
}

static int usage(const char *argument) {
    printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help. (%s)\n", argument);
    return NVML_ERROR_INVALID_ARGUMENT;
}

static const char *value_of(const char *argument, const char *name) {
    size_t length = strlen(name);
    return strncmp(argument, name, length) || argument[length] != '=' ? NULL : argument + length + 1;
}

int main(int count, char **arguments) {
    const char *columns = NULL, *persistence = NULL, *value;
    bool list = false, processes = false, reset = false;
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "-L") || !strcmp(arguments[i], "--list-gpus"))
            list = true;
        else if (!strcmp(arguments[i], "--gpu-reset") || !strcmp(arguments[i], "-r"))
            reset = true;
        else if ((value = value_of(arguments[i], "--query-gpu")))
            columns = value;
        else if (value_of(arguments[i], "--query-compute-apps"))
            processes = true;
        else if ((value = value_of(arguments[i], "--format")))
            header = !strstr(value, "noheader"), units = !strstr(value, "nounits");
        else if ((value = value_of(arguments[i], "--id")))
            wanted = value;
        else if ((value = value_of(arguments[i], "--persistence-mode")))
            persistence = value;
        else if (!strcmp(arguments[i], "-i") && i + 1 < count)
            wanted = arguments[++i];
        else if (!strcmp(arguments[i], "-pm") && i + 1 < count)
            persistence = arguments[++i];
        else if (!strcmp(arguments[i], "-h") || !strcmp(arguments[i], "--help"))
            return puts("nvidia-smi [-L | --query-gpu=COLUMNS | --query-compute-apps=COLUMNS | -pm 0|1 | --gpu-reset] [-i IDS] "
                        "[--format=csv[,noheader][,nounits]]"),
                   0;
        else
            return usage(arguments[i]);
    }
    start();
    return columns       ? query_gpus(strdup(columns))
           : processes   ? query_processes()
           : persistence ? set_persistence(persistence)
           : reset       ? reset_gpus()
           : list        ? list_gpus()
                         : print_table();
}
