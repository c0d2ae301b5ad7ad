// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

const off, empty = "off", ""

// node is an NVML of GPUs, each described as "off", or by the profiles of its MIG devices: "1g.10gb 2g.20gb". "-" is a hole.
func node(gpus ...string) nvml.Interface {
	return &mock.Interface{
		DeviceGetCountFunc: func() (int, nvml.Return) { return len(gpus), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(index int) (nvml.Device, nvml.Return) {
			return handle(index, gpus[index]), nvml.SUCCESS
		},
	}
}

func handle(index int, description string) nvml.Device {
	profiles := strings.Fields(description)
	return &mock.Device{
		GetUUIDFunc:    func() (string, nvml.Return) { return fmt.Sprintf("GPU-%d", index), nvml.SUCCESS },
		GetPciInfoFunc: func() (nvml.PciInfo, nvml.Return) { return nvml.PciInfo{Bus: uint32(index)}, nvml.SUCCESS },
		GetMigModeFunc: func() (int, int, nvml.Return) {
			if description == off {
				return nvml.DEVICE_MIG_DISABLE, nvml.DEVICE_MIG_DISABLE, nvml.SUCCESS
			}
			return nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE, nvml.SUCCESS
		},
		GetMaxMigDeviceCountFunc: func() (int, nvml.Return) { return 7, nvml.SUCCESS },
		GetMigDeviceHandleByIndexFunc: func(position int) (nvml.Device, nvml.Return) {
			if position >= len(profiles) || profiles[position] == "-" {
				return nil, nvml.ERROR_NOT_FOUND
			}
			return migHandle(fmt.Sprintf("MIG-%d-%d", index, position), profiles[position]), nvml.SUCCESS
		},
	}
}

func migHandle(uuid, profile string) nvml.Device {
	attributes := nvml.DeviceAttributes{GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1}
	return &mock.Device{
		GetUUIDFunc:       func() (string, nvml.Return) { return uuid, nvml.SUCCESS },
		GetNameFunc:       func() (string, nvml.Return) { return "NVIDIA H100 80GB HBM3 MIG " + profile, nvml.SUCCESS },
		GetAttributesFunc: func() (nvml.DeviceAttributes, nvml.Return) { return attributes, nvml.SUCCESS },
	}
}

// offer is what a node offers: "nvidia.com/gpu" -> indexes of its devices; or the error.
func offer(lib nvml.Interface, strategy Strategy, t *testing.T) (map[string][]string, error) {
	devices, err := Discover(lib, t.TempDir(), strategy)
	if err != nil {
		return nil, err
	}
	resources, err := Resources(devices, strategy)
	if err != nil {
		return nil, err
	}
	found := map[string][]string{}
	for name, devices := range resources {
		for _, device := range devices {
			found[name] = append(found[name], device.Index)
		}
	}
	return found, nil
}

func TestTheStrategyDecidesWhatANodeOffers(t *testing.T) {
	tests := map[string]struct {
		strategy Strategy
		gpus     []string
		want     map[string][]string
		refusal  string
	}{
		"none offers whole GPUs, whatever their mode": {None, []string{off, "1g.10gb"}, map[string][]string{"nvidia.com/gpu": {"0", "1"}}, ""},
		"single without MIG offers whole GPUs":        {Single, []string{off, off}, map[string][]string{"nvidia.com/gpu": {"0", "1"}}, ""},
		"single offers MIG devices as GPUs": {
			Single, []string{"1g.10gb - 1g.10gb", "1g.10gb"}, map[string][]string{"nvidia.com/gpu": {"0:0", "0:2", "1:0"}}, "",
		},
		"single refuses two profiles":          {Single, []string{"1g.10gb 2g.20gb"}, nil, "1g.10gb, 2g.20gb"},
		"single refuses MIG and whole GPUs":    {Single, []string{"1g.10gb", off}, nil, "1g.10gb, whole GPUs"},
		"single refuses an empty GPU":          {Single, []string{"1g.10gb", empty}, nil, "GPU 1: it is in MIG mode and has no MIG devices"},
		"mixed offers every profile":           {Mixed, []string{"1g.10gb 2g.20gb 1g.10gb+me", off}, map[string][]string{"nvidia.com/gpu": {"1"}, "nvidia.com/mig-1g.10gb": {"0:0"}, "nvidia.com/mig-2g.20gb": {"0:1"}, "nvidia.com/mig-1g.10gb.me": {"0:2"}}, ""},
		"mixed leaves out an empty GPU":        {Mixed, []string{empty, "3g.40gb"}, map[string][]string{"nvidia.com/mig-3g.40gb": {"1:0"}}, ""},
		"mixed with empty GPUs offers nothing": {Mixed, []string{empty}, map[string][]string{}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := offer(node(test.gpus...), test.strategy, t)
			if test.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), test.refusal) {
					t.Errorf("got %v and %v, wanted a refusal that says %q", got, err, test.refusal)
				}
				return
			}
			if err != nil || !maps.EqualFunc(got, test.want, slices.Equal[[]string]) {
				t.Errorf("got %v and %v, wanted %v", got, err, test.want)
			}
		})
	}
}
