// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package labels

import (
	"maps"
	"slices"
	"testing"
)

var h100 = GPU{Product: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Major: 9, MIG: true, PCIClass: "0x030200"}

func TestFeaturesOfAnH100Node(t *testing.T) {
	got := Features(Node{
		GPUs: []GPU{h100, h100}, DriverVersion: "580.95.05", CUDAVersion: 13000, Machine: "DGX H100 (640GB)", MIGStrategy: "none", Started: 1724632719,
	})
	want := map[string]string{
		"nvidia.com/cuda.driver-version.full":     "580.95.05",
		"nvidia.com/cuda.driver-version.major":    "580",
		"nvidia.com/cuda.driver-version.minor":    "95",
		"nvidia.com/cuda.driver-version.revision": "05",
		"nvidia.com/cuda.driver.major":            "580",
		"nvidia.com/cuda.driver.minor":            "95",
		"nvidia.com/cuda.driver.rev":              "05",
		"nvidia.com/cuda.runtime-version.full":    "13.0",
		"nvidia.com/cuda.runtime-version.major":   "13",
		"nvidia.com/cuda.runtime-version.minor":   "0",
		"nvidia.com/cuda.runtime.major":           "13",
		"nvidia.com/cuda.runtime.minor":           "0",
		"nvidia.com/gfd.timestamp":                "1724632719",
		"nvidia.com/gpu.compute.major":            "9",
		"nvidia.com/gpu.compute.minor":            "0",
		"nvidia.com/gpu.count":                    "2",
		"nvidia.com/gpu.family":                   "hopper",
		"nvidia.com/gpu.machine":                  "DGX-H100-640GB",
		"nvidia.com/gpu.memory":                   "81559",
		"nvidia.com/gpu.mode":                     "compute",
		"nvidia.com/gpu.product":                  "NVIDIA-H100-80GB-HBM3",
		"nvidia.com/gpu.replicas":                 "1",
		"nvidia.com/gpu.sharing-strategy":         "none",
		"nvidia.com/mig.capable":                  "true",
		"nvidia.com/mps.capable":                  "false",
		"nvidia.com/vgpu.present":                 "false",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwanted %v", got, want)
	}
}

func TestFeaturesOfANodeWithoutGPUsAreNone(t *testing.T) {
	if got := Features(Node{MIGStrategy: "mixed"}); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestHostLabelsNameGPUVendorsOnly(t *testing.T) {
	devices := []PCIDevice{{"0x10de", "0x030200"}, {"0x10de", "0x068000"}, {"0x144d", "0x010802"}, {"0x15b3", "0x020000"}, {"0x1a03", "0x030000"}}
	got := Host(devices, "6.1.0-27-amd64", map[string]string{"ID": "debian", "VERSION_ID": "12"})
	want := map[string]string{
		"feature.node.kubernetes.io/kernel-version.full":          "6.1.0-27-amd64",
		"feature.node.kubernetes.io/system-os_release.ID":         "debian",
		"feature.node.kubernetes.io/system-os_release.VERSION_ID": "12",
		"feature.node.kubernetes.io/pci-10de.present":             "true",
		"feature.node.kubernetes.io/pci-15b3.present":             "true",
		"feature.node.kubernetes.io/pci-1a03.present":             "true",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwanted %v", got, want)
	}
}

func TestTheOperatorOnlyFillsGaps(t *testing.T) {
	labels := map[string]string{HasNVIDIA: "true", "nvidia.com/gpu.deploy.device-plugin": "false"}
	patch := OperatorPatch(labels)
	if _, touched := patch["nvidia.com/gpu.deploy.device-plugin"]; touched {
		t.Error("an admin's switch was overwritten")
	}
	if added := patch["nvidia.com/gpu.deploy.gpu-feature-discovery"]; added == nil || *added != "true" {
		t.Errorf("a missing switch was not added: %v", patch)
	}
	for name, value := range patch {
		labels[name] = *value
	}
	if again := OperatorPatch(labels); len(again) != 0 {
		t.Errorf("the second look changes %v", again)
	}
}

func TestTheOperatorLeavesAPausedOperandAlone(t *testing.T) {
	labels := map[string]string{HasNVIDIA: "true", "nvidia.com/mig.capable": "true"}
	for name, value := range OperatorPatch(labels) {
		labels[name] = *value
	}
	for _, name := range []string{"device-plugin", "gpu-feature-discovery", "mig-manager"} {
		labels["nvidia.com/gpu.deploy."+name] = "paused-for-mig-change"
	}
	if patch := OperatorPatch(labels); len(patch) != 0 {
		t.Errorf("the operator changes %v", patch)
	}
}

func TestTheOperatorTakesItsSwitchesAway(t *testing.T) {
	there := map[string]string{GPUPresent: "true", "nvidia.com/gpu.deploy.device-plugin": "true"}
	if got := slices.Sorted(maps.Keys(OperatorPatch(there))); !slices.Equal(got, []string{"nvidia.com/gpu.deploy.device-plugin", GPUPresent}) {
		t.Errorf("from a node without a GPU: %v", got)
	}
	there[HasNVIDIA], there["nvidia.com/gpu.deploy.operands"] = "true", "false"
	if got := slices.Sorted(maps.Keys(OperatorPatch(there))); !slices.Equal(got, []string{"nvidia.com/gpu.deploy.device-plugin"}) {
		t.Errorf("from a node that shall have none: %v", got)
	}
}
