// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// gpu-probe prints, as JSON, what a container can see of GPUs: the device nodes, and what NVML says. It is what a workload would find,
// so it is what tests of GPU injection look at.
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"sort"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

type report struct {
	DeviceNodes   []string `json:"device_nodes"`
	NVML          string   `json:"nvml"` // "SUCCESS", or why it has nothing to say
	DriverVersion string   `json:"driver_version,omitempty"`
	GPUs          []gpu    `json:"gpus"`
}

type gpu struct {
	Index int    `json:"index"`
	UUID  string `json:"uuid"`
	Name  string `json:"name"`
}

func main() {
	found := report{DeviceNodes: deviceNodes(), GPUs: []gpu{}}
	lib := nvml.New()
	ret := lib.Init()
	found.NVML = nvml.ErrorString(ret)
	if ret == nvml.SUCCESS {
		defer lib.Shutdown()
		found.NVML = "SUCCESS"
		found.DriverVersion, _ = lib.SystemGetDriverVersion()
		found.GPUs = gpus(lib)
	}
	output := json.NewEncoder(os.Stdout)
	if err := output.Encode(found); err != nil {
		log.Fatal(err)
	}
}

func deviceNodes() []string {
	nodes, _ := filepath.Glob("/dev/nvidia*")
	sort.Strings(nodes)
	return append([]string{}, nodes...)
}

func gpus(lib nvml.Interface) []gpu {
	found := []gpu{}
	count, _ := lib.DeviceGetCount()
	for index := range count {
		handle, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, _ := handle.GetUUID()
		name, _ := handle.GetName()
		found = append(found, gpu{Index: index, UUID: uuid, Name: name})
	}
	return found
}
