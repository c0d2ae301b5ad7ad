/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who uses GPUs, for the mock libnvidia-ml.so.1: processes that have device nodes open, those of containers too, and users
 * that a test writes into the state as <place>.busy=PID ... or, for a user that no list shows, <place>.busy=-.
 */
#define _GNU_SOURCE
#include "library.h"
#include <dirent.h>
#include <sys/sysmacros.h>

static bool same_device(const struct stat *one, const struct stat *other) {
    if (S_ISCHR(one->st_mode))
        return S_ISCHR(other->st_mode) && one->st_rdev == other->st_rdev;
    return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}

/* How often a process has a device node open; a container's node is another file for the same device. */
static unsigned times_open(const char *pid, const char *node) {
    char path[300];
    struct stat wanted, found;
    unsigned times = 0;
    snprintf(path, sizeof path, "%s/%s", device_folder(), node);
    if (stat(path, &wanted))
        return 0;
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (*entry->d_name != '.' && !fstatat(dirfd(folder), entry->d_name, &found, 0))
            times += same_device(&wanted, &found);
    if (folder)
        closedir(folder);
    return times;
}

/* The processes that have a node open, which the second function may restrict; at most MOST_PROCESSES. */
static unsigned find(const char *node, bool (*is_wanted)(const char *pid, const char *node), unsigned *pids) {
    unsigned found = 0;
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder && (entry = readdir(folder)) && found < MOST_PROCESSES;)
        if (*entry->d_name >= '1' && *entry->d_name <= '9' && is_wanted(entry->d_name, node))
            pids[found++] = (unsigned)strtoul(entry->d_name, NULL, 10);
    if (folder)
        closedir(folder);
    return found;
}

static bool has_open(const char *pid, const char *node) { return times_open(pid, node); }

static bool is_other_with_open(const char *pid, const char *node) {
    return strtol(pid, NULL, 10) != getpid() && times_open(pid, node);
}

/* A process computes on a GPU when it holds the unified memory node and the GPU's node, as CUDA contexts do. A client of
 * this library holds the nodes of all GPUs once for that alone; it is known by the control node. */
static bool computes(const char *pid, const char *gpu_node) {
    return times_open(pid, "nvidia-uvm") && times_open(pid, gpu_node) > (times_open(pid, "nvidiactl") ? 1 : 0);
}

bool is_held(const char *node) {
    unsigned pids[MOST_PROCESSES];
    return find(node, has_open, pids);
}

unsigned find_holders(const char *node, unsigned *pids) { return find(node, is_other_with_open, pids); }

bool is_computed_on(const struct gpu *gpu) {
    unsigned pids[MOST_PROCESSES];
    char node[32];
    snprintf(node, sizeof node, "nvidia%u", gpu->minor);
    return find(node, computes, pids);
}

static const char *mark_of(const struct pairs *state, const char *place) {
    char key[80];
    snprintf(key, sizeof key, "%s.busy", place);
    return pairs_get(state, key);
}

bool is_marked_busy(const struct pairs *state, const char *place) { return mark_of(state, place) != NULL; }

/* -- lists --------------------------------------------------------------------------------------------------------- */

struct list {
    nvmlProcessInfo_t entries[MOST_PROCESSES];
    unsigned count;
};

static void add(struct list *list, unsigned pid, unsigned gpu_instance, unsigned compute_instance) {
    if (list->count < MOST_PROCESSES)
        list->entries[list->count++] = (nvmlProcessInfo_t){pid, 512 * MIB, gpu_instance, compute_instance};
}

static void add_marked(struct list *list, const struct pairs *state, const char *place, unsigned gpu_instance,
                       unsigned compute_instance) {
    for (const char *mark = mark_of(state, place), *end; mark && *mark; mark = end + (*end == ' ')) {
        unsigned long pid = strtoul(mark, (char **)&end, 10);
        if (end == mark)
            return; /* "-" */
        add(list, (unsigned)pid, gpu_instance, compute_instance);
    }
}

/* Processes in a compute instance hold its capability node. */
static void add_of_instance(struct list *list, const struct pairs *state, const struct gpu *gpu, unsigned gpu_instance,
                            unsigned compute_instance) {
    unsigned pids[MOST_PROCESSES];
    char name[64];
    snprintf(name, sizeof name, "nvidia-caps/nvidia-cap%u", mig_capability(gpu, gpu_instance, compute_instance));
    for (unsigned i = 0, found = find(name, has_open, pids); i < found; i++) {
        char pid[16];
        snprintf(pid, sizeof pid, "%u", pids[i]);
        if (times_open(pid, "nvidia-uvm"))
            add(list, pids[i], gpu_instance, compute_instance);
    }
    snprintf(name, sizeof name, "gpu.%u.gi.%u.ci.%u", gpu->board_index, gpu_instance, compute_instance);
    add_marked(list, state, name, gpu_instance, compute_instance);
}

static bool is_listed(const struct list *list, unsigned pid) {
    for (unsigned i = 0; i < list->count; i++)
        if (list->entries[i].pid == pid)
            return true;
    return false;
}

static void add_of_whole(struct list *list, const struct pairs *state, const struct gpu *gpu) {
    unsigned pids[MOST_PROCESSES];
    char name[32];
    snprintf(name, sizeof name, "nvidia%u", gpu->minor);
    for (unsigned i = 0, found = find(name, computes, pids); i < found; i++)
        if (!is_listed(list, pids[i]))
            add(list, pids[i], NVML_NO_INSTANCE, NVML_NO_INSTANCE);
    snprintf(name, sizeof name, "gpu.%u", gpu->board_index);
    add_marked(list, state, name, NVML_NO_INSTANCE, NVML_NO_INSTANCE);
}

static nvmlReturn_t make_list(const struct gpu *gpu, struct list *list) {
    struct pairs state;
    struct mig mig;
    list->count = 0;
    if (mig_load(gpu, &mig) || pairs_load(state_path, &state))
        return NVML_ERROR_UNKNOWN;
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++)
        for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++)
            if (mig.instances[i].exists && mig.instances[i].compute[j].exists &&
                (!gpu->parent || (i == gpu->gpu_instance && j == gpu->compute_instance)))
                add_of_instance(list, &state, gpu, i, j);
    if (!gpu->parent)
        add_of_whole(list, &state, gpu);
    pairs_free(&state);
    return NVML_SUCCESS;
}

static nvmlReturn_t compute_processes(struct gpu *gpu, unsigned *count, void *infos, bool with_instances) {
    struct list list;
    NEED(gpu);
    if (!count || (*count && !infos))
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = make_list(gpu, &list);
    if (result)
        return result;
    unsigned room = *count;
    *count = list.count;
    if (list.count > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < list.count; i++) {
        if (with_instances)
            ((nvmlProcessInfo_t *)infos)[i] = list.entries[i];
        else
            ((nvmlProcessInfo_v1_t *)infos)[i] =
                (nvmlProcessInfo_v1_t){list.entries[i].pid, list.entries[i].usedGpuMemory};
    }
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t gpu, unsigned *count, nvmlProcessInfo_v1_t *infos) {
    return compute_processes(gpu, count, infos, false);
}
EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t gpu, unsigned *count, nvmlProcessInfo_t *infos) {
    return compute_processes(gpu, count, infos, true);
}
EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t gpu, unsigned *count, nvmlProcessInfo_t *infos) {
    return compute_processes(gpu, count, infos, true);
}

EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t gpu, unsigned *count, void *infos) {
    NEED(gpu);
    (void)infos;
    return give(count, 0);
}
EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t gpu, unsigned *count, void *infos) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(gpu, count, infos);
}
EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t gpu, unsigned *count, void *infos) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(gpu, count, infos);
}
EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t gpu, unsigned *count, void *infos) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(gpu, count, infos);
}
