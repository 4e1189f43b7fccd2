package bastion

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// kexInitPayload is a KEXINIT with these name-lists, the others being of
// what everybody takes.
func kexInitPayload(lists map[int]string) []byte {
	names := [10]string{
		listKeyExchange: "curve25519-sha256", listHostKey: "ssh-ed25519",
		listCipherUp: "aes128-gcm@openssh.com", listCipherDown: "aes128-gcm@openssh.com",
		listMACUp: "hmac-sha2-256", listMACDown: "hmac-sha2-256",
		listCompressionUp: "none", listCompressionDown: "none",
	}
	for i, list := range lists {
		names[i] = list
	}
	p := append([]byte{msgKexInit}, make([]byte, 16)...)
	for _, list := range names {
		p = binary.BigEndian.AppendUint32(p, uint32(len(list)))
		p = append(p, list...)
	}
	return append(p, 0, 0, 0, 0, 0)
}

// clearPacket is payload in a packet as it is before any key.
func clearPacket(payload []byte) []byte {
	padding := 8 - (5+len(payload))%8
	if padding < 4 {
		padding += 8
	}
	p := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	p = append(p, byte(padding))
	return append(append(p, payload...), make([]byte, padding)...)
}

func TestTheGreetingIsTheVersionAndTheKexInit(t *testing.T) {
	const version = "SSH-2.0-x y\r\n"
	packet := string(clearPacket(kexInitPayload(nil)))
	// of "curve25519-sha256;aes128-gcm@openssh.com;hmac-sha2-256;none", by md5sum
	const hassh = "66a216a163d6360198852c99b10afcc6"
	for _, test := range []struct {
		name    string
		sent    string
		version string
		hassh   string
		over    bool
	}{
		{"nothing", "", "", "", false},
		{"a version that has not ended", "SSH-2.0-x", "", "", false},
		{"a version", version, "SSH-2.0-x y", "", false},
		{"a version that ends without CR", "SSH-2.0-x\n", "SSH-2.0-x", "", false},
		{"a version after other lines", "hello\r\n\n" + version, "SSH-2.0-x y", "", false},
		{"something else", "GET / HTTP/1.1\r\n\r\n", "", "", false},
		{"a version as long as the library takes", "SSH-2.0-" + strings.Repeat("x", 246) + "\n", "SSH-2.0-" + strings.Repeat("x", 246), "", false},
		{"a version that is longer", "SSH-2.0-" + strings.Repeat("x", 247) + "\n", "SSH-2.0-" + strings.Repeat("x", 247), "", true},
		{"a version without end", "SSH-2.0-" + strings.Repeat("x", 5000), "SSH-2.0-" + strings.Repeat("x", 247), "", true},
		{"a line without end", strings.Repeat("x", 255), "", "", true},
		{"as many lines as the library takes", strings.Repeat("\n", 1023) + version, "SSH-2.0-x y", "", false},
		{"more lines", strings.Repeat("\n", 1024), "", "", true},
		{"lines without end", strings.Repeat("x\n", 2<<10+1), "", "", true},
		{"a KEXINIT", version + packet, "SSH-2.0-x y", hassh, true},
		{"a KEXINIT and a guess", version + packet + packet, "SSH-2.0-x y", hassh, true},
		{"a KEXINIT cut short", version + packet[:len(packet)-1], "SSH-2.0-x y", "", false},
		{"a packet that is too long", version + "\x00\x00\x88\xb9", "SSH-2.0-x y", "", true},
		{"a packet of 4 GiB", version + "\xff\xff\xff\xff", "SSH-2.0-x y", "", true},
		{"a packet of an odd length", version + "\x00\x00\x00\x0d", "SSH-2.0-x y", "", true},
		{"a packet of nothing", version + "\x00\x00\x00\x04\x00\x00\x00\x00", "SSH-2.0-x y", "", true},
		{"padding that is longer than its packet", version + "\x00\x00\x00\x0c\xff\x14" + strings.Repeat("\x00", 10), "SSH-2.0-x y", "", true},
		{"another packet", version + "\x00\x00\x00\x0c\x0a\x02", "SSH-2.0-x y", "", true},
		{"a KEXINIT that is too short", version + string(clearPacket(kexInitPayload(nil)[:100])), "SSH-2.0-x y", "", true},
		{"a KEXINIT with something behind it", version + string(clearPacket(append(kexInitPayload(nil), 0))), "SSH-2.0-x y", "", true},
		{"a list that is longer than its packet", version + string(clearPacket(append(append([]byte{20}, make([]byte, 16)...), 0xff, 0xff, 0xff, 0xff))), "SSH-2.0-x y", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, step := range []int{1, 7, len(test.sent) + 1} {
				var g greeting
				over := false
				for n := 0; n < len(test.sent) && !over; {
					n = min(n+step, len(test.sent))
					over = g.look([]byte(test.sent[:n]))
				}
				version, first := g.said()
				hassh := ""
				if first != nil {
					hassh = first.hassh
				}
				if version != test.version || hassh != test.hassh || over != test.over {
					t.Errorf("by %d bytes: %q, %q, over %v; want %q, %q, %v", step, version, hassh, over, test.version, test.hassh, test.over)
				}
			}
		})
	}
}

func TestTheCipherIsChosenByWhatTheClientOffers(t *testing.T) {
	const chacha, gcm128, gcm256, ctr = "chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr"
	for _, test := range []struct {
		name               string
		up, down           string
		macsUp, macsDown   string
		wantGCM, negotiate bool
	}{
		{"as OpenSSH does", chacha + "," + ctr + "," + gcm128 + "," + gcm256, chacha + "," + ctr + "," + gcm128, "hmac-sha2-256", "hmac-sha2-256", true, true},
		{"AES-GCM alone, with MACs that are not ours", gcm256, gcm128, "hmac-md5", "", true, true},
		{"no AES-GCM", chacha + "," + ctr, ctr, "hmac-sha2-256", "hmac-sha2-256", false, true},
		{"AES-GCM one way only", chacha + "," + gcm128, chacha, "hmac-sha2-256", "hmac-sha2-256", false, true},
		{"AES-GCM the other way only", chacha, chacha + "," + gcm128, "hmac-sha2-256", "hmac-sha2-256", false, true},
		{"a cipher that would have a MAC that is not ours", ctr + "," + gcm128, gcm128, "hmac-md5", "hmac-sha2-256", false, false},
		{"the same the other way", gcm128, ctr + "," + gcm128, "hmac-sha2-256", "hmac-md5", false, false},
		{"a cipher of its own that has no MAC of ours", "x," + gcm128, chacha + "," + gcm128, "hmac-md5", "hmac-md5", true, true},
		{"nothing", "", "", "", "", false, false},
		{"names that only begin like ours", gcm128 + "x", gcm128[:10] + "," + gcm128, "hmac-sha2-256", "hmac-sha2-256", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			payload := kexInitPayload(map[int]string{
				listCipherUp: test.up, listCipherDown: test.down, listMACUp: test.macsUp, listMACDown: test.macsDown,
			})
			first := parseKexInit(payload)
			if first == nil {
				t.Fatal("it is not understood")
			}
			if first.gcm != test.wantGCM {
				t.Errorf("AES-GCM alone: %v, want %v", first.gcm, test.wantGCM)
			}
			chosen := ciphers
			if first.gcm {
				chosen = gcmCiphers
			}
			if whole, narrow := agrees(t, ciphers, payload), agrees(t, chosen, payload); whole != test.negotiate || narrow != test.negotiate {
				t.Errorf("the library negotiates with the whole list: %v, with the one that is chosen: %v; want %v", whole, narrow, test.negotiate)
			}
		})
	}
}

// agrees reports whether the library, with a list of ciphers, goes on after a
// client's KEXINIT.
func agrees(t *testing.T, ciphers []string, kexInit []byte) bool {
	t.Helper()
	config := &ssh.ServerConfig{Config: ssh.Config{Ciphers: ciphers, MACs: macs}, NoClientAuth: true}
	config.AddHostKey(testSigner(t))
	_, _, _, err := ssh.NewServerConn(newScripted([]byte("SSH-2.0-x\r\n"), clearPacket(kexInit)), config)
	var mismatch *ssh.AlgorithmNegotiationError
	return !errors.As(err, &mismatch)
}

func testSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// scripted is a connection on which one piece after the other comes in, and
// then the end; what is written to it is kept.
type scripted struct {
	net.Conn
	mu      sync.Mutex
	pieces  [][]byte
	written bytes.Buffer
}

func newScripted(pieces ...[]byte) *scripted { return &scripted{pieces: pieces} }

func (c *scripted) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pieces) > 0 && len(c.pieces[0]) == 0 {
		c.pieces = c.pieces[1:]
	}
	if len(c.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.pieces[0])
	c.pieces[0] = c.pieces[0][n:]
	return n, nil
}

func (c *scripted) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written.Write(p)
}

func (c *scripted) Close() error                    { return nil }
func (c *scripted) SetReadDeadline(time.Time) error { return nil }
func (c *scripted) RemoteAddr() net.Addr            { return &net.TCPAddr{} }
func (c *scripted) LocalAddr() net.Addr             { return &net.TCPAddr{} }

// testWire is a wire before its login.
func testWire(c net.Conn) *wire {
	never := make(chan struct{})
	seat := newTurns(func() bool { return false }).seat(netip.Prefix{}, never)
	return newWire(c, seat, func(error) {}, func(int) {})
}

// FuzzGreeting holds that the library gets what the client has sent, whatever
// that is and however it comes in pieces, and that little of it is kept.
func FuzzGreeting(f *testing.F) {
	hello := append([]byte("SSH-2.0-x\r\n"), clearPacket(kexInitPayload(nil))...)
	f.Add(hello, uint16(1), true)
	f.Add(append([]byte("hello\n"), append(hello, hello...)...), uint16(1000), false)
	f.Add([]byte("SSH-2.0-x\r\n\x00\x00\x88\xb4"), uint16(5), true)
	f.Add(bytes.Repeat([]byte("x\n"), 3000), uint16(100), true)
	f.Add(bytes.Repeat([]byte("SSH-"), 1000), uint16(64), true)
	f.Fuzz(func(t *testing.T, sent []byte, piece uint16, peek bool) {
		conn := newScripted(slices.Collect(slices.Chunk(bytes.Clone(sent), int(piece)+1))...)
		w := testWire(conn)
		wait := time.Duration(0)
		if peek {
			wait = greetingWait
		}
		w.greet("SSH-2.0-us\r\n", wait)
		if n := len(w.before.ahead); n > maxPreamble+maxGreeting+maxKexInit+2*maxKexInit {
			t.Errorf("%d bytes are read ahead", n)
		}
		if cap(w.before.ahead) > 4*maxKexInit {
			t.Errorf("%d bytes are held", cap(w.before.ahead))
		}
		// As the library does: first byte by byte, then as much as there is.
		if _, err := w.Write([]byte("SSH-2.0-us\r\n")); err != nil {
			t.Fatal(err)
		}
		var got []byte
		buf := make([]byte, 4096)
		for {
			p := buf[:1]
			if bytes.Contains(got, []byte("\n")) {
				p = buf
			}
			n, err := w.Read(p)
			got = append(got, p[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%q came and %q is read", sent, got)
		}
		if written := conn.written.String(); written != "SSH-2.0-us\r\n" {
			t.Errorf("%q is written", written)
		}
		if w.before.greeted && w.before.seen != nil {
			t.Error("what came is kept")
		}
		// Seen in pieces or at once, it is the same.
		var g greeting
		g.look(sent)
		version, first := g.said()
		if v, k := w.before.greeting.said(); v != version || (k == nil) != (first == nil) || k != nil && *k != *first {
			t.Errorf("%q, %v by pieces, %q, %v at once", v, k, version, first)
		}
	})
}

func TestAClientThatWaitsForOurKexInitGetsTheWholeListOfCiphers(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	w := testWire(server)
	go func() { // the greeting's version, and the first bytes of a KEXINIT
		io.ReadFull(client, make([]byte, len(serverVersion)+2))
		client.Write([]byte("SSH-2.0-slow\r\n\x00"))
	}()
	w.greet(serverVersion+"\r\n", 10*time.Millisecond)
	version, first := w.before.greeting.said()
	if version != "SSH-2.0-slow" || first != nil {
		t.Errorf("%q, %v", version, first)
	}
	packet := clearPacket(kexInitPayload(nil))
	go client.Write(packet[1:])
	want := append([]byte("SSH-2.0-slow\r\n"), packet...)
	got := make([]byte, len(want))
	for i := range "SSH-2.0-slow\r\n" {
		w.Read(got[i : i+1])
	}
	if _, err := io.ReadFull(struct{ io.Reader }{w}, got[14:]); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, first = w.before.greeting.said(); first == nil {
		t.Error("the log does not get what came later")
	}
}

func TestAVersionOfTheLibraryThatIsNotOursEndsTheConnection(t *testing.T) {
	for _, line := range []string{"SSH-2.0-Go\r\n", serverVersion, serverVersion + "\r\n\n", ""} {
		conn := newScripted([]byte("SSH-2.0-x\r\n"))
		w := testWire(conn)
		w.greet(serverVersion+"\r\n", 0)
		if _, err := w.Write([]byte(line)); err == nil {
			t.Errorf("%q is taken", line)
		}
		select {
		case <-w.closed:
		default:
			t.Errorf("after %q the connection stays", line)
		}
	}
}

func FuzzReadStrings(f *testing.F) {
	f.Add([]byte{}, 1)
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0}, 2)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'}, 2)
	f.Fuzz(func(t *testing.T, payload []byte, most int) {
		all, err := readStrings(payload, most)
		if err != nil {
			return
		}
		if len(all) == 0 || len(all) > most {
			t.Errorf("%d strings, of at most %d", len(all), most)
		}
		var again []byte
		for _, s := range all {
			again = append(again, ssh.Marshal(struct{ S []byte }{s})...)
		}
		if !bytes.Equal(again, payload) {
			t.Errorf("%x reads as %x", payload, all)
		}
	})
}
