package bastiontest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Message numbers, RFC 4250 section 4.1.2.
const (
	msgServiceRequest  = 5
	msgServiceAccept   = 6
	msgKexInit         = 20
	msgNewKeys         = 21
	msgKexECDHInit     = 30
	msgKexECDHReply    = 31
	msgUserAuthRequest = 50
	msgUserAuthFailure = 51
	msgUserAuthSuccess = 52
	msgUserAuthBanner  = 53
	msgUserAuthPKOK    = 60
	msgChannelOpen     = 90
	msgChannelRequest  = 98
)

// RawVersion is the version string of a Raw client.
const RawVersion = "SSH-2.0-Raw"

// Raw is an SSH client that does what x/crypto/ssh's never would: it sends
// whatever packet a test wants, stops its handshake where a test wants, and
// logs in with whatever user names and keys, in whatever order. It speaks
// aes128-gcm@openssh.com only.
type Raw struct {
	Conn    net.Conn
	Session []byte // the session id
	Strict  bool   // asks for strict key exchange

	// KeyExchange is curve25519-sha256, or diffie-hellman-group16-sha512, of
	// which this side computes nothing: its secret is 1.
	KeyExchange string

	TheirVersion string
	TheirKexInit []byte // the last one, whole

	t       testing.TB
	hostKey ssh.PublicKey
	in      *bufio.Reader
	corked  *bytes.Buffer
	step    Step
	kex     exchange
	sealing *gcm // nil before NEWKEYS
	opening *gcm
}

// Group16 is the costliest key exchange that the server offers.
const Group16 = "diffie-hellman-group16-sha512"

// A Step is how far the handshake of a Raw has come: what it has sent last and,
// where something answers that, has read the answer to.
type Step int

const (
	Connected Step = iota
	SentVersion
	SentKexInit
	SentKexECDHInit
	SentNewKeys
	SentServiceRequest
)

// exchange is a key exchange under way.
type exchange struct {
	ours    []byte // KEXINIT
	private *ecdh.PrivateKey
	public  []byte // as it is sent
	k       []byte // the secret, as it is hashed
	h       []byte
}

// gcm is one direction of aes128-gcm@openssh.com (RFC 5647).
type gcm struct {
	aead cipher.AEAD
	iv   []byte
}

func (g *gcm) next() {
	binary.BigEndian.PutUint64(g.iv[4:], binary.BigEndian.Uint64(g.iv[4:])+1)
}

// NewRaw connects to b and finishes the key exchange.
func NewRaw(t testing.TB, b *Bastion) *Raw {
	t.Helper()
	conn, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return NewRawOver(t, b, conn)
}

// NewRawOver is NewRaw over a connection that is there.
func NewRawOver(t testing.TB, b *Bastion, conn net.Conn) *Raw {
	t.Helper()
	r := NewRawSilent(t, b, conn)
	if err := r.Until(SentServiceRequest); err != nil {
		t.Fatalf("key exchange: %v", err)
	}
	return r
}

// NewRawSilent is NewRawOver that has sent nothing yet.
func NewRawSilent(t testing.TB, b *Bastion, conn net.Conn) *Raw {
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Wait))
	return &Raw{Conn: conn, KeyExchange: "curve25519-sha256", t: t, hostKey: b.HostKey, in: bufio.NewReader(conn)}
}

// Until goes on with the handshake of RFC 4253 section 7 and RFC 8731 up to
// and with step.
func (r *Raw) Until(step Step) error {
	next := []func() error{
		r.sendVersion, r.sendKexInit, r.sendKexECDHInit, r.sendNewKeys, r.sendServiceRequest,
	}
	for ; r.step < step; r.step++ {
		if err := next[r.step](); err != nil {
			return err
		}
	}
	return nil
}

// Rekey renews the keys (RFC 4253 section 9). What comes before the server has
// begun to is dropped.
func (r *Raw) Rekey() error { return r.RekeyUntil(SentNewKeys) }

// RekeyUntil is Rekey up to and with a step.
func (r *Raw) RekeyUntil(step Step) error {
	r.step = SentVersion
	err := r.Until(step)
	r.step = SentServiceRequest
	return err
}

// FinishRekey goes on where SendKexInit has begun and the server's KEXINIT has
// been received.
func (r *Raw) FinishRekey() error {
	r.step = SentKexInit
	err := r.Until(SentNewKeys)
	r.step = SentServiceRequest
	return err
}

func (r *Raw) sendVersion() error {
	if _, err := io.WriteString(r.Conn, RawVersion+"\r\n"); err != nil {
		return err
	}
	theirs, err := r.in.ReadString('\n')
	r.TheirVersion = strings.TrimRight(theirs, "\r\n")
	return err
}

// SendKexInit sends the packet with which a key exchange begins.
func (r *Raw) SendKexInit() error {
	r.kex = exchange{}
	kex := r.KeyExchange
	if r.Strict && r.Session == nil {
		kex += ",kex-strict-c-v00@openssh.com"
	}
	r.kex.ours = rawKexInit(kex)
	return r.Send(r.kex.ours)
}

func (r *Raw) sendKexInit() error {
	if err := r.SendKexInit(); err != nil {
		return err
	}
	for {
		packet, err := r.Receive()
		if err != nil {
			return err
		}
		if packet[0] == msgKexInit {
			return nil
		}
		if r.Session == nil {
			return fmt.Errorf("got message %d instead of KEXINIT", packet[0])
		}
	}
}

func (r *Raw) sendKexECDHInit() error {
	if r.KeyExchange == Group16 {
		r.kex.public = ssh.Marshal(struct{ E *big.Int }{big.NewInt(2)}) // 2 to the power of 1
	} else {
		private, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		r.kex.private, r.kex.public = private, ssh.Marshal(struct{ E []byte }{private.PublicKey().Bytes()})
	}
	if err := r.Send(append([]byte{msgKexECDHInit}, r.kex.public...)); err != nil {
		return err
	}
	packet, err := r.expect(msgKexECDHReply)
	if err != nil {
		return err
	}
	var reply struct {
		HostKey []byte
		Rest    []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(packet[1:], &reply); err != nil {
		return err
	}
	if !bytes.Equal(reply.HostKey, r.hostKey.Marshal()) {
		return errors.New("another host key")
	}
	// The signature, which ends the reply, is not looked at: the tests have
	// other clients that do.
	if len(reply.Rest) < 4 {
		return errors.New("a short reply")
	}
	n := 4 + int(binary.BigEndian.Uint32(reply.Rest))
	if n < 4 || n > len(reply.Rest) {
		return errors.New("a short reply")
	}
	theirs, newHash := reply.Rest[:n], sha256.New
	if r.KeyExchange == Group16 {
		r.kex.k, newHash = theirs, sha512.New // 2 to the power of theirs, to the power of 1
	} else {
		public, err := ecdh.X25519().NewPublicKey(theirs[4:])
		if err != nil {
			return err
		}
		secret, err := r.kex.private.ECDH(public)
		if err != nil {
			return err
		}
		r.kex.k = ssh.Marshal(struct{ K *big.Int }{new(big.Int).SetBytes(secret)})
	}
	h := newHash()
	for _, part := range [][]byte{[]byte(RawVersion), []byte(r.TheirVersion), r.kex.ours, r.TheirKexInit, reply.HostKey} {
		writeString(h, part)
	}
	h.Write(r.kex.public)
	h.Write(theirs)
	h.Write(r.kex.k)
	r.kex.h = h.Sum(nil)
	if r.Session == nil {
		r.Session = r.kex.h
	}
	return nil
}

func (r *Raw) sendNewKeys() error {
	if err := r.Send([]byte{msgNewKeys}); err != nil {
		return err
	}
	if _, err := r.expect(msgNewKeys); err != nil {
		return err
	}
	newHash := sha256.New
	if r.KeyExchange == Group16 {
		newHash = sha512.New
	}
	derive := func(letter byte, n int) []byte { // RFC 4253 section 7.2
		d := newHash()
		d.Write(r.kex.k)
		d.Write(r.kex.h)
		d.Write([]byte{letter})
		d.Write(r.Session)
		return d.Sum(nil)[:n]
	}
	r.sealing = newGCM(derive('C', 16), derive('A', 12))
	r.opening = newGCM(derive('D', 16), derive('B', 12))
	return nil
}

func (r *Raw) sendServiceRequest() error {
	service := bytes.NewBuffer([]byte{msgServiceRequest})
	writeString(service, []byte("ssh-userauth"))
	if err := r.Send(service.Bytes()); err != nil {
		return err
	}
	_, err := r.expect(msgServiceAccept)
	return err
}

// rawKexInit are the algorithms of a Raw client (RFC 4253 section 7.1).
func rawKexInit(keyExchange string) []byte {
	b := bytes.NewBuffer([]byte{msgKexInit})
	b.Write(make([]byte, 16)) // the cookie
	for _, list := range []string{
		keyExchange, "ssh-ed25519", "aes128-gcm@openssh.com", "aes128-gcm@openssh.com",
		"hmac-sha2-256", "hmac-sha2-256", "none", "none", "", "",
	} {
		writeString(b, []byte(list))
	}
	b.Write(make([]byte, 5)) // no guess follows; reserved
	return b.Bytes()
}

func newGCM(key, iv []byte) *gcm {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &gcm{aead, iv}
}

func writeString(w io.Writer, s []byte) {
	w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s))))
	w.Write(s)
}

// Send sends one packet: its payload, from the message number on.
func (r *Raw) Send(payload []byte) error {
	block, head := 8, 5 // the length counts in the padding, but not with GCM
	if r.sealing != nil {
		block, head = 16, 1
	}
	pad := block - (head+len(payload))%block
	if pad < 4 {
		pad += block
	}
	body := append([]byte{byte(pad)}, payload...)
	body = append(body, make([]byte, pad)...)
	length := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if r.sealing != nil {
		body = r.sealing.aead.Seal(nil, r.sealing.iv, body, length)
		r.sealing.next()
	}
	if r.corked != nil {
		_, err := r.corked.Write(append(length, body...))
		return err
	}
	_, err := r.Conn.Write(append(length, body...))
	return err
}

// Cork holds back what is sent, until Uncork sends it with one write.
func (r *Raw) Cork() { r.corked = new(bytes.Buffer) }

// Uncork ends Cork.
func (r *Raw) Uncork() error {
	_, err := r.Conn.Write(r.corked.Bytes())
	r.corked = nil
	return err
}

// Receive returns the payload of the next packet.
func (r *Raw) Receive() ([]byte, error) {
	length := make([]byte, 4)
	if _, err := io.ReadFull(r.in, length); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(length))
	if n > 1<<20 {
		return nil, fmt.Errorf("a packet of %d bytes", n)
	}
	if r.opening != nil {
		n += r.opening.aead.Overhead()
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.in, body); err != nil {
		return nil, err
	}
	if r.opening != nil {
		var err error
		if body, err = r.opening.aead.Open(nil, r.opening.iv, body, length); err != nil {
			return nil, err
		}
		r.opening.next()
	}
	packet := body[1 : len(body)-int(body[0])]
	if packet[0] == msgKexInit {
		r.TheirKexInit = packet
	}
	return packet, nil
}

func (r *Raw) expect(msg byte) ([]byte, error) {
	packet, err := r.Receive()
	if err == nil && packet[0] != msg {
		err = fmt.Errorf("got message %d instead of %d", packet[0], msg)
	}
	return packet, err
}

// request begins a userauth request (RFC 4252 section 5).
func request(user, method string) *bytes.Buffer {
	b := bytes.NewBuffer([]byte{msgUserAuthRequest})
	writeString(b, []byte(user))
	writeString(b, []byte("ssh-connection"))
	writeString(b, []byte(method))
	return b
}

// answer sends a userauth request and returns the number of what answers it.
func (r *Raw) answer(packet []byte) byte {
	r.t.Helper()
	got, err := r.try(packet)
	if err != nil {
		r.t.Fatalf("a userauth request: %v", err)
	}
	return got
}

func (r *Raw) try(packet []byte) (byte, error) {
	if err := r.Send(packet); err != nil {
		return 0, err
	}
	for {
		got, err := r.Receive()
		if err != nil {
			return 0, err
		}
		if got[0] != msgUserAuthBanner {
			return got[0], nil
		}
	}
}

// None tries the method none.
func (r *Raw) None(user string) bool {
	return r.answer(request(user, "none").Bytes()) == msgUserAuthSuccess
}

// Password tries a password.
func (r *Raw) Password(user, password string) bool {
	b := request(user, "password")
	b.WriteByte(0)
	writeString(b, []byte(password))
	return r.answer(b.Bytes()) == msgUserAuthSuccess
}

// Interactive tries keyboard-interactive (RFC 4256).
func (r *Raw) Interactive(user string) bool {
	b := request(user, "keyboard-interactive")
	writeString(b, nil)
	writeString(b, nil)
	return r.answer(b.Bytes()) == msgUserAuthSuccess
}

// Offer asks whether a key might log in as user, without proving it.
func (r *Raw) Offer(user string, key ssh.PublicKey) bool {
	return r.OfferAs(user, key, key.Type())
}

// OfferAs is Offer for a signature algorithm.
func (r *Raw) OfferAs(user string, key ssh.PublicKey, algorithm string) bool {
	return r.answer(offer(user, key, algorithm)) == msgUserAuthPKOK
}

// TryOffer is Offer where the server may have ended the connection.
func (r *Raw) TryOffer(user string, key ssh.PublicKey) error {
	_, err := r.try(offer(user, key, key.Type()))
	return err
}

// TryNone is None where the server may have ended the connection.
func (r *Raw) TryNone(user string) error {
	_, err := r.try(request(user, "none").Bytes())
	return err
}

func offer(user string, key ssh.PublicKey, algorithm string) []byte {
	b := request(user, "publickey")
	b.WriteByte(0)
	writeString(b, []byte(algorithm))
	writeString(b, key.Marshal())
	return b.Bytes()
}

// Prove logs in as user with a signature by key (RFC 4252 section 7).
func (r *Raw) Prove(user string, key ssh.Signer) bool {
	r.t.Helper()
	in, err := r.Try(Proof{User: user, Key: key})
	if err != nil {
		r.t.Fatalf("a userauth request: %v", err)
	}
	return in
}

// A Proof is a publickey request with a signature, and what is not as it
// should be in it.
type Proof struct {
	User      string
	Key       ssh.Signer
	Algorithm string // that the request names; empty: the key's type

	// What is signed, and by whom, where that is not what the request says.
	Signer          ssh.Signer
	SignedUser      string
	SignedAlgorithm string
	SignedSession   []byte

	// Format, of an RSA key, is the algorithm by which it signs; empty: SHA-1.
	Format string
}

// Try sends a Proof and reports whether it logs in. The error is that the
// server has ended the connection over it.
func (r *Raw) Try(p Proof) (in bool, err error) {
	r.t.Helper()
	got, err := r.try(r.ProofPacket(p))
	return got == msgUserAuthSuccess, err
}

// ProofPacket is what Try sends.
func (r *Raw) ProofPacket(p Proof) []byte {
	r.t.Helper()
	packet := func(user, algorithm string) *bytes.Buffer {
		b := request(user, "publickey")
		b.WriteByte(1)
		writeString(b, []byte(algorithm))
		writeString(b, p.Key.PublicKey().Marshal())
		return b
	}
	user, algorithm := p.User, cmp.Or(p.Algorithm, p.Key.PublicKey().Type())
	session, signer := r.Session, p.Key
	if p.SignedSession != nil {
		session = p.SignedSession
	}
	if p.Signer != nil {
		signer = p.Signer
	}
	var signed bytes.Buffer
	writeString(&signed, session)
	signed.Write(packet(cmp.Or(p.SignedUser, user), cmp.Or(p.SignedAlgorithm, algorithm)).Bytes())
	var sig *ssh.Signature
	var err error
	if p.Format != "" {
		sig, err = signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, signed.Bytes(), p.Format)
	} else {
		sig, err = signer.Sign(rand.Reader, signed.Bytes())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	b := packet(user, algorithm)
	writeString(b, ssh.Marshal(sig))
	return b.Bytes()
}

// Close ends the connection.
func (r *Raw) Close() { r.Conn.Close() }

// Open sends a channel open, with whatever the type of channel wants after
// the common part (RFC 4254 section 5.1). The answer is left to be received.
func (r *Raw) Open(kind string, channel, window uint32, extra []byte) error {
	return r.Send(append(append([]byte{msgChannelOpen}, ssh.Marshal(struct {
		Type                 string
		Channel, Window, Max uint32
	}{kind, channel, window, 1 << 15})...), extra...))
}

// OpenTarget sends a direct-tcpip open.
func (r *Raw) OpenTarget(channel, window uint32, host string, port int) error {
	return r.Open("direct-tcpip", channel, window, ssh.Marshal(struct {
		Host           string
		Port           uint32
		OriginatorHost string
		OriginatorPort uint32
	}{host, uint32(port), "127.0.0.1", 0}))
}

// Request sends a channel request that wants no answer.
func (r *Raw) Request(channel uint32, kind string) error {
	return r.Send(append([]byte{msgChannelRequest}, ssh.Marshal(struct {
		Channel uint32
		Type    string
		Reply   bool
	}{channel, kind, false})...))
}

// Await receives until a message of that number comes, and returns it.
func (r *Raw) Await(msg byte) []byte {
	r.t.Helper()
	for {
		got, err := r.Receive()
		if err != nil {
			r.t.Fatalf("awaiting message %d: %v", msg, err)
		}
		if got[0] == msg {
			return got
		}
	}
}
