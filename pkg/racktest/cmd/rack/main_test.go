package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// runRack runs the command until the test ends, and returns the first lines that it prints.
func runRack(t *testing.T, password string, lines int, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		code := run(ctx, args, password, writer, &stderr)
		writer.Close()
		ended <- code
	}()
	var printed []string
	for scanner := bufio.NewScanner(reader); len(printed) < lines && scanner.Scan(); {
		printed = append(printed, scanner.Text())
	}
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("it ended with code %d: %s", code, stderr.String())
		}
	})
	if len(printed) < lines {
		t.Fatalf("it printed only %q: %s", printed, stderr.String())
	}
	return printed
}

func get(t *testing.T, address, password string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("convox", password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestItServesARackWithItsPassword(t *testing.T) {
	address := runRack(t, "secret", 1, "-apps", "web, worker")[0]
	if status, _ := get(t, address+"/apps", "wrong"); status != http.StatusUnauthorized {
		t.Errorf("a wrong password gives %d", status)
	}
	status, body := get(t, address+"/apps", "secret")
	for _, app := range []string{"demo", "web", "worker"} {
		if status != http.StatusOK || !strings.Contains(body, `"name": "`+app+`"`) {
			t.Errorf("%d, without app %s: %s", status, app, body)
		}
	}
}

func TestTheControlEndpointTellsWhatTheRackSaw(t *testing.T) {
	printed := runRack(t, "secret", 2, "-control", "127.0.0.1:0")
	get(t, printed[0]+"/apps", "secret")
	if status, body := get(t, printed[1]+"/requests", ""); status != http.StatusOK || !strings.Contains(body, "/apps") {
		t.Errorf("%d %s", status, body)
	}
}

func TestItRefusesToBeOpenToTheNetwork(t *testing.T) {
	for name, tc := range map[string]struct {
		password string
		args     []string
		code     int
		says     string
	}{
		"without a password":            {"", []string{"-listen", "0.0.0.0:0"}, 1, "set it, or listen on loopback"},
		"with a control endpoint":       {"secret", []string{"-control", ":0"}, 1, "an address of loopback"},
		"without its certificate":       {"secret", []string{"-tls-cert", "nowhere.pem"}, 1, "reading the certificate"},
		"with a word that says nothing": {"secret", []string{"serve"}, 2, `unexpected argument "serve"`},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), tc.args, tc.password, io.Discard, &stderr); code != tc.code || !strings.Contains(stderr.String(), tc.says) {
			t.Errorf("%s: code %d, %s", name, code, stderr.String())
		}
	}
}
