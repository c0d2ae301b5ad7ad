// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package gpu says which GPUs a node has, and under which resource names they are offered.
package gpu

import (
	"fmt"
	"sort"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// UnknownNUMA is the NUMA node of a device whose place the kernel does not know.
const UnknownNUMA = -1

// Device is one thing a container can be given: a whole GPU, or one MIG device of it.
type Device struct {
	UUID   string
	Index  string // "0" for a GPU, "0:1" for its second MIG device: the names nvidia-ctk gives them
	BusID  string // of the GPU, as sysfs writes it: 0000:1b:00.0
	NUMA   int
	MIG    *MIG   // nil for a whole GPU
	Parent string // UUID of the GPU that an XID event names; a whole GPU's own
}

// Strategy says how MIG devices are offered, in the words of the real device plugin.
type Strategy string

const (
	None   Strategy = "none"   // whole GPUs only
	Single Strategy = "single" // one profile on all GPUs of the node, offered as nvidia.com/gpu
	Mixed  Strategy = "mixed"  // every profile under a name of its own
)

// ParseStrategy refuses anything but the three known words.
func ParseStrategy(word string) (Strategy, error) {
	switch s := Strategy(word); s {
	case None, Single, Mixed:
		return s, nil
	}
	return "", fmt.Errorf("MIG strategy %q: allowed are none, single and mixed", word)
}

// Resources sorts devices under the resource names they are offered as. Discover has already left out what the strategy does not offer.
// As with the real plugin, one device that the strategy cannot name is an error of the whole node.
func Resources(devices []Device, strategy Strategy) (map[string][]Device, error) {
	if strategy == Single {
		if err := demandOneKind(devices); err != nil {
			return nil, err
		}
	}
	offered := map[string][]Device{}
	for _, device := range devices {
		if strategy == Mixed && device.MIG != nil && !device.MIG.FillsInstance() {
			return nil, fmt.Errorf("MIG device %s: there is no resource for profile %s", device.Index, device.MIG.Profile)
		}
		name := resourceName(device, strategy)
		offered[name] = append(offered[name], device)
	}
	return offered, nil
}

func resourceName(device Device, strategy Strategy) string {
	if strategy != Mixed || device.MIG == nil {
		return "nvidia.com/gpu"
	}
	return "nvidia.com/mig-" + device.MIG.ResourceProfile()
}

// kind is what tells devices apart: two that have the same profile may still differ.
type kind struct {
	profile    string
	attributes nvml.DeviceAttributes
}

func demandOneKind(devices []Device) error {
	kinds := map[kind]bool{}
	for _, device := range devices {
		kinds[kindOf(device)] = true
	}
	if len(kinds) < 2 {
		return nil
	}
	var found []string
	for one := range kinds {
		found = append(found, one.profile)
	}
	sort.Strings(found)
	return fmt.Errorf("MIG strategy single needs one kind of device on the whole node, found %s", strings.Join(found, ", "))
}

func kindOf(device Device) kind {
	if device.MIG == nil {
		return kind{profile: "whole GPUs"}
	}
	return kind{device.MIG.Profile, device.MIG.Attributes}
}

// Prefer picks count of the available devices: those that must be in, then from the NUMA node that can serve most of the rest. The order of
// available decides between equals, so the answer is stable.
func Prefer(devices []Device, available, required []string, count int) []string {
	numa := map[string]int{}
	for _, device := range devices {
		numa[device.UUID] = device.NUMA
	}
	picked := append([]string{}, required...)
	taken := map[string]bool{}
	for _, id := range required {
		taken[id] = true
	}
	perNode := map[int]int{}
	for _, id := range available {
		perNode[numa[id]]++
	}
	rest := []string{}
	for _, id := range available {
		if !taken[id] {
			rest = append(rest, id)
		}
	}
	missing := count - len(picked)
	sort.SliceStable(rest, func(i, j int) bool {
		return fit(perNode[numa[rest[i]]], missing) < fit(perNode[numa[rest[j]]], missing) ||
			(fit(perNode[numa[rest[i]]], missing) == fit(perNode[numa[rest[j]]], missing) && numa[rest[i]] < numa[rest[j]])
	})
	for _, id := range rest {
		if len(picked) >= count {
			break
		}
		picked = append(picked, id)
	}
	return picked
}

// fit ranks a NUMA node for a request: nodes that can serve it whole come first, the tightest of them before the others, so that big
// requests still find room; of nodes that cannot, the fullest comes first.
func fit(free, wanted int) int {
	if free >= wanted {
		return free - wanted
	}
	return 1<<16 - free
}
