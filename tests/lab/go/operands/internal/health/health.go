// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package health turns NVML's events into verdicts on devices, by the rules of the real device plugin.
package health

import (
	"context"
	"fmt"
	"log"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"onprem.gpu/lab/operands/internal/gpu"
)

// waitMilliseconds is short, because a plugin that is told to stop must first leave the wait.
const waitMilliseconds = 1000

// applicationXIDs are errors of the application; the GPU itself is sound afterwards.
var applicationXIDs = []uint64{13, 31, 43, 45, 68, 109}

// Rules say which XIDs count.
type Rules struct {
	disabled bool
	ignored  map[uint64]bool
}

// ParseRules reads the two settings of the real plugin. disable: "all", "xids" or a list of XIDs; enable: "all" or a list, and it wins.
func ParseRules(disable, enable string) (Rules, error) {
	rules := Rules{ignored: map[uint64]bool{}}
	for _, xid := range applicationXIDs {
		rules.ignored[xid] = true
	}
	for _, word := range words(disable) {
		if word == "all" || word == "xids" {
			rules.disabled = true
			continue
		}
		xid, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return Rules{}, fmt.Errorf("DP_DISABLE_HEALTHCHECKS: %q is neither all, xids nor a number", word)
		}
		rules.ignored[xid] = true
	}
	for _, word := range words(enable) {
		if word == "all" {
			return Rules{ignored: map[uint64]bool{}}, nil
		}
		xid, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return Rules{}, fmt.Errorf("DP_ENABLE_HEALTHCHECKS: %q is neither all nor a number", word)
		}
		if rules.disabled {
			return Rules{}, fmt.Errorf("DP_ENABLE_HEALTHCHECKS lists XID %d while DP_DISABLE_HEALTHCHECKS turns them all off", xid)
		}
		delete(rules.ignored, xid)
	}
	return rules, nil
}

func words(list string) []string {
	return strings.FieldsFunc(strings.ToLower(list), func(r rune) bool { return r == ',' || r == ' ' })
}

// Watch reports the UUID of every device that becomes unhealthy, until ctx is done.
func Watch(ctx context.Context, lib nvml.Interface, devices []gpu.Device, rules Rules, unhealthy func(uuid, why string)) error {
	if rules.disabled {
		log.Print("health checks are off")
		return nil
	}
	events, ret := lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return fmt.Errorf("creating an event set: %s", lib.ErrorString(ret))
	}
	defer events.Free()
	children := register(lib, events, devices, unhealthy)
	for ctx.Err() == nil {
		event, ret := events.Wait(waitMilliseconds)
		switch {
		case ret == nvml.ERROR_TIMEOUT:
		case ret != nvml.SUCCESS:
			reportAll(devices, unhealthy, fmt.Sprintf("waiting for events: %s", lib.ErrorString(ret)))
			return nil
		case event.EventType != nvml.EventTypeXidCriticalError:
			log.Printf("event %d is no XID: ignored", event.EventType)
		case rules.ignored[event.EventData]:
			log.Printf("XID %d is the application's: ignored", event.EventData)
		default:
			judge(event, children, devices, unhealthy)
		}
	}
	return nil
}

// register subscribes to the events of every GPU and returns the devices of each.
func register(lib nvml.Interface, events nvml.EventSet, devices []gpu.Device, unhealthy func(uuid, why string)) map[string][]gpu.Device {
	const wanted = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError | nvml.EventTypeSingleBitEccError
	children := map[string][]gpu.Device{}
	for _, device := range devices {
		children[device.Parent] = append(children[device.Parent], device)
	}
	for parent, offered := range children {
		if why := subscribe(lib, events, parent, wanted); why != "" {
			reportAll(offered, unhealthy, why)
		}
	}
	return children
}

func subscribe(lib nvml.Interface, events nvml.EventSet, uuid string, wanted uint64) string {
	handle, ret := lib.DeviceGetHandleByUUID(uuid)
	if ret != nvml.SUCCESS {
		return fmt.Sprintf("opening it for health checks: %s", lib.ErrorString(ret))
	}
	supported, ret := handle.GetSupportedEventTypes()
	if ret != nvml.SUCCESS {
		return fmt.Sprintf("asking for its events: %s", lib.ErrorString(ret))
	}
	ret = handle.RegisterEvents(wanted&supported, events)
	if ret == nvml.ERROR_NOT_SUPPORTED {
		log.Printf("%s is too old to report its health", uuid)
		return ""
	}
	if ret != nvml.SUCCESS {
		return fmt.Sprintf("registering for its events: %s", lib.ErrorString(ret))
	}
	return ""
}

func judge(event nvml.EventData, children map[string][]gpu.Device, devices []gpu.Device, unhealthy func(uuid, why string)) {
	why := fmt.Sprintf("XID %d", event.EventData)
	uuid, ret := event.Device.GetUUID()
	if ret != nvml.SUCCESS {
		// Which GPU it was cannot be told any more: no device of the node can be trusted.
		reportAll(devices, unhealthy, why+" from an unknown GPU")
		return
	}
	reportAll(children[uuid], unhealthy, why)
}

func reportAll(devices []gpu.Device, unhealthy func(uuid, why string), why string) {
	for _, device := range devices {
		unhealthy(device.UUID, why)
	}
}
