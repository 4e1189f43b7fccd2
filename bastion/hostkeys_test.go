package bastion_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// severalKeys are host keys, two of them ed25519.
func severalKeys(t *testing.T) []ssh.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []ssh.Signer{bastiontest.Key(t), bastiontest.Key(t)}
	for _, private := range []any{ec, large} {
		key, err := ssh.NewSignerFromKey(private)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func blobsOf(keys ...ssh.Signer) (blobs []byte) {
	for _, key := range keys {
		blobs = append(blobs, ssh.Marshal(struct{ B []byte }{key.PublicKey().Marshal()})...)
	}
	return blobs
}

// A learner is a client that looks at what the server asks of it.
type learner struct {
	ssh.Conn
	requests <-chan *ssh.Request
}

// learn logs in as alice, and asks for nothing.
func learn(t *testing.T, b *bastiontest.Bastion, change func(*ssh.ClientConfig)) *learner {
	t.Helper()
	config := b.ClientConfig("alice", b.Alice)
	change(config)
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client, chans, requests, err := ssh.NewClientConn(conn, b.Addr, config)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for ch := range chans {
			ch.Reject(ssh.Prohibited, "")
		}
	}()
	return &learner{client, requests}
}

// announced waits for the server's keys.
func (l *learner) announced(t *testing.T) *ssh.Request {
	t.Helper()
	limit := time.After(bastiontest.Wait)
	for {
		select {
		case req := <-l.requests:
			if req.Type == "hostkeys-00@openssh.com" {
				return req
			}
			req.Reply(false, nil)
		case <-limit:
			t.Fatal("no host keys were announced")
		}
	}
}

func (l *learner) prove(t *testing.T, payload []byte) (bool, []byte) {
	t.Helper()
	ok, answer, err := l.SendRequest("hostkeys-prove-00@openssh.com", true, payload)
	if err != nil {
		t.Fatal(err)
	}
	return ok, answer
}

func withHostKeys(keys []ssh.Signer, certs ...*ssh.Certificate) func(*bastion.Config) {
	return func(c *bastion.Config) { c.HostKeys, c.HostCertificates = keys, certs }
}

func with(key ssh.Signer, algorithms ...string) func(*ssh.ClientConfig) {
	return func(c *ssh.ClientConfig) {
		c.HostKeyCallback, c.HostKeyAlgorithms = ssh.FixedHostKey(key.PublicKey()), algorithms
	}
}

func TestAllHostKeysAreAnnouncedAndProvenAndTheFirstOfATypeIsUsed(t *testing.T) {
	keys := severalKeys(t)
	b := bastiontest.Start(t, bastiontest.Options{Config: withHostKeys(keys)})
	for _, test := range []struct {
		name, algorithm string
		used            ssh.Signer
		rsa             string
	}{
		{"an ed25519 handshake", ssh.KeyAlgoED25519, keys[0], ssh.KeyAlgoRSASHA512},
		{"an ECDSA handshake", ssh.KeyAlgoECDSA256, keys[2], ssh.KeyAlgoRSASHA512},
		{"an RSA handshake with SHA-512", ssh.KeyAlgoRSASHA512, keys[3], ssh.KeyAlgoRSASHA512},
		{"an RSA handshake with SHA-256", ssh.KeyAlgoRSASHA256, keys[3], ssh.KeyAlgoRSASHA256},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := learn(t, b, with(test.used, test.algorithm))
			req := l.announced(t)
			if req.WantReply || !bytes.Equal(req.Payload, blobsOf(keys...)) {
				t.Fatalf("announced, wanting a reply %v: %x", req.WantReply, req.Payload)
			}
			ok, answer := l.prove(t, blobsOf(keys...))
			if !ok {
				t.Fatal("nothing is proven")
			}
			for _, key := range keys {
				var next struct {
					Signature []byte
					Rest      []byte `ssh:"rest"`
				}
				if err := ssh.Unmarshal(answer, &next); err != nil {
					t.Fatal(err)
				}
				answer = next.Rest
				sig := new(ssh.Signature)
				if err := ssh.Unmarshal(next.Signature, sig); err != nil {
					t.Fatal(err)
				}
				signed := ssh.Marshal(struct {
					Name          string
					Session, Blob []byte
				}{"hostkeys-prove-00@openssh.com", l.SessionID(), key.PublicKey().Marshal()})
				if err := key.PublicKey().Verify(signed, sig); err != nil {
					t.Errorf("%s: %v", key.PublicKey().Type(), err)
				}
				if key.PublicKey().Type() == ssh.KeyAlgoRSA && sig.Format != test.rsa {
					t.Errorf("RSA signs with %s, want %s", sig.Format, test.rsa)
				}
			}
			if len(answer) > 0 {
				t.Errorf("%d bytes follow", len(answer))
			}
		})
	}
}

func TestOnlyOurKeysAreProvenAndNotWithoutEnd(t *testing.T) {
	keys := severalKeys(t)
	b := bastiontest.Start(t, bastiontest.Options{Config: withHostKeys(keys)})
	for i, test := range []struct {
		name    string
		payload []byte
	}{
		{"a key of somebody else", blobsOf(keys[0], bastiontest.Key(t))},
		{"a key twice", blobsOf(keys[0], keys[0])},
		{"more keys than there are", blobsOf(append(keys, keys...)...)},
		{"no key", nil},
		{"half a key", blobsOf(keys[0])[:20]},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := learn(t, b, with(keys[0], ssh.KeyAlgoED25519))
			if ok, answer := l.prove(t, test.payload); ok || len(answer) > 0 {
				t.Errorf("answered with %v, %x", ok, answer)
			}
			if rec := b.Book.Await(t, audit.RequestDeny, i+1); rec.Request != "hostkeys-prove-00@openssh.com" || rec.Detail == "" {
				t.Errorf("recorded as %s", rec.AppendJSON(nil))
			}
		})
	}
	t.Run("again and again", func(t *testing.T) {
		l := learn(t, b, with(keys[0], ssh.KeyAlgoED25519))
		proven := 0
		for range 20 {
			if ok, _ := l.prove(t, blobsOf(keys[3])); ok {
				proven++
			}
		}
		if proven != 4 {
			t.Errorf("proven %d times", proven)
		}
	})
}

func TestClientsThatCannotCopeWithHostKeysAreSpared(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	for version, spared := range map[string]bool{
		"SSH-2.0-TTSSH/2.72 Win32": true, "SSH-2.0-TTSSH/2.1": true, "SSH-2.0-Cisco-1.25": true,
		"SSH-2.0-TTSSH/2.73 Win32": false, "SSH-2.0-TTSSH/3.1": false, "SSH-2.0-PuTTY_Release_0.83": false, "SSH-2.0-JSCH-0.1.54": false,
	} {
		l := learn(t, b, func(c *ssh.ClientConfig) { c.ClientVersion = version })
		if !spared {
			l.announced(t)
			continue
		}
		// The second request's answer comes after what the first one caused.
		for range 2 {
			if _, _, err := l.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case req := <-l.requests:
			t.Errorf("%s gets %s", version, req.Type)
		case <-time.After(300 * time.Millisecond): // longer than tend takes
		}
	}
}

func TestOtherHostKeysAreForWhoComesLater(t *testing.T) {
	keys := severalKeys(t)
	b := bastiontest.Start(t, bastiontest.Options{Config: withHostKeys(keys[:2])})
	l := learn(t, b, with(keys[0], ssh.KeyAlgoED25519))
	l.announced(t)
	if err := b.Server.SetHostKeys(keys[1:], nil); err != nil {
		t.Fatal(err)
	}
	if ok, _ := l.prove(t, blobsOf(keys[0], keys[1])); !ok {
		t.Error("what was announced is not proven")
	}
	if ok, _ := l.prove(t, blobsOf(keys[2])); ok {
		t.Error("what was not announced is proven")
	}
	later := learn(t, b, with(keys[1], ssh.KeyAlgoED25519))
	if req := later.announced(t); !bytes.Equal(req.Payload, blobsOf(keys[1:]...)) {
		t.Errorf("announced: %x", req.Payload)
	}
	if err := b.Server.SetHostKeys(nil, nil); err == nil {
		t.Error("a server without keys")
	}
	learn(t, b, with(keys[1], ssh.KeyAlgoED25519)) // what was refused has changed nothing
}

// hostCert certifies a key for the host "bastion", from an hour ago until then.
func hostCert(t *testing.T, authority, key ssh.Signer, until time.Time) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.HostCert, KeyId: "bastion", ValidPrincipals: []string{"bastion"},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(until.Unix()),
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestHostCertificatesAreOfferedBesideTheirKeys(t *testing.T) {
	keys, authority := severalKeys(t), bastiontest.Key(t)
	soon, before := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	checker := ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, _ string) bool {
		return bytes.Equal(key.Marshal(), authority.PublicKey().Marshal())
	}}
	for _, test := range []struct {
		name, algorithm string
		cert            *ssh.Certificate
		taken           bool
	}{
		{"one of the ed25519 key", ssh.CertAlgoED25519v01, hostCert(t, authority, keys[0], soon), true},
		{"one of the RSA key", ssh.CertAlgoRSASHA256v01, hostCert(t, authority, keys[3], soon), true},
		{"one of the RSA key, by SHA-1", ssh.CertAlgoRSAv01, hostCert(t, authority, keys[3], soon), false},
		{"one that is over", ssh.CertAlgoED25519v01, hostCert(t, authority, keys[0], before), false},
		{"one of the next key", ssh.CertAlgoED25519v01, hostCert(t, authority, keys[1], soon), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{Config: withHostKeys(keys, test.cert)})
			config := b.ClientConfig("alice", b.Alice)
			config.HostKeyAlgorithms = []string{test.algorithm}
			config.HostKeyCallback = func(_ string, addr net.Addr, key ssh.PublicKey) error {
				return checker.CheckHostKey("bastion:22", addr, key)
			}
			conn, err := ssh.Dial("tcp", b.Addr, config)
			if err == nil {
				conn.Close()
			}
			if (err == nil) != test.taken {
				t.Errorf("with the certificate alone: %v", err)
			}
			learn(t, b, with(keys[0], ssh.KeyAlgoED25519)) // the plain key serves all the same
		})
	}
}

func TestCertificatesOfOthersAreRefused(t *testing.T) {
	key, authority := bastiontest.Key(t), bastiontest.Key(t)
	user := hostCert(t, authority, key, time.Now().Add(time.Hour))
	user.CertType = ssh.UserCert
	b := bastiontest.Start(t, bastiontest.Options{})
	for want, cert := range map[string]*ssh.Certificate{
		"not one of a host":        user,
		"of none of the host keys": hostCert(t, authority, authority, time.Now().Add(time.Hour)),
	} {
		if err := b.Server.SetHostKeys([]ssh.Signer{key}, []*ssh.Certificate{cert}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want: %s", err, want)
		}
	}
}

func TestAClientWithNothingInCommonIsToldApart(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*ssh.ClientConfig)
		want   []string
	}{
		{"key exchange", func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH1SHA1} },
			[]string{"no key exchange in common; the client offers diffie-hellman-group1-sha1, ", "; the server mlkem768x25519-sha256, curve25519-sha256"}},
		{"host key", func(c *ssh.ClientConfig) { c.HostKeyAlgorithms = []string{ssh.KeyAlgoRSA} },
			[]string{"no host key in common; the client offers ssh-rsa; the server ssh-ed25519"}},
		{"cipher", func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.InsecureCipherAES128CBC} },
			[]string{"cipher in common; the client offers aes128-cbc; the server aes128-gcm@openssh.com"}},
		{"MAC", func(c *ssh.ClientConfig) {
			c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA1}
		}, []string{"MAC in common; the client offers hmac-sha1; the server hmac-sha2-256-etm@openssh.com"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bastiontest.Start(t, bastiontest.Options{})
			config := b.ClientConfig("alice", b.Alice)
			config.ClientVersion = "SSH-2.0-Ancient_1.0"
			test.change(config)
			if _, err := ssh.Dial("tcp", b.Addr, config); err == nil {
				t.Fatal("logged in")
			}
			rec := b.Book.Await(t, audit.AuthFail, 1)
			if rec.Reason != "no_common_algorithm" || rec.Client != "SSH-2.0-Ancient_1.0" || rec.User != "" || rec.Login != "" {
				t.Errorf("recorded as %s", rec.AppendJSON(nil))
			}
			for _, want := range test.want {
				if !strings.Contains(rec.Detail, want) {
					t.Errorf("%q lacks %q", rec.Detail, want)
				}
			}
			bastiontest.Eventually(t, "a line with both offers", func() bool {
				return strings.Contains(b.Lines.String(), "no_common_algorithm") && strings.Contains(b.Lines.String(), test.want[0])
			})
		})
	}
}

func TestAnOfferWithoutEndIsCutInTheRecord(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name := strings.Repeat("\x1b[2J\"", 4000)
	offer := strings.Join(slices.Repeat([]string{name, "x"}, 5), ",")
	packet := append([]byte{20}, make([]byte, 16)...) // KEXINIT (RFC 4253 section 7.1)
	for range 10 {
		packet = append(packet, ssh.Marshal(struct{ S string }{offer})...)
		offer = "x"
	}
	packet = append(packet, 0, 0, 0, 0, 0)
	padding := 8 - (5+len(packet))%8 + 8
	frame := ssh.Marshal(struct {
		Length  uint32
		Padding byte
		Rest    []byte `ssh:"rest"`
	}{uint32(1 + len(packet) + padding), byte(padding), append(packet, make([]byte, padding)...)})
	conn.Write(append([]byte("SSH-2.0-\x1b[31mred\r\n"), frame...))
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "no_common_algorithm" || len(rec.Detail) > 600 || strings.ContainsRune(rec.Detail, '\x1b') {
		t.Errorf("recorded as %s", rec.AppendJSON(nil))
	}
}
