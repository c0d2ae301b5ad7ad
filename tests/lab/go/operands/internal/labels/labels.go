// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package labels computes node labels: NVIDIA's feature discovery, the PCI part of node feature discovery, and the operator's own.
package labels

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"onprem.gpu/lab/operands/internal/gpu"
)

// GPU is what feature discovery says about one kind of GPU.
type GPU struct {
	Product   string // as NVML names it, "NVIDIA H100 80GB HBM3"
	MemoryMiB uint64
	Major     int // compute capability
	Minor     int
	MIG       bool // can do MIG
	MIGMode   bool // and does
	Slices    []gpu.MIG
	PCIClass  string // "0x030200"
}

// Node is what feature discovery says about a node with at least one GPU.
type Node struct {
	GPUs          []GPU
	DriverVersion string // "580.95.05"
	CUDAVersion   int    // as NVML gives it: 13000 for 13.0
	Machine       string // DMI product name; empty when the firmware tells none
	MIGStrategy   string
	Started       int64 // seconds since 1970
}

var forbidden = regexp.MustCompile("[^A-Za-z0-9-_. ]")

// Features are the labels of GPU feature discovery. Of a node with different GPUs they describe one kind, that of the first whole GPU
// or, without one, of the first GPU; the real one takes any.
func Features(node Node) map[string]string {
	if len(node.GPUs) == 0 {
		return map[string]string{}
	}
	described := node.GPUs[0]
	if whole := slices.IndexFunc(node.GPUs, func(gpu GPU) bool { return !gpu.MIGMode }); whole >= 0 {
		described = node.GPUs[whole]
	}
	labels := map[string]string{
		"nvidia.com/gfd.timestamp":        strconv.FormatInt(node.Started, 10),
		"nvidia.com/gpu.count":            strconv.Itoa(sameAs(described, node.GPUs)),
		"nvidia.com/gpu.product":          value(described.Product, ""),
		"nvidia.com/gpu.memory":           strconv.FormatUint(described.MemoryMiB, 10),
		"nvidia.com/gpu.family":           family(described.Major, described.Minor),
		"nvidia.com/gpu.compute.major":    strconv.Itoa(described.Major),
		"nvidia.com/gpu.compute.minor":    strconv.Itoa(described.Minor),
		"nvidia.com/gpu.replicas":         "1",
		"nvidia.com/gpu.sharing-strategy": "none",
		"nvidia.com/gpu.mode":             mode(node.GPUs),
		"nvidia.com/gpu.machine":          value(node.Machine, "unknown"),
		"nvidia.com/mig.capable":          strconv.FormatBool(anyMIG(node.GPUs)),
		"nvidia.com/mps.capable":          "false",
		"nvidia.com/vgpu.present":         "false",
	}
	if described.MIGMode {
		labels["nvidia.com/gpu.replicas"] = "0"
	}
	addVersions(labels, node.DriverVersion, node.CUDAVersion)
	addMIG(labels, node)
	return labels
}

func sameAs(described GPU, gpus []GPU) int {
	count := 0
	for _, gpu := range gpus {
		if gpu.Product == described.Product {
			count++
		}
	}
	return count
}

func anyMIG(gpus []GPU) bool {
	for _, gpu := range gpus {
		if gpu.MIG {
			return true
		}
	}
	return false
}

// value makes any text a label value.
func value(text, fallback string) string {
	cleaned := strings.Join(strings.Fields(forbidden.ReplaceAllString(text, "")), "-")
	if cleaned = strings.Trim(cleaned, "-_."); cleaned == "" {
		return fallback
	}
	return cleaned
}

func family(major, minor int) string {
	switch {
	case major == 1:
		return "tesla"
	case major == 2:
		return "fermi"
	case major == 3:
		return "kepler"
	case major == 5:
		return "maxwell"
	case major == 6:
		return "pascal"
	case major == 7 && minor < 5:
		return "volta"
	case major == 7:
		return "turing"
	case major == 8 && minor < 9:
		return "ampere"
	case major == 8:
		return "ada-lovelace"
	case major == 9:
		return "hopper"
	case major == 10 || major == 12:
		return "blackwell"
	}
	return "undefined"
}

// mode is display when one GPU is a VGA controller, compute when all are 3D controllers.
func mode(gpus []GPU) string {
	for _, gpu := range gpus {
		switch {
		case strings.HasPrefix(gpu.PCIClass, "0x0300"):
			return "display"
		case !strings.HasPrefix(gpu.PCIClass, "0x0302"):
			return "unknown"
		}
	}
	return "compute"
}

func addVersions(labels map[string]string, driver string, cuda int) {
	parts := append(strings.SplitN(driver, ".", 3), "", "", "")
	cudaMajor, cudaMinor := strconv.Itoa(cuda/1000), strconv.Itoa(cuda%1000/10)
	labels["nvidia.com/cuda.driver-version.full"] = driver
	labels["nvidia.com/cuda.driver-version.major"] = parts[0]
	labels["nvidia.com/cuda.driver-version.minor"] = parts[1]
	labels["nvidia.com/cuda.driver-version.revision"] = parts[2]
	labels["nvidia.com/cuda.runtime-version.full"] = fmt.Sprintf("%s.%s", cudaMajor, cudaMinor)
	labels["nvidia.com/cuda.runtime-version.major"] = cudaMajor
	labels["nvidia.com/cuda.runtime-version.minor"] = cudaMinor
	// Deprecated, and still written by the real one.
	labels["nvidia.com/cuda.driver.major"] = parts[0]
	labels["nvidia.com/cuda.driver.minor"] = parts[1]
	labels["nvidia.com/cuda.driver.rev"] = parts[2]
	labels["nvidia.com/cuda.runtime.major"] = cudaMajor
	labels["nvidia.com/cuda.runtime.minor"] = cudaMinor
}
