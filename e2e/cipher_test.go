//go:build linux

package e2e

import (
	"bytes"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"sekisho/audit"
	server "sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A clearTap stands before a server and keeps the beginning of what both sides
// say, which is in the clear.
type clearTap struct {
	net.Listener
	mu                 sync.Mutex
	toServer, toClient bytes.Buffer
}

func tapBefore(t *testing.T, addr string) *clearTap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &clearTap{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", addr)
			if err != nil {
				client.Close()
				return
			}
			go tap.copy(up, client, &tap.toServer)
			go tap.copy(client, up, &tap.toClient)
		}
	}()
	return tap
}

func (tap *clearTap) copy(to, from net.Conn, kept *bytes.Buffer) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		tap.mu.Lock()
		kept.Write(buf[:min(n, max(0, 8<<10-kept.Len()))])
		tap.mu.Unlock()
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// said is what both sides have said.
func (tap *clearTap) said() (toServer, toClient string) {
	tap.mu.Lock()
	defer tap.mu.Unlock()
	return tap.toServer.String(), tap.toClient.String()
}

// TestStockClientsAndTheCiphersTheyAreOffered logs in with real clients. One
// that offers AES-GCM is offered nothing else.
func TestStockClientsAndTheCiphersTheyAreOffered(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, test := range []struct {
		name    string
		command []string // {port}, {host key}
		byThem  bool     // Config.CipherByClient
		noLogin bool
		gcm     string // yes, no, or as it is offered: ""
	}{
		{name: "ssh", command: []string{"ssh"}, gcm: "yes"},
		{name: "ssh that renews its keys", command: []string{"ssh", "-o", "RekeyLimit=1M"}, gcm: "yes"},
		{name: "ssh that wants another AES-GCM", command: []string{"ssh", "-c", "aes256-gcm@openssh.com"}, gcm: "yes"},
		{name: "ssh with chacha20 only", command: []string{"ssh", "-c", "chacha20-poly1305@openssh.com"}, gcm: "no"},
		{name: "ssh with AES-CTR only", command: []string{"ssh", "-c", "aes256-ctr"}, gcm: "no"},
		{name: "ssh whose preference decides", command: []string{"ssh"}, byThem: true, gcm: "no"},
		{name: "ssh-keyscan", command: []string{"ssh-keyscan", "-p", "{port}", "127.0.0.1"}, noLogin: true, gcm: "yes"},
		{name: "dbclient of Dropbear", command: []string{"dbclient", "-y", "-i", file("id.dropbear"), "-p", "{port}", "alice@127.0.0.1", "targets"}},
		{name: "plink of PuTTY", command: []string{"plink", "-ssh", "-batch", "-hostkey", "{host key}", "-i", file("id.ppk"), "-P", "{port}", "alice@127.0.0.1", "targets"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Config: func(c *server.Config) { c.CipherByClient = test.byThem }})
			tap := tapBefore(t, b.Addr)
			host, port, _ := net.SplitHostPort(tap.Addr().String())

			block, err := ssh.MarshalPrivateKey(b.AliceKey, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"id", "id.dropbear", "id.ppk", "known_hosts"} {
				os.Remove(file(name))
			}
			if err := os.WriteFile(file("id"), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
			writeFile(t, file("known_hosts"), knownhosts.Line([]string{tap.Addr().String()}, b.HostKey)+"\n")
			args := append([]string{}, test.command...)
			switch args[0] {
			case "ssh":
				args = append(args, "-F", "none", "-p", port, "-i", file("id"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
					"-o", "UserKnownHostsFile="+file("known_hosts"), "-o", "StrictHostKeyChecking=yes", "alice@"+host, "targets")
			case "dbclient":
				succeeds(t, "dropbearconvert", "openssh", "dropbear", file("id"), file("id.dropbear"))
			case "plink":
				succeeds(t, "puttygen", file("id"), "-O", "private", "-o", file("id.ppk"))
			}
			for i := range args {
				args[i] = strings.NewReplacer("{port}", port, "{host key}", ssh.FingerprintSHA256(b.HostKey)).Replace(args[i])
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Env = append(os.Environ(), "HOME="+dir)
			client := start(t, cmd)
			if code := client.wait(t); code != 0 {
				t.Errorf("%s ends with %d: %s%s", args[0], code, client.out.String(), client.err.String())
			}
			if !test.noLogin {
				if rec := b.Book.Await(t, audit.AuthOK, 1); len(rec.Hassh) != 32 {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
			}
			toServer, toClient := tap.said()
			gcm := test.gcm == "yes"
			if test.gcm == "" {
				gcm = strings.Count(toServer, "-gcm@openssh.com") >= 2
			}
			t.Logf("it offers AES-GCM: %v", strings.Contains(toServer, "-gcm@openssh.com"))
			if only := !strings.Contains(toClient, "chacha20-poly1305@openssh.com"); only != gcm || !strings.Contains(toClient, "aes128-gcm@openssh.com") {
				t.Errorf("AES-GCM alone is offered: %v, want %v", only, gcm)
			}
		})
	}
}

func TestTheSettingDecidesWhoChoosesTheCipher(t *testing.T) {
	t.Parallel()
	for prefer, cipher := range map[bool]string{true: "aes128-gcm@openssh.com", false: "chacha20-poly1305@openssh.com"} {
		b := newBastion(t, setup{settings: map[string]any{"prefer_aes_gcm": prefer}})
		r := command(t, "", b.ssh("-v", "bastion", "targets")...)
		if want := "kex: server->client cipher: " + cipher; r.code != 0 || !strings.Contains(r.err, want) {
			t.Errorf("prefer_aes_gcm: %v: %d, nothing says %q: %s", prefer, r.code, want, r.err)
		}
	}
}
