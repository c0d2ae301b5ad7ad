/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the parts of the mock libnvidia-ml.so.1 share: nvml.c (GPUs), mig.c (their instances), processes.c (who uses them).
 */
#ifndef SILICON_LIBRARY_H
#define SILICON_LIBRARY_H

#include "nvml.h"
#include "pairs.h"
#include <stdbool.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_GPUS 64
#define MOST_PROCESSES 256
#define MOST_GPU_INSTANCES 15
#define MOST_COMPUTE_INSTANCES 8
#define MIB (1024ULL * 1024ULL)
#define ARCHITECTURE_AMPERE 7
#define ARCHITECTURE_HOPPER 9

struct gpu { /* a GPU, or a MIG device of one: then most is its parent's */
    unsigned board_index, minor, bus;
    int node; /* descriptor of its device node */
    struct gpu *parent, *next_mig;
    unsigned gpu_instance, compute_instance;
    unsigned long birth;
};

struct compute_instance {
    bool exists;
    unsigned profile, start, size; /* in compute slices of the GPU instance */
    unsigned index;                /* of the MIG device */
    unsigned long birth;           /* number of the call that made it; two instances never have the same */
    char uuid[48];
};

struct gpu_instance {
    bool exists;
    unsigned profile, start, size; /* profile: the device's id; in memory slices */
    unsigned long birth;
    struct compute_instance compute[MOST_COMPUTE_INSTANCES];
};

struct mig {
    bool enabled, pending;
    struct gpu_instance instances[MOST_GPU_INSTANCES];
};

/* nvml.c */
extern struct pairs board;
extern char state_path[256];
extern struct gpu gpus[MOST_GPUS];
extern unsigned gpu_count;
const char *device_folder(void);
const char *text(const struct gpu *gpu, const char *property); /* of the board; "" without one */
unsigned long number(const struct gpu *gpu, const char *property);
unsigned long board_number(const char *key);
unsigned long reading(const struct gpu *gpu, const char *property, unsigned long otherwise); /* the state may override */
nvmlReturn_t give(unsigned *to, unsigned value);
nvmlReturn_t give_text(char *to, unsigned size, const char *value);
nvmlReturn_t check(const struct gpu *gpu);
nvmlReturn_t check_initialised(void);

/* mig.c */
nvmlReturn_t mig_load(const struct gpu *gpu, struct mig *mig);
nvmlReturn_t mig_check(const struct gpu *device); /* of a MIG device: is it still there? */
bool mig_is_handle(const struct gpu *device);
nvmlReturn_t mig_name(const struct gpu *device, char *name, unsigned size);
nvmlReturn_t mig_uuid(const struct gpu *device, char *uuid, unsigned size);
nvmlReturn_t mig_index(const struct gpu *device, unsigned *index);
unsigned long long mig_memory(const struct gpu *device);
nvmlReturn_t mig_handle_by_uuid(const char *uuid, nvmlDevice_t *device);
bool mig_independent_queries(const struct gpu *gpu);
unsigned mig_capability(const struct gpu *gpu, unsigned gpu_instance, unsigned compute_instance); /* minor of its node */
void mig_forget_handles(void);

/* processes.c */
bool is_held(const char *node);                                /* by any process */
unsigned find_holders(const char *node, unsigned *pids);       /* all but this one; at most MOST_PROCESSES */
bool is_computed_on(const struct gpu *gpu);
bool is_marked_busy(const struct pairs *state, const char *of); /* "gpu.0", "gpu.0.gi.3", "gpu.0.gi.3.ci.0" */

#define NEED_INIT                                                                                                      \
    do {                                                                                                               \
        if (check_initialised())                                                                                       \
            return NVML_ERROR_UNINITIALIZED;                                                                           \
    } while (0)

#define NEED(gpu)                                                                                                      \
    do {                                                                                                               \
        nvmlReturn_t checked = check(gpu);                                                                             \
        if (checked)                                                                                                   \
            return checked;                                                                                            \
    } while (0)

#endif
