// Package packaging has the files by which a system runs sekisho as a service.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	service = "systemd/sekisho.service"
	socket  = "systemd/sekisho.socket"
	port    = "systemd/sekisho-port.conf"
)

// TestTheServiceIsHardened holds what systemd finds left open of the service: 0
// would be a service that can do nothing, 10 one that may do all.
func TestTheServiceIsHardened(t *testing.T) {
	for _, c := range []struct {
		name   string
		dropIn string // beside the unit
		most   float64
	}{
		{"on the socket that systemd opens", "", 1.4},
		{"with the capability to bind port 22", port, 1.6},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			unit := filepath.Join(dir, "sekisho.service")
			install(t, unit, service)
			if c.dropIn != "" {
				install(t, filepath.Join(dir, "sekisho.service.d", "port.conf"), c.dropIn)
			}
			out := analyze(t, "security", "--offline=true", "--no-pager", unit)
			m := regexp.MustCompile(`Overall exposure level for sekisho\.service: ([0-9.]+)`).FindStringSubmatch(out)
			if m == nil {
				t.Fatalf("systemd-analyze gives no figure:\n%s", out)
			}
			got, err := strconv.ParseFloat(m[1], 64)
			if err != nil || got > c.most {
				t.Errorf("the exposure is %s, and at most %.1f is wanted:\n%s", m[1], c.most, out)
			}
			t.Logf("exposure %s", m[1])
			if capable := strings.Contains(out, "✗ AmbientCapabilities="); capable != (c.dropIn != "") {
				t.Errorf("it has capabilities: %v\n%s", capable, out)
			}
		})
	}
}

// TestTheUnitsAreUnderstood: a directive that is misspelt would be a hole.
func TestTheUnitsAreUnderstood(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "sekisho")
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{service, socket} {
		content := strings.ReplaceAll(read(t, name), "/usr/local/bin/sekisho", binary)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	install(t, filepath.Join(dir, "sekisho.service.d", "port.conf"), port)
	out := analyze(t, "verify", "--recursive-errors=no", filepath.Join(dir, "sekisho.service"), filepath.Join(dir, "sekisho.socket"))
	if strings.Contains(out, "sekisho") {
		t.Errorf("systemd-analyze verify says\n%s", out)
	}
}

// TestTheServiceOutlivesItsDrain: systemd waits longer for the end than
// limits.drain_timeout by default, with what comes after it.
func TestTheServiceOutlivesItsDrain(t *testing.T) {
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\w+)$`).FindStringSubmatch(read(t, service))
	if m == nil {
		t.Fatal("the service has no TimeoutStopSec")
	}
	const drain, after = 30 * time.Second, 40 * time.Second
	if got, err := time.ParseDuration(m[1]); err != nil || got < drain+after {
		t.Errorf("systemd waits %v (%v) for the end, and it may take %v", got, err, drain+after)
	}
	template := read(t, "../cmd/sekisho/template/sekisho.yaml.tmpl")
	if !regexp.MustCompile(`(?m)^  drain_timeout: 30s\b`).MatchString(template) {
		t.Error("the default of drain_timeout is another by now: look at TimeoutStopSec")
	}
}

// TestTheReadmesSettingsAreTheUnits: its command changes the settings that init
// writes to the two folders that the service may write.
func TestTheReadmesSettingsAreTheUnits(t *testing.T) {
	script := regexp.MustCompile(`(?m)^    sudo sed -i '(.*)' /etc/sekisho/sekisho\.yaml$`).FindStringSubmatch(read(t, "../README.md"))
	if script == nil {
		t.Fatal("the README has no such command")
	}
	cmd := exec.CommandContext(t.Context(), "sed", script[1])
	cmd.Stdin = strings.NewReader(read(t, "../cmd/sekisho/template/sekisho.yaml.tmpl"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n  dir: /var/lib/sekisho/audit ", "\n  socket: /run/sekisho/sekisho.sock "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the settings do not have %q", want)
		}
	}
	for _, want := range []string{"\nStateDirectory=sekisho\n", "\nRuntimeDirectory=sekisho\n"} {
		if !strings.Contains(read(t, service), want) {
			t.Errorf("the unit does not have %q", want)
		}
	}
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatal("systemd-analyze is missing: e2e/peers.sh installs it")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0")
	out, err := cmd.CombinedOutput()
	if err != nil && args[0] != "verify" {
		t.Fatalf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func install(t *testing.T, as, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(as), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(as, []byte(read(t, name)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
