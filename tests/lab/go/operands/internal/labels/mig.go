// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package labels

import (
	"maps"
	"strconv"

	"onprem.gpu/lab/operands/internal/gpu"
)

// kind are the MIG devices of one profile.
type kind struct {
	product string // of their GPU
	device  gpu.MIG
	count   int
}

// addMIG adds what the strategy says about MIG devices: under single they are the node's GPUs, under mixed each profile has its labels.
func addMIG(labels map[string]string, node Node) {
	if node.MIGStrategy == "none" {
		return
	}
	labels["nvidia.com/mig.strategy"] = node.MIGStrategy
	kinds, enabled := kindsOf(node.GPUs)
	switch {
	case node.MIGStrategy == "mixed":
		for profile, found := range kinds {
			maps.Copy(labels, migLabels("nvidia.com/mig-"+profile, found))
		}
	case len(enabled) == 0:
	case len(kinds) != 1 || len(enabled) != len(node.GPUs) || anyEmpty(enabled):
		maps.Copy(labels, invalid(enabled[0]))
	default:
		for _, found := range kinds {
			maps.Copy(labels, migLabels("nvidia.com/gpu", found))
		}
	}
}

// kindsOf sorts MIG devices by profile, and returns the GPUs in MIG mode too.
func kindsOf(gpus []GPU) (map[string]kind, []GPU) {
	kinds, enabled := map[string]kind{}, []GPU{}
	for _, gpu := range gpus {
		if gpu.MIGMode {
			enabled = append(enabled, gpu)
		}
		for _, slice := range gpu.Slices {
			found, known := kinds[slice.ResourceProfile()]
			if !known {
				found = kind{product: gpu.Product, device: slice}
			}
			found.count++
			kinds[slice.ResourceProfile()] = found
		}
	}
	return kinds, enabled
}

func anyEmpty(gpus []GPU) bool {
	for _, gpu := range gpus {
		if len(gpu.Slices) == 0 {
			return true
		}
	}
	return false
}

func migLabels(resource string, found kind) map[string]string {
	attributes := found.device.Attributes
	numbers := map[string]uint64{
		"count":           uint64(found.count),
		"replicas":        1,
		"memory":          attributes.MemorySizeMB,
		"multiprocessors": uint64(attributes.MultiprocessorCount),
		"slices.gi":       uint64(attributes.GpuInstanceSliceCount),
		"slices.ci":       uint64(attributes.ComputeInstanceSliceCount),
		"engines.copy":    uint64(attributes.SharedCopyEngineCount),
		"engines.decoder": uint64(attributes.SharedDecoderCount),
		"engines.encoder": uint64(attributes.SharedEncoderCount),
		"engines.jpeg":    uint64(attributes.SharedJpegCount),
		"engines.ofa":     uint64(attributes.SharedOfaCount),
	}
	labels := map[string]string{
		resource + ".product":          value(found.product, "") + "-MIG-" + found.device.ResourceProfile(),
		resource + ".sharing-strategy": "none",
	}
	for name, number := range numbers {
		labels[resource+"."+name] = strconv.FormatUint(number, 10)
	}
	return labels
}

// invalid are the labels of a node that the strategy single cannot describe.
func invalid(gpu GPU) map[string]string {
	return map[string]string{
		"nvidia.com/gpu.product":          value(gpu.Product, "") + "-MIG-INVALID",
		"nvidia.com/gpu.count":            "0",
		"nvidia.com/gpu.replicas":         "0",
		"nvidia.com/gpu.memory":           "0",
		"nvidia.com/gpu.sharing-strategy": "",
	}
}
