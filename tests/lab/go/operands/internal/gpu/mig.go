// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// MIG is what NVML says of a MIG device.
type MIG struct {
	Index      int // on its GPU
	UUID       string
	Profile    string // "1g.10gb", or "1c.3g.40gb" when its compute instance does not fill the GPU instance
	Attributes nvml.DeviceAttributes
}

// ReadMIG lists the MIG devices of a GPU that this process sees; enabled says whether the GPU is in MIG mode.
func ReadMIG(handle nvml.Device) (devices []MIG, enabled bool, err error) {
	mode, _, ret := handle.GetMigMode()
	if ret == nvml.ERROR_NOT_SUPPORTED || (ret == nvml.SUCCESS && mode != nvml.DEVICE_MIG_ENABLE) {
		return nil, false, nil
	}
	if ret != nvml.SUCCESS {
		return nil, false, fmt.Errorf("MIG mode: %s", nvml.ErrorString(ret))
	}
	most, ret := handle.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil, true, fmt.Errorf("number of MIG devices: %s", nvml.ErrorString(ret))
	}
	for index := range most {
		mig, ret := handle.GetMigDeviceHandleByIndex(index)
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue
		}
		if ret != nvml.SUCCESS {
			return nil, true, fmt.Errorf("MIG device %d: %s", index, nvml.ErrorString(ret))
		}
		device, err := readMIGDevice(mig, index)
		if err != nil {
			return nil, true, fmt.Errorf("MIG device %d: %w", index, err)
		}
		devices = append(devices, device)
	}
	return devices, true, nil
}

func readMIGDevice(handle nvml.Device, index int) (MIG, error) {
	uuid, ret := handle.GetUUID()
	if ret != nvml.SUCCESS {
		return MIG{}, fmt.Errorf("UUID: %s", nvml.ErrorString(ret))
	}
	name, ret := handle.GetName()
	if ret != nvml.SUCCESS {
		return MIG{}, fmt.Errorf("name: %s", nvml.ErrorString(ret))
	}
	attributes, ret := handle.GetAttributes()
	if ret != nvml.SUCCESS {
		return MIG{}, fmt.Errorf("attributes: %s", nvml.ErrorString(ret))
	}
	// NVML names MIG devices "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
	_, profile, found := strings.Cut(name, " MIG ")
	if !found {
		return MIG{}, fmt.Errorf("no profile in its name %q", name)
	}
	return MIG{Index: index, UUID: uuid, Profile: profile, Attributes: attributes}, nil
}

// FillsInstance says whether the device is all of its GPU instance.
func (m MIG) FillsInstance() bool {
	return m.Attributes.ComputeInstanceSliceCount == m.Attributes.GpuInstanceSliceCount
}

// ResourceProfile is the profile as resource names and labels write it: 1g.10gb+me is 1g.10gb.me.
func (m MIG) ResourceProfile() string {
	return strings.ReplaceAll(m.Profile, "+", ".")
}
