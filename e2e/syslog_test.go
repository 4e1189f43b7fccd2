//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sekisho/audit"
)

// An rsyslog is a receiver with a configuration of its own.
type rsyslog struct {
	t    *testing.T
	dir  string
	port int
	proc *proc
}

// newRsyslog makes one that listens by TCP, by TLS if that is wanted, and at
// two unix sockets, and writes each message as it is into a file.
func newRsyslog(t *testing.T, tls bool) *rsyslog {
	r := &rsyslog{t: t, dir: t.TempDir(), port: freePort(t, "127.0.0.1")}
	driver := ""
	if tls {
		certificates(t, r.dir)
		driver = ` StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/name" PermittedPeer=["bastion"]`
	}
	config := `
global(workDirectory="DIR" maxMessageSize="64k" defaultNetstreamDriverCAFile="DIR/ca.pem"
       defaultNetstreamDriverCertFile="DIR/localhost.pem" defaultNetstreamDriverKeyFile="DIR/localhost.key")
module(load="imtcp"DRIVER)
module(load="imptcp")
module(load="imuxsock" SysSock.Use="off" SysSock.RateLimit.Interval="0")
input(type="imtcp" address="127.0.0.1" port="PORT" ruleset="all")
input(type="imptcp" path="DIR/stream" unlink="on" ruleset="all")
input(type="imuxsock" Socket="DIR/log" RateLimit.Interval="0" ruleset="all")
template(name="line" type="string" string="%app-name% %syslogfacility-text%%msg:::sp-if-no-1st-sp%%msg%\n")
ruleset(name="all") { action(type="omfile" file="DIR/out" template="line" flushOnTXEnd="on") }
`
	config = strings.NewReplacer("DIR", r.dir, "PORT", fmt.Sprint(r.port), "DRIVER", driver).Replace(strings.ReplaceAll(config, "DRIVER", driver))
	if err := os.WriteFile(filepath.Join(r.dir, "rsyslog.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rsyslog) start() {
	r.proc = start(r.t, exec.Command("rsyslogd", "-n", "-f", filepath.Join(r.dir, "rsyslog.conf"), "-i", filepath.Join(r.dir, "pid")))
	eventually(r.t, "rsyslog to listen", func() bool {
		if r.proc.ended() {
			r.t.Fatal("rsyslog ended")
		}
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// kill ends it with whatever it has in its memory.
func (r *rsyslog) kill() {
	r.proc.kill()
	os.Remove(filepath.Join(r.dir, "pid"))
}

// got returns the lines that it has been sent, in this order. Others that it
// says are its own.
func (r *rsyslog) got() (all []string) {
	text, err := os.ReadFile(filepath.Join(r.dir, "out"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line, ours := strings.CutPrefix(line, "sekisho audit "); ours && strings.HasSuffix(line, "\n") {
			all = append(all, strings.TrimSuffix(line, "\n"))
		}
	}
	return all
}

// certificates makes an authority, and what it signs for both sides.
func certificates(t *testing.T, dir string) {
	t.Helper()
	var authority *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"ca", "localhost", "bastion"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, DNSNames: []string{name},
		}
		if i == 0 {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
			authority, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, authority, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name+".pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		writeFile(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	}
}

// lines are those of the log, as an auditor reads them.
func (b *bastion) lines() (all []string) {
	for _, rec := range b.records() {
		all = append(all, string(rec.AppendJSON(nil)))
	}
	return all
}

// work makes records.
func (b *bastion) work(n int) {
	c := b.login(alice(b.t))
	for range n {
		c.refused("nowhere", 22)
	}
	c.Close()
}

func sentAre(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("rsyslog has %d lines, not the %d of the log:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}

func TestTheLogIsSentToRsyslogExactlyAsItStands(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]string{
		"over TCP":           "tcp://127.0.0.1:PORT",
		"over TLS":           "tls://localhost:PORT",
		"over a unix stream": "unix:DIR/stream",
		"as to /dev/log":     "unix:DIR/log",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tls := strings.HasPrefix(address, "tls:")
			r := newRsyslog(t, tls)
			syslog := map[string]any{"address": strings.NewReplacer("DIR", r.dir, "PORT", fmt.Sprint(r.port)).Replace(address)}
			if tls {
				syslog["ca"], syslog["cert"], syslog["key"] = r.dir+"/ca.pem", r.dir+"/bastion.pem", r.dir+"/bastion.key"
			}
			b := newBastion(t, setup{settings: map[string]any{"audit": map[string]any{"syslog": syslog}}})
			b.work(5)
			b.proc.says(t, "syslog: no connection; records wait in the audit log")
			r.start()
			b.proc.says(t, "syslog: connected")
			b.proc.says(t, "syslog: the receiver has caught up with the audit log")
			b.work(5)
			b.stop()
			want := b.lines()
			eventually(t, "all to be written", func() bool { return len(r.got()) >= len(want) })
			sentAre(t, r.got(), want)

			// The next run goes on behind that.
			b.start()
			b.work(1)
			b.stop()
			want = b.lines()
			eventually(t, "all to be written", func() bool { return len(r.got()) >= len(want) })
			sentAre(t, r.got(), want)
		})
	}
}

func TestARsyslogThatIsKilledUnderLoadGetsAllTheSame(t *testing.T) {
	t.Parallel()
	r := newRsyslog(t, false)
	r.start()
	b := newBastion(t, setup{settings: map[string]any{"audit": map[string]any{"syslog": map[string]any{"address": fmt.Sprintf("tcp://127.0.0.1:%d", r.port)}}}})
	for range 3 {
		stop := make(chan struct{})
		done := make(chan struct{})
		c := b.login(alice(t))
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					c.open("nowhere", 22) // is refused, which makes a record
				}
			}
		}()
		before := len(r.got())
		eventually(t, "some to arrive", func() bool { return len(r.got()) > before+20 })
		r.kill()
		time.Sleep(50 * time.Millisecond)
		r.start()
		close(stop)
		receive(t, "the client to end", done)
		c.Close()
	}
	// A server that is killed, too, goes on where it was.
	b.kill()
	b.start()
	b.stop()
	want := b.lines()
	var first []string // of each record, the first time that it came
	eventually(t, "all to be there", func() bool {
		first = first[:0]
		for _, line := range r.got() {
			rec, err := audit.ParseRecord([]byte(line))
			if err != nil {
				continue // rsyslog was killed while it wrote this
			}
			if rec.Seq == uint64(len(first)) {
				first = append(first, line)
			} else if rec.Seq > uint64(len(first)) {
				t.Fatalf("record %d came when %d were there", rec.Seq, len(first))
			}
		}
		return len(first) == len(want)
	})
	sentAre(t, first, want)
}
