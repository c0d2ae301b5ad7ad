// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// feature-labeller writes node labels. Its argument says whose work it does:
//
//	host      node feature discovery's worker: PCI vendors, kernel and operating system of this node
//	gpu       NVIDIA's GPU feature discovery: what NVML says of this node's GPUs
//	operator  the GPU operator's controller: the switches nvidia.com/gpu.deploy.* of all nodes with NVIDIA hardware
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"onprem.gpu/lab/operands/internal/gpu"
	"onprem.gpu/lab/operands/internal/kube"
	"onprem.gpu/lab/operands/internal/labels"
)

var (
	interval = flag.Duration("interval", time.Minute, "pause between two looks")
	root     = flag.String("host-root", "", "where the host's /sys and /etc are mounted, as ROOT/sys and ROOT/etc")
)

// retryPause is short: a labeller usually starts before what it looks at is ready.
const retryPause = 2 * time.Second

type job func(ctx context.Context, api *kube.Client) error

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	flag.Parse()
	work, err := chosen(flag.Arg(0))
	if err != nil {
		log.Fatalf("feature-labeller: %v", err)
	}
	api, err := kube.InCluster()
	if err != nil {
		log.Fatalf("feature-labeller: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for ctx.Err() == nil {
		pause := *interval
		if err := work(ctx, api); err != nil && ctx.Err() == nil {
			log.Print(err)
			pause = min(pause, retryPause)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func chosen(name string) (job, error) {
	switch name {
	case "host":
		return labelHost, nil
	case "gpu":
		return labelGPUs(time.Now().Unix()), nil
	case "operator":
		return switchOperands, nil
	}
	return nil, fmt.Errorf("argument %q: allowed are host, gpu and operator", name)
}

func labelHost(ctx context.Context, api *kube.Client) error {
	devices, err := pciDevices()
	if err != nil {
		return err
	}
	var uname syscall.Utsname
	if err := syscall.Uname(&uname); err != nil {
		return fmt.Errorf("asking for the kernel: %w", err)
	}
	wanted := labels.Host(devices, text(uname.Release[:]), osRelease())
	return api.ApplyLabels(ctx, os.Getenv("NODE_NAME"), "node-feature-discovery", wanted)
}

func pciDevices() ([]labels.PCIDevice, error) {
	folders, err := filepath.Glob(*root + "/sys/bus/pci/devices/*")
	if err != nil {
		return nil, err
	}
	devices := make([]labels.PCIDevice, 0, len(folders))
	for _, folder := range folders {
		devices = append(devices, labels.PCIDevice{Vendor: line(folder + "/vendor"), Class: line(folder + "/class")})
	}
	return devices, nil
}

func osRelease() map[string]string {
	found := map[string]string{}
	content, err := os.ReadFile(*root + "/etc/os-release")
	if err != nil {
		return found
	}
	for row := range strings.SplitSeq(string(content), "\n") {
		if key, value, ok := strings.Cut(row, "="); ok {
			found[key] = strings.Trim(value, "\"'")
		}
	}
	return found
}

func labelGPUs(started int64) job {
	return func(ctx context.Context, api *kube.Client) error {
		lib := nvml.New()
		if ret := lib.Init(); ret != nvml.SUCCESS {
			return fmt.Errorf("initialising NVML: %s", lib.ErrorString(ret))
		}
		defer lib.Shutdown()
		node, err := readNode(lib)
		if err != nil {
			return err
		}
		node.Started, node.MIGStrategy = started, migStrategy()
		return api.ApplyLabels(ctx, os.Getenv("NODE_NAME"), "gpu-feature-discovery", labels.Features(node))
	}
}

func migStrategy() string {
	if strategy := os.Getenv("MIG_STRATEGY"); strategy != "" {
		return strategy
	}
	return "none"
}

func readNode(lib nvml.Interface) (labels.Node, error) {
	node := labels.Node{Machine: line(*root + "/sys/class/dmi/id/product_name")}
	var ret nvml.Return
	if node.DriverVersion, ret = lib.SystemGetDriverVersion(); ret != nvml.SUCCESS {
		return node, fmt.Errorf("asking for the driver's version: %s", lib.ErrorString(ret))
	}
	if node.CUDAVersion, ret = lib.SystemGetCudaDriverVersion(); ret != nvml.SUCCESS {
		return node, fmt.Errorf("asking for the CUDA version: %s", lib.ErrorString(ret))
	}
	count, ret := lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return node, fmt.Errorf("counting GPUs: %s", lib.ErrorString(ret))
	}
	for index := range count {
		found, err := readGPU(lib, index)
		if err != nil {
			return node, fmt.Errorf("reading GPU %d: %w", index, err)
		}
		node.GPUs = append(node.GPUs, found)
	}
	return node, nil
}

func readGPU(lib nvml.Interface, index int) (labels.GPU, error) {
	found := labels.GPU{}
	handle, ret := lib.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		return found, fmt.Errorf("opening it: %s", lib.ErrorString(ret))
	}
	if found.Product, ret = handle.GetName(); ret != nvml.SUCCESS {
		return found, fmt.Errorf("name: %s", lib.ErrorString(ret))
	}
	memory, ret := handle.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		return found, fmt.Errorf("memory: %s", lib.ErrorString(ret))
	}
	found.MemoryMiB = memory.Total >> 20
	if found.Major, found.Minor, ret = handle.GetCudaComputeCapability(); ret != nvml.SUCCESS {
		return found, fmt.Errorf("compute capability: %s", lib.ErrorString(ret))
	}
	_, _, ret = handle.GetMigMode()
	found.MIG = ret == nvml.SUCCESS
	var err error
	if found.Slices, found.MIGMode, err = gpu.ReadMIG(handle); err != nil {
		return found, err
	}
	pci, ret := handle.GetPciInfo()
	if ret != nvml.SUCCESS {
		return found, fmt.Errorf("PCI address: %s", lib.ErrorString(ret))
	}
	found.PCIClass = line(fmt.Sprintf("%s/sys/bus/pci/devices/%04x:%02x:%02x.0/class", *root, pci.Domain, pci.Bus, pci.Device))
	return found, nil
}

func switchOperands(ctx context.Context, api *kube.Client) error {
	// Nodes that lost their GPUs still have the operator's own label, so both kinds are looked at.
	for _, selector := range []string{labels.HasNVIDIA + "=true", labels.GPUPresent + "," + labels.HasNVIDIA + "!=true"} {
		nodes, err := api.Nodes(ctx, selector)
		if err != nil {
			return err
		}
		for _, node := range nodes {
			patch := labels.OperatorPatch(node.Metadata.Labels)
			if len(patch) == 0 {
				continue
			}
			if err := api.PatchLabels(ctx, node.Metadata.Name, patch); err != nil {
				return err
			}
			log.Printf("%s: changed %d labels", node.Metadata.Name, len(patch))
		}
	}
	return nil
}

// line is the one line of a sysfs file; empty when it cannot be read.
func line(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

func text[char ~int8 | ~uint8](field []char) string {
	var content strings.Builder
	for _, c := range field {
		if c == 0 {
			break
		}
		content.WriteByte(byte(c))
	}
	return content.String()
}
