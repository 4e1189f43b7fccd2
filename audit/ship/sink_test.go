package ship

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sekisho/audit"
)

func TestMain(m *testing.M) {
	settleTime, tickTime, troubleTime = 100*time.Millisecond, 5*time.Millisecond, 5*time.Millisecond
	leastDelay, mostDelay = 10*time.Millisecond, 50*time.Millisecond
	os.Exit(m.Run())
}

// A book is a log that is written in a test.
type book struct {
	*audit.Log
	t    *testing.T
	dir  string
	opts audit.Options
}

func newBook(t *testing.T, size int64) *book {
	b := &book{t: t, dir: filepath.Join(t.TempDir(), "audit"), opts: audit.Options{Bastion: "b", SegmentSize: size}}
	b.open()
	return b
}

func (b *book) open() {
	b.t.Helper()
	l, err := audit.Open(b.dir, b.opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	b.Log = l
}

func (b *book) write(n int) {
	b.t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := b.Append(context.Background(), audit.Record{Type: audit.PolicyLoad, Detail: strconv.Itoa(i)}); err != nil {
				b.t.Error(err)
			}
		})
	}
	all.Wait()
}

// lines are those of the log.
func (b *book) lines() []string {
	b.t.Helper()
	var all []string
	err := audit.Read(b.dir, func(r audit.Record) error {
		all = append(all, string(r.AppendJSON(nil)))
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// A receiver keeps what it is sent, by connection.
type receiver struct {
	t    *testing.T
	l    net.Listener
	mu   sync.Mutex
	got  [][]string
	open []net.Conn
	hold chan struct{} // nothing is read before it is closed; nil: at once
}

func listen(t *testing.T, network, address string) *receiver {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{t: t, l: l}
	t.Cleanup(r.down)
	return r
}

func (r *receiver) serve() *receiver {
	go func() {
		for {
			c, err := r.l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			i := len(r.got)
			r.got = append(r.got, nil)
			r.open = append(r.open, c)
			r.mu.Unlock()
			go r.read(c, i)
		}
	}()
	return r
}

func (r *receiver) read(c net.Conn, i int) {
	defer c.Close()
	if r.hold != nil {
		if c, ok := c.(*net.TCPConn); ok {
			c.SetReadBuffer(64 << 10)
		}
		<-r.hold
	}
	in := bufio.NewReader(c)
	for {
		var text string
		if c.LocalAddr().Network() == "unix" {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			text = strings.TrimSuffix(line, "\n")
		} else {
			word, err := in.ReadString(' ')
			if err != nil {
				return
			}
			n, err := strconv.Atoi(strings.TrimSuffix(word, " "))
			if err != nil {
				r.t.Errorf("no length: %q", word)
				return
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(in, b); err != nil {
				return
			}
			text = string(b)
		}
		_, line, ok := strings.Cut(text, "] ")
		if !ok {
			r.t.Errorf("no message: %q", text)
		}
		r.mu.Lock()
		r.got[i] = append(r.got[i], line)
		r.mu.Unlock()
	}
}

// cut breaks all connections and reads no more from them.
func (r *receiver) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.open {
		c.Close()
	}
	r.open = nil
}

func (r *receiver) down() {
	r.l.Close()
	r.cut()
}

func (r *receiver) connections() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([][]string, len(r.got))
	for i := range all {
		all[i] = slices.Clone(r.got[i])
	}
	return all
}

func seqOf(t *testing.T, line string) int {
	t.Helper()
	rec, err := audit.ParseRecord([]byte(line))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return int(rec.Seq)
}

// merge returns what the receiver has in the end, and how much it had twice.
// It proves the promise: each connection goes on without a gap, from no later
// than where those before it came to.
func merge(t *testing.T, connections [][]string) (all []string, twice int) {
	t.Helper()
	for i, got := range connections {
		for j, line := range got {
			seq := seqOf(t, line)
			switch {
			case seq > len(all), j > 0 && seq != seqOf(t, got[j-1])+1:
				t.Fatalf("connection %d: record %d at place %d, after %d records", i, seq, j, len(all))
			case seq < len(all):
				twice++
			default:
				all = append(all, line)
			}
		}
	}
	return all, twice
}

func (r *receiver) address() string {
	if r.l.Addr().Network() == "unix" {
		return "unix:" + r.l.Addr().String()
	}
	return "tcp://" + r.l.Addr().String()
}

// A story is what a sink tells.
type story struct {
	mu  sync.Mutex
	all []Event
}

func (s *story) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, e)
}

func (s *story) find(w What) (e Event, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.all, func(e Event) bool { return e.What == w })
	if i < 0 {
		return e, false
	}
	return s.all[i], true
}

func (b *book) ship(address string, change ...func(*Options)) (*Sink, *story) {
	b.t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		b.t.Fatal(err)
	}
	s := &story{}
	opts := Options{Dir: b.dir, Durable: b.Durable, Address: a, Facility: 13, Tell: s.tell}
	for _, f := range change {
		f(&opts)
	}
	sink, err := Start(opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(sink.cancel)
	return sink, s
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 10000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("waited in vain: " + what)
}

func stop(t *testing.T, s *Sink) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%d lines, not the %d of the log", len(got), len(want))
	}
}

func TestAllArrivesInOrder(t *testing.T) {
	for name, l := range map[string]func(t *testing.T) *receiver{
		"over TCP":           func(t *testing.T) *receiver { return listen(t, "tcp", "127.0.0.1:0") },
		"over a unix stream": func(t *testing.T) *receiver { return listen(t, "unix", t.TempDir()+"/log") },
	} {
		t.Run(name, func(t *testing.T) {
			b, r := newBook(t, 5000), l(t).serve()
			b.write(100)
			s, story := b.ship(r.address())
			b.write(100)
			until(t, "it is all sent", func() bool { return s.Stats().Behind == 0 })
			b.write(1)
			b.Close()
			stop(t, s)
			all, twice := merge(t, r.connections())
			equal(t, all, b.lines())
			if twice != 0 {
				t.Errorf("%d came twice", twice)
			}
			if _, ok := story.find(Connected); !ok || len(story.all) != 1 {
				t.Errorf("it told %v", story.all)
			}
			st := s.Stats()
			if st.Next != b.Durable() || st.Arrived != st.Next || !st.Oldest.IsZero() || st.Missed != 0 {
				t.Errorf("%+v", st)
			}

			// The next run goes on where this one ended.
			b.open()
			s, _ = b.ship(r.address())
			b.write(3)
			b.Close()
			stop(t, s)
			all, twice = merge(t, r.connections())
			equal(t, all, b.lines())
			if twice != 0 {
				t.Errorf("%d came twice after a stop in order", twice)
			}
		})
	}
}

func TestDatagrams(t *testing.T) {
	b := newBook(t, 0)
	b.Append(t.Context(), audit.Record{Type: audit.AuthFail, Detail: strings.Repeat("\x01", 1024), Offered: slices.Repeat([]string{strings.Repeat("\x01", 1024)}, 32)})
	path := t.TempDir() + "/log"
	var got []string
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	read := func() {
		m := make([]byte, 1<<20)
		for {
			n, err := l.Read(m)
			if err != nil {
				close(done)
				return
			}
			_, line, _ := strings.Cut(string(m[:n]), "]: ")
			got = append(got, line)
		}
	}
	go read()
	s, story := b.ship("unix:" + path)
	b.write(50)
	until(t, "it is all sent", func() bool { return s.Stats().Behind == 0 })
	b.write(1)
	b.Close()
	stop(t, s)
	if st := s.Stats(); st.Arrived != b.Durable() || st.Shortened != 1 {
		t.Errorf("%+v", st)
	}
	if _, ok := story.find(Shortened); !ok {
		t.Error("nobody was told of the record that was too long")
	}
	until(t, "the last is read", func() bool { return s.Stats().Behind == 0 })
	time.Sleep(20 * time.Millisecond)
	l.Close()
	<-done
	want := b.lines()
	if len(got) != len(want) || seqOf(t, got[1]) != 1 || !strings.Contains(got[1], "too long to be sent") {
		t.Fatalf("%d of %d, the second is %.300s", len(got), len(want), got[1])
	}
	equal(t, slices.Delete(got, 1, 2), slices.Delete(want, 1, 2))
}

// A tight socket takes only short datagrams.
type tight struct {
	net.Conn
	most int
	got  []string
}

func (c *tight) SetWriteDeadline(time.Time) error { return nil }

func (c *tight) Write(b []byte) (int, error) {
	if len(b) > c.most {
		return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EMSGSIZE)}
	}
	c.got = append(c.got, string(b))
	return len(b), nil
}

func TestADatagramThatIsTooLargeStallsNothing(t *testing.T) {
	for most, want := range map[int]int{1000: 2, 100: 0} {
		story := &story{}
		s := &Sink{opts: Options{Durable: func() uint64 { return 9 }, Tell: story.tell, Facility: 13}}
		to := &tight{most: most}
		c := &conn{Conn: to, raw: &raw{Conn: to}, format: local}
		for seq := range uint64(2) {
			rec := record()
			rec.Seq, rec.Detail = seq, strings.Repeat("x", 1024)
			if err := s.take(c, rec.AppendJSON(nil), rec); err != nil {
				t.Fatal(err)
			}
		}
		if st := s.Stats(); len(to.got) != want || st.Next != 2 || st.Shortened != 2 || int(st.Missed) != 2-want {
			t.Errorf("%q, %+v", to.got, st)
		}
	}
}

func TestAReceiverThatIsDownIsCaughtUpWith(t *testing.T) {
	b := newBook(t, 5000)
	r := listen(t, "tcp", "127.0.0.1:0")
	address := r.address()
	r.down()
	b.write(50)
	s, story := b.ship(address)
	until(t, "the loss is told", func() bool { _, ok := story.find(Lost); return ok })
	b.write(50)
	st := s.Stats()
	if st.Behind != b.Durable() || st.Oldest.IsZero() || !st.Connected.IsZero() || !errors.Is(st.Err, syscall.ECONNREFUSED) {
		t.Errorf("%+v", st)
	}
	r = listen(t, "tcp", strings.TrimPrefix(address, "tcp://")).serve()
	until(t, "it is caught up with", func() bool { _, ok := story.find(CaughtUp); return ok })
	b.Close()
	stop(t, s)
	all, _ := merge(t, r.connections())
	equal(t, all, b.lines())
}

func TestAReceiverThatIsCutOffUnderLoadGetsAll(t *testing.T) {
	b, r := newBook(t, 20000), listen(t, "tcp", "127.0.0.1:0").serve()
	s, _ := b.ship(r.address())
	for range 8 {
		b.write(200)
		r.cut()
		b.write(50)
	}
	b.Close()
	stop(t, s)
	all, twice := merge(t, r.connections())
	equal(t, all, b.lines())
	t.Logf("%d connections, %d records twice", len(r.connections()), twice)
}

func TestWhatArrivedShortlyBeforeALossIsSentAgain(t *testing.T) {
	settleTime = time.Hour
	defer func() { settleTime = 100 * time.Millisecond }()
	b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0").serve()
	s, _ := b.ship(r.address())
	b.write(10)
	until(t, "all is there", func() bool { c := r.connections(); return len(c) == 1 && len(c[0]) == 11 })
	if s.Stats().Arrived != 0 {
		t.Errorf("%+v", s.Stats())
	}
	r.cut()
	until(t, "all is there again", func() bool { c := r.connections(); return len(c) == 2 && len(c[1]) == 11 })
	b.Close()
	stop(t, s)
}

func TestTheCursorSurvivesACrash(t *testing.T) {
	b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0").serve()
	s, _ := b.ship(r.address())
	b.write(10)
	path := filepath.Join(b.dir, "cursor.syslog")
	until(t, "the cursor is written", func() bool { c, err := readCursor(path); return err == nil && c.Next == 11 })
	s.cancel()
	<-s.done
	b.write(10)
	s, story := b.ship(r.address())
	b.Close()
	stop(t, s)
	all, twice := merge(t, r.connections())
	equal(t, all, b.lines())
	if _, ok := story.find(OtherLog); ok || twice != 0 {
		t.Errorf("%d twice, %v", twice, story.all)
	}
}

func TestACloseWhileIdleIsNoticed(t *testing.T) {
	b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0").serve()
	s, story := b.ship(r.address())
	until(t, "it has arrived", func() bool { return s.Stats().Arrived == 1 })
	r.cut()
	until(t, "the loss is told", func() bool { _, ok := story.find(Lost); return ok })
	if e, _ := story.find(Lost); e.Err.Error() != "the receiver closed the connection" {
		t.Error(e.Err)
	}
	until(t, "it is there again", func() bool { return len(r.connections()) == 2 })
}

func TestAReceiverThatStallsHoldsUpNobody(t *testing.T) {
	b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0")
	r.hold = make(chan struct{})
	r.serve()
	s, _ := b.ship(r.address())
	// More than the buffers of both sides hold, 32 KiB of it a record.
	big := audit.Record{Type: audit.AuthFail, Offered: slices.Repeat([]string{strings.Repeat("x", 1000)}, 32)}
	for range 120 {
		if err := b.Append(t.Context(), big); err != nil {
			t.Fatal(err)
		}
	}
	st := s.Stats()
	if st.Behind == 0 {
		t.Fatal("all was taken: this test tests nothing")
	}
	close(r.hold)
	b.Close()
	stop(t, s)
	all, _ := merge(t, r.connections())
	equal(t, all, b.lines())
}

func TestAReceiverThatStallsForLongIsLeft(t *testing.T) {
	ackTime, writeTime = 200*time.Millisecond, 300*time.Millisecond
	defer func() { ackTime, writeTime = 30*time.Second, 30*time.Second }()
	b, r := newBook(t, 0), listen(t, "unix", t.TempDir()+"/log")
	r.hold = make(chan struct{})
	r.serve()
	s, story := b.ship(r.address())
	b.write(10)
	until(t, "it is left", func() bool { _, ok := story.find(Lost); return ok })
	if e, _ := story.find(Lost); !strings.Contains(e.Err.Error(), "has acknowledged nothing for 200ms") {
		t.Error(e.Err)
	}
	close(r.hold)
	b.Close()
	stop(t, s)
	all, _ := merge(t, r.connections()[len(r.connections())-1:])
	equal(t, all, b.lines())
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0")
	address := r.address()
	r.down()
	s, _ := b.ship(address)
	b.write(4)
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := s.Close(ctx)
	if err == nil || err.Error() != "ship: 5 records are not sent yet, and are when the server runs again" {
		t.Error(err)
	}
}

// packed waits until a closed segment is, and nobody touches it any more.
func packed(t *testing.T, dir string, seq int) {
	t.Helper()
	name := fmt.Sprintf("%s/%020d.jsonl", dir, seq)
	until(t, "a closed segment is packed", func() bool {
		_, plain := os.Stat(name)
		_, zst := os.Stat(name + ".zst")
		return os.IsNotExist(plain) && zst == nil
	})
}

func TestRecordsThatRetentionTookAreCounted(t *testing.T) {
	b := newBook(t, 1)
	r := listen(t, "tcp", "127.0.0.1:0").serve()
	s, _ := b.ship(r.address())
	until(t, "it has arrived", func() bool { return s.Stats().Arrived == 1 })
	s.cancel()
	<-s.done
	for range 5 {
		b.write(1)
	}
	for seq := range 4 {
		packed(t, b.dir, seq)
		if err := os.Remove(fmt.Sprintf("%s/%020d.jsonl.zst", b.dir, seq)); err != nil {
			t.Fatal(err)
		}
	}
	s, story := b.ship(r.address())
	b.Close()
	stop(t, s)
	if e, ok := story.find(Missed); !ok || e.Count != 3 || s.Stats().Missed != 3 {
		t.Errorf("%+v, %+v", e, s.Stats())
	}
	got := r.connections()[1]
	if len(got) != 2 || seqOf(t, got[0]) != 4 {
		t.Errorf("%q", got)
	}
}

func TestDamageIsPassedOver(t *testing.T) {
	b := newBook(t, 1)
	for range 5 {
		b.write(1)
	}
	packed(t, b.dir, 2) // the plain one is read all the same, if it is there
	if err := os.WriteFile(fmt.Sprintf("%s/%020d.jsonl", b.dir, 2), []byte("no record\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := listen(t, "tcp", "127.0.0.1:0").serve()
	s, story := b.ship(r.address())
	b.Close()
	stop(t, s)
	if e, ok := story.find(Unreadable); !ok || !strings.Contains(e.Err.Error(), "where record 2 should be") {
		t.Errorf("%+v", e)
	}
	if s.Stats().Missed != 1 {
		t.Errorf("%+v", s.Stats())
	}
	var seqs []int
	for _, line := range r.connections()[0] {
		seqs = append(seqs, seqOf(t, line))
	}
	if !slices.Equal(seqs, []int{0, 1, 3, 4, 5}) {
		t.Error(seqs)
	}
}

func TestACursorOfAnotherLogIsNoticed(t *testing.T) {
	for name, c := range map[string]cursor{
		"beyond the end": {Next: 100, Last: hash(nil)},
		"of other lines": {Next: 2, Last: hash(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			b, r := newBook(t, 0), listen(t, "tcp", "127.0.0.1:0").serve()
			b.write(3)
			at := filepath.Join(t.TempDir(), "cursor")
			if err := c.write(at); err != nil {
				t.Fatal(err)
			}
			s, story := b.ship(r.address(), func(o *Options) { o.Cursor = at })
			b.Close()
			stop(t, s)
			if _, ok := story.find(OtherLog); !ok {
				t.Error("nobody was told")
			}
			all, _ := merge(t, r.connections())
			equal(t, all, b.lines())
		})
	}
	t.Run("that cannot be read is an error", func(t *testing.T) {
		at := filepath.Join(t.TempDir(), "cursor")
		os.WriteFile(at, []byte("5"), 0o600)
		if _, err := Start(Options{Cursor: at}); err == nil || !strings.Contains(err.Error(), "is not a cursor") {
			t.Error(err)
		}
	})
}

// A pki makes certificates.
type pki struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	ca   string
}

func newPKI(t *testing.T) *pki {
	p := &pki{t: t, dir: t.TempDir()}
	p.ca, _ = p.issue("ca", nil)
	return p
}

func (p *pki) issue(name string, hosts []string) (cert, key string) {
	p.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := p.cert, p.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer, p.key = c, k, k
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), signer)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.cert == nil {
		p.cert, _ = x509.ParseCertificate(der)
	}
	secret, _ := x509.MarshalPKCS8PrivateKey(k)
	cert, key = filepath.Join(p.dir, name+".pem"), filepath.Join(p.dir, name+".key")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	ours, others := newPKI(t), newPKI(t)
	cert, key := ours.issue("client", nil)
	strange, strangeKey := others.issue("stranger", nil)
	server := func(t *testing.T, host string, mutual bool, most uint16) *receiver {
		c, k := ours.issue("server", []string{host})
		pair, err := tls.LoadX509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		config := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: most, MinVersion: tls.VersionTLS10}
		if mutual {
			config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			config.ClientCAs.AddCert(ours.cert)
		}
		r := listen(t, "tcp", "127.0.0.1:0")
		r.l = tls.NewListener(r.l, config)
		return r.serve()
	}
	for name, c := range map[string]struct {
		host   string
		mutual bool
		most   uint16
		files  TLS
		err    string // "": all arrives
	}{
		"whose authority is known":             {host: "localhost", files: TLS{CA: ours.ca}},
		"of version 1.2":                       {host: "localhost", most: tls.VersionTLS12, files: TLS{CA: ours.ca}},
		"that wants to know us":                {host: "localhost", mutual: true, files: TLS{CA: ours.ca, Cert: cert, Key: key}},
		"of version 1.1":                       {host: "localhost", most: tls.VersionTLS11, files: TLS{CA: ours.ca}, err: "protocol version"},
		"of another name":                      {host: "example.com", files: TLS{CA: ours.ca}, err: "not localhost"},
		"whose authority is not known":         {host: "localhost", files: TLS{CA: others.ca}, err: "unknown authority"},
		"that the system does not know":        {host: "localhost", err: "unknown authority"},
		"that wants to know us and does not":   {host: "localhost", mutual: true, files: TLS{CA: ours.ca}, err: "certificate required"},
		"that is shown another certificate":    {host: "localhost", mutual: true, files: TLS{CA: ours.ca, Cert: strange, Key: strangeKey}, err: "tls: "},
		"for which the files are not there":    {host: "localhost", files: TLS{CA: ours.ca + "x"}, err: "no such file"},
		"for which the key is not of the cert": {host: "localhost", files: TLS{CA: ours.ca, Cert: cert, Key: strangeKey}, err: "does not match"},
	} {
		t.Run("with a receiver "+name, func(t *testing.T) {
			b, r := newBook(t, 0), server(t, c.host, c.mutual, c.most)
			_, port, _ := net.SplitHostPort(r.l.Addr().String())
			s, story := b.ship("tls://localhost:"+port, func(o *Options) { o.TLS = c.files })
			if c.err != "" {
				until(t, "the loss is told", func() bool { _, ok := story.find(Lost); return ok })
				if e, _ := story.find(Lost); !strings.Contains(e.Err.Error(), c.err) {
					t.Error(e.Err)
				}
				if len(slices.Concat(r.connections()...)) > 0 {
					t.Error("it was sent something")
				}
				return
			}
			b.write(100)
			until(t, "some has arrived", func() bool { return s.Stats().Arrived > 0 })
			b.write(100)
			b.Close()
			stop(t, s)
			all, twice := merge(t, r.connections())
			equal(t, all, b.lines())
			if twice != 0 {
				t.Errorf("%d came twice", twice)
			}
		})
	}
}
