// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
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
			return nil, fmt.Errorf("reading GPU %d: %w", index, err)
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
	mode, _, ret := handle.GetMigMode()
	if ret == nvml.ERROR_NOT_SUPPORTED || (ret == nvml.SUCCESS && mode != nvml.DEVICE_MIG_ENABLE) {
		return []Device{whole}, nil
	}
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("MIG mode: %v", nvml.ErrorString(ret))
	}
	return migDevices(handle, whole)
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

func migDevices(handle nvml.Device, whole Device) ([]Device, error) {
	most, ret := handle.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("number of MIG devices: %s", nvml.ErrorString(ret))
	}
	var devices []Device
	for position := range most {
		mig, ret := handle.GetMigDeviceHandleByIndex(position)
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue
		}
		if ret != nvml.SUCCESS {
			return nil, fmt.Errorf("MIG device %d: %s", position, nvml.ErrorString(ret))
		}
		device, err := migDevice(mig, whole, position)
		if err != nil {
			return nil, fmt.Errorf("MIG device %d: %w", position, err)
		}
		devices = append(devices, device)
	}
	return devices, nil
}

func migDevice(mig nvml.Device, whole Device, position int) (Device, error) {
	uuid, ret := mig.GetUUID()
	if ret != nvml.SUCCESS {
		return Device{}, fmt.Errorf("UUID: %s", nvml.ErrorString(ret))
	}
	name, ret := mig.GetName()
	if ret != nvml.SUCCESS {
		return Device{}, fmt.Errorf("name: %s", nvml.ErrorString(ret))
	}
	// NVML names MIG devices "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
	_, profile, found := strings.Cut(name, " MIG ")
	if !found {
		return Device{}, fmt.Errorf("no profile in its name %q", name)
	}
	device := whole
	device.UUID, device.Profile, device.Index = uuid, profile, fmt.Sprintf("%s:%d", whole.Index, position)
	return device, nil
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
