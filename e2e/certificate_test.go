//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
)

// An authority is a certificate authority made by ssh-keygen.
type authority struct {
	t    *testing.T
	file string
}

func newAuthority(t *testing.T, kind string) *authority {
	t.Helper()
	a := &authority{t, filepath.Join(t.TempDir(), "ca")}
	succeeds(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "user CA", "-f", a.file)
	return a
}

// public is the line of the authority's key.
func (a *authority) public() string { return readTrimmed(a.t, a.file+".pub") }

func readTrimmed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// certify makes a key of a type and signs a certificate for it, which lies
// beside it as ssh looks for it.
func (a *authority) certify(kind, name string, serial int, options ...string) key {
	t := a.t
	t.Helper()
	k := key{file: filepath.Join(t.TempDir(), name)}
	succeeds(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", k.file)
	k.public = readTrimmed(t, k.file+".pub")
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k.public))
	if err != nil {
		t.Fatal(err)
	}
	k.fingerprint = ssh.FingerprintSHA256(public)
	args := append([]string{"ssh-keygen", "-q", "-s", a.file, "-I", name + "@corp", "-z", fmt.Sprint(serial)}, options...)
	succeeds(t, append(args, k.file+".pub")...)

	private, err := os.ReadFile(k.file)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, _, _, _, err := ssh.ParseAuthorizedKey([]byte(readTrimmed(t, k.file+"-cert.pub")))
	if err != nil {
		t.Fatal(err)
	}
	if k.signer, err = ssh.NewCertSigner(cert.(*ssh.Certificate), plain); err != nil {
		t.Fatal(err)
	}
	return k
}

// corp is the part of a policy that trusts an authority.
func (a *authority) corp() string {
	return fmt.Sprintf("authorities:\n  - {name: corp, key: %q, principals: [alice, bob]}\n", a.public())
}

// sekisho runs a command beside the server.
func (b *bastion) sekisho(args ...string) result {
	b.t.Helper()
	return command(b.t, "", append(append([]string{staticBinary}, args...), "--config", b.dir)...)
}

// refusedLogin tries to log in and returns the record of that.
func (b *bastion) refusedLogin(who key) audit.Record {
	b.t.Helper()
	before := b.count(audit.AuthFail)
	from := fmt.Sprintf("127.0.0.%d", 1+before/5) // of one source, no more than five a minute are recorded one by one
	r := command(b.t, "", "ssh", "-F", b.config(who), "-b", from, "bastion")
	if r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey).") {
		b.t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	eventually(b.t, "a record auth.fail", func() bool { return b.count(audit.AuthFail) > before })
	var last audit.Record
	for _, rec := range b.records() {
		if rec.Type == audit.AuthFail {
			last = rec
		}
	}
	return last
}

func TestACertificateOfTheAuthorityLogsInAndIsRecorded(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ed25519", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t, kind)
			host := appserver(t)
			echoes := serve(t, rdsIP, echo)
			b := newBastion(t, setup{policy: standardUsers(t) + ca.corp() + standardGrants})
			who := ca.certify(kind, "laptop", 17, "-n", "alice", "-V", "-5m:+1h")
			b.client = b.config(who, host)
			if got := succeeds(t, b.ssh("-J", "bastion", "appserver", "echo hello; exit 0")...); !strings.Contains(got, "hello") {
				t.Errorf("the command on the private host wrote %q", got)
			}
			_, local := b.localForward(echoes.as("rds"))
			conn := dialLocal(t, local)
			fmt.Fprintln(conn, "ping")
			if got := readLine(t, conn); got != "ping" {
				t.Errorf("the echo is %q", got)
			}
			conn.Close()
			b.forwards(2)
			cert := audit.Certificate{Authority: "corp", KeyID: "laptop@corp", Serial: 17}
			seen := 0
			for _, rec := range b.records() {
				switch rec.Type {
				case audit.AuthOK, audit.ForwardOpen, audit.ForwardClose, audit.ConnClose:
					seen++
					if rec.User != "alice" || rec.Key != who.fingerprint || rec.Cert != cert {
						t.Errorf("%s says user %s, key %s, certificate %+v", rec.Type, rec.User, rec.Key, rec.Cert)
					}
				}
			}
			if seen < 6 {
				t.Errorf("%d records tell of the certificate", seen)
			}
		})
	}
}

func TestACertificateThatIsNotGoodIsRefused(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ed25519"), newAuthority(t, "ed25519")
	b := newBastion(t, setup{policy: standardUsers(t) + ca.corp() + standardGrants})
	for _, c := range []struct {
		name   string
		who    key
		reason string
	}{
		{"expired", ca.certify("ed25519", "old", 1, "-n", "alice", "-V", "-2h:-1h"), "cert_expired"},
		{"not yet", ca.certify("ed25519", "new", 2, "-n", "alice", "-V", "+1h:+2h"), "cert_not_yet"},
		{"a principal that the authority may not vouch for", ca.certify("ed25519", "root", 3, "-n", "root"), "cert_principals"},
		{"no principals", ca.certify("ed25519", "all", 4), "bad_cert"},
		{"the name of another user than the login", ca.certify("ed25519", "bob", 5, "-n", "bob"), "other_user"},
		{"no forwarding", ca.certify("ed25519", "none", 6, "-n", "alice", "-O", "no-port-forwarding"), "bad_cert"},
		{"another address", ca.certify("ed25519", "there", 7, "-n", "alice", "-O", "source-address=192.0.2.0/24"), "cert_not_from"},
		{"of another authority", other.certify("ed25519", "strange", 8, "-n", "alice"), "unknown_authority"},
	} {
		if rec := b.refusedLogin(c.who); rec.Reason != c.reason || rec.Key != c.who.fingerprint || rec.User != "" {
			t.Errorf("%s: the record says %s (%s) of %q, want %s", c.name, rec.Reason, rec.Detail, rec.Key, c.reason)
		}
	}
	succeeds(t, "ssh", "-F", b.config(ca.certify("ed25519", "good", 9, "-n", "alice")), "bastion")
}

func TestAListOfRevokedKeysIsFollowed(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ed25519")
	b := prepareBastion(t, setup{policy: standardUsers(t) + ca.corp() + standardGrants, settings: map[string]any{"revoked_keys": []string{"revoked"}}})
	list := filepath.Join(b.dir, "revoked")
	succeeds(t, "ssh-keygen", "-q", "-k", "-f", list)
	b.start()
	gone, other := make(chan struct{}, 1), serve(t, rdsIP, echo)
	quiet := serve(t, appserverIP, stalled(gone))
	first, second := ca.certify("ed25519", "first", 17, "-n", "alice"), ca.certify("ed25519", "second", 18, "-n", "alice")
	goes, stays := b.login(first), b.login(second)
	goes.mustOpen("appserver", quiet.port)
	running := stays.mustOpen("rds", other.port)
	running.echoes()

	spec := filepath.Join(t.TempDir(), "spec")
	writeFile(t, spec, "serial: 17\n")
	succeeds(t, "ssh-keygen", "-q", "-k", "-f", list+".new", "-s", ca.file+".pub", spec)
	if err := os.Rename(list+".new", list); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	receive(t, "the target to see the end", gone)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v from the renaming of the list until the forward ended", took)
	}
	goes.over()
	running.echoes()
	b.recorded(audit.PolicyLoad, func(r audit.Record) bool { return r.Reason == "revoked_keys" })
	b.recorded(audit.ForwardClose, func(r audit.Record) bool { return r.Reason == "revoked" && r.Cert.Serial == 17 })
	if rec := b.refusedLogin(first); rec.Reason != "revoked" {
		t.Errorf("another login is refused for %s (%s)", rec.Reason, rec.Detail)
	}

	// A list that is damaged leaves the one before in force.
	writeFile(t, list, "SSHKRL\n\x00 and then nothing")
	b.recorded(audit.PolicyReject, func(r audit.Record) bool { return r.Reason == "revoked_keys" })
	if rec := b.refusedLogin(first); rec.Reason != "revoked" {
		t.Errorf("with a damaged list a login is refused for %s (%s)", rec.Reason, rec.Detail)
	}
	running.echoes()
}

func TestRevokeEndsWhatAKeyOrCertificateHasOpened(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ed25519")
	b := newBastion(t, setup{policy: standardUsers(t) + ca.corp() + standardGrants})
	bySerial, byPrint := ca.certify("ed25519", "serial", 17, "-n", "alice"), ca.certify("ed25519", "print", 18, "-n", "alice")
	web := serve(t, appserverIP, echo)
	mine := b.login(alice(t)).mustOpen("appserver", web.port)
	for _, c := range []struct {
		name, what string
		who        key
	}{
		{"a serial", "17", bySerial},
		{"the fingerprint of a certificate's key", byPrint.fingerprint, byPrint},
		{"the fingerprint of a key", bob(t).fingerprint, bob(t)},
	} {
		gone := make(chan struct{}, 1)
		login := "alice"
		if c.who.fingerprint == bob(t).fingerprint {
			login = "bob"
		}
		client := b.login(c.who, login)
		client.mustOpen("rds", serve(t, rdsIP, stalled(gone)).port)
		r := b.sekisho("revoke", c.what, "--why", "lost on the train")
		returned := time.Now()
		if r.code != 0 || !strings.Contains(r.out, "is revoked; 1 forward, 1 connection closed") {
			t.Errorf("%s: exit %d: %s%s", c.name, r.code, r.out, r.err)
		}
		receive(t, "the target to see the end", gone)
		if took := time.Since(returned); took > time.Second {
			t.Errorf("%s: the target saw the end %v after the command", c.name, took)
		}
		client.over()
		if _, err := b.tryLogin(b.clientConfig(login, ssh.PublicKeys(c.who.signer))); err == nil {
			t.Errorf("%s: it logs in again", c.name)
		}
		b.recorded(audit.AdminRevoke, func(r audit.Record) bool {
			return strings.HasPrefix(r.Request, "revoke ") && strings.Contains(r.Request, c.what) && r.Login == "root" && r.Detail == "lost on the train"
		})
		mine.echoes()
	}
	if r := b.sekisho("revoke", "17", "--undo"); r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.login(bySerial).Close()
	b.recorded(audit.AdminRevoke, func(r audit.Record) bool { return strings.HasPrefix(r.Request, "revoke --undo ") })
}
