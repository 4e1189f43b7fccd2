//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// A newcomer is a stock client with a known_hosts of its own, which it may
// keep up to date.
type newcomer struct {
	b     *bastion
	known string
}

func newNewcomer(b *bastion, known string) *newcomer {
	b.t.Helper()
	n := &newcomer{b, filepath.Join(b.t.TempDir(), "known_hosts")}
	writeFile(b.t, n.known, known)
	return n
}

// ssh logs in, and must meet nobody whom it does not know.
func (n *newcomer) ssh(options ...string) result {
	n.b.t.Helper()
	args := []string{"ssh", "-F", "none", "-o", "UserKnownHostsFile=" + n.known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=yes", "-o", "IdentitiesOnly=yes", "-i", alice(n.b.t).file, "-p", fmt.Sprint(n.b.port)}
	return command(n.b.t, "", append(append(args, options...), "alice@"+n.b.host)...)
}

// knows reports whether the client knows the key of a public key file.
func (n *newcomer) knows(public string) bool {
	n.b.t.Helper()
	return slices.Contains(n.keys(), strings.Fields(readTrimmed(n.b.t, public))[1])
}

func (n *newcomer) keys() (all []string) {
	text, err := os.ReadFile(n.known)
	if err != nil {
		n.b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) >= 3 {
			all = append(all, words[2])
		}
	}
	return all
}

func (b *bastion) admin(args ...string) string {
	b.t.Helper()
	return succeeds(b.t, append([]string{staticBinary}, append(args, "--config", b.dir)...)...)
}

// knownLine is the line of known_hosts for a public key file.
func (b *bastion) knownLine(public string) string {
	words := strings.Fields(readTrimmed(b.t, public))
	return fmt.Sprintf("[%s]:%d %s %s\n", b.host, b.port, words[0], words[1])
}

func TestAStockClientFollowsARotationOfTheHostKeys(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{listen: fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))})
	first, second := filepath.Join(b.dir, "ssh_host_ed25519_key.pub"), filepath.Join(b.dir, "ssh_host_ed25519_key_2.pub")
	n := newNewcomer(b, b.knownLine(first))
	in := func(when string) {
		t.Helper()
		if r := n.ssh(); r.code != 0 || !strings.Contains(r.out, "You are alice") || strings.Contains(r.err, "IDENTIFICATION HAS CHANGED") {
			t.Fatalf("%s: exit %d\n%s%s", when, r.code, r.out, r.err)
		}
	}
	in("before")
	if got := n.keys(); len(got) != 3 {
		t.Errorf("the client knows %d keys, want one of each type", len(got))
	}
	live := b.login(alice(t)) // and stays, while keys come and go
	web := serve(t, appserverIP, echo)
	forward := live.mustOpen("appserver", web.port)

	b.admin("hostkey", "rotate", "--yes")
	b.admin("reload")
	in("announced")
	if !n.knows(first) || !n.knows(second) {
		t.Fatalf("the client has not learnt the next key: %v", n.keys())
	}
	b.admin("hostkey", "rotate", "--finish", "--yes")
	b.admin("reload")
	in("used")
	if got := scan(t, b, "ed25519"); got != strings.Fields(readTrimmed(t, second))[1] {
		t.Errorf("ssh-keyscan finds %s", got)
	}
	late := newNewcomer(b, b.knownLine(first))
	if r := late.ssh("-o", "HostKeyAlgorithms=ssh-ed25519"); r.code == 0 || !strings.Contains(r.err, "REMOTE HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("a client that has not learnt it: exit %d, %s", r.code, r.err)
	}
	b.admin("hostkey", "rotate", "--retire", "--yes")
	b.admin("reload")
	in("retired")
	if n.knows(first) || !n.knows(second) {
		t.Errorf("the client has not forgotten the old key: %v", n.keys())
	}
	in("after")
	forward.echoes()
}

// scan is what ssh-keyscan finds as the key of a type.
func scan(t *testing.T, b *bastion, kind string) string {
	t.Helper()
	for line := range strings.Lines(succeeds(t, "ssh-keyscan", "-t", kind, "-p", fmt.Sprint(b.port), b.host)) {
		if words := strings.Fields(line); len(words) == 3 && !strings.HasPrefix(line, "#") {
			return words[2]
		}
	}
	t.Fatal("ssh-keyscan finds nothing")
	return ""
}

func TestAStockClientKnowsTheServerByItsCertificate(t *testing.T) {
	t.Parallel()
	b := prepareBastion(t, setup{settings: map[string]any{"host_certificates": []string{"ssh_host_ed25519_key-cert.pub", "ssh_host_ecdsa_key-cert.pub", "ssh_host_rsa_key-cert.pub"}}})
	ca := newAuthority(t, "ed25519")
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		succeeds(t, "ssh-keygen", "-q", "-s", ca.file, "-h", "-I", "bastion", "-n", "bastion.example", "-V", "+52w", filepath.Join(b.dir, "ssh_host_"+kind+"_key.pub"))
	}
	b.start()
	for _, test := range []struct {
		name, known string
		options     []string
		in          bool
	}{
		{"by its authority", "@cert-authority *.example " + ca.public(), []string{"-o", "HostKeyAlias=bastion.example"}, true},
		{"by its authority, with RSA", "@cert-authority *.example " + ca.public(), []string{"-o", "HostKeyAlias=bastion.example", "-o", "HostKeyAlgorithms=rsa-sha2-512-cert-v01@openssh.com"}, true},
		{"by its authority, under another name", "@cert-authority *.example " + ca.public(), []string{"-o", "HostKeyAlias=other.example"}, false},
		{"by another authority", "@cert-authority *.example " + newAuthority(t, "ed25519").public(), []string{"-o", "HostKeyAlias=bastion.example"}, false},
		{"by the plain key", b.knownLine(filepath.Join(b.dir, "ssh_host_ed25519_key.pub")), nil, true},
	} {
		r := newNewcomer(b, test.known+"\n").ssh(test.options...)
		if in := r.code == 0 && strings.Contains(r.out, "You are alice"); in != test.in {
			t.Errorf("%s: exit %d\n%s%s", test.name, r.code, r.out, r.err)
		}
	}
	// One that is over keeps nobody out who knows the key.
	succeeds(t, "ssh-keygen", "-q", "-s", ca.file, "-h", "-I", "bastion", "-n", "bastion.example", "-V", "-2d:-1d", filepath.Join(b.dir, "ssh_host_ed25519_key.pub"))
	b.admin("reload")
	b.proc.says(t, `the host certificate expired`)
	if r := newNewcomer(b, b.knownLine(filepath.Join(b.dir, "ssh_host_ed25519_key.pub"))).ssh(); r.code != 0 {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

func TestAStockClientWithNothingInCommonIsToldApart(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	for _, test := range []struct{ option, want string }{
		{"KexAlgorithms=diffie-hellman-group1-sha1", "no key exchange in common; the client offers diffie-hellman-group1-sha1"},
		{"HostKeyAlgorithms=ssh-rsa", "no host key in common; the client offers ssh-rsa; the server ssh-ed25519, "},
		{"Ciphers=aes128-cbc", "cipher in common; the client offers aes128-cbc; the server aes128-gcm@openssh.com"},
	} {
		r := newNewcomer(b, "").ssh("-o", test.option)
		if r.code != 255 || !strings.Contains(r.err, "Unable to negotiate") {
			t.Errorf("%s: exit %d, %s", test.option, r.code, r.err)
		}
		b.recorded(audit.AuthFail, func(rec audit.Record) bool {
			return rec.Reason == "no_common_algorithm" && strings.Contains(rec.Detail, test.want) && strings.HasPrefix(rec.Client, "SSH-2.0-OpenSSH")
		})
		b.proc.says(t, "login refused.*"+test.want)
	}
	// What only looks is no failure.
	before := b.count(audit.AuthFail)
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		scan(t, b, kind)
	}
	if r := newNewcomer(b, "").ssh(); r.code != 255 {
		t.Errorf("a stranger's host key is taken: %s", r.out)
	}
	if n := b.count(audit.AuthFail); n != before {
		t.Errorf("%d failures are recorded of clients that only looked", n-before)
	}
}

func TestTheFingerprintsAreThoseThatAClientShows(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{})
	printed := b.admin("fingerprint", "--host", b.host, "--port", fmt.Sprint(b.port))
	cmd := exec.Command("ssh", "-F", "none", "-v", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-p", fmt.Sprint(b.port), b.host)
	p := start(t, cmd)
	shown := p.says(t, `Server host key: \S+ (SHA256:\S+)`)[1]
	p.wait(t)
	if !strings.Contains(printed, "  SHA256  "+shown+"\n") {
		t.Errorf("the client shows %s, and printed is\n%s", shown, printed)
	}
	var known strings.Builder
	for line := range strings.Lines(printed) {
		if strings.HasPrefix(line, "[") {
			known.WriteString(line)
		}
	}
	for _, algorithm := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512} {
		if r := newNewcomer(b, known.String()).ssh("-o", "HostKeyAlgorithms="+algorithm); r.code != 0 {
			t.Errorf("%s: exit %d, %s", algorithm, r.code, r.err)
		}
	}
}
