package bastion_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// silent connects and sends nothing.
func silent(t *testing.T, b *bastiontest.Bastion) *bastiontest.Raw {
	t.Helper()
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return bastiontest.NewRawSilent(t, b, conn)
}

// goroutinesReturn is called before a server is started, and fails the test
// unless afterwards as many goroutines run as before.
func goroutinesReturn(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() { // runs after those of the server
		bastiontest.Eventually(t, "the goroutines have returned", func() bool { return runtime.NumGoroutine() <= before })
	})
}

func TestAHandshakeThatStopsAnywhereEndsByLoginGrace(t *testing.T) {
	goroutinesReturn(t)
	const grace = 2 * time.Second
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Limits: func(l *bastion.Limits) { l.LoginGrace = grace }})
	bastion.RecordEveryFailure(b.Server)
	w := watch(t, b, nil)

	// drip sends a byte at a time until it cannot.
	drip := func(r *bastiontest.Raw, what []byte) {
		for i := 0; ; i++ {
			if _, err := r.Conn.Write(what[i%len(what):][:1]); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	until := func(step bastiontest.Step) func(*bastiontest.Raw) {
		return func(r *bastiontest.Raw) {
			if err := r.Until(step); err != nil {
				t.Error(err)
			}
		}
	}
	stops := map[string]func(*bastiontest.Raw){
		"before the version":                        func(*bastiontest.Raw) {},
		"in the version, a byte at a time":          func(r *bastiontest.Raw) { drip(r, []byte("SSH-2.0-x")) },
		"in lines before the version, byte by byte": func(r *bastiontest.Raw) { drip(r, []byte("\r\n")) },
		"after the version":                         until(bastiontest.SentVersion),
		"in KEXINIT, a byte at a time": func(r *bastiontest.Raw) {
			until(bastiontest.SentVersion)(r)
			drip(r, []byte{0, 0, 4, 0, 10, 20})
		},
		"after KEXINIT":             until(bastiontest.SentKexInit),
		"after KEX_ECDH_INIT":       until(bastiontest.SentKexECDHInit),
		"after NEWKEYS":             until(bastiontest.SentNewKeys),
		"after the service request": until(bastiontest.SentServiceRequest),
		"after none": func(r *bastiontest.Raw) {
			until(bastiontest.SentServiceRequest)(r)
			if r.TryNone("alice") != nil {
				t.Error("none ends the connection")
			}
		},
		"after an offer that is accepted": func(r *bastiontest.Raw) {
			until(bastiontest.SentServiceRequest)(r)
			if r.TryOffer("alice", b.Alice.PublicKey()) != nil {
				t.Error("an offer ends the connection")
			}
		},
		"with the first packet ignored for ever": func(r *bastiontest.Raw) {
			until(bastiontest.SentServiceRequest)(r)
			for r.Send([]byte{2, 0, 0, 0, 0}) == nil { // IGNORE
				time.Sleep(20 * time.Millisecond)
			}
		},
	}
	type end struct {
		stop string
		took time.Duration
		err  error
	}
	ends := make(chan end)
	for name, stop := range stops {
		r := silent(t, b)
		began := time.Now()
		go func() {
			stop(r)
			_, err := io.Copy(io.Discard, r.Conn)
			ends <- end{name, time.Since(began), err}
		}()
	}
	time.Sleep(grace / 2)
	w.unharmed()
	for range stops {
		e := <-ends
		var timeout net.Error
		if errors.As(e.err, &timeout) && timeout.Timeout() || e.took < grace-100*time.Millisecond || e.took > grace+worstRound {
			t.Errorf("stopped %s: ended after %v, %v", e.stop, e.took, e.err)
		}
	}
	b.Book.Await(t, audit.AuthFail, len(stops))
	for _, rec := range b.Book.Records(audit.AuthFail) {
		if rec.Reason != "login_grace" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
	if n := len(b.Book.Records(audit.AuthFail)); n != len(stops) {
		t.Errorf("%d connections ended, %d are recorded", len(stops), n)
	}
}

func TestFiveThousandSilentConnections(t *testing.T) {
	const many = 5000
	attack := netip.MustParseAddr("198.51.100.1")
	for _, c := range []struct {
		name    string
		limits  func(*bastion.Limits)
		sources bool // each from one of its own
		want    int
	}{
		{"of one source are held at its limit", nil, false, bastion.DefaultLimits().MaxStartupsPerSource},
		{"of as many sources, with room for all, are held", func(l *bastion.Limits) { l.MaxStartups = many + 100 }, true, many},
	} {
		t.Run(c.name, func(t *testing.T) {
			goroutinesReturn(t)
			network := bastiontest.NewNetwork()
			b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers, Limits: c.limits, Listener: network})
			w := watch(t, b, func() (net.Conn, error) { return network.Dial(netip.MustParseAddrPort("203.0.113.9:50000")) })
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			source := attack
			conns := make([]net.Conn, 0, many)
			for range many {
				if c.sources {
					source = source.Next()
				}
				conn, err := network.Dial(netip.AddrPortFrom(source, 1024))
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, conn)
			}
			bastiontest.Eventually(t, "the limit holds", func() bool { return b.Server.Connections() == c.want+1 })
			var after runtime.MemStats
			runtime.ReadMemStats(&after)
			t.Logf("%d are held, with %d KiB of heap and stacks each", c.want,
				(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse))>>10/int64(c.want))
			w.unharmed()
			for _, conn := range conns {
				conn.Close()
			}
		})
	}
}

func TestTriesWithoutEndAreEnded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	w := watch(t, b, nil)
	tries := bastion.DefaultLimits().MaxAuthTries
	for _, c := range []struct {
		name string
		try  func(*bastiontest.Raw) error
		most int // answers, the last of which is the disconnect
	}{
		{"of keys that are nobody's", func(r *bastiontest.Raw) error { return r.TryOffer("alice", bastiontest.Key(t).PublicKey()) }, tries + 1},
		{"of a key that is accepted and never proven", func(r *bastiontest.Raw) error { return r.TryOffer("alice", b.Alice.PublicKey()) }, 128 + 1},
		{"of none", func(r *bastiontest.Raw) error { return r.TryNone("alice") }, tries + 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := bastiontest.NewRaw(t, b)
			n := 0
			for c.try(raw) == nil {
				if n++; n > 1000 {
					t.Fatal("without end")
				}
			}
			t.Logf("%d were answered", n)
			if n > c.most {
				t.Errorf("%d were answered, want at most %d", n, c.most)
			}
		})
	}
	w.unharmed()
}

// A garbler breaks the protocol at once.
type garbler struct {
	name string
	send func(*bastiontest.Raw) error
}

func raw(bytes ...byte) func(*bastiontest.Raw) error {
	return func(r *bastiontest.Raw) error { _, err := r.Conn.Write(bytes); return err }
}

func payload(bytes ...byte) func(*bastiontest.Raw) error {
	return func(r *bastiontest.Raw) error { return r.Send(bytes) }
}

func TestBytesThatAreNoSSHEndTheirConnectionAtOnce(t *testing.T) {
	goroutinesReturn(t)
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	w := watch(t, b, nil)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	garblers := map[bastiontest.Step][]garbler{
		bastiontest.Connected: {
			{"noise for a version", raw(bytes.ReplaceAll(noise, []byte("\n"), []byte("."))...)},
			{"a version without end", raw(bytes.Repeat([]byte("SSH-2.0-"), 1000)...)},
			{"lines without end before the version", raw(bytes.Repeat([]byte("x\n"), 5000)...)},
			{"SSH 1", raw(append([]byte("SSH-1.5-old\r\n"), make([]byte, 64)...)...)},
			{"HTTP", raw([]byte("GET / HTTP/1.1\r\nHost: bastion\r\n\r\n" + strings.Repeat("\r\n", 2000))...)},
		},
		bastiontest.SentVersion: {
			{"noise for a packet", raw(append([]byte{0xff}, noise...)...)},
			{"a packet of 4 GiB", raw(0xff, 0xff, 0xff, 0xff, 4)},
			{"a packet of 1 GiB", raw(0x40, 0, 0, 0, 4)},
			{"a packet shorter than its padding", raw(0, 0, 0, 12, 255, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)},
			{"an empty packet", payload()},
			{"a first packet that is not KEXINIT", payload(30, 0, 0, 0, 0)},
			{"a KEXINIT cut short", payload(20, 1, 2, 3)},
			{"a list that is longer than its packet", payload(append(append([]byte{20}, make([]byte, 16)...), 0xff, 0xff, 0xff, 0xff)...)},
			{"a login before any key", payload(50, 0, 0, 0, 0)},
			{"a disconnect", payload(1, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0)},
			{"a disconnect cut short", payload(1)},
		},
		bastiontest.SentKexInit: {
			{"KEXINIT twice", func(r *bastiontest.Raw) error { return r.SendKexInit() }},
			{"a key of no length", payload(30, 0, 0, 0, 0)},
			{"a key of zeros", payload(append([]byte{30, 0, 0, 0, 32}, make([]byte, 32)...)...)},
			{"a key that is too long", payload(append([]byte{30, 0, 1, 0, 0}, make([]byte, 1<<16)...)...)},
			{"NEWKEYS too soon", payload(21)},
		},
		bastiontest.SentKexECDHInit: {
			{"the key again", payload(append([]byte{30, 0, 0, 0, 32}, make([]byte, 32)...)...)},
			{"a service request in the clear", payload([]byte("\x05\x00\x00\x00\x0cssh-userauth")...)},
		},
		bastiontest.SentNewKeys: {
			{"noise for a cipher's text", raw(append([]byte{0, 0, 0, 32}, noise[:48]...)...)},
			{"a huge packet", raw(append([]byte{0, 16, 0, 0}, noise...)...)},
			{"a length that is no multiple of a block", raw(append([]byte{0, 0, 0, 17}, noise[:48]...)...)},
			{"NEWKEYS again", payload(21)},
			{"another service", payload([]byte("\x05\x00\x00\x00\x0essh-connection")...)},
			{"a channel before the login", payload([]byte("\x5a\x00\x00\x00\x07session\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x80\x00")...)},
			{"a login before its service", payload(50, 0, 0, 0, 0)},
		},
		bastiontest.SentServiceRequest: {
			{"a channel before the login", payload([]byte("\x5a\x00\x00\x00\x07session\x00\x00\x00\x00\x00\x20\x00\x00\x00\x00\x80\x00")...)},
			{"a global request before the login", payload(globalRequest("keepalive@openssh.com", true)...)},
			{"a login's success", payload(52)},
			{"a login cut short", payload(50, 0, 0, 0, 9, 'a')},
			{"an unknown message", payload(255)},
			{"a login for another service", payload([]byte("\x32\x00\x00\x00\x05alice\x00\x00\x00\x03ftp\x00\x00\x00\x04none")...)},
		},
	}
	for step, all := range garblers {
		for _, g := range all {
			t.Run(fmt.Sprintf("%s after step %d", g.name, step), func(t *testing.T) {
				r := silent(t, b)
				if err := r.Until(step); err != nil {
					t.Fatal(err)
				}
				r.Conn.SetDeadline(time.Now().Add(10 * time.Second)) // far below login_grace
				g.send(r)
				var network net.Error
				if _, err := io.Copy(io.Discard, r.Conn); errors.As(err, &network) && network.Timeout() {
					t.Error("the connection stays")
				}
			})
		}
	}
	w.unharmed()
	if strings.Contains(b.Lines.String(), "internal error") {
		t.Error("a panic")
	}
}

// CVE-2023-48795: what is sent before NEWKEYS must not shift the numbers of
// the packets after it.
func TestStrictKeyExchangeIsOfferedAndEnforced(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	ignore := []byte{2, 0, 0, 0, 0}
	for step, name := range map[bastiontest.Step]string{
		bastiontest.SentVersion:     "before KEXINIT",
		bastiontest.SentKexInit:     "after KEXINIT",
		bastiontest.SentKexECDHInit: "before NEWKEYS",
	} {
		for what, packet := range map[string][]byte{
			"IGNORE": ignore, "DEBUG": {4, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "UNIMPLEMENTED": {3, 0, 0, 0, 0},
		} {
			r := silent(t, b)
			r.Strict = true
			if err := r.Until(step); err != nil {
				t.Fatal(err)
			}
			r.Send(packet)
			if r.Until(bastiontest.SentServiceRequest) == nil {
				t.Errorf("%s is let through %s", what, name)
			}
		}
	}
	strict := silent(t, b)
	strict.Strict = true
	if err := strict.Until(bastiontest.SentServiceRequest); err != nil || !strict.Prove("alice", b.Alice) {
		t.Errorf("a strict client: %v", err)
	}
	if err := strict.Send(ignore); err != nil || strict.Rekey() != nil {
		t.Error("IGNORE ends a strict connection after its first key exchange")
	}
}

func TestTheServerOffersTheseAlgorithmsAndNoOthers(t *testing.T) {
	rsa := rsaKey(t, 2048)
	b := bastiontest.Start(t, bastiontest.Options{Config: func(c *bastion.Config) {
		c.HostKeys = append(c.HostKeys, rsa)
		c.CipherByClient = true // or this client, which takes AES-GCM alone, would be offered nothing else
	}})
	r := silent(t, b)
	if err := r.Until(bastiontest.SentKexInit); err != nil {
		t.Fatal(err)
	}
	if r.TheirVersion != "SSH-2.0-Sekisho" {
		t.Errorf("the version is %q", r.TheirVersion)
	}
	const (
		ciphers = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr"
		macs    = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512"
	)
	want := []string{
		"mlkem768x25519-sha256,curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521," +
			"diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,kex-strict-s-v00@openssh.com",
		"ssh-ed25519,rsa-sha2-256,rsa-sha2-512",
		ciphers, ciphers, macs, macs, "none", "none", "", "",
	}
	rest := r.TheirKexInit[1+16:]
	for i, w := range want {
		n := binary.BigEndian.Uint32(rest)
		got := string(rest[4 : 4+n])
		rest = rest[4+n:]
		if got != w {
			t.Errorf("list %d of KEXINIT is\n%s, want\n%s", i, got, w)
		}
		if strings.Contains(got, "sha1") || strings.Contains(got, "cbc") || strings.Contains(got, "ssh-rsa") {
			t.Errorf("weak: %s", got)
		}
	}
	if !bytes.Equal(rest, make([]byte, 5)) {
		t.Errorf("after the lists: %x", rest)
	}
}

// globalRequest is the packet of a global request.
func globalRequest(kind string, reply bool) []byte {
	return append([]byte{80}, ssh.Marshal(struct {
		Type  string
		Reply bool
	}{kind, reply})...)
}
