// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package plugin offers one extended resource to the kubelet over its device plugin API.
package plugin

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"onprem.gpu/lab/operands/internal/gpu"
)

const registerTimeout = 5 * time.Second

// Injection says how a container gets its devices: the real plugin's deviceListStrategy.
type Injection string

const (
	CDI    Injection = "cdi-cri" // CDI names in the answer to the kubelet
	EnvVar Injection = "envvar"  // NVIDIA_VISIBLE_DEVICES, for the nvidia container runtime
)

// ParseInjection refuses anything but the two ways that are built.
func ParseInjection(word string) (Injection, error) {
	switch i := Injection(word); i {
	case CDI, EnvVar:
		return i, nil
	}
	return "", fmt.Errorf("device list strategy %q: allowed are cdi-cri and envvar", word)
}

// Server serves one resource.
type Server struct {
	api.UnimplementedDevicePluginServer
	resource  string
	devices   []gpu.Device
	injection Injection

	lock      sync.Mutex
	unhealthy map[string]bool
	changed   chan struct{} // closed, and made anew, when the health of a device changes
}

// New makes a server on which every device is healthy.
func New(resource string, devices []gpu.Device, injection Injection) *Server {
	return &Server{resource: resource, devices: devices, injection: injection, unhealthy: map[string]bool{}, changed: make(chan struct{})}
}

// MarkUnhealthy takes a device out of the node's allocatable; pods that have it stay. It does nothing for devices of other resources.
func (s *Server) MarkUnhealthy(uuid string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for _, device := range s.devices {
		if device.UUID == uuid && !s.unhealthy[uuid] {
			s.unhealthy[uuid] = true
			close(s.changed)
			s.changed = make(chan struct{})
		}
	}
}

// Start listens in the kubelet's folder of device plugins and registers there. The returned function stops it.
func (s *Server) Start(folder string) (stop func(), err error) {
	socket := filepath.Join(folder, s.socketName())
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("removing the socket of an earlier run: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening for the kubelet: %w", err)
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, s)
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Printf("%s: serving ended: %v", s.resource, err)
		}
	}()
	if err := s.register(folder); err != nil {
		server.Stop()
		return nil, err
	}
	log.Printf("%s: registered %d devices", s.resource, len(s.devices))
	return server.Stop, nil
}

func (s *Server) socketName() string {
	return strings.ReplaceAll(s.resource, "/", "-") + ".sock"
}

func (s *Server) register(folder string) error {
	kubelet, err := grpc.NewClient("unix://"+filepath.Join(folder, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("reaching the kubelet: %w", err)
	}
	defer kubelet.Close()
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	_, err = api.NewRegistrationClient(kubelet).Register(ctx, &api.RegisterRequest{
		Version:      api.Version,
		Endpoint:     s.socketName(),
		ResourceName: s.resource,
		Options:      options(),
	})
	if err != nil {
		return fmt.Errorf("registering %s with the kubelet: %w", s.resource, err)
	}
	return nil
}

func options() *api.DevicePluginOptions {
	return &api.DevicePluginOptions{GetPreferredAllocationAvailable: true}
}

func (s *Server) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return options(), nil
}

func (s *Server) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		devices, changed := s.snapshot()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (s *Server) snapshot() ([]*api.Device, <-chan struct{}) {
	s.lock.Lock()
	defer s.lock.Unlock()
	devices := make([]*api.Device, 0, len(s.devices))
	for _, device := range s.devices {
		health := api.Healthy
		if s.unhealthy[device.UUID] {
			health = api.Unhealthy
		}
		devices = append(devices, &api.Device{ID: device.UUID, Health: health, Topology: topology(device)})
	}
	return devices, s.changed
}

func topology(device gpu.Device) *api.TopologyInfo {
	if device.NUMA == gpu.UnknownNUMA {
		return nil
	}
	return &api.TopologyInfo{Nodes: []*api.NUMANode{{ID: int64(device.NUMA)}}}
}

func (s *Server) GetPreferredAllocation(_ context.Context, request *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	response := &api.PreferredAllocationResponse{}
	for _, container := range request.ContainerRequests {
		ids := gpu.Prefer(s.devices, container.AvailableDeviceIDs, container.MustIncludeDeviceIDs, int(container.AllocationSize))
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return response, nil
}

func (s *Server) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		if err := s.demandKnown(container.DevicesIds); err != nil {
			return nil, err
		}
		response.ContainerResponses = append(response.ContainerResponses, s.inject(container.DevicesIds))
	}
	return response, nil
}

func (s *Server) demandKnown(ids []string) error {
	known := map[string]bool{}
	for _, device := range s.devices {
		known[device.UUID] = true
	}
	for _, id := range ids {
		if !known[id] {
			return fmt.Errorf("%s has no device %s", s.resource, id)
		}
	}
	return nil
}

func (s *Server) inject(ids []string) *api.ContainerAllocateResponse {
	if s.injection == EnvVar {
		return &api.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(ids, ",")}}
	}
	response := &api.ContainerAllocateResponse{}
	for _, id := range ids {
		response.CdiDevices = append(response.CdiDevices, &api.CDIDevice{Name: "nvidia.com/gpu=" + id})
	}
	return response
}
