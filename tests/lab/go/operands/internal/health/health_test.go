// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package health

import (
	"context"
	"slices"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"

	"onprem.gpu/lab/operands/internal/gpu"
)

// unhealthyAfter plays events to Watch and returns the devices it condemned. "a" and "b" are GPUs, "m" is a MIG device of "b".
func unhealthyAfter(t *testing.T, rules Rules, events ...nvml.EventData) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	set := &mock.EventSet{
		FreeFunc: func() nvml.Return { return nvml.SUCCESS },
		WaitFunc: func(uint32) (nvml.EventData, nvml.Return) {
			if len(events) == 0 {
				cancel()
				return nvml.EventData{}, nvml.ERROR_TIMEOUT
			}
			event := events[0]
			events = events[1:]
			if event.Device == nil {
				return event, nvml.ERROR_GPU_IS_LOST
			}
			return event, nvml.SUCCESS
		},
	}
	lib := &mock.Interface{
		EventSetCreateFunc:        func() (nvml.EventSet, nvml.Return) { return set, nvml.SUCCESS },
		DeviceGetHandleByUUIDFunc: func(uuid string) (nvml.Device, nvml.Return) { return device(uuid), nvml.SUCCESS },
		ErrorStringFunc:           func(ret nvml.Return) string { return "mock error" },
	}
	devices := []gpu.Device{{UUID: "a", Parent: "a"}, {UUID: "b", Parent: "b"}, {UUID: "m", Parent: "b"}}
	var condemned []string
	if err := Watch(ctx, lib, devices, rules, func(uuid, _ string) { condemned = append(condemned, uuid) }); err != nil {
		t.Fatal(err)
	}
	cancel()
	slices.Sort(condemned)
	return condemned
}

func device(uuid string) nvml.Device {
	return &mock.Device{
		GetUUIDFunc:                func() (string, nvml.Return) { return uuid, nvml.SUCCESS },
		GetSupportedEventTypesFunc: func() (uint64, nvml.Return) { return nvml.EventTypeXidCriticalError, nvml.SUCCESS },
		RegisterEventsFunc:         func(uint64, nvml.EventSet) nvml.Return { return nvml.SUCCESS },
	}
}

func xid(uuid string, number uint64) nvml.EventData {
	return nvml.EventData{Device: device(uuid), EventType: nvml.EventTypeXidCriticalError, EventData: number}
}

func rules(t *testing.T, disable, enable string) Rules {
	t.Helper()
	parsed, err := ParseRules(disable, enable)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestXIDsCondemnTheGPUAndItsMIGDevices(t *testing.T) {
	tests := map[string]struct {
		disable, enable string
		events          []nvml.EventData
		want            []string
	}{
		"a hardware error":                {"", "", []nvml.EventData{xid("a", 79)}, []string{"a"}},
		"and its MIG devices":             {"", "", []nvml.EventData{xid("b", 79)}, []string{"b", "m"}},
		"application errors do not":       {"", "", []nvml.EventData{xid("a", 13), xid("a", 31), xid("a", 109)}, nil},
		"a listed XID does not":           {"79", "", []nvml.EventData{xid("a", 79)}, nil},
		"all turned off":                  {"all", "", []nvml.EventData{xid("a", 79)}, nil},
		"enabling wins over disabling":    {"all", "all", []nvml.EventData{xid("a", 13)}, []string{"a"}},
		"an enabled application error":    {"", "13", []nvml.EventData{xid("a", 13)}, []string{"a"}},
		"ECC events are no XIDs":          {"", "", []nvml.EventData{{Device: device("a"), EventType: nvml.EventTypeDoubleBitEccError}}, nil},
		"a lost GPU condemns all of them": {"", "", []nvml.EventData{{}}, []string{"a", "b", "m"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := unhealthyAfter(t, rules(t, test.disable, test.enable), test.events...); !slices.Equal(got, test.want) {
				t.Errorf("got %v, wanted %v", got, test.want)
			}
		})
	}
}

func TestNonsenseInTheSettingsIsRefused(t *testing.T) {
	for _, words := range [][2]string{{"some", ""}, {"", "xids"}, {"all", "79"}} {
		if _, err := ParseRules(words[0], words[1]); err == nil {
			t.Errorf("disable %q, enable %q: accepted", words[0], words[1])
		}
	}
}
