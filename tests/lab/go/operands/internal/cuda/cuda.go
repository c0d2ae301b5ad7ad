// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package cuda occupies devices through libcuda, as a workload does.
package cuda

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

static void *library;

// FIND declares a function of libcuda under its own name and returns from the caller when it is not there.
#define FIND(name, ...) \
	int (*name)(__VA_ARGS__) = library ? (int (*)(__VA_ARGS__))dlsym(library, #name) : NULL; \
	if (!name) \
		return -1

static int find_devices(int *count) {
	library = dlopen("libcuda.so.1", RTLD_NOW);
	FIND(cuInit, unsigned);
	FIND(cuDeviceGetCount, int *);
	int code = cuInit(0);
	return code ? code : cuDeviceGetCount(count);
}

static int occupy(int device, char *name, int length) {
	void *context;
	FIND(cuDeviceGetName, char *, int, int);
	FIND(cuCtxCreate_v2, void **, unsigned, int);
	int code = cuDeviceGetName(name, length, device);
	return code ? code : cuCtxCreate_v2(&context, 0, device);
}

static int find_words(int code, const char **words) {
	FIND(cuGetErrorString, int, const char **);
	return cuGetErrorString(code, words);
}
*/
import "C"

import (
	"errors"
	"fmt"
)

// Occupy makes a context on every device that CUDA finds, for as long as the process lives, and returns the devices' names.
func Occupy() ([]string, error) {
	var count C.int
	if code := C.find_devices(&count); code != 0 {
		return nil, failure(code)
	}
	names := make([]string, 0, count)
	for device := range count {
		var name [128]C.char
		if code := C.occupy(device, &name[0], C.int(len(name))); code != 0 {
			return nil, failure(code)
		}
		names = append(names, C.GoString(&name[0]))
	}
	return names, nil
}

func failure(code C.int) error {
	var words *C.char
	if C.find_words(code, &words) != 0 {
		return errors.New("CUDA: there is no libcuda.so.1 that works")
	}
	return fmt.Errorf("CUDA: %s (%d)", C.GoString(words), int(code))
}
