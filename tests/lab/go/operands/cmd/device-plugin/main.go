// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// device-plugin offers this node's GPUs to its kubelet. It stands in for NVIDIA's device plugin and takes its settings from the same
// environment variables.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"onprem.gpu/lab/operands/internal/gpu"
	"onprem.gpu/lab/operands/internal/health"
	"onprem.gpu/lab/operands/internal/plugin"
)

const (
	pollInterval = time.Second
	retryPause   = 5 * time.Second
)

type settings struct {
	strategy  gpu.Strategy
	injection plugin.Injection
	rules     health.Rules
	sockets   string
	sysfs     string
}

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	config, err := readSettings()
	if err != nil {
		log.Fatalf("device-plugin: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	for ctx.Err() == nil {
		if err := serveOnce(ctx, config); err != nil {
			log.Fatalf("device-plugin: %v", err)
		}
	}
}

func readSettings() (settings, error) {
	config := settings{}
	flag.StringVar(&config.sockets, "sockets", "/var/lib/kubelet/device-plugins", "the kubelet's folder of device plugin sockets")
	flag.StringVar(&config.sysfs, "sysfs", "/sys", "the host's /sys")
	flag.Parse()
	var err error
	if config.strategy, err = gpu.ParseStrategy(environment("MIG_STRATEGY", "none")); err != nil {
		return config, err
	}
	if config.injection, err = plugin.ParseInjection(environment("DEVICE_LIST_STRATEGY", "envvar")); err != nil {
		return config, err
	}
	config.rules, err = health.ParseRules(os.Getenv("DP_DISABLE_HEALTHCHECKS"), os.Getenv("DP_ENABLE_HEALTHCHECKS"))
	return config, err
}

func environment(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// serveOnce discovers the devices, offers them, and returns when the kubelet restarted, SIGHUP came or ctx is done. Like the real plugin
// it takes every device for healthy at the start.
func serveOnce(ctx context.Context, config settings) error {
	lib := nvml.New()
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return fmt.Errorf("initialising NVML: %s (the real plugin stops here too: failOnInitError is true)", lib.ErrorString(ret))
	}
	defer lib.Shutdown()
	devices, err := gpu.Discover(lib, config.sysfs, config.strategy)
	if err != nil {
		return err
	}
	resources, err := gpu.Resources(devices, config.strategy)
	if err != nil {
		return fmt.Errorf("%w (the real plugin stops here too)", err)
	}
	if len(resources) == 0 {
		log.Print("there is nothing to offer: waiting")
	}
	// Taken before the registration: a kubelet that restarts meanwhile is then noticed.
	kubelet := socketIdentity(config.sockets)
	ctx, stop := context.WithCancel(ctx)
	servers, stopServers, err := start(resources, config)
	if err != nil {
		stop()
		stopServers()
		log.Printf("%v; trying again", err)
		pause(ctx, retryPause)
		return nil
	}
	watchers := watchHealth(ctx, lib, devices, servers, config.rules)
	waitForRestart(ctx, config.sockets, kubelet)
	stop()
	stopServers()
	watchers.Wait()
	return nil
}

func start(resources map[string][]gpu.Device, config settings) ([]*plugin.Server, func(), error) {
	var servers []*plugin.Server
	var stops []func()
	stopAll := func() {
		for _, stop := range stops {
			stop()
		}
	}
	for name, devices := range resources {
		server := plugin.New(name, devices, config.injection)
		stop, err := server.Start(config.sockets)
		if err != nil {
			return nil, stopAll, err
		}
		servers, stops = append(servers, server), append(stops, stop)
	}
	return servers, stopAll, nil
}

func watchHealth(ctx context.Context, lib nvml.Interface, devices []gpu.Device, servers []*plugin.Server, rules health.Rules) *sync.WaitGroup {
	var watchers sync.WaitGroup
	watchers.Go(func() {
		err := health.Watch(ctx, lib, devices, rules, func(uuid, why string) {
			log.Printf("%s is unhealthy: %s", uuid, why)
			for _, server := range servers {
				server.MarkUnhealthy(uuid)
			}
		})
		if err != nil {
			log.Printf("health is not watched: %v", err)
		}
	})
	return &watchers
}

// waitForRestart returns when there is a reason to begin anew. A restarting kubelet empties the folder and makes its socket again.
func waitForRestart(ctx context.Context, sockets string, before string) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			log.Print("SIGHUP: beginning anew")
			return
		case <-ticker.C:
			if now := socketIdentity(sockets); now != "" && now != before {
				log.Print("the kubelet restarted: registering again")
				return
			}
		}
	}
}

// socketIdentity tells one kubelet socket from the next; empty while there is none.
func socketIdentity(sockets string) string {
	var stat syscall.Stat_t
	if err := syscall.Stat(sockets+"/kubelet.sock", &stat); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d.%d", stat.Dev, stat.Ino, stat.Ctim.Sec, stat.Ctim.Nsec)
}

func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
