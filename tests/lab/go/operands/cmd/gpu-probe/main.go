// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// gpu-probe prints, as JSON, what a container can see of GPUs: the device nodes, and what NVML says. It is what a workload would find,
// so it is what tests of GPU injection look at. With --hold it also computes on every device that CUDA finds, until SIGTERM.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"syscall"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"onprem.gpu/lab/operands/internal/cuda"
	"onprem.gpu/lab/operands/internal/gpu"
)

var hold = flag.Bool("hold", false, "keep a CUDA context on every device until SIGTERM; without a device it is an error")

type report struct {
	DeviceNodes   []string    `json:"device_nodes"`
	NVML          string      `json:"nvml"` // "SUCCESS", or why it has nothing to say
	DriverVersion string      `json:"driver_version,omitempty"`
	GPUs          []gpuReport `json:"gpus"`
	Held          []string    `json:"held,omitempty"` // names of the devices that CUDA found
}

type gpuReport struct {
	Index      int         `json:"index"`
	UUID       string      `json:"uuid"`
	Name       string      `json:"name"`
	MIGDevices []migReport `json:"mig_devices"`
}

type migReport struct {
	Index   int    `json:"index"`
	UUID    string `json:"uuid"`
	Profile string `json:"profile"`
}

func main() {
	flag.Parse()
	found := report{DeviceNodes: deviceNodes(), GPUs: []gpuReport{}}
	lib := nvml.New()
	ret := lib.Init()
	found.NVML = nvml.ErrorString(ret)
	if ret == nvml.SUCCESS {
		found.NVML = "SUCCESS"
		found.DriverVersion, _ = lib.SystemGetDriverVersion()
		found.GPUs = gpus(lib)
		lib.Shutdown()
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM, syscall.SIGINT)
	if *hold {
		var err error
		if found.Held, err = cuda.Occupy(); err != nil {
			log.Fatal(err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
	if *hold {
		<-terminated
	}
}

func deviceNodes() []string {
	found := []string{}
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if status, err := os.Stat(path); err == nil && !status.IsDir() {
				found = append(found, path)
			}
		}
	}
	sort.Strings(found)
	return found
}

func gpus(lib nvml.Interface) []gpuReport {
	found := []gpuReport{}
	count, _ := lib.DeviceGetCount()
	for index := range count {
		handle, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, _ := handle.GetUUID()
		name, _ := handle.GetName()
		found = append(found, gpuReport{Index: index, UUID: uuid, Name: name, MIGDevices: migDevices(handle)})
	}
	return found
}

func migDevices(handle nvml.Device) []migReport {
	found := []migReport{}
	devices, _, err := gpu.ReadMIG(handle)
	if err != nil {
		log.Print(err)
	}
	for _, device := range devices {
		found = append(found, migReport{Index: device.Index, UUID: device.UUID, Profile: device.Profile})
	}
	return found
}
