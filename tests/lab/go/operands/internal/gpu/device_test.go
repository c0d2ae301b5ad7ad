// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package gpu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func whole(uuid string, numa int) Device { return Device{UUID: uuid, NUMA: numa, Parent: uuid} }

func slice(uuid, profile string) Device {
	return Device{UUID: uuid, Index: "0:0", MIG: &MIG{UUID: uuid, Profile: profile}, Parent: "GPU-0"}
}

func TestResourcesAreNamedByTheStrategy(t *testing.T) {
	devices := []Device{whole("GPU-1", 0), slice("MIG-a", "1g.10gb"), slice("MIG-b", "1g.10gb+me")}
	offered, err := Resources(devices, Mixed)
	if err != nil {
		t.Fatal(err)
	}
	for name, uuid := range map[string]string{"nvidia.com/gpu": "GPU-1", "nvidia.com/mig-1g.10gb": "MIG-a", "nvidia.com/mig-1g.10gb.me": "MIG-b"} {
		if len(offered[name]) != 1 || offered[name][0].UUID != uuid {
			t.Errorf("%s: %v, wanted %s", name, offered[name], uuid)
		}
	}
	offered, err = Resources([]Device{slice("MIG-a", "1g.10gb"), slice("MIG-b", "1g.10gb")}, Single)
	if err != nil || len(offered["nvidia.com/gpu"]) != 2 {
		t.Errorf("single: %v %v, wanted two nvidia.com/gpu", offered, err)
	}
}

func TestSingleStrategyRefusesUnlikeDevices(t *testing.T) {
	_, err := Resources([]Device{whole("GPU-1", 0), slice("MIG-a", "1g.10gb")}, Single)
	if err == nil || !strings.Contains(err.Error(), "1g.10gb, whole GPUs") {
		t.Errorf("got %v", err)
	}
}

func TestMixedStrategyHasNoResourceForAPartOfAGPUInstance(t *testing.T) {
	part := slice("MIG-a", "1c.3g.40gb")
	part.MIG.Attributes.GpuInstanceSliceCount, part.MIG.Attributes.ComputeInstanceSliceCount = 3, 1
	if _, err := Resources([]Device{slice("MIG-b", "3g.40gb"), part}, Mixed); err == nil || !strings.Contains(err.Error(), "1c.3g.40gb") {
		t.Errorf("mixed: %v", err)
	}
	if offered, err := Resources([]Device{part, part}, Single); err != nil || len(offered["nvidia.com/gpu"]) != 2 {
		t.Errorf("single: %v %v, wanted two nvidia.com/gpu", offered, err)
	}
}

func TestPreferKeepsARequestOnOneNUMANode(t *testing.T) {
	devices := []Device{whole("a", 0), whole("b", 0), whole("c", 0), whole("d", 1), whole("e", 1), whole("f", 1)}
	tests := map[string]struct {
		available, required []string
		count               int
		want                []string
	}{
		"the tightest node that can serve it": {[]string{"a", "b", "c", "d", "e"}, nil, 2, []string{"d", "e"}},
		"the only node that can":              {[]string{"a", "d", "e", "f"}, nil, 3, []string{"d", "e", "f"}},
		"none can: the fullest first":         {[]string{"a", "d", "e"}, nil, 3, []string{"d", "e", "a"}},
		"what is required comes first":        {[]string{"a", "b", "c"}, []string{"c"}, 2, []string{"c", "a"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Prefer(devices, test.available, test.required, test.count); !slices.Equal(got, test.want) {
				t.Errorf("got %v, wanted %v", got, test.want)
			}
		})
	}
}

func TestNUMANodeIsOnlyWhatTheKernelKnows(t *testing.T) {
	sysfs := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(sysfs, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("devices/system/node/node0/cpulist", "0-1")
	write("bus/pci/devices/0000:1b:00.0/numa_node", "0\n")
	write("bus/pci/devices/0000:2b:00.0/numa_node", "-1\n")
	write("bus/pci/devices/0000:3b:00.0/numa_node", "7\n")
	for bus, want := range map[string]int{"0000:1b:00.0": 0, "0000:2b:00.0": UnknownNUMA, "0000:3b:00.0": UnknownNUMA, "0000:4b:00.0": UnknownNUMA} {
		if got := numaNode(sysfs, bus); got != want {
			t.Errorf("%s: %d, wanted %d", bus, got, want)
		}
	}
}
