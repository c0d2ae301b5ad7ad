/* Copyright: Contributors to the onprem.gpu collection
 * GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nvidia-persistenced of a simulated host: keeps every GPU open and in persistence mode for as long as it runs.
 */
#define _GNU_SOURCE
#include "daemon.h"
#include "nvml.h"
#include <dlfcn.h>

static void *library;

static void set_all(unsigned mode) {
    nvmlReturn_t (*get_count)(unsigned *) = dlsym(library, "nvmlDeviceGetCount_v2");
    nvmlReturn_t (*get_handle)(unsigned, nvmlDevice_t *) = dlsym(library, "nvmlDeviceGetHandleByIndex_v2");
    nvmlReturn_t (*set_mode)(nvmlDevice_t, unsigned) = dlsym(library, "nvmlDeviceSetPersistenceMode");
    unsigned count = 0;
    get_count(&count);
    for (unsigned i = 0; i < count; i++) {
        nvmlDevice_t gpu;
        if (!get_handle(i, &gpu))
            set_mode(gpu, mode);
    }
}

int main(void) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    nvmlReturn_t (*initialise)(void) = library ? dlsym(library, "nvmlInit_v2") : NULL;
    if (!initialise || initialise()) {
        fputs("Failed to query NVIDIA devices. Please ensure that the NVIDIA device files (/dev/nvidia*) exist, and that user 0 "
              "has read and write permissions for those files.\n"
              "nvidia-persistenced failed to initialize. Check syslog for more details.\n",
              stderr);
        return 1;
    }
    go_to_background("nvidia-persistenced", "nvidia-persistenced");
    set_all(1);
    wait_for_end();
    set_all(0);
    return 0;
}
