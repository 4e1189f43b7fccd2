package ship

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// TLS names the files of a connection over TLS, PEM each.
type TLS struct {
	CA        string // who may have signed the receiver's certificate; "": whom the system trusts
	Cert, Key string // ours, if the receiver wants one
}

// config reads the files, anew for each connection, so that renewed ones are
// taken. The receiver's certificate is always verified, for the name that is
// dialled (RFC 5425 section 5.2).
func (t TLS) config(host string) (*tls.Config, error) {
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read the CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Check returns what is wrong with the files.
func (t TLS) Check() error {
	_, err := t.config("")
	return err
}

// A conn is a connection to the receiver.
type conn struct {
	net.Conn      // what is written to
	raw      *raw // what that is carried by
	tls      *tls.Conn
	format   format
}

// raw counts what the kernel has taken.
type raw struct {
	net.Conn
	taken atomic.Int64
}

func (r *raw) Write(b []byte) (int, error) {
	n, err := r.Conn.Write(b)
	r.taken.Add(int64(n))
	return n, err
}

// arrived is how many bytes the other side has. It may be too few.
func (c *conn) arrived() int64 {
	taken := c.raw.taken.Load() // before the others are asked for, of which there may be more then
	return taken - unacked(c.raw.Conn.(syscall.Conn))
}

const sendBuffer = 256 << 10

// dial connects, within a limit.
func dial(ctx context.Context, a Address, files TLS) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	var d net.Dialer
	if a.Network == "unix" {
		f := local
		c, err := d.DialContext(ctx, "unixgram", a.Path)
		if errors.Is(err, syscall.EPROTOTYPE) {
			f = lines
			c, err = d.DialContext(ctx, "unix", a.Path)
		}
		if err != nil {
			return nil, err
		}
		r := &raw{Conn: c}
		return &conn{Conn: r, raw: r, format: f}, nil
	}
	var config *tls.Config
	if a.Network == "tls" {
		var err error
		if config, err = files.config(a.Host); err != nil {
			return nil, err
		}
	}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.Host, a.Port))
	if err != nil {
		return nil, err
	}
	// What is under way is sent again when the connection breaks, and waited for
	// when the server stops.
	c.(*net.TCPConn).SetWriteBuffer(sendBuffer)
	r := &raw{Conn: c}
	if config == nil {
		return &conn{Conn: r, raw: r}, nil
	}
	t := tls.Client(r, config)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS with %s: %w", a.Host, err)
	}
	return &conn{Conn: t, raw: r, tls: t}, nil
}

// watch reads until the other side ends the connection. It has nothing to say.
func (c *conn) watch() error {
	b := make([]byte, 512)
	for {
		if _, err := c.Read(b); err != nil {
			return err
		}
	}
}

// closeWrite tells the other side that nothing more comes.
func (c *conn) closeWrite() error {
	var err error
	if c.tls != nil {
		err = c.tls.CloseWrite()
	}
	if half, ok := c.raw.Conn.(interface{ CloseWrite() error }); ok && c.format != local {
		return errors.Join(err, half.CloseWrite())
	}
	return err
}
