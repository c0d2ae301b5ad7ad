// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package kube is the little of the Kubernetes API that the operands need, from inside a pod.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount"
	timeout = 10 * time.Second
)

// Client talks to the API server as the pod's service account.
type Client struct {
	server string
	http   *http.Client
	token  func() (string, error)
}

// Node is the part of a Node object that the operands read.
type Node struct {
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
}

// InCluster finds the API server where every pod finds it.
func InCluster() (*Client, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this runs in a pod")
	}
	ca, err := os.ReadFile(account + "/ca.crt")
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s/ca.crt holds no certificate", account)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return New("https://"+net.JoinHostPort(host, port), &http.Client{Transport: transport, Timeout: timeout}, mountedToken), nil
}

// New makes a client for any server; token is asked before each request, since mounted tokens are renewed.
func New(server string, client *http.Client, token func() (string, error)) *Client {
	return &Client{server: server, http: client, token: token}
}

func mountedToken() (string, error) {
	token, err := os.ReadFile(account + "/token")
	return strings.TrimSpace(string(token)), err
}

// ApplyLabels makes the manager's labels on the node exactly these: the API server removes the ones it applied earlier and not now.
func (c *Client) ApplyLabels(ctx context.Context, node, manager string, labels map[string]string) error {
	body := map[string]any{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata":   map[string]any{"name": node, "labels": labels},
	}
	query := url.Values{"fieldManager": {manager}, "force": {"true"}}
	return c.send(ctx, http.MethodPatch, "/api/v1/nodes/"+node, query, "application/apply-patch+yaml", body, nil)
}

// PatchLabels sets labels of a node; nil removes one.
func (c *Client) PatchLabels(ctx context.Context, node string, labels map[string]*string) error {
	body := map[string]any{"metadata": map[string]any{"labels": labels}}
	return c.send(ctx, http.MethodPatch, "/api/v1/nodes/"+node, nil, "application/merge-patch+json", body, nil)
}

// Nodes lists the nodes that a label selector picks.
func (c *Client) Nodes(ctx context.Context, selector string) ([]Node, error) {
	var list struct {
		Items []Node `json:"items"`
	}
	err := c.send(ctx, http.MethodGet, "/api/v1/nodes", url.Values{"labelSelector": {selector}}, "", nil, &list)
	return list.Items, err
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, contentType string, body, answer any) error {
	request, err := c.request(ctx, method, path, query, contentType, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 2048))
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, strings.TrimSpace(string(text)))
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, contentType string, body any) (*http.Request, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body) // JSON is YAML, so this serves the apply patch too.
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.server+path+"?"+query.Encode(), content)
	if err != nil {
		return nil, err
	}
	token, err := c.token()
	if err != nil {
		return nil, fmt.Errorf("reading the service account's token: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return request, nil
}
