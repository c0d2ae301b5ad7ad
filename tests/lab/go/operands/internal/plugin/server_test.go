// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package plugin

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"onprem.gpu/lab/operands/internal/gpu"
)

// kubelet is as much of one as a plugin meets: it notes who registered.
type kubelet struct {
	api.UnimplementedRegistrationServer
	registered chan *api.RegisterRequest
}

func (k *kubelet) Register(_ context.Context, request *api.RegisterRequest) (*api.Empty, error) {
	k.registered <- request
	return &api.Empty{}, nil
}

func startKubelet(t *testing.T) (string, *kubelet) {
	t.Helper()
	folder := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(folder, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{registered: make(chan *api.RegisterRequest, 1)}
	server := grpc.NewServer()
	api.RegisterRegistrationServer(server, k)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return folder, k
}

// started is a running server of two GPUs, one of unknown place, and the kubelet's client to it.
func started(t *testing.T, injection Injection) (*Server, api.DevicePluginClient) {
	t.Helper()
	folder, k := startKubelet(t)
	server := New("nvidia.com/gpu", []gpu.Device{{UUID: "GPU-a", NUMA: 1}, {UUID: "GPU-b", NUMA: gpu.UnknownNUMA}}, injection)
	stop, err := server.Start(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	request := <-k.registered
	if request.ResourceName != "nvidia.com/gpu" || request.Version != "v1beta1" {
		t.Fatalf("registered as %v", request)
	}
	connection, err := grpc.NewClient("unix://"+filepath.Join(folder, request.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return server, api.NewDevicePluginClient(connection)
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAnUnhealthyDeviceIsToldAtOnce(t *testing.T) {
	server, client := started(t, CDI)
	stream, err := client.ListAndWatch(deadline(t), &api.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if first.Devices[0].Health != api.Healthy || first.Devices[0].Topology.Nodes[0].ID != 1 || first.Devices[1].Topology != nil {
		t.Errorf("at first: %v", first.Devices)
	}
	server.MarkUnhealthy("GPU-unknown")
	server.MarkUnhealthy("GPU-b")
	second, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if second.Devices[0].Health != api.Healthy || second.Devices[1].Health != api.Unhealthy {
		t.Errorf("then: %v", second.Devices)
	}
}

func TestAllocateAnswersInTheWantedWay(t *testing.T) {
	request := &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: []string{"GPU-b", "GPU-a"}}}}
	_, client := started(t, CDI)
	answer, err := client.Allocate(deadline(t), request)
	if err != nil {
		t.Fatal(err)
	}
	cdi := answer.ContainerResponses[0].CdiDevices
	if len(cdi) != 2 || cdi[0].Name != "nvidia.com/gpu=GPU-b" || cdi[1].Name != "nvidia.com/gpu=GPU-a" {
		t.Errorf("CDI: %v", cdi)
	}
	_, client = started(t, EnvVar)
	answer, err = client.Allocate(deadline(t), request)
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.ContainerResponses[0].Envs["NVIDIA_VISIBLE_DEVICES"]; got != "GPU-b,GPU-a" {
		t.Errorf("environment: %q", got)
	}
}

func TestADeviceOfAnotherRunIsRefused(t *testing.T) {
	_, client := started(t, CDI)
	request := &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: []string{"GPU-gone"}}}}
	if _, err := client.Allocate(deadline(t), request); err == nil {
		t.Error("allocated")
	}
}
