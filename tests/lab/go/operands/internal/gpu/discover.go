// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Discover lists what the strategy offers on this node: whole GPUs, or the MIG devices of GPUs in MIG mode. sysfs is the host's /sys as
// this process sees it.
func Discover(lib nvml.Interface, sysfs string, strategy Strategy) ([]Device, error) {
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("counting GPUs: %s", lib.ErrorString(ret))
	}
	var devices []Device
	for index := range count {
		handle, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("opening GPU %d: %s", index, lib.ErrorString(ret))
		}
		found, err := offered(handle, index, sysfs, strategy)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", index, err)
		}
		devices = append(devices, found...)
	}
	return devices, nil
}

func offered(handle nvml.Device, index int, sysfs string, strategy Strategy) ([]Device, error) {
	whole, err := wholeGPU(handle, index, sysfs)
	if err != nil {
		return nil, err
	}
	if strategy == None {
		return []Device{whole}, nil
	}
	slices, enabled, err := ReadMIG(handle)
	switch {
	case err != nil:
		return nil, err
	case !enabled:
		return []Device{whole}, nil
	case len(slices) == 0 && strategy == Single:
		return nil, errors.New("it is in MIG mode and has no MIG devices")
	}
	var devices []Device
	for _, slice := range slices {
		device := whole
		device.UUID, device.Index, device.MIG = slice.UUID, fmt.Sprintf("%s:%d", whole.Index, slice.Index), &slice
		devices = append(devices, device)
	}
	return devices, nil
}

func wholeGPU(handle nvml.Device, index int, sysfs string) (Device, error) {
	uuid, ret := handle.GetUUID()
	if ret != nvml.SUCCESS {
		return Device{}, fmt.Errorf("UUID: %s", nvml.ErrorString(ret))
	}
	pci, ret := handle.GetPciInfo()
	if ret != nvml.SUCCESS {
		return Device{}, fmt.Errorf("PCI address: %s", nvml.ErrorString(ret))
	}
	busID := fmt.Sprintf("%04x:%02x:%02x.0", pci.Domain, pci.Bus, pci.Device)
	return Device{UUID: uuid, Index: strconv.Itoa(index), BusID: busID, NUMA: numaNode(sysfs, busID), Parent: uuid}, nil
}

// numaNode is where the kernel says the GPU hangs, or UnknownNUMA. A node the kernel does not list is unknown too: the kubelet could
// align nothing with it.
func numaNode(sysfs, busID string) int {
	text, err := os.ReadFile(filepath.Join(sysfs, "bus/pci/devices", busID, "numa_node"))
	if err != nil {
		return UnknownNUMA
	}
	node, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || node < 0 {
		return UnknownNUMA
	}
	if _, err := os.Stat(filepath.Join(sysfs, "devices/system/node", fmt.Sprintf("node%d", node))); err != nil {
		return UnknownNUMA
	}
	return node
}
