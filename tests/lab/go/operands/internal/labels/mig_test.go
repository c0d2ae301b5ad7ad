// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package labels

import (
	"maps"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"onprem.gpu/lab/operands/internal/gpu"
)

var attributes = map[string]nvml.DeviceAttributes{
	"1g.10gb": {
		MultiprocessorCount: 16, SharedCopyEngineCount: 1, SharedDecoderCount: 1, SharedEncoderCount: 0, SharedJpegCount: 1,
		SharedOfaCount: 0, GpuInstanceSliceCount: 1, ComputeInstanceSliceCount: 1, MemorySizeMB: 9984,
	},
	"1c.3g.40gb": {GpuInstanceSliceCount: 3, ComputeInstanceSliceCount: 1, MemorySizeMB: 40448},
}

// inMIGMode is the H100 with MIG devices of these profiles.
func inMIGMode(profiles ...string) GPU {
	found := h100
	found.MIGMode = true
	for _, profile := range profiles {
		found.Slices = append(found.Slices, gpu.MIG{Profile: profile, Attributes: attributes[profile]})
	}
	return found
}

// changed are the labels that the strategy adds or gives another value, compared with the same GPUs without MIG and strategy none.
func changed(strategy string, gpus ...GPU) map[string]string {
	plain := make([]GPU, len(gpus))
	for index := range plain {
		plain[index] = h100
	}
	labels := Features(Node{GPUs: gpus, MIGStrategy: strategy})
	for name, text := range Features(Node{GPUs: plain, MIGStrategy: "none"}) {
		if labels[name] == text {
			delete(labels, name)
		}
	}
	return labels
}

func TestMIGLabelsFollowTheStrategy(t *testing.T) {
	const product = "NVIDIA-H100-80GB-HBM3-MIG-"
	ofSlice := map[string]string{
		"product": product + "1g.10gb", "memory": "9984", "multiprocessors": "16", "slices.gi": "1", "slices.ci": "1",
		"engines.copy": "1", "engines.decoder": "1", "engines.encoder": "0", "engines.jpeg": "1", "engines.ofa": "0",
	}
	shared := map[string]string{"replicas": "1", "sharing-strategy": "none"}
	broken := map[string]string{"product": product + "INVALID", "count": "0", "replicas": "0", "memory": "0", "sharing-strategy": ""}
	tests := map[string]struct {
		strategy string
		gpus     []GPU
		want     map[string]string
	}{
		"none":                  {"none", []GPU{inMIGMode("1g.10gb")}, map[string]string{"nvidia.com/gpu.replicas": "0"}},
		"none, of one GPU only": {"none", []GPU{inMIGMode("1g.10gb"), h100}, nil},
		"single without MIG":    {"single", []GPU{h100}, nil},
		"single": {
			"single", []GPU{inMIGMode("1g.10gb", "1g.10gb"), inMIGMode("1g.10gb")}, named("nvidia.com/gpu", ofSlice, map[string]string{"count": "3"}),
		},
		"single, MIG and whole GPUs": {"single", []GPU{inMIGMode("1g.10gb"), h100}, named("nvidia.com/gpu", broken)},
		"single, two profiles":       {"single", []GPU{inMIGMode("1g.10gb", "1c.3g.40gb")}, named("nvidia.com/gpu", broken)},
		"single, an empty GPU":       {"single", []GPU{inMIGMode("1g.10gb"), inMIGMode()}, named("nvidia.com/gpu", broken)},
		"mixed": {
			"mixed", []GPU{inMIGMode("1g.10gb", "1g.10gb"), inMIGMode(), h100}, named("nvidia.com/mig-1g.10gb", ofSlice, shared, map[string]string{"count": "2"}),
		},
		"mixed without whole GPUs": {
			"mixed", []GPU{inMIGMode("1g.10gb")},
			merged(named("nvidia.com/mig-1g.10gb", ofSlice, shared, map[string]string{"count": "1"}), map[string]string{"nvidia.com/gpu.replicas": "0"}),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := merged(test.want)
			if test.strategy != "none" {
				want["nvidia.com/mig.strategy"] = test.strategy
			}
			if got := changed(test.strategy, test.gpus...); !maps.Equal(got, want) {
				t.Errorf("got %v\nwanted %v", got, want)
			}
		})
	}
}

func TestMixedLabelsNamePartsAndAttributesOfInstances(t *testing.T) {
	labels := Features(Node{GPUs: []GPU{inMIGMode("1c.3g.40gb", "1g.10gb+me")}, MIGStrategy: "mixed"})
	for name, text := range map[string]string{
		"nvidia.com/mig-1c.3g.40gb.slices.gi": "3",
		"nvidia.com/mig-1c.3g.40gb.slices.ci": "1",
		"nvidia.com/mig-1g.10gb.me.count":     "1",
		"nvidia.com/mig-1g.10gb.me.product":   "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me",
	} {
		if labels[name] != text {
			t.Errorf("%s is %q, wanted %q", name, labels[name], text)
		}
	}
	for name := range labels {
		if strings.Contains(name, "+") {
			t.Errorf("%s is no label name", name)
		}
	}
}

func named(resource string, parts ...map[string]string) map[string]string {
	labels := map[string]string{}
	for name, text := range merged(parts...) {
		labels[resource+"."+name] = text
	}
	return labels
}

func merged(parts ...map[string]string) map[string]string {
	whole := map[string]string{}
	for _, part := range parts {
		maps.Copy(whole, part)
	}
	return whole
}
