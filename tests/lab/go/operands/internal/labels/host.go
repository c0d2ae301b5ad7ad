// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package labels

import "strings"

// PCIDevice is what node feature discovery reads of a device.
type PCIDevice struct {
	Vendor string // "0x10de"
	Class  string // "0x030200"
}

// The classes of the operator's values: network, and display of the kinds GPUs have.
var pciClasses = []string{"02", "0200", "0207", "0300", "0302"}

// Host are the labels of node feature discovery: PCI vendors of the wanted classes, kernel, operating system.
func Host(devices []PCIDevice, kernel string, osRelease map[string]string) map[string]string {
	labels := map[string]string{"feature.node.kubernetes.io/kernel-version.full": value(kernel, "unknown")}
	for _, key := range []string{"ID", "VERSION_ID"} {
		if text := value(osRelease[key], ""); text != "" {
			labels["feature.node.kubernetes.io/system-os_release."+key] = text
		}
	}
	for _, device := range devices {
		if wanted(strings.TrimPrefix(device.Class, "0x")) {
			labels["feature.node.kubernetes.io/pci-"+strings.TrimPrefix(device.Vendor, "0x")+".present"] = "true"
		}
	}
	return labels
}

func wanted(class string) bool {
	for _, prefix := range pciClasses {
		if strings.HasPrefix(class, prefix) {
			return true
		}
	}
	return false
}
