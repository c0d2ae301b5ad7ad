// Copyright: Contributors to the onprem.gpu collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package kube

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLabelsAreAppliedUnderTheManagersName(t *testing.T) {
	var got, contentType, body string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		text, _ := io.ReadAll(request.Body)
		got, contentType, body = request.Method+" "+request.URL.String(), request.Header.Get("Content-Type"), string(text)
	}))
	defer server.Close()
	client := New(server.URL, server.Client(), func() (string, error) { return "secret", nil })
	if err := client.ApplyLabels(context.Background(), "n1", "me", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if got != "PATCH /api/v1/nodes/n1?fieldManager=me&force=true" || contentType != "application/apply-patch+yaml" {
		t.Errorf("%s as %s", got, contentType)
	}
	if !strings.Contains(body, `"labels":{"a":"b"},"name":"n1"`) {
		t.Errorf("sent %s", body)
	}
}

func TestARefusalIsToldWithTheServersWords(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, _ *http.Request) {
		http.Error(writer, "nodes is forbidden", http.StatusForbidden)
	}))
	defer server.Close()
	client := New(server.URL, server.Client(), func() (string, error) { return "secret", nil })
	if _, err := client.Nodes(context.Background(), "x=y"); err == nil || !strings.Contains(err.Error(), "nodes is forbidden") {
		t.Errorf("got %v", err)
	}
}
