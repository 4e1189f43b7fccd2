package bastion_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A script is what a client does once keys are made, as bytes that a fuzzer
// can change: steps, each with a number, the length of what belongs to it in
// two bytes, and that.
type script []byte

const (
	stepSend  = iota // a packet
	stepProve        // alice's login, as it must be
	stepRaw          // bytes past the cipher
	stepAwait        // a message of that number, or a moment
	stepRekey        // a renewal of keys
	steps
)

func (s script) add(step byte, what ...byte) script {
	return append(binary.BigEndian.AppendUint16(append(s, step), uint16(len(what))), what...)
}

func (s script) send(packets ...[]byte) script {
	for _, p := range packets {
		s = s.add(stepSend, p...)
	}
	return s
}

func (s script) await(msg byte) script { return s.add(stepAwait, msg) }
func (s script) login() script         { return s.add(stepProve).await(52) }

// split cuts a script into its steps, as far as they are whole.
func (s script) split() (all [][]byte) {
	for len(s) >= 3 {
		n := min(3+int(binary.BigEndian.Uint16(s[1:])), len(s))
		all = append(all, s[:n])
		s = s[n:]
	}
	return all
}

// sessions are what is changed: what stock clients do.
func sessions() []script {
	open := func(kind string, channel uint32, extra []byte) []byte {
		return openPacket(kind, channel, 1<<20, 1<<15, extra)
	}
	direct := func(channel uint32, host string) []byte { return open("direct-tcpip", channel, directExtra(host, 7)) }
	exec := append(channelRequest(0, "exec"), []byte("\x00\x00\x00\x07targets")...)
	none := []byte("\x32\x00\x00\x00\x05alice\x00\x00\x00\x0essh-connection\x00\x00\x00\x04none")
	closing := func(channel uint32) [][]byte { return [][]byte{onChannel(96, channel), onChannel(97, channel)} }
	var s script
	return []script{
		s.send(none).await(51).login().
			send(open("session", 0, nil)).await(91).send(channelRequest(0, "pty-req"), channelRequest(0, "env"), channelRequest(0, "shell")).await(94).
			send(closing(0)...).await(97),
		s.login().send(open("session", 0, nil)).await(91).send(exec).await(96).send(onChannel(97, 0), []byte("\x01\x00\x00\x00\x0b\x00\x00\x00\x03bye\x00\x00\x00\x00")),
		s.login().send(globalRequest("no-more-sessions@openssh.com", false), direct(0, "target")).await(91).
			send(data(0, 100), data(0, 3000)).await(94).send(onChannel(93, 0, u32(3000)...), globalRequest("keepalive@openssh.com", true)).await(82).
			send(closing(0)...).await(97),
		s.login().send(direct(0, "target"), direct(1, "target"), direct(2, "crown-jewels"), direct(3, "target")).await(92).await(91).
			send(data(0, 10), data(1, 10), data(2, 10), channelRequest(1, "winadj@putty.projects.tartarus.org"), onChannel(96, 1), data(0, 10)).
			send(closing(0)...).send(onChannel(97, 1)),
		s.login().send(direct(0, "target")).await(91).send(data(0, 100)).add(stepRekey).send(data(0, 100)).await(94).add(stepRekey).send(closing(0)...),
		s.login().send([]byte{192, 0, 0, 0, 1, 'x'}).await(193).send(open("x11", 0, nil), globalRequest("tcpip-forward", true)).await(82).send([]byte{2, 0, 0, 0, 0}),
		s.send(none).await(51).add(stepRaw, []byte("no cipher's text")...),
	}
}

// arena is a server in memory against which scripts are played.
type arena struct {
	*bastiontest.Bastion
	network *bastiontest.Network

	mu      sync.Mutex
	panics  []string
	records []audit.Record // of the session that is played
	told    map[audit.Type]int
}

func newArena(t testing.TB) *arena {
	a := &arena{network: bastiontest.NewNetwork(), told: map[audit.Type]int{}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.AddHook(a)
	a.Bastion = bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers, Listener: a.network, Dialer: echoDialer{}, Recorder: a,
		Limits: func(l *bastion.Limits) { l.LoginGrace, l.HalfClosed = 5*time.Second, time.Second },
		Config: func(c *bastion.Config) { c.Log = log },
	})
	return a
}

func (a *arena) Append(_ context.Context, rec audit.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told[rec.Type]++
	a.records = append(a.records, rec)
	return nil
}

func (a *arena) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

// Fire keeps the lines of errors: there are none but a panic's.
func (a *arena) Fire(e *logrus.Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.panics = append(a.panics, fmt.Sprint(e.Message, e.Data))
	return nil
}

// play plays a script, closes the connection, and returns what is wrong with
// what is left of it then.
func (a *arena) play(t testing.TB, s script) {
	t.Helper()
	bastion.ForgetRenewals(a.Server)
	before := runtime.NumGoroutine()
	a.mu.Lock()
	a.records = nil
	a.mu.Unlock()
	conn, err := a.network.Dial(netip.MustParseAddrPort("203.0.113.9:50000"))
	if err != nil {
		t.Fatal(err)
	}
	r := bastiontest.NewRawSilent(t, a.Bastion, conn)
	if err := r.Until(bastiontest.SentServiceRequest); err != nil {
		t.Fatal(err)
	}
	a.act(r, s)
	r.Close()
	bastiontest.Eventually(t, "the connection is over", func() bool { return a.Server.Connections() == 0 && a.Server.Forwards() == 0 })
	bastiontest.Eventually(t, "the goroutines have returned", func() bool { return runtime.NumGoroutine() <= before })
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := bastiontest.CheckForwards(a.records); err != nil {
		t.Error(err)
	}
	ends := 0
	for _, rec := range a.records {
		if rec.Type == audit.ConnClose || rec.Type == audit.AuthFail {
			ends++
		}
	}
	if ends > 1 {
		t.Errorf("%d ends of one connection", ends)
	}
	if len(a.panics) > 0 {
		t.Errorf("errors: %s", strings.Join(a.panics, "\n"))
	}
}

// act does what a script says. What comes from the server is read aside, but
// while keys are renewed.
func (a *arena) act(r *bastiontest.Raw, s script) {
	got := make(chan byte, 1000)
	resume := make(chan struct{})
	go func() {
		defer close(got)
		for {
			p, err := r.Receive()
			if err != nil {
				return
			}
			select {
			case got <- p[0]:
			default:
			}
			if p[0] == 20 { // KEXINIT: whoever began it goes on with it
				if _, goesOn := <-resume; !goesOn {
					return
				}
			}
		}
	}()
	defer close(resume)
	patience, renewals := 4, 0
	await := func(msg byte) bool {
		late := time.NewTimer(25 * time.Millisecond)
		defer late.Stop()
		for patience > 0 {
			select {
			case m, open := <-got:
				if m == msg || !open {
					return open
				}
			case <-late.C:
				patience--
				return false
			}
		}
		return false
	}
	for _, step := range s.split() {
		what := step[3:]
		var err error
		switch step[0] % steps {
		case stepSend:
			err = r.Send(what)
		case stepProve:
			err = r.Send(r.ProofPacket(bastiontest.Proof{User: "alice", Key: a.Alice}))
		case stepRaw:
			_, err = r.Conn.Write(what)
		case stepAwait:
			if len(what) > 0 {
				await(what[0])
			}
		case stepRekey:
			if renewals++; renewals > bastion.RenewalBurst/2 {
				return // more would wait
			}
			if err = r.SendKexInit(); err == nil && await(20) {
				err = r.FinishRekey()
				resume <- struct{}{}
			}
		}
		if err != nil {
			return
		}
	}
}

func FuzzSession(f *testing.F) {
	for _, s := range sessions() {
		f.Add([]byte(s))
	}
	a := newArena(f)
	f.Fuzz(func(t *testing.T, s []byte) {
		if len(s) > 1<<16 {
			return
		}
		a.play(t, s)
	})
}

// change returns a session with steps and bytes changed, left out, doubled and
// moved.
func change(rnd *rand.Rand, all []script) script {
	parts := oneOf(rnd, all...).split()
	for i := range parts {
		parts[i] = slices.Clone(parts[i])
	}
	for range 1 + rnd.IntN(4) {
		i, j := rnd.IntN(len(parts)), rnd.IntN(len(parts))
		switch rnd.IntN(7) {
		case 0:
			parts[i], parts[j] = parts[j], parts[i]
		case 1:
			if len(parts) > 1 {
				parts = slices.Delete(parts, i, i+1)
			}
		case 2:
			parts = slices.Insert(parts, j, slices.Repeat([][]byte{parts[i]}, 1+rnd.IntN(40))...)
		case 3: // a byte of a packet
			if p := parts[i]; len(p) > 3 {
				p[3+rnd.IntN(len(p)-3)] = byte(rnd.Uint32())
			}
		case 4: // a number of one
			if p := parts[i]; len(p) >= 8 {
				binary.BigEndian.PutUint32(p[4+rnd.IntN(len(p)-7):], oneOf[uint32](rnd, 0, 1, 8, 255, 1<<15+1, 1<<31, 1<<32-1))
			}
		case 5: // cut short
			if p := parts[i]; len(p) > 3 {
				parts[i] = script(nil).add(p[0], p[3:3+rnd.IntN(len(p)-3)]...)
			}
		case 6: // of another session
			other := oneOf(rnd, all...).split()
			parts = slices.Insert(parts, i, slices.Clone(other[rnd.IntN(len(other))]))
		}
	}
	return slices.Concat(parts...)
}

func TestChangedSessionsDoNoHarm(t *testing.T) {
	const times = 200
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	a := newArena(t)
	all := sessions()
	for i := range times {
		s := change(rnd, all)
		if a.play(t, s); t.Failed() {
			t.Fatalf("session %d: %q", i, s)
		}
	}
	opened, logins := a.told[audit.ForwardOpen], a.told[audit.AuthOK]
	t.Logf("of %d sessions %d logged in, and they opened %d forwards", times, logins, opened)
	if logins < times/4 || opened < times/8 {
		t.Error("the sessions do not go deep")
	}
}
