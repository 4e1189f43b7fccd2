package bastion

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Host keys change without a client that meets a stranger by the extension of
// OpenSSH (PROTOCOL, section 2.5 "hostkeys-00@openssh.com"):
//
//	server → client  hostkeys-00@openssh.com        all our public keys
//	client → server  hostkeys-prove-00@openssh.com  those it does not know
//	server → client  a signature by each of them over this very session
//
// after which the client knows the keys that are not used yet, too.
const (
	hostKeysRequest = "hostkeys-00@openssh.com"
	proveRequest    = "hostkeys-prove-00@openssh.com"

	// maxProofs bounds how often a client may have keys proven on one
	// connection, each of them once each time: an RSA signature costs
	// milliseconds. OpenSSH asks once.
	maxProofs = 4
)

// hostKeys are the keys by which clients know this server.
type hostKeys struct {
	keys []hostKey    // all of them: they are announced, and proven
	used []ssh.Signer // by handshakes: the first of each type, and certificates of those
}

type hostKey struct {
	ssh.Signer
	blob []byte // of the public key
}

// newHostKeys makes what handshakes use of the first key of each type. A
// certificate of a key that is not used yet waits for it. One that has expired is
// offered all the same, as OpenSSH's server does: a client that knows the plain
// key of the preferred type would else be offered the certificate of another key,
// which it does not know.
func newHostKeys(keys []ssh.Signer, certs []*ssh.Certificate) (*hostKeys, error) {
	if len(keys) == 0 {
		return nil, errors.New("a server needs a host key")
	}
	h := new(hostKeys)
	types := map[string]ssh.Signer{}
	for _, key := range keys {
		signer, err := hostSigner(key)
		if err != nil {
			return nil, err
		}
		h.keys = append(h.keys, hostKey{signer, key.PublicKey().Marshal()})
		if t := key.PublicKey().Type(); types[t] == nil {
			types[t] = signer
			h.used = append(h.used, signer)
		}
	}
	for _, cert := range certs {
		if cert.CertType != ssh.HostCert {
			return nil, fmt.Errorf("the certificate %q is not one of a host", cert.KeyId)
		}
		if h.find(cert.Key.Marshal()) == nil {
			return nil, fmt.Errorf("the certificate %q is of none of the host keys", cert.KeyId)
		}
		key := types[cert.Key.Type()]
		if !bytes.Equal(key.PublicKey().Marshal(), cert.Key.Marshal()) {
			continue
		}
		signer, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			return nil, err
		}
		h.used = append(h.used, signer)
	}
	return h, nil
}

// find returns the key of a public key's blob, or nil.
func (h *hostKeys) find(blob []byte) ssh.Signer {
	for _, key := range h.keys {
		if bytes.Equal(key.blob, blob) {
			return key.Signer
		}
	}
	return nil
}

// SetHostKeys gives the handshakes that begin from now on other keys. The first
// key of each type is used; all are announced, so that clients learn the next
// one before it is used. Certificates are of host keys among them.
func (s *Server) SetHostKeys(keys []ssh.Signer, certs []*ssh.Certificate) error {
	h, err := newHostKeys(keys, certs)
	if err == nil {
		s.hostKeys.Store(h)
	}
	return err
}

// deaf are the versions of clients that cannot cope with the request; the same
// that OpenSSH's server spares.
var deaf = regexp.MustCompile(`^SSH-2\.0-(Cisco-1\.|TeraTerm SSH|TTSSH/1\.5\.|TTSSH/2\.([1-6]|7[0-2]))`)

// announceHostKeys sends a client that has logged in all our public keys, once.
// It waits for nothing: a client that reads nothing delays nobody by it. There
// is no hook for the moment after the login, so the first thing that the client
// asks for calls it, and for one that asks for nothing, tend.
func (c *connection) announceHostKeys() {
	if c.announced.Load() { // the usual case costs a connection nothing
		return
	}
	conn := c.ssh()
	if conn == nil || !c.announced.CompareAndSwap(false, true) {
		return
	}
	if deaf.Match(conn.ClientVersion()) || !c.begin() {
		c.lingered.Store(true)
		close(c.told)
		return
	}
	var payload []byte
	for _, key := range c.hostKeys.keys {
		payload = append(payload, ssh.Marshal(struct{ Blob []byte }{key.blob})...)
	}
	go func() {
		defer c.handlers.Done()
		defer c.recovered()
		defer close(c.told)
		conn.SendRequest(hostKeysRequest, false, payload)
	}()
}

// lingerForProof lets a client have its proof before its first session ends, with
// which OpenSSH ends the connection. If it wants one, it has asked for that before
// the session's command, and the request is about to be taken up.
func (c *connection) lingerForProof() {
	if !c.lingered.CompareAndSwap(false, true) {
		return
	}
	for waited := 0; c.proofs.Load() == 0 && waited < 4; waited++ {
		time.Sleep(5 * time.Millisecond)
	}
	c.proving.Lock() // until it is answered
	defer c.proving.Unlock()
}

// answerProof answers a request to prove keys.
func (c *connection) answerProof(req *ssh.Request) {
	c.proving.Lock()
	defer c.proving.Unlock()
	c.proofs.Add(1)
	answer, err := c.proveHostKeys(req.Payload)
	if err != nil {
		c.denyRequest(req.Type, err.Error())
	}
	req.Reply(err == nil, answer)
	req.WantReply = false // it is answered
}

// proveHostKeys returns a signature by each key that is to be proven, or an error,
// which is for the record.
func (c *connection) proveHostKeys(payload []byte) ([]byte, error) {
	conn := c.ssh()
	if conn == nil {
		return nil, errors.New("before the login")
	}
	if c.proofs.Load() > maxProofs {
		return nil, fmt.Errorf("more than %d requests on one connection", maxProofs)
	}
	blobs, err := readStrings(payload, len(c.hostKeys.keys))
	if err != nil {
		return nil, err
	}
	signers := make([]ssh.Signer, len(blobs))
	for i, blob := range blobs { // all of them, before the first signature
		if signers[i] = c.hostKeys.find(blob); signers[i] == nil {
			return nil, errors.New("a key that is not one of this server")
		}
		if slices.ContainsFunc(blobs[:i], func(b []byte) bool { return bytes.Equal(b, blob) }) {
			return nil, errors.New("a key twice")
		}
	}
	var answer []byte
	for i, signer := range signers {
		sig, err := proof(conn, signer, blobs[i])
		if err != nil {
			return nil, err
		}
		answer = append(answer, ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(sig)})...)
	}
	return answer, nil
}

// proof signs for one key. A client that has met an RSA key in this handshake
// takes from RSA keys only the algorithm of the handshake.
func proof(conn *ssh.ServerConn, signer ssh.Signer, blob []byte) (*ssh.Signature, error) {
	data := ssh.Marshal(struct {
		Request   string
		SessionID []byte
		Blob      []byte
	}{proveRequest, conn.SessionID(), blob})
	if signer.PublicKey().Type() != ssh.KeyAlgoRSA {
		return signer.Sign(rand.Reader, data)
	}
	algorithm := ssh.KeyAlgoRSASHA512
	if c, ok := conn.Conn.(ssh.AlgorithmsConnMetadata); ok && strings.HasPrefix(c.Algorithms().HostKey, ssh.KeyAlgoRSASHA256) {
		algorithm = ssh.KeyAlgoRSASHA256 // or the certificate's rsa-sha2-256-cert-v01@openssh.com
	}
	rsa, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errors.New("the RSA host key cannot sign with SHA-2")
	}
	return rsa.SignWithAlgorithm(rand.Reader, data, algorithm)
}

// readStrings reads from 1 to most strings (RFC 4251 section 5), and nothing
// else.
func readStrings(payload []byte, most int) ([][]byte, error) {
	var all [][]byte
	for len(payload) > 0 {
		if len(all) >= most {
			return nil, fmt.Errorf("more than %d keys", most)
		}
		var next struct {
			S    []byte
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(payload, &next); err != nil {
			return nil, errors.New("malformed request")
		}
		all, payload = append(all, next.S), next.Rest
	}
	if len(all) == 0 {
		return nil, errors.New("no key")
	}
	return all, nil
}
