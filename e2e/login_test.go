//go:build linux

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh/agent"

	"sekisho/audit"
)

func TestARefusedLoginSaysWhatToDoAboutIt(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	stranger := newKey(t, "stranger")
	r := command(t, "", "ssh", "-F", b.config(stranger), "-l", "mallory", "bastion")
	if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
	if strings.Contains(r.err, "sekisho:") {
		t.Errorf("a stranger is told more than that: %s", r.err)
	}
	rec := b.recorded(audit.AuthFail, nil)
	if rec.Login != "mallory" || rec.Key != stranger.fingerprint || rec.User != "" || rec.Reason != "unknown_key" || !strings.HasPrefix(rec.Client, "SSH-2.0-OpenSSH") {
		t.Errorf("the record says login %q, key %q, user %q, reason %q, client %q", rec.Login, rec.Key, rec.User, rec.Reason, rec.Client)
	}
	line := b.proc.says(t, `(?m)^.*login refused.*$`)[0]
	public := strings.Join(strings.Fields(stranger.public)[:2], " ")
	for _, want := range []string{stranger.fingerprint, "mallory", "127.0.0.1:", "hint=", public} {
		if !strings.Contains(line, want) {
			t.Errorf("the operational line does not say %q:\n%s", want, line)
		}
	}
}

func TestTheRightKeyAfterTwentyWrongOnesLogsIn(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	socket := startAgent(t)
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	keyring := agent.NewClient(conn)
	for i := range 20 {
		if err := keyring.Add(agent.AddedKey{PrivateKey: newKey(t, fmt.Sprint("wrong", i)).private}); err != nil {
			t.Fatal(err)
		}
	}
	if err := keyring.Add(agent.AddedKey{PrivateKey: alice(t).private}); err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(filepath.Dir(b.config(alice(t))), "known_hosts")
	got := succeeds(t, "ssh", "-F", "none", "-o", "IdentityAgent="+socket, "-o", "IdentityFile=none", "-o", "UserKnownHostsFile="+known,
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-p", fmt.Sprint(b.port), "alice@"+b.host)
	if !strings.Contains(got, "You are alice, by key "+alice(t).fingerprint) {
		t.Errorf("the screen says %q", got)
	}
	if n := b.count(audit.AuthFail); n != 0 {
		t.Errorf("%d failures are recorded; offers of keys are none", n)
	}
}
