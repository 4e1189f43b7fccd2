package bastiontest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// NewSecurityKey makes a key of type sk-ssh-ed25519@openssh.com whose
// signatures show that somebody touched it, or that nobody did (OpenSSH's
// PROTOCOL.u2f).
func NewSecurityKey(t testing.TB, touched bool) ssh.Signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const application = "ssh:"
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Public      []byte
		Application string
	}{ssh.KeyAlgoSKED25519, public, application}))
	if err != nil {
		t.Fatal(err)
	}
	s := &securityKey{public: key, private: private, application: application}
	if touched {
		s.flags = 1 // user presence
	}
	return s
}

type securityKey struct {
	public      ssh.PublicKey
	private     ed25519.PrivateKey
	application string
	flags       byte
	counter     atomic.Uint32
}

func (s *securityKey) PublicKey() ssh.PublicKey { return s.public }

func (s *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	tail := binary.BigEndian.AppendUint32([]byte{s.flags}, s.counter.Add(1))
	application, message := sha256.Sum256([]byte(s.application)), sha256.Sum256(data)
	signed := append(append(append([]byte{}, application[:]...), tail...), message[:]...)
	return &ssh.Signature{Format: s.public.Type(), Blob: ed25519.Sign(s.private, signed), Rest: tail}, nil
}
