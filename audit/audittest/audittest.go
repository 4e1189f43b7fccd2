// Package audittest makes audit logs for tests and benchmarks, as a busy server
// would have written them.
package audittest

import (
	"bufio"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sekisho/audit"
)

// Begin is when the first record of every such log was made.
var Begin = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// SegmentSize is about how large segments are.
const SegmentSize = 16 << 20

// Write writes a log of about so many bytes into dir: the same one for the same
// seed. Most of it are forwards with their ends; there are also logins,
// failures, refusals, retries, progress and what a server says of itself. Some
// forwards are left open.
func Write(dir string, bytes int64, seed uint64) error {
	w := &writer{dir: dir, rnd: rand.New(rand.NewPCG(seed, 7)), at: Begin}
	for w.total < bytes && w.err == nil {
		w.step()
	}
	return w.close()
}

// Name is that of the segment whose first record has this number.
func Name(first uint64) string { return fmt.Sprintf("%020d.jsonl", first) }

const (
	users   = 400 // u0 … u399, the lower the busier
	targets = 120
	policy  = "sha256:6e8e7b3c1b2a4a5d9f0c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162"
)

type writer struct {
	dir   string
	rnd   *rand.Rand
	file  *os.File
	buf   *bufio.Writer
	line  []byte
	seq   uint64
	size  int64 // of the segment
	total int64
	at    time.Time
	run   string
	conns []audit.Record // that are logged in
	open  []audit.Record // forwards, and when they began
	err   error
}

func (w *writer) id(prefix string) string {
	var b [10]byte
	binary.BigEndian.PutUint64(b[:], w.rnd.Uint64())
	binary.BigEndian.PutUint16(b[8:], uint16(w.rnd.Uint32()))
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

func (w *writer) put(r audit.Record) {
	if w.file == nil || w.size >= SegmentSize {
		w.rotate()
	}
	if w.err != nil {
		return
	}
	w.at = w.at.Add(time.Duration(w.rnd.IntN(400_000)) * time.Microsecond)
	r.V, r.Seq, r.Time, r.Bastion, r.Run = audit.Version, w.seq, w.at, "bastion-1", w.run
	w.line = append(r.AppendJSON(w.line[:0]), '\n')
	if _, w.err = w.buf.Write(w.line); w.err != nil {
		return
	}
	w.seq++
	w.size += int64(len(w.line))
	w.total += int64(len(w.line))
}

func (w *writer) rotate() {
	w.finish()
	if w.err != nil {
		return
	}
	if w.run == "" {
		// A ULID has no I, L, O and U.
		w.run = "01K9XQJ0Z8" + strings.NewReplacer("I", "0", "L", "1", "O", "8", "U", "9").Replace(strings.ToUpper(w.id("")))
	}
	w.size = 0
	w.file, w.err = os.Create(filepath.Join(w.dir, Name(w.seq)))
	w.buf = bufio.NewWriterSize(w.file, 1<<20)
	if w.seq == 0 {
		w.put(audit.Record{Type: audit.ServerStart})
		w.put(audit.Record{Type: audit.PolicyLoad, Policy: policy, Reason: "start", Detail: "400 users, 120 targets, 40 grants"})
	}
}

func (w *writer) finish() {
	if w.file == nil {
		return
	}
	if err := w.buf.Flush(); w.err == nil {
		w.err = err
	}
	if err := w.file.Close(); w.err == nil {
		w.err = err
	}
	w.file = nil
}

func (w *writer) close() error {
	if w.file == nil && w.err == nil {
		w.rotate()
	}
	w.finish()
	return w.err
}

// some is a number below n; low ones are more likely.
func (w *writer) some(n int) int {
	f := w.rnd.Float64()
	return int(f * f * f * float64(n))
}

func (w *writer) step() {
	switch n := w.rnd.IntN(1000); {
	case len(w.conns) < 4 || n < 60:
		w.login()
	case n < 75:
		w.fail()
	case n < 95:
		w.deny()
	case n < 97:
		w.put(audit.Record{Type: audit.PolicyReject, Policy: policy, Reason: "command", Detail: `policy.yaml:12:9: there is no group "develpers"`})
	case n < 102:
		r := w.conns[w.rnd.IntN(len(w.conns))]
		r.Type, r.Request, r.Reason, r.Detail = audit.RequestDeny, "shell", "not_served", "no shell is served here"
		w.put(r)
	case n < 150 && len(w.conns) > 4:
		w.leave()
	case n < 560:
		w.forward()
	case n < 640 && len(w.open) > 0:
		r := w.open[w.rnd.IntN(len(w.open))]
		r.Type = audit.ForwardProgress
		r.BytesUp, r.BytesDown, r.Duration = w.rnd.Uint64N(1<<20), w.rnd.Uint64N(1<<26), 5*time.Minute
		w.put(r)
	case len(w.open) > 0:
		w.end(w.rnd.IntN(len(w.open)))
	}
}

func source(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(113 + n%3), byte(n)}), uint16(40000+n%20000))
}

func (w *writer) login() {
	n := w.some(users)
	user := fmt.Sprintf("u%d", n)
	r := audit.Record{
		Type: audit.AuthOK, Conn: w.id("c"), Entrance: "ssh", User: user, Login: user, Key: fingerprint(n),
		Client: "SSH-2.0-OpenSSH_9.6", Source: source(n + 7*w.rnd.IntN(3)), Detail: "signed with ssh-ed25519",
	}
	if n%5 == 0 {
		r.Login, r.Client = "ec2-user", "SSH-2.0-libssh_0.9.6"
	}
	if n%11 == 0 {
		r.Cert = audit.Certificate{Authority: "corp", KeyID: user + "@corp.example", Serial: uint64(1000 + n)}
	}
	w.put(r)
	r.Detail = ""
	w.conns = append(w.conns, r)
}

func fingerprint(n int) string {
	return fmt.Sprintf("SHA256:%04dVztksCsDhcc0u9e8BrrJdhrOPZi9nGJ5Hb0vMx0", n%10000)
}

func (w *writer) fail() {
	n := w.rnd.IntN(5000)
	logins := []string{"root", "admin", "ubuntu", "test", "日本", "a b", "x\x1b[2J\u202ey"}
	w.put(audit.Record{
		Type: audit.AuthFail, Conn: w.id("c"), Entrance: "ssh", Login: logins[w.some(len(logins))], Key: fingerprint(n),
		Client: "SSH-2.0-Go", Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(w.some(250))}), uint16(1024+n)),
		Offered: []string{fingerprint(n + 1), fingerprint(n)}, Reason: "unknown_key", Detail: "none of the keys offered is anybody's",
	})
}

func target(n int) (audit.Endpoint, netip.AddrPort) {
	e := audit.Endpoint{Host: fmt.Sprintf("web-%d.corp.example", n), Port: 443}
	switch n % 4 {
	case 0:
		e = audit.Endpoint{Host: fmt.Sprintf("rds%d", n), Port: 3306}
	case 1:
		e = audit.Endpoint{Host: fmt.Sprintf("app%d", n), Port: 22}
	}
	return e, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n % 16), byte(10 + n)}), uint16(e.Port))
}

func (w *writer) ask() audit.Record {
	r := w.conns[w.rnd.IntN(len(w.conns))]
	n := w.some(targets)
	r.Forward, r.Policy, r.Grant = w.id("f"), policy, fmt.Sprintf("grant-%d", n%40)
	r.Originator = audit.Endpoint{Host: "127.0.0.1", Port: uint32(30000 + w.rnd.IntN(30000))}
	r.Target, r.Address = target(n)
	if w.rnd.IntN(50) == 0 {
		r.Target.Host = strings.ToUpper(r.Target.Host)
	}
	return r
}

func (w *writer) deny() {
	r := w.ask()
	r.Type, r.Grant, r.Address = audit.ForwardDeny, "", netip.AddrPort{}
	r.Reason, r.Detail = "no_grant", "no grant of the user names the target"
	if w.rnd.IntN(4) == 0 {
		r.Reason, r.Detail = "outside_networks", "no address of the host is inside the networks"
		r.Dropped = []audit.Dropped{{Addr: netip.MustParseAddr("169.254.169.254"), Reason: "metadata"}}
	}
	w.put(r)
}

func (w *writer) forward() {
	r := w.ask()
	r.Type = audit.ForwardOpen
	w.put(r)
	if w.rnd.IntN(40) == 0 {
		r.Type, r.Reason, r.Detail = audit.ForwardRetry, "connect_refused", "dial tcp "+r.Address.String()+": connect: connection refused"
		r.Address = netip.AddrPortFrom(r.Address.Addr().Next(), r.Address.Port())
		w.put(r)
		r.Reason, r.Detail = "", ""
	}
	r.Time = w.at
	w.open = append(w.open, r)
}

func (w *writer) end(i int) {
	r := w.open[i]
	w.open[i] = w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	if w.rnd.IntN(5000) == 0 {
		return // it stays open
	}
	r.Type, r.Reason, r.Duration = audit.ForwardClose, "closed", w.at.Sub(r.Time)
	r.BytesUp, r.BytesDown = w.rnd.Uint64N(1<<16), w.rnd.Uint64N(1<<uint(10+w.rnd.IntN(22)))
	switch w.rnd.IntN(30) {
	case 0:
		r.Type, r.BytesUp, r.BytesDown = audit.ForwardFail, 0, 0
		r.Reason, r.Detail = "connect_timeout", "dial tcp "+r.Address.String()+": i/o timeout"
	case 1:
		r.Type, r.Reason, r.Duration = audit.ForwardLost, "crash", 0
		r.Detail = "the server ended without an end of this forward"
	}
	w.put(r)
}

func (w *writer) leave() {
	i := w.rnd.IntN(len(w.conns))
	r := w.conns[i]
	w.conns[i] = w.conns[len(w.conns)-1]
	w.conns = w.conns[:len(w.conns)-1]
	r.Type, r.Reason, r.Detail, r.Duration = audit.ConnClose, "client_gone", "the client closed its connection", time.Hour
	w.put(r)
}
