/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * MIG of the mock libnvidia-ml.so.1. What a GPU offers is on its board, what exists in the state, so that instances outlive
 * processes; every change holds the state's lock from reading to writing.
 *
 * Placements are static tables; an instance needs free memory slices, a count below its profile's, and media engines that
 * the whole GPU still has (from which the rules for +me and +me.all follow). Ids of GPU instances are places in a binary
 * tree as on real GPUs: 0 the whole, 1 and 2 the halves, then quarters and eighths from left to right; but the halves are
 * numbered in the order in which they are made.
 *
 * Calls that change something are written to the file "nvml.calls" beside the state, and fail where "mig.fault.*" says so.
 */
#define _GNU_SOURCE
#include "library.h"
#include <pthread.h>
#include <stdarg.h>

/* Capability nodes: see kernel.py, which lists all minors */
enum { CONFIG_MINOR = 1, MONITOR_MINOR = 2, FIRST_INSTANCE_MINOR = 3 };

struct instance { /* what nvmlGpuInstance_t and nvmlComputeInstance_t point to */
    struct gpu *gpu;
    unsigned gpu_instance, compute_instance; /* compute_instance: NVML_NO_INSTANCE for a GPU instance */
    unsigned long birth;
    struct instance *next;
};

struct profile {
    char name[32];
    unsigned id, slices, count, multiprocessors, memory_mib;
    unsigned copy, decoder, encoder, jpeg, ofa;
    unsigned size;
    char starts[32], order[32]; /* "0,2,4" ascending, and as the driver picks them */
    unsigned asked_as;          /* its number in NVML's enum */
};

struct compute_profile {
    unsigned id, slices, count, multiprocessors; /* the id is the number in NVML's enum too */
};

struct change { /* a call that changes something, from its beginning to its end */
    struct gpu *gpu;
    const char *operation;
    int file; /* holds the state's lock; -1: the call was refused before */
    struct pairs state;
    struct mig mig;
    char words[200]; /* for the log */
};

static pthread_mutex_t handles_guard = PTHREAD_MUTEX_INITIALIZER;
static struct instance *handles;
static struct gpu *mig_devices;

/* -- what the board offers ----------------------------------------------------------------------------------------- */

static bool read_profile(const struct gpu *gpu, unsigned asked_as, struct profile *profile) {
    char property[32];
    snprintf(property, sizeof property, "mig.profile.%u", asked_as);
    profile->asked_as = asked_as;
    return sscanf(text(gpu, property), "%31s %u %u %u %u %u %u %u %u %u %u %u %31s %31s", profile->name, &profile->id,
                  &profile->slices, &profile->count, &profile->multiprocessors, &profile->memory_mib, &profile->copy,
                  &profile->decoder, &profile->encoder, &profile->jpeg, &profile->ofa, &profile->size, profile->starts,
                  profile->order) == 14;
}

static bool find_profile(const struct gpu *gpu, unsigned id, struct profile *profile) {
    for (unsigned i = 0; i < NVML_GPU_INSTANCE_PROFILE_COUNT; i++)
        if (read_profile(gpu, i, profile) && profile->id == id)
            return true;
    return false;
}

/* The profile of the whole GPU: the one with most memory slices. */
static struct profile whole_profile(const struct gpu *gpu) {
    struct profile profile, whole = {0};
    for (unsigned i = 0; i < NVML_GPU_INSTANCE_PROFILE_COUNT; i++)
        if (read_profile(gpu, i, &profile) && profile.size > whole.size)
            whole = profile;
    return whole;
}

static bool find_compute_profile(const struct gpu *gpu, const struct profile *of, unsigned id,
                                 struct compute_profile *profile) {
    char property[32];
    snprintf(property, sizeof property, "mig.compute.%u", of->asked_as);
    for (const char *entry = text(gpu, property); entry && *entry; entry = strchr(entry, ' ')) {
        entry += *entry == ' ';
        if (sscanf(entry, "%u:%u:%u:%u", &profile->id, &profile->slices, &profile->count, &profile->multiprocessors) == 4 &&
            profile->id == id)
            return true;
    }
    return false;
}

/* "1c.3g.20gb", or "3g.20gb" for compute instances that fill their GPU instance. */
static void compute_name(char *name, size_t size, const struct profile *of, const struct compute_profile *profile) {
    if (profile->slices < of->slices)
        snprintf(name, size, "MIG %uc.%s", profile->slices, of->name);
    else
        snprintf(name, size, "MIG %s", of->name);
}

/* The starts of a list: returns how many, puts them where there is room. */
static unsigned read_starts(const char *list, unsigned *starts) {
    unsigned count = 0;
    for (const char *part = list; part; part = strchr(part, ',') ? strchr(part, ',') + 1 : NULL)
        starts[count++] = (unsigned)strtoul(part, NULL, 10);
    return count;
}

/* Compute instances stand at multiples of the power of two that holds them. Returns how many starts there are. */
static unsigned compute_starts(const struct profile *of, const struct compute_profile *profile, unsigned *starts) {
    unsigned count = 0, step = 1;
    while (step < profile->slices)
        step *= 2;
    for (unsigned start = 0; start + profile->slices <= of->slices && count < profile->count; start += step)
        starts[count++] = start;
    return count;
}

bool mig_independent_queries(const struct gpu *gpu) {
    return number(gpu, "mig") && reading(gpu, "mig.independent", number(gpu, "architecture") >= ARCHITECTURE_HOPPER);
}

/* -- what exists --------------------------------------------------------------------------------------------------- */

static const char *of_gpu(const struct pairs *state, const struct gpu *gpu, char *key, size_t size, const char *format, ...) {
    va_list arguments;
    int length = snprintf(key, size, "gpu.%u.", gpu->board_index);
    va_start(arguments, format);
    vsnprintf(key + length, size - (size_t)length, format, arguments);
    va_end(arguments);
    return pairs_get(state, key);
}

static void read_mig(const struct pairs *state, const struct gpu *gpu, struct mig *mig) {
    char key[64];
    memset(mig, 0, sizeof *mig);
    const char *value = of_gpu(state, gpu, key, sizeof key, "mig.mode");
    mig->enabled = mig->pending = value && *value == '1';
    if ((value = of_gpu(state, gpu, key, sizeof key, "mig.pending")))
        mig->pending = *value == '1';
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++) {
        struct gpu_instance *instance = &mig->instances[i];
        value = of_gpu(state, gpu, key, sizeof key, "gi.%u", i);
        instance->exists = value && sscanf(value, "%u %u %u %lu", &instance->profile, &instance->start, &instance->size,
                                           &instance->birth) == 4;
        for (unsigned j = 0; instance->exists && j < MOST_COMPUTE_INSTANCES; j++) {
            struct compute_instance *compute = &instance->compute[j];
            value = of_gpu(state, gpu, key, sizeof key, "gi.%u.ci.%u", i, j);
            compute->exists = value && sscanf(value, "%u %u %u %lu %u %47s", &compute->profile, &compute->start,
                                              &compute->size, &compute->birth, &compute->index, compute->uuid) == 6;
        }
    }
}

nvmlReturn_t mig_load(const struct gpu *gpu, struct mig *mig) {
    struct pairs state;
    if (pairs_load(state_path, &state))
        return NVML_ERROR_UNKNOWN;
    read_mig(&state, gpu, mig);
    pairs_free(&state);
    return NVML_SUCCESS;
}

/* A GPU handle, of a GPU that knows MIG; on request in MIG mode, on request for a caller who may see instances. */
static nvmlReturn_t need_mig(const struct gpu *gpu, bool enabled, bool privileged, struct mig *mig) {
    char node[300];
    NEED(gpu);
    if (gpu->parent)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!number(gpu, "mig"))
        return NVML_ERROR_NOT_SUPPORTED;
    snprintf(node, sizeof node, "%s/nvidia-caps/nvidia-cap%u", device_folder(), CONFIG_MINOR);
    if (privileged && geteuid() && faccessat(AT_FDCWD, node, R_OK, AT_EACCESS))
        return NVML_ERROR_NO_PERMISSION;
    nvmlReturn_t result = mig_load(gpu, mig);
    return result ? result : enabled && !mig->enabled ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

/* -- handles ------------------------------------------------------------------------------------------------------- */

static struct instance *handle_of(struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance, unsigned long birth) {
    pthread_mutex_lock(&handles_guard);
    struct instance *handle = handles;
    while (handle && (handle->gpu != gpu || handle->birth != birth))
        handle = handle->next;
    if (!handle && (handle = malloc(sizeof *handle))) {
        *handle = (struct instance){gpu, gpu_instance, compute_instance, birth, handles};
        handles = handle;
    }
    pthread_mutex_unlock(&handles_guard);
    return handle;
}

static bool is_known(const struct instance *handle, bool compute) {
    pthread_mutex_lock(&handles_guard);
    const struct instance *known = handles;
    while (known && known != handle)
        known = known->next;
    pthread_mutex_unlock(&handles_guard);
    return known && (known->compute_instance != NVML_NO_INSTANCE) == compute;
}

/* The instances that a handle means, as they are in "mig"; compute is NULL for a GPU instance. False: destroyed. */
static bool find_instance(const struct instance *handle, struct mig *mig, struct gpu_instance **instance,
                          struct compute_instance **compute) {
    *instance = &mig->instances[handle->gpu_instance];
    *compute = NULL;
    if (handle->compute_instance == NVML_NO_INSTANCE)
        return (*instance)->exists && (*instance)->birth == handle->birth;
    *compute = &(*instance)->compute[handle->compute_instance];
    return (*instance)->exists && (*compute)->exists && (*compute)->birth == handle->birth;
}

/* What a query of an instance needs. */
static nvmlReturn_t need_instance(const struct instance *handle, bool is_compute, struct mig *mig,
                                  struct gpu_instance **instance, struct compute_instance **compute) {
    NEED_INIT;
    if (!handle || !is_known(handle, is_compute))
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = need_mig(handle->gpu, false, true, mig);
    return result ? result : find_instance(handle, mig, instance, compute) ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

void mig_forget_handles(void) {
    pthread_mutex_lock(&handles_guard);
    for (struct instance *next; handles; handles = next) {
        next = handles->next;
        free(handles);
    }
    for (struct gpu *next; mig_devices; mig_devices = next) {
        next = mig_devices->next_mig;
        free(mig_devices);
    }
    pthread_mutex_unlock(&handles_guard);
}

/* -- capabilities: the files and nodes that stand for instances ---------------------------------------------------- */

unsigned mig_capability(const struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance) {
    unsigned place = gpu->minor * MOST_GPU_INSTANCES + gpu_instance;
    unsigned minor = FIRST_INSTANCE_MINOR + place * (1 + MOST_COMPUTE_INSTANCES);
    return compute_instance == NVML_NO_INSTANCE ? minor : minor + 1 + compute_instance;
}

/* Show an instance below /proc/driver/nvidia/capabilities, or take it away. Its device node is made by nvidia-modprobe. */
static void show_capability(const struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance, bool show) {
    static const char *const parts[] = {"/gpu%u", "/mig", "/gi%u", "/ci%u"};
    unsigned numbers[] = {gpu->minor, 0, gpu_instance, compute_instance};
    char path[512];
    int length = snprintf(path, sizeof path, "%.*s/proc/driver/nvidia/capabilities",
                          (int)(strrchr(state_path, '/') - state_path), state_path);
    if (access(path, W_OK))
        return; /* no driver that shows anything, or a container */
    for (unsigned i = 0; i < (compute_instance == NVML_NO_INSTANCE ? 3 : 4); i++) {
        length += snprintf(path + length, sizeof path - (size_t)length, parts[i], numbers[i]);
        if (show)
            mkdir(path, 0755);
    }
    snprintf(path + length, sizeof path - (size_t)length, "/access");
    FILE *file = show ? fopen(path, "we") : NULL;
    if (file) {
        fprintf(file, "DeviceFileMinor: %u\nDeviceFileMode: 292\nDeviceFileModify: 1\n", /* 0444 */
                mig_capability(gpu, gpu_instance, compute_instance));
        fclose(file);
    } else {
        unlink(path);
        path[length] = '\0';
        rmdir(path);
    }
}

/* Whether a process has an instance's node open, or a test says that somebody uses it. */
static bool is_used(const struct pairs *state, const struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance) {
    char node[64], place[64];
    snprintf(node, sizeof node, "nvidia-caps/nvidia-cap%u", mig_capability(gpu, gpu_instance, compute_instance));
    int length = snprintf(place, sizeof place, "gpu.%u.gi.%u", gpu->board_index, gpu_instance);
    if (compute_instance != NVML_NO_INSTANCE)
        snprintf(place + length, sizeof place - (size_t)length, ".ci.%u", compute_instance);
    return is_marked_busy(state, place) || is_held(node);
}

static bool has_node(unsigned minor_number) {
    char node[300];
    snprintf(node, sizeof node, "%s/nvidia-caps/nvidia-cap%u", device_folder(), minor_number);
    return !access(node, R_OK);
}

/* Who has the monitor's node sees all MIG devices: hosts, privileged containers. Others see those whose nodes they were given. */
static bool is_visible(const struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance) {
    return has_node(MONITOR_MINOR) || (has_node(mig_capability(gpu, gpu_instance, NVML_NO_INSTANCE)) &&
                                       has_node(mig_capability(gpu, gpu_instance, compute_instance)));
}

/* The index that a MIG device has for this process: without the monitor's node, its place among those that it sees. */
static unsigned shown_index(const struct gpu *gpu, const struct mig *mig, const struct compute_instance *device) {
    unsigned index = 0;
    if (has_node(MONITOR_MINOR))
        return device->index;
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++)
        for (unsigned j = 0; mig->instances[i].exists && j < MOST_COMPUTE_INSTANCES; j++) {
            const struct compute_instance *other = &mig->instances[i].compute[j];
            index += other->exists && other->index < device->index && is_visible(gpu, i, j);
        }
    return index;
}

/* -- changes ------------------------------------------------------------------------------------------------------- */

static void describe(struct change *change, const char *format, ...) {
    va_list arguments;
    size_t length = strlen(change->words);
    va_start(arguments, format);
    vsnprintf(change->words + length, sizeof change->words - length, format, arguments);
    va_end(arguments);
}

/* Begin a change of a GPU that is, on request, in MIG mode. Whatever comes back, finish() is to follow. */
static nvmlReturn_t begin(struct change *change, struct gpu *gpu, const char *operation, bool enabled) {
    *change = (struct change){.gpu = gpu, .operation = operation, .file = -1};
    nvmlReturn_t result = need_mig(gpu, false, true, &change->mig);
    if (result)
        return result;
    change->file = pairs_open(state_path, &change->state);
    if (change->file < 0)
        return NVML_ERROR_NO_PERMISSION;
    read_mig(&change->state, gpu, &change->mig);
    return enabled && !change->mig.enabled ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

static void write_log(const struct change *change, nvmlReturn_t result) {
    char path[300];
    snprintf(path, sizeof path, "%.*s/nvml.calls", (int)(strrchr(state_path, '/') - state_path), state_path);
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return; /* a container */
    dprintf(file, "%s gpu=%u%s result=%d\n", change->operation, change->gpu->board_index, change->words, result);
    close(file);
}

static nvmlReturn_t finish(struct change *change, nvmlReturn_t result) {
    if (change->file >= 0) {
        if (pairs_write(change->file, &change->state))
            result = NVML_ERROR_UNKNOWN;
        write_log(change, result);
        pairs_free(&change->state);
        close(change->file);
    } else if (result != NVML_ERROR_UNINITIALIZED && result != NVML_ERROR_INVALID_ARGUMENT) {
        write_log(change, result); /* of a GPU that exists, refused before anything was looked at */
    }
    return result;
}

/* What a test wants to go wrong: mig.fault.<name>=<operation or any> <after how many calls> <code> <how often>. Every fault
 * that fits counts the call; the first that is due decides. */
static nvmlReturn_t injected(struct change *change, const char *operation) {
    struct pairs *state = &change->state;
    nvmlReturn_t result = NVML_SUCCESS;
    for (size_t i = 0; i < state->count; i++) {
        char wanted[32], value[96], key[64];
        unsigned after, often;
        int code;
        if (strncmp(state->keys[i], "mig.fault.", 10) ||
            sscanf(state->values[i], "%31s %u %d %u", wanted, &after, &code, &often) != 4 || !often ||
            (strcmp(wanted, operation) && strcmp(wanted, "any")))
            continue;
        if (after > 1) {
            after--;
        } else if (!result) {
            result = code;
            often--;
        }
        snprintf(value, sizeof value, "%s %u %d %u", wanted, after, code, often);
        snprintf(key, sizeof key, "%s", state->keys[i]);
        pairs_set(state, key, value);
    }
    if (result == NVML_ERROR_GPU_IS_LOST) {
        char key[64];
        of_gpu(state, change->gpu, key, sizeof key, "lost");
        pairs_set(state, key, "1");
    }
    return result;
}

static unsigned long next_birth(struct change *change) {
    char number_text[24];
    const char *last = pairs_get(&change->state, "mig.births");
    unsigned long birth = (last ? strtoul(last, NULL, 10) : 0) + 1;
    snprintf(number_text, sizeof number_text, "%lu", birth);
    pairs_set(&change->state, "mig.births", number_text);
    return birth;
}

static void set(struct change *change, const char *property, const char *value) {
    char key[64];
    of_gpu(&change->state, change->gpu, key, sizeof key, "%s", property);
    pairs_set(&change->state, key, value);
}

/* -- the mode ------------------------------------------------------------------------------------------------------ */

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t gpu, unsigned *current, unsigned *pending) {
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, false, false, &mig);
    if (result)
        return result;
    return give(current, mig.enabled) || give(pending, mig.pending) ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

static void set_mode(struct change *change, bool enabled, bool pending) {
    set(change, "mig.mode", enabled ? "1" : NULL);
    set(change, "mig.pending", pending == enabled ? NULL : pending ? "1" : "0");
}

/* Whether instances or users of them are in the way of a mode change or a reset. */
static bool has_used_instances(const struct change *change) {
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &change->mig.instances[i];
        if (instance->exists && is_used(&change->state, change->gpu, i, NVML_NO_INSTANCE))
            return true;
        for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++)
            if (instance->exists && instance->compute[j].exists && is_used(&change->state, change->gpu, i, j))
                return true;
    }
    return false;
}

static bool has_instances(const struct mig *mig) {
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++)
        if (mig->instances[i].exists)
            return true;
    return false;
}

static bool is_marked(const struct change *change) {
    char place[32];
    snprintf(place, sizeof place, "gpu.%u", change->gpu->board_index);
    return is_marked_busy(&change->state, place);
}

/* The daemon that keeps the driver's state holds every GPU, and lets the driver reset it nevertheless. */
static bool is_persistence_daemon(unsigned pid) {
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    if (file) {
        if (!fgets(name, sizeof name, file))
            *name = '\0';
        fclose(file);
    }
    return !strncmp(name, "nvidia-persiste", 15);
}

static unsigned clients(const struct gpu *gpu, bool with_daemon) {
    unsigned pids[MOST_PROCESSES], count = 0;
    char node[32];
    snprintf(node, sizeof node, "nvidia%u", gpu->minor);
    for (unsigned i = 0, found = find_holders(node, pids); i < found; i++)
        count += with_daemon || !is_persistence_daemon(pids[i]);
    return count;
}

/* Ampere resets itself to change its mode, which no client may see; later GPUs mind instances and computations only. */
static nvmlReturn_t activate(struct change *change) {
    bool by_reset = number(change->gpu, "architecture") == ARCHITECTURE_AMPERE;
    nvmlReturn_t status = injected(change, "activate");
    if (status)
        return status;
    if (by_reset && board_number("passthrough"))
        return NVML_ERROR_RESET_REQUIRED;
    if (has_instances(&change->mig) || is_marked(change) || is_computed_on(change->gpu) ||
        (by_reset && clients(change->gpu, false)))
        return NVML_ERROR_IN_USE;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t gpu, unsigned mode, nvmlReturn_t *activation) {
    struct change change;
    if (!activation || mode > 1)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = begin(&change, gpu, "set_mode", false);
    describe(&change, " mode=%u", mode);
    if (!result && geteuid())
        result = NVML_ERROR_NO_PERMISSION;
    if (!result)
        result = injected(&change, "set_mode");
    if (!result) {
        bool wanted = mode;
        *activation = wanted == change.mig.enabled ? NVML_SUCCESS : activate(&change);
        set_mode(&change, *activation ? change.mig.enabled : wanted, wanted);
        describe(&change, " activation=%d", *activation);
    }
    return finish(&change, result);
}

/* What nvidia-smi --gpu-reset does; the real library has no public call for it either. */
EXPORT nvmlReturn_t siliconResetGpu(nvmlDevice_t gpu) {
    struct change change;
    nvmlReturn_t result = begin(&change, gpu, "reset", false);
    if (!result && geteuid())
        result = NVML_ERROR_NO_PERMISSION;
    if (!result)
        result = board_number("passthrough") ? NVML_ERROR_NOT_SUPPORTED : injected(&change, "reset");
    if (!result && (is_marked(&change) || has_used_instances(&change) || clients(gpu, true)))
        result = NVML_ERROR_IN_USE;
    if (!result) {
        char prefix[32];
        int length = snprintf(prefix, sizeof prefix, "gpu.%u.gi.", gpu->board_index);
        for (size_t i = change.state.count; i-- > 0;)
            if (!strncmp(change.state.keys[i], prefix, (size_t)length))
                pairs_set(&change.state, change.state.keys[i], NULL);
        set_mode(&change, change.mig.pending, change.mig.pending);
        for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++) {
            for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++)
                show_capability(gpu, i, j, false);
            show_capability(gpu, i, NVML_NO_INSTANCE, false);
        }
    }
    return finish(&change, result);
}

/* -- GPU instances: profiles --------------------------------------------------------------------------------------- */

static nvmlReturn_t need_profile(const struct gpu *gpu, unsigned asked_as, bool versioned, struct profile *profile) {
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, versioned && !mig_independent_queries(gpu), false, &mig);
    if (result)
        return result;
    if (asked_as >= NVML_GPU_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return read_profile(gpu, asked_as, profile) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* What all layouts of the profile's description have. */
#define GIVE_PROFILE(to, profile)                                                                                      \
    ((to)->id = (profile)->id, (to)->sliceCount = (profile)->slices, (to)->instanceCount = (profile)->count,           \
     (to)->multiprocessorCount = (profile)->multiprocessors, (to)->copyEngineCount = (profile)->copy,                  \
     (to)->decoderCount = (profile)->decoder, (to)->encoderCount = (profile)->encoder,                                 \
     (to)->jpegCount = (profile)->jpeg, (to)->ofaCount = (profile)->ofa, (to)->memorySizeMB = (profile)->memory_mib)

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t gpu, unsigned asked_as,
                                                        nvmlGpuInstanceProfileInfo_t *info) {
    struct profile profile;
    nvmlReturn_t result = need_profile(gpu, asked_as, false, &profile);
    if (result || !info)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    GIVE_PROFILE(info, &profile);
    info->isP2pSupported = 0;
    return NVML_SUCCESS;
}

/* A caller's version that this library does not have: newer ones it says so, of the rest that they are wrong. */
static nvmlReturn_t wrong_version(unsigned version) {
    return version >> 24 > 3 ? NVML_ERROR_ARGUMENT_VERSION_MISMATCH : NVML_ERROR_INVALID_ARGUMENT;
}

static nvmlReturn_t give_profile(const struct profile *profile, void *info) {
    unsigned version = *(unsigned *)info;
    if (version == NVML_STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2)) {
        nvmlGpuInstanceProfileInfo_v2_t *second = info;
        GIVE_PROFILE(second, profile);
        second->isP2pSupported = 0;
        snprintf(second->name, sizeof second->name, "MIG %s", profile->name);
        return NVML_SUCCESS;
    }
    if (version == NVML_STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3)) {
        nvmlGpuInstanceProfileInfo_v3_t *third = info;
        GIVE_PROFILE(third, profile);
        third->capabilities = strstr(profile->name, "+gfx") ? NVML_GPU_INSTANCE_CAPABLE_OF_GRAPHICS : 0;
        snprintf(third->name, sizeof third->name, "MIG %s", profile->name);
        return NVML_SUCCESS;
    }
    return wrong_version(version);
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t gpu, unsigned asked_as, void *info) {
    struct profile profile;
    nvmlReturn_t result = need_profile(gpu, asked_as, true, &profile);
    if (result || !info)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    return give_profile(&profile, info);
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t gpu, unsigned id, void *info) {
    struct profile profile;
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, !mig_independent_queries(gpu), false, &mig);
    if (result)
        return result;
    if (!info || !find_profile(gpu, id, &profile))
        return NVML_ERROR_INVALID_ARGUMENT;
    return give_profile(&profile, info);
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t gpu, unsigned id,
                                                                  nvmlGpuInstancePlacement_t *placements, unsigned *count) {
    struct profile profile;
    struct mig mig;
    unsigned starts[16];
    nvmlReturn_t result = need_mig(gpu, false, true, &mig);
    if (result)
        return result;
    if (!count || !find_profile(gpu, id, &profile))
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = read_starts(profile.starts, starts);
    for (unsigned i = 0; placements && i < *count; i++)
        placements[i] = (nvmlGpuInstancePlacement_t){starts[i], profile.size};
    return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t gpu, unsigned id,
                                                               nvmlGpuInstancePlacement_t *placements, unsigned *count) {
    return nvmlDeviceGetGpuInstancePossiblePlacements_v2(gpu, id, placements, count);
}

/* -- GPU instances: rules ------------------------------------------------------------------------------------------ */

static bool fits(const struct gpu *gpu, const struct mig *mig, const struct profile *profile, unsigned start) {
    struct profile whole = whole_profile(gpu), other;
    unsigned same = 0, decoder = profile->decoder, encoder = profile->encoder, jpeg = profile->jpeg, ofa = profile->ofa;
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &mig->instances[i];
        if (!instance->exists || !find_profile(gpu, instance->profile, &other))
            continue;
        if (start < instance->start + instance->size && instance->start < start + profile->size)
            return false;
        same += instance->profile == profile->id;
        decoder += other.decoder;
        encoder += other.encoder;
        jpeg += other.jpeg;
        ofa += other.ofa;
    }
    return same < profile->count && decoder <= whole.decoder && encoder <= whole.encoder && jpeg <= whole.jpeg &&
           ofa <= whole.ofa;
}

/* The id of a new instance: its place in the tree. Halves take the first free number. */
static unsigned new_id(const struct gpu *gpu, const struct mig *mig, const struct profile *profile, unsigned start) {
    unsigned parts = 1, axis = whole_profile(gpu).size;
    while (axis / (2 * parts) >= profile->size)
        parts *= 2;
    if (parts == 2)
        return mig->instances[1].exists ? 2 : 1;
    return parts - 1 + start / (axis / parts);
}

/* The first start of a list at which a new instance fits. */
static bool first_fit(const struct gpu *gpu, const struct mig *mig, const struct profile *profile, const char *list,
                      unsigned *start) {
    unsigned starts[16], count = read_starts(list, starts);
    for (unsigned i = 0; i < count; i++) {
        *start = starts[i];
        if (fits(gpu, mig, profile, *start))
            return true;
    }
    return false;
}

static bool is_start(const char *list, unsigned start) {
    unsigned starts[16], count = read_starts(list, starts);
    for (unsigned i = 0; i < count; i++)
        if (starts[i] == start)
            return true;
    return false;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t gpu, unsigned id, unsigned *count) {
    struct profile profile;
    struct mig mig;
    unsigned start;
    nvmlReturn_t result = need_mig(gpu, true, true, &mig);
    if (result)
        return result;
    if (!count || !find_profile(gpu, id, &profile))
        return NVML_ERROR_INVALID_ARGUMENT;
    for (*count = 0; first_fit(gpu, &mig, &profile, profile.starts, &start); (*count)++)
        mig.instances[new_id(gpu, &mig, &profile, start)] =
            (struct gpu_instance){.exists = true, .profile = id, .start = start, .size = profile.size};
    return NVML_SUCCESS;
}

/* -- GPU instances: making, finding, destroying -------------------------------------------------------------------- */

static nvmlReturn_t make_gpu_instance(struct change *change, unsigned profile_id, const nvmlGpuInstancePlacement_t *placement,
                                      nvmlGpuInstance_t *handle) {
    struct profile profile;
    char property[32], value[96];
    unsigned start = placement ? placement->start : 0;
    if (!find_profile(change->gpu, profile_id, &profile)) {
        describe(change, " profile=%u", profile_id);
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    describe(change, " profile=%s", profile.name);
    if (placement)
        describe(change, " start=%u size=%u", start, placement->size);
    nvmlReturn_t result = injected(change, change->operation);
    if (result)
        return result;
    if (placement && (!is_start(profile.starts, start) || placement->size != profile.size))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (placement ? !fits(change->gpu, &change->mig, &profile, start)
                  : !first_fit(change->gpu, &change->mig, &profile, profile.order, &start))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    unsigned id = new_id(change->gpu, &change->mig, &profile, start);
    unsigned long birth = next_birth(change);
    if (!(*handle = handle_of(change->gpu, id, NVML_NO_INSTANCE, birth)))
        return NVML_ERROR_MEMORY;
    snprintf(property, sizeof property, "gi.%u", id);
    snprintf(value, sizeof value, "%u %u %u %lu", profile_id, start, profile.size, birth);
    set(change, property, value);
    show_capability(change->gpu, id, NVML_NO_INSTANCE, true);
    if (!placement)
        describe(change, " start=%u size=%u", start, profile.size);
    describe(change, " gi=%u", id);
    return NVML_SUCCESS;
}

static nvmlReturn_t create_gpu_instance(struct gpu *gpu, unsigned profile_id, const nvmlGpuInstancePlacement_t *placement,
                                        nvmlGpuInstance_t *handle) {
    struct change change;
    nvmlReturn_t result = begin(&change, gpu, "create_gi", true);
    if (!result)
        result = make_gpu_instance(&change, profile_id, placement, handle);
    return finish(&change, result);
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t gpu, unsigned profile_id, nvmlGpuInstance_t *instance) {
    return instance ? create_gpu_instance(gpu, profile_id, NULL, instance) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t gpu, unsigned profile_id,
                                                             const nvmlGpuInstancePlacement_t *placement,
                                                             nvmlGpuInstance_t *instance) {
    return placement && instance ? create_gpu_instance(gpu, profile_id, placement, instance) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t gpu, unsigned profile_id, nvmlGpuInstance_t *instances,
                                              unsigned *count) {
    struct profile profile;
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, true, true, &mig);
    if (result)
        return result;
    if (!instances || !count || !find_profile(gpu, profile_id, &profile))
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++)
        if (mig.instances[i].exists && mig.instances[i].profile == profile_id &&
            !(instances[(*count)++] = handle_of(gpu, i, NVML_NO_INSTANCE, mig.instances[i].birth)))
            return NVML_ERROR_MEMORY;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t gpu, unsigned id, nvmlGpuInstance_t *instance) {
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, true, true, &mig);
    if (result || !instance)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    if (id >= MOST_GPU_INSTANCES || !mig.instances[id].exists)
        return NVML_ERROR_NOT_FOUND;
    *instance = handle_of(gpu, id, NVML_NO_INSTANCE, mig.instances[id].birth);
    return *instance ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *info) {
    struct gpu_instance *instance;
    struct compute_instance *none;
    struct mig mig;
    nvmlReturn_t result = need_instance(handle, false, &mig, &instance, &none);
    if (result || !info)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlGpuInstanceInfo_t){
        handle->gpu, handle->gpu_instance, instance->profile, {instance->start, instance->size}};
    return NVML_SUCCESS;
}

/* Begin a change of an instance, which the handle must still mean. */
static nvmlReturn_t begin_with(struct change *change, const struct instance *handle, bool is_compute, const char *operation,
                               struct gpu_instance **instance, struct compute_instance **compute) {
    struct profile profile;
    *change = (struct change){.file = -1};
    NEED_INIT;
    if (!handle || !is_known(handle, is_compute))
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = begin(change, handle->gpu, operation, false);
    describe(change, " gi=%u", handle->gpu_instance);
    if (is_compute)
        describe(change, " ci=%u", handle->compute_instance);
    if (result)
        return result;
    if (!find_instance(handle, &change->mig, instance, compute))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (find_profile(change->gpu, (*instance)->profile, &profile))
        describe(change, " of=%s@%u", profile.name, (*instance)->start);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t handle) {
    struct change change;
    struct gpu_instance *instance;
    struct compute_instance *none;
    char property[32];
    nvmlReturn_t result = begin_with(&change, handle, false, "destroy_gi", &instance, &none);
    if (!result)
        result = injected(&change, "destroy_gi");
    for (unsigned j = 0; !result && j < MOST_COMPUTE_INSTANCES; j++)
        if (instance->compute[j].exists)
            result = NVML_ERROR_IN_USE;
    if (!result && is_used(&change.state, change.gpu, handle->gpu_instance, NVML_NO_INSTANCE))
        result = NVML_ERROR_IN_USE;
    if (!result) {
        snprintf(property, sizeof property, "gi.%u", handle->gpu_instance);
        set(&change, property, NULL);
        show_capability(change.gpu, handle->gpu_instance, NVML_NO_INSTANCE, false);
    }
    return finish(&change, result);
}

/* -- compute instances --------------------------------------------------------------------------------------------- */

static bool compute_fits(const struct gpu *gpu, const struct gpu_instance *instance, const struct profile *of,
                         const struct compute_profile *profile, unsigned start) {
    unsigned same = 0, multiprocessors = profile->multiprocessors;
    struct compute_profile other;
    for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++) {
        const struct compute_instance *compute = &instance->compute[j];
        if (!compute->exists || !find_compute_profile(gpu, of, compute->profile, &other))
            continue;
        if (start < compute->start + compute->size && compute->start < start + profile->slices)
            return false;
        same += compute->profile == profile->id;
        multiprocessors += other.multiprocessors;
    }
    return same < profile->count && multiprocessors <= of->multiprocessors;
}

/* What a query about a profile of compute instances needs. */
static nvmlReturn_t need_compute_profile(nvmlGpuInstance_t handle, unsigned id, struct mig *mig, struct gpu_instance **instance,
                                         struct profile *of, struct compute_profile *profile) {
    struct compute_instance *none;
    nvmlReturn_t result = need_instance(handle, false, mig, instance, &none);
    if (result)
        return result;
    if (id >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return find_profile(handle->gpu, (*instance)->profile, of) && find_compute_profile(handle->gpu, of, id, profile)
               ? NVML_SUCCESS
               : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t compute_profile_info(nvmlGpuInstance_t handle, unsigned id, unsigned engines, char name[96],
                                         nvmlComputeInstanceProfileInfo_t *info) {
    struct gpu_instance *instance;
    struct compute_profile profile;
    struct profile of;
    struct mig mig;
    nvmlReturn_t result = need_compute_profile(handle, id, &mig, &instance, &of, &profile);
    if (result || engines) /* shared engines, 0, are the only kind */
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlComputeInstanceProfileInfo_t){
        profile.id, profile.slices, profile.count, profile.multiprocessors, of.copy, of.decoder, of.encoder, of.jpeg, of.ofa};
    memset(name, 0, 96);
    compute_name(name, 96, &of, &profile);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t handle, unsigned id, unsigned engines,
                                                                 nvmlComputeInstanceProfileInfo_t *info) {
    char name[96];
    return info ? compute_profile_info(handle, id, engines, name, info) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t handle, unsigned id, unsigned engines,
                                                                  void *info) {
    if (!info)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlComputeInstanceProfileInfo_v3_t *third = info; /* begins as version 2 does */
    if (third->version != NVML_STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2) &&
        third->version != NVML_STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v3_t, 3))
        return wrong_version(third->version);
    nvmlReturn_t result = compute_profile_info(handle, id, engines, third->name, &third->plain);
    if (!result && third->version >> 24 == 3)
        third->capabilities = strstr(third->name, "+gfx") ? NVML_COMPUTE_INSTANCE_CAPABLE_OF_GRAPHICS : 0;
    return result;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t handle, unsigned id,
                                                                        nvmlComputeInstancePlacement_t *placements,
                                                                        unsigned *count) {
    struct gpu_instance *instance;
    struct compute_profile profile;
    struct profile of;
    struct mig mig;
    unsigned starts[MOST_COMPUTE_INSTANCES];
    nvmlReturn_t result = need_compute_profile(handle, id, &mig, &instance, &of, &profile);
    if (result || !count)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *count = compute_starts(&of, &profile, starts);
    for (unsigned i = 0; placements && i < *count; i++)
        placements[i] = (nvmlComputeInstancePlacement_t){starts[i], profile.slices};
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t handle, unsigned id,
                                                                       unsigned *count) {
    struct gpu_instance *instance;
    struct compute_profile profile;
    struct profile of;
    struct mig mig;
    unsigned starts[MOST_COMPUTE_INSTANCES];
    nvmlReturn_t result = need_compute_profile(handle, id, &mig, &instance, &of, &profile);
    if (result || !count)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    for (unsigned i = 0, most = compute_starts(&of, &profile, starts); i < most; i++) {
        unsigned free_id = 0;
        if (!compute_fits(handle->gpu, instance, &of, &profile, starts[i]))
            continue;
        while (instance->compute[free_id].exists)
            free_id++;
        instance->compute[free_id] =
            (struct compute_instance){.exists = true, .profile = id, .start = starts[i], .size = profile.slices};
        (*count)++;
    }
    return NVML_SUCCESS;
}

/* The lowest index that no MIG device of the GPU has. */
static unsigned free_index(const struct mig *mig) {
    unsigned long taken = 0;
    unsigned index = 0;
    for (unsigned i = 0; i < MOST_GPU_INSTANCES; i++)
        for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++)
            if (mig->instances[i].exists && mig->instances[i].compute[j].exists)
                taken |= 1UL << mig->instances[i].compute[j].index;
    while (taken >> index & 1)
        index++;
    return index;
}

/* A UUID that no other instance has or had. */
static void new_uuid(const struct gpu *gpu, unsigned long birth, char *uuid, size_t size) {
    unsigned long long words[2] = {birth, birth ^ 0x9E3779B97F4A7C15ULL};
    for (unsigned i = 0; i < 2; i++) {
        for (const char *letter = text(gpu, "uuid"); *letter; letter++)
            words[i] = (words[i] ^ (unsigned char)*letter) * 0x100000001B3ULL; /* FNV-1a */
        words[i] ^= words[i] >> 29;
    }
    snprintf(uuid, size, "MIG-%08llx-%04llx-5%03llx-%04llx-%012llx", words[0] >> 32, words[0] >> 16 & 0xFFFF, words[0] & 0xFFF,
             0x8000 | (words[1] >> 48 & 0x3FFF), words[1] & 0xFFFFFFFFFFFFULL);
}

static nvmlReturn_t make_compute_instance(struct change *change, const struct instance *parent, struct gpu_instance *instance,
                                          unsigned profile_id, const nvmlComputeInstancePlacement_t *placement,
                                          nvmlComputeInstance_t *handle) {
    struct compute_profile profile;
    struct profile of;
    char property[32], value[128], uuid[48];
    unsigned starts[MOST_COMPUTE_INSTANCES], start = 0, id = 0;
    if (!find_profile(change->gpu, instance->profile, &of) ||
        !find_compute_profile(change->gpu, &of, profile_id, &profile)) {
        describe(change, " profile=%u", profile_id);
        return NVML_ERROR_NOT_SUPPORTED;
    }
    describe(change, " profile=%u slices=%u", profile_id, profile.slices);
    if (placement)
        describe(change, " start=%u", placement->start);
    nvmlReturn_t result = injected(change, change->operation);
    if (result)
        return result;
    bool is_possible = !placement, has_room = false;
    for (unsigned i = 0, count = compute_starts(&of, &profile, starts); i < count && !has_room; i++) {
        start = starts[i];
        if (placement && (placement->start != start || placement->size != profile.slices))
            continue;
        is_possible = true;
        has_room = compute_fits(change->gpu, instance, &of, &profile, start);
    }
    if (!is_possible || !has_room)
        return is_possible ? NVML_ERROR_INSUFFICIENT_RESOURCES : NVML_ERROR_INVALID_ARGUMENT;
    while (instance->compute[id].exists)
        id++;
    unsigned long birth = next_birth(change);
    if (!(*handle = handle_of(change->gpu, parent->gpu_instance, id, birth)))
        return NVML_ERROR_MEMORY;
    new_uuid(change->gpu, birth, uuid, sizeof uuid);
    snprintf(property, sizeof property, "gi.%u.ci.%u", parent->gpu_instance, id);
    snprintf(value, sizeof value, "%u %u %u %lu %u %s", profile_id, start, profile.slices, birth, free_index(&change->mig), uuid);
    set(change, property, value);
    show_capability(change->gpu, parent->gpu_instance, id, true);
    if (!placement)
        describe(change, " start=%u", start);
    describe(change, " ci=%u", id);
    return NVML_SUCCESS;
}

static nvmlReturn_t create_compute_instance(const struct instance *parent, unsigned profile_id,
                                            const nvmlComputeInstancePlacement_t *placement, nvmlComputeInstance_t *handle) {
    struct change change;
    struct gpu_instance *instance;
    struct compute_instance *none;
    nvmlReturn_t result = begin_with(&change, parent, false, "create_ci", &instance, &none);
    if (!result)
        result = make_compute_instance(&change, parent, instance, profile_id, placement, handle);
    return finish(&change, result);
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t parent, unsigned profile_id,
                                                         nvmlComputeInstance_t *handle) {
    return handle ? create_compute_instance(parent, profile_id, NULL, handle) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t parent, unsigned profile_id,
                                                                      const nvmlComputeInstancePlacement_t *placement,
                                                                      nvmlComputeInstance_t *handle) {
    return placement && handle ? create_compute_instance(parent, profile_id, placement, handle) : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t parent, unsigned id, nvmlComputeInstance_t *instances,
                                                       unsigned *count) {
    struct gpu_instance *instance;
    struct compute_profile profile;
    struct profile of;
    struct mig mig;
    nvmlReturn_t result = need_compute_profile(parent, id, &mig, &instance, &of, &profile);
    if (result || !instances || !count)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    for (unsigned j = 0; j < MOST_COMPUTE_INSTANCES; j++)
        if (instance->compute[j].exists && instance->compute[j].profile == id &&
            !(instances[(*count)++] = handle_of(parent->gpu, parent->gpu_instance, j, instance->compute[j].birth)))
            return NVML_ERROR_MEMORY;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t parent, unsigned id,
                                                          nvmlComputeInstance_t *handle) {
    struct gpu_instance *instance;
    struct compute_instance *none;
    struct mig mig;
    nvmlReturn_t result = need_instance(parent, false, &mig, &instance, &none);
    if (result || !handle)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    if (id >= MOST_COMPUTE_INSTANCES || !instance->compute[id].exists)
        return NVML_ERROR_NOT_FOUND;
    *handle = handle_of(parent->gpu, parent->gpu_instance, id, instance->compute[id].birth);
    return *handle ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info) {
    struct gpu_instance *instance;
    struct compute_instance *compute;
    struct mig mig;
    nvmlReturn_t result = need_instance(handle, true, &mig, &instance, &compute);
    if (result || !info)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    nvmlGpuInstance_t parent = handle_of(handle->gpu, handle->gpu_instance, NVML_NO_INSTANCE, instance->birth);
    *info = (nvmlComputeInstanceInfo_t){
        handle->gpu, parent, handle->compute_instance, compute->profile, {compute->start, compute->size}};
    return parent ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}
EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info) {
    return nvmlComputeInstanceGetInfo_v2(handle, info);
}

EXPORT nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t handle) {
    struct change change;
    struct gpu_instance *instance;
    struct compute_instance *compute;
    char property[32];
    nvmlReturn_t result = begin_with(&change, handle, true, "destroy_ci", &instance, &compute);
    if (!result)
        result = injected(&change, "destroy_ci");
    if (!result && is_used(&change.state, change.gpu, handle->gpu_instance, handle->compute_instance))
        result = NVML_ERROR_IN_USE;
    if (!result) {
        snprintf(property, sizeof property, "gi.%u.ci.%u", handle->gpu_instance, handle->compute_instance);
        set(&change, property, NULL);
        show_capability(change.gpu, handle->gpu_instance, handle->compute_instance, false);
    }
    return finish(&change, result);
}

/* -- MIG devices: compute instances as devices --------------------------------------------------------------------- */

bool mig_is_handle(const struct gpu *device) {
    pthread_mutex_lock(&handles_guard);
    const struct gpu *known = mig_devices;
    while (known && known != device)
        known = known->next_mig;
    pthread_mutex_unlock(&handles_guard);
    return known;
}

/* The compute instance of a MIG device, with its GPU instance. */
static nvmlReturn_t find_device(const struct gpu *device, struct mig *mig, struct gpu_instance **instance,
                                struct compute_instance **compute) {
    if (mig_load(device, mig))
        return NVML_ERROR_UNKNOWN;
    *instance = &mig->instances[device->gpu_instance];
    *compute = &(*instance)->compute[device->compute_instance];
    bool exists = (*instance)->exists && (*compute)->exists && (*compute)->birth == device->birth;
    return exists ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t mig_check(const struct gpu *device) {
    struct gpu_instance *instance;
    struct compute_instance *compute;
    struct mig mig;
    return find_device(device, &mig, &instance, &compute);
}

static nvmlReturn_t give_device(struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance, unsigned long birth,
                                nvmlDevice_t *device) {
    pthread_mutex_lock(&handles_guard);
    *device = mig_devices;
    while (*device && ((*device)->parent != gpu || (*device)->birth != birth))
        *device = (*device)->next_mig;
    if (!*device && (*device = malloc(sizeof **device))) {
        **device = *gpu;
        (*device)->parent = gpu;
        (*device)->next_mig = mig_devices;
        (*device)->gpu_instance = gpu_instance;
        (*device)->compute_instance = compute_instance;
        (*device)->birth = birth;
        mig_devices = *device;
    }
    pthread_mutex_unlock(&handles_guard);
    return *device ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

/* The MIG device of a GPU that has the index or, without one, the UUID. */
static nvmlReturn_t search(struct gpu *gpu, unsigned index, const char *uuid, nvmlDevice_t *device) {
    struct mig mig;
    if (mig_load(gpu, &mig))
        return NVML_ERROR_UNKNOWN;
    for (unsigned i = 0; mig.enabled && i < MOST_GPU_INSTANCES; i++) {
        for (unsigned j = 0; mig.instances[i].exists && j < MOST_COMPUTE_INSTANCES; j++) {
            const struct compute_instance *compute = &mig.instances[i].compute[j];
            if (compute->exists && is_visible(gpu, i, j) &&
                (uuid ? !strcmp(compute->uuid, uuid) : shown_index(gpu, &mig, compute) == index))
                return give_device(gpu, i, j, compute->birth, device);
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t mig_handle_by_uuid(const char *uuid, nvmlDevice_t *device) {
    nvmlReturn_t result = NVML_ERROR_NOT_FOUND;
    for (unsigned i = 0; i < gpu_count && result == NVML_ERROR_NOT_FOUND; i++)
        result = search(&gpus[i], 0, uuid, device);
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t gpu, unsigned *count) {
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, true, false, &mig);
    if (result && result != NVML_ERROR_NOT_SUPPORTED)
        return result;
    return give(count, result ? 0 : whole_profile(gpu).slices);
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t gpu, unsigned index, nvmlDevice_t *device) {
    struct mig mig;
    nvmlReturn_t result = need_mig(gpu, false, false, &mig);
    if (result)
        return result;
    if (!device || !mig.enabled || index >= whole_profile(gpu).slices)
        return NVML_ERROR_INVALID_ARGUMENT;
    return search(gpu, index, NULL, device);
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_mig) {
    NEED(device);
    return give(is_mig, device->parent != NULL);
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *parent) {
    NEED(device);
    if (!device->parent || !parent)
        return NVML_ERROR_INVALID_ARGUMENT;
    *parent = device->parent;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) {
    NEED(device);
    return device->parent ? give(id, device->gpu_instance) : NVML_ERROR_NOT_SUPPORTED;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id) {
    NEED(device);
    return device->parent ? give(id, device->compute_instance) : NVML_ERROR_NOT_SUPPORTED;
}

/* The minors of the two capability nodes that a process in a MIG device holds; the real library has no call for it. */
EXPORT nvmlReturn_t siliconGetCapabilities(nvmlDevice_t device, unsigned *gpu_instance, unsigned *compute_instance) {
    NEED(device);
    if (!device->parent)
        return NVML_ERROR_NOT_SUPPORTED;
    *gpu_instance = mig_capability(device, device->gpu_instance, NVML_NO_INSTANCE);
    *compute_instance = mig_capability(device, device->gpu_instance, device->compute_instance);
    return NVML_SUCCESS;
}

/* The profiles of a MIG device. */
static nvmlReturn_t profiles_of(const struct gpu *device, struct profile *of, struct compute_profile *profile) {
    struct gpu_instance *instance;
    struct compute_instance *compute;
    struct mig mig;
    nvmlReturn_t result = find_device(device, &mig, &instance, &compute);
    if (result)
        return result;
    return find_profile(device, instance->profile, of) && find_compute_profile(device, of, compute->profile, profile)
               ? NVML_SUCCESS
               : NVML_ERROR_UNKNOWN;
}

nvmlReturn_t mig_name(const struct gpu *device, char *name, unsigned size) {
    char own[64], whole[160];
    struct compute_profile profile;
    struct profile of;
    nvmlReturn_t result = profiles_of(device, &of, &profile);
    if (result)
        return result;
    compute_name(own, sizeof own, &of, &profile);
    snprintf(whole, sizeof whole, "%s %s", text(device, "name"), own);
    return give_text(name, size, whole);
}

nvmlReturn_t mig_uuid(const struct gpu *device, char *uuid, unsigned size) {
    struct gpu_instance *instance;
    struct compute_instance *compute;
    struct mig mig;
    nvmlReturn_t result = find_device(device, &mig, &instance, &compute);
    return result ? result : give_text(uuid, size, compute->uuid);
}

nvmlReturn_t mig_index(const struct gpu *device, unsigned *index) {
    struct gpu_instance *instance;
    struct compute_instance *compute;
    struct mig mig;
    nvmlReturn_t result = find_device(device, &mig, &instance, &compute);
    return result ? result : give(index, shown_index(device, &mig, compute));
}

unsigned long long mig_memory(const struct gpu *device) {
    struct compute_profile profile;
    struct profile of;
    return profiles_of(device, &of, &profile) ? 0 : of.memory_mib * MIB;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    struct compute_profile profile;
    struct profile of;
    NEED(device);
    if (!device->parent)
        return NVML_ERROR_NOT_SUPPORTED;
    nvmlReturn_t result = profiles_of(device, &of, &profile);
    if (result || !attributes)
        return result ? result : NVML_ERROR_INVALID_ARGUMENT;
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = profile.multiprocessors,
        .sharedCopyEngineCount = of.copy,
        .sharedDecoderCount = of.decoder,
        .sharedEncoderCount = of.encoder,
        .sharedJpegCount = of.jpeg,
        .sharedOfaCount = of.ofa,
        .gpuInstanceSliceCount = of.slices,
        .computeInstanceSliceCount = profile.slices,
        .memorySizeMB = of.memory_mib,
    };
    return NVML_SUCCESS;
}
