package bastion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// A client renews the keys of its connection when it likes (RFC 4253 section
// 9). It costs the server up to 124 ms of a CPU (group 16), and the client
// nothing if it chooses 1 as its secret. So a renewal that comes neither after
// some data nor after some time waits, and with it that connection alone.
const (
	// renewalEvery is how often a user's connections together may renew their
	// keys in the long run, and renewalBurst how many may do so at once.
	renewalEvery = 500 * time.Millisecond
	renewalBurst = 60

	// renewalFree is after how many bytes, both ways, a connection may renew
	// its keys without that being counted.
	renewalFree = 4 << 20

	// maxEarlyRenewals is how often a client may renew its keys before it has
	// logged in. Clients do not, and login_grace would be a long time of it.
	maxEarlyRenewals = 2
)

// renewal is what a renewal costs its user, by a connection that has moved so
// many bytes since the last one.
func renewal(moved int64) time.Duration {
	return renewalEvery * time.Duration(renewalFree-min(moved, renewalFree)) / renewalFree
}

// keyExchange is called in every key exchange, when the server has computed
// its part and is about to sign it; an error ends the connection.
func (c *connection) keyExchange() error {
	c.exchanges++
	moved := c.wire.moved.Swap(0)
	p := c.principal()
	switch {
	case c.exchanges == 1:
		c.wire.pace()
		return nil
	case p == nil && c.exchanges <= 1+maxEarlyRenewals:
		return nil
	case p == nil:
		cause := &endCause{reasonTooMany, fmt.Sprintf("keys were renewed more than %d times before a login", maxEarlyRenewals)}
		c.end(cause)
		return errors.New(cause.detail)
	}
	cost := renewal(moved)
	if cost == 0 {
		return nil
	}
	wait := c.server.renewals.take(p.User, cost, time.Now())
	if wait <= 0 {
		return nil
	}
	if !c.waited {
		c.waited = true
		c.line().WithField("hint", "a client that renews so often is broken or hostile; OpenSSH's RekeyLimit is 1G or more").
			Warnf("the keys of %s's connections are renewed too often; each more waits", p.User)
	}
	turn := time.NewTimer(wait)
	defer turn.Stop()
	select {
	case <-turn.C:
		return nil
	case <-c.ctx.Done():
		c.server.renewals.give(p.User, cost)
		return context.Cause(c.ctx)
	case <-c.wire.closed: // by the library, which waits for this
		c.server.renewals.give(p.User, cost)
		return net.ErrClosed
	}
}

// signsAfter is a host key that asks before it signs. The library signs once
// in every key exchange, and in nothing else.
func signsAfter(key ssh.Signer, ask func() error) ssh.Signer {
	asking := askingSigner{key, ask}
	switch k := key.(type) {
	case ssh.MultiAlgorithmSigner:
		return askingMultiSigner{askingAlgorithmSigner{asking, k}, k}
	case ssh.AlgorithmSigner:
		return askingAlgorithmSigner{asking, k}
	}
	return asking
}

type askingSigner struct {
	key ssh.Signer
	ask func() error
}

func (s askingSigner) PublicKey() ssh.PublicKey { return s.key.PublicKey() }

func (s askingSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	if err := s.ask(); err != nil {
		return nil, err
	}
	return s.key.Sign(rand, data)
}

type askingAlgorithmSigner struct {
	askingSigner
	key ssh.AlgorithmSigner
}

func (s askingAlgorithmSigner) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if err := s.ask(); err != nil {
		return nil, err
	}
	return s.key.SignWithAlgorithm(rand, data, algorithm)
}

type askingMultiSigner struct {
	askingAlgorithmSigner
	key ssh.MultiAlgorithmSigner
}

func (s askingMultiSigner) Algorithms() []string { return s.key.Algorithms() }
