// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package labels

// GPUPresent is the label by which the operator and others find GPU nodes.
const GPUPresent = "nvidia.com/gpu.present"

// HasNVIDIA is the label of node feature discovery that the operator goes by.
const HasNVIDIA = "feature.node.kubernetes.io/pci-10de.present"

const (
	operands     = "nvidia.com/gpu.deploy.operands"
	deployPrefix = "nvidia.com/gpu.deploy."
)

var operandNames = []string{
	"driver", "container-toolkit", "device-plugin", "gpu-feature-discovery", "dcgm", "dcgm-exporter", "node-status-exporter", "operator-validator",
}

// OperatorPatch says what the operator changes on a node: it adds its switches where they are missing, so that an admin's "false" stays,
// and takes them away from nodes that have no GPU or shall have no operands. Nil removes a label; an empty map changes nothing.
func OperatorPatch(labels map[string]string) map[string]*string {
	patch := map[string]*string{}
	present := labels[HasNVIDIA] == "true"
	add(patch, labels, GPUPresent, present)
	for _, name := range switches(labels) {
		add(patch, labels, deployPrefix+name, present && labels[operands] != "false")
	}
	return patch
}

func switches(labels map[string]string) []string {
	if labels["nvidia.com/mig.capable"] == "true" {
		return append([]string{"mig-manager"}, operandNames...)
	}
	return operandNames
}

func add(patch map[string]*string, labels map[string]string, name string, wanted bool) {
	_, there := labels[name]
	switch {
	case wanted && !there:
		value := "true"
		patch[name] = &value
	case !wanted && there:
		patch[name] = nil
	}
}
