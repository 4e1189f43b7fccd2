package bastion

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
)

// noBook records nothing.
type noBook struct{}

func (noBook) Append(context.Context, audit.Record) error { return nil }

// testKeys are the keys of all tests.
var testKeys = sync.OnceValue(func() (keys [100]ssh.Signer) {
	for n := range keys {
		seed := make([]byte, ed25519.SeedSize)
		seed[0] = byte(n)
		signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
		if err != nil {
			panic(err)
		}
		keys[n] = signer
	}
	return keys
})

func keyLine(n int) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(testKeys()[n].PublicKey())))
}

func fingerprint(n int) string { return ssh.FingerprintSHA256(testKeys()[n].PublicKey()) }

func parsePolicy(t testing.TB, text string) *authz.Policy {
	t.Helper()
	p, problems := authz.Parse(strings.NewReader(text), "policy.yaml", authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if p == nil {
		t.Fatalf("%v\n%s", problems.Err(), text)
	}
	return p
}

// still is a server on which nothing happens but what the test does: no
// forward and no connection is tended.
func still(t testing.TB, policy *authz.Policy, change func(*Config)) *Server {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	config := Config{
		Name: "test", HostKeys: []ssh.Signer{testKeys()[0]}, Policy: policy, Hosts: noNames{}, Recorder: noBook{},
		Limits: DefaultLimits(), Log: log, OwnAddrs: func() ([]netip.Addr, error) { return nil, nil },
	}
	if change != nil {
		change(&config)
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	s.tending()
	s.tended.Wait()
	return s
}

// stillForward puts a forward on s that has no sockets: asked for, judged, and
// being dialled at addr if that is valid. It runs if open is set and the
// policy allows it.
func stillForward(t testing.TB, s *Server, p Principal, host string, port int, addr netip.Addr, started time.Time, open bool) *forward {
	t.Helper()
	fw, finished := newForward(context.Background(), p, Ask{Target: audit.Endpoint{Host: host, Port: uint32(port)}, At: started})
	t.Cleanup(finished)
	if cause := s.forwarder.live.add(fw, Limits{MaxForwards: 1 << 20, MaxForwardsPerUser: 1 << 20}); cause != nil {
		t.Fatal(cause)
	}
	s.forwarder.decide(fw, netip.Addr{})
	if !addr.IsValid() {
		return fw
	}
	dialled := netip.AddrPortFrom(addr, uint16(port))
	fw.address.Store(&dialled)
	if d := s.forwarder.decide(fw, addr); d.Effect == authz.Allow {
		fw.opened, fw.told = true, fw.grant
		if open {
			fw.flow.touch()
		}
	}
	return fw
}

// stillConnection puts a connection of p on s over conn, that nobody serves.
func stillConnection(s *Server, p Principal, conn net.Conn) *connection {
	c := newConnection(s, conn)
	c.source = p.Source
	p.Conn = c.id
	c.proven.Store(&p)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	return c
}

func oneOf[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

var everybody = []string{"alice", "bob", "carol"}

// randomPolicy is a policy over few users, hosts and conditions, so that two
// of them often say different things of one forward.
func randomPolicy(rnd *rand.Rand) string {
	when := func() string {
		return oneOf(rnd, "", "", "", "when: {from: [192.0.2.0/24]}", "when: {except: [192.0.2.7]}", "when: {until: 2026-11-22}",
			"when: {after: 2026-11-24}", `when: {hours: ["Mon-Fri 09:00-19:00"]}`, `when: {hours: ["20:00-22:00"]}`)
	}
	fields := func(all ...string) string {
		var some []string
		for _, f := range all {
			if f != "" {
				some = append(some, f)
			}
		}
		return "  - {" + strings.Join(some, ", ") + "}\n"
	}
	var b strings.Builder
	b.WriteString("version: 1\ntimezone: UTC\nusers:\n  - {name: dave, keys: []}\n")
	for i, name := range everybody {
		if rnd.IntN(8) == 0 {
			continue
		}
		both := fmt.Sprintf("%q, %q", keyLine(2*i), keyLine(2*i+1))
		keys := oneOf(rnd, fmt.Sprintf("%q", keyLine(2*i)), both, both, both, "")
		b.WriteString(fields("name: "+name, "groups: ["+oneOf(rnd, "dev", "dba", "dev, dba", "")+"]", "keys: ["+keys+"]", oneOf(rnd, "", "", when())))
	}
	b.WriteString("targets:\n")
	for i := range 3 {
		within := oneOf(rnd, "", "", "within: [10.0.1.0/24]")
		b.WriteString(fields(fmt.Sprintf("name: t%d", i), "hosts: ["+oneOf(rnd, "app", "rds", "app, rds", "10.0.1.0/24", "10.0.0.0/16", "10.0.2.9")+"]",
			"ports: ["+oneOf(rnd, `"22"`, `"3306"`, `"1-65535"`)+"]", within))
	}
	b.WriteString("grants:\n")
	for i := range 1 + rnd.IntN(9) {
		hours := when()
		end := ""
		if strings.Contains(hours, "hours") {
			end = oneOf(rnd, "at_end: keep", "at_end: close", "")
		}
		b.WriteString(fields(fmt.Sprintf("name: g%d", i), oneOf(rnd, "users: [alice]", "users: [bob, carol]", "groups: [dev]", "groups: [dba]"),
			fmt.Sprintf("to: [t%d]", rnd.IntN(3)), hours, end, oneOf(rnd, "", "", "require: [touch]"),
			oneOf(rnd, "", "", "limits: {duration: 1h}", "limits: {duration: 100h, forwards: 1}")))
	}
	return b.String()
}

// state is all of a forward that a judgement may change.
type state struct {
	host, grant, policy, told string
	limits                    authz.Limits
	edge                      time.Time
	cut                       bool
}

func stateOf(fw *forward) state {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return state{fw.host, fw.grant, fw.policy, fw.told, fw.limits, fw.edge, fw.cutting.Err() != nil || fw.ctx.Err() != nil}
}

func TestPreviewNamesWhatSetPolicyEndsAndChangesNothing(t *testing.T) {
	named, spared := 0, 0
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		texts := [2]string{randomPolicy(rnd), randomPolicy(rnd)}
		if rnd.IntN(2) == 0 { // or only without its last grant
			at := strings.LastIndex(strings.TrimSpace(texts[0]), "\n") + 1
			texts[1] = strings.TrimSuffix(texts[0][:at], "grants:\n")
		}
		hour := 0
		s := still(t, parsePolicy(t, texts[0]), func(c *Config) {
			c.Now = func() time.Time { return time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC) } // a Monday
			own := oneOf(rnd, "10.0.1.5", "10.9.9.9")
			c.OwnAddrs = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(own)}, nil }
		})
		hour = oneOf(rnd, 12, 21)
		principal := func() Principal {
			i := rnd.IntN(3)
			return Principal{
				User: everybody[i], Key: fingerprint(2*i + rnd.IntN(2)), Touch: rnd.IntN(2) == 0,
				Source: netip.AddrPortFrom(netip.MustParseAddr(oneOf(rnd, "192.0.2.7", "192.0.2.8", "203.0.113.9")), 50000),
			}
		}
		var forwards []*forward
		for range 100 {
			addr := netip.MustParseAddr(oneOf(rnd, "10.0.1.5", "10.0.1.6", "10.0.2.9", "10.1.0.1"))
			host := oneOf(rnd, "app", "rds", addr.String())
			if rnd.IntN(8) == 0 {
				addr = netip.Addr{} // it is being resolved
			}
			started := time.Now().Add(-oneOf(rnd, time.Second, 2*time.Hour))
			fw := stillForward(t, s, principal(), host, oneOf(rnd, 22, 3306), addr, started, rnd.IntN(4) > 0)
			if fw.opened || rnd.IntN(20) == 0 { // few live that the policy of before does not allow
				forwards = append(forwards, fw)
			} else {
				s.forwarder.live.remove(fw)
			}
		}
		if len(forwards) == 0 {
			continue
		}
		var conns []*connection
		for range 10 {
			ours, theirs := net.Pipe()
			defer ours.Close()
			defer theirs.Close()
			conns = append(conns, stillConnection(s, principal(), ours))
		}
		ended := forwards[0]
		ended.cut(draining) // it is ending already: neither is to end it again
		hour = oneOf(rnd, hour, 12, 21)

		before := map[*forward]state{}
		for _, fw := range forwards {
			before[fw] = stateOf(fw)
		}
		policy := parsePolicy(t, texts[1])
		namedForwards, namedConns := s.Preview(policy)
		for _, fw := range forwards {
			if now := stateOf(fw); now != before[fw] {
				t.Errorf("seed %d: a preview has changed a forward: %+v, before %+v", seed, now, before[fw])
			}
		}
		want := map[string]string{}
		for _, e := range append(namedForwards, namedConns...) {
			want[e.Forward+" of "+e.Conn] = e.Reason + ": " + e.Detail
		}
		if got := s.policies.get().Hash(); got != parsePolicy(t, texts[0]).Hash() {
			t.Fatalf("seed %d: a preview has put its policy in force", seed)
		}

		cut, closed := s.SetPolicy(policy)
		got := map[string]string{}
		for _, fw := range forwards {
			if fw != ended && fw.cutting.Err() != nil {
				cause := causeOf(fw.cutting, nil)
				got[fw.id+" of "+fw.principal.Conn] = cause.reason + ": " + cause.detail
			}
		}
		for _, c := range conns {
			if c.ctx.Err() != nil {
				cause := causeOf(c.ctx, nil)
				got[" of "+c.id] = cause.reason + ": " + cause.detail
			}
		}
		if !maps.Equal(got, want) || cut != len(namedForwards) || closed != len(namedConns) {
			t.Fatalf("seed %d: ended (%d, %d)\n%v\npreviewed (%d, %d)\n%v\nby\n%s\nthen\n%s", seed, cut, closed, got, len(namedForwards), len(namedConns), want, texts[0], texts[1])
		}
		named, spared = named+len(want), spared+len(forwards)+len(conns)-len(want)
		if again, conns := s.Preview(policy); len(again)+len(conns) > 0 {
			t.Errorf("seed %d: the policy in force would end %v %v", seed, again, conns)
		}
	}
	t.Logf("%d ended, %d not", named, spared)
	if named < 1000 || spared < 1000 {
		t.Error("the random policies try too little")
	}
}

func TestPreviewJudgesByTheOwnAddressesOfNow(t *testing.T) {
	policy := parsePolicy(t, twoHosts)
	own := []netip.Addr{}
	failure := error(nil)
	s := still(t, policy, func(c *Config) { c.OwnAddrs = func() ([]netip.Addr, error) { return own, failure } })
	alice := Principal{User: "alice", Key: fingerprint(1), Conn: "c1"}
	fw := stillForward(t, s, alice, "app", 22, netip.MustParseAddr("10.0.1.5"), time.Now(), true)
	if ends, _ := s.Preview(policy); len(ends) > 0 {
		t.Errorf("%+v", ends)
	}
	own = []netip.Addr{netip.MustParseAddr("10.0.1.5")}
	if ends, _ := s.Preview(policy); len(ends) != 1 || ends[0].Forward != fw.id || ends[0].Reason != string(authz.OwnAddress) {
		t.Errorf("%+v", ends)
	}
	s.SetPolicy(policy)
	own, failure = nil, context.DeadlineExceeded // what was known stays
	other := stillForward(t, s, alice, "app", 22, netip.MustParseAddr("10.0.1.6"), time.Now(), true)
	known := netip.MustParseAddrPort("10.0.1.5:22")
	other.address.Store(&known)
	if ends, _ := s.Preview(policy); len(ends) != 1 || ends[0].Reason != string(authz.OwnAddress) {
		t.Errorf("%+v", ends)
	}
}

var twoHosts = fmt.Sprintf(`version: 1
users:
  - {name: alice, keys: [%q]}
targets:
  - {name: app, hosts: [app], ports: ["22"]}
grants:
  - {name: app, users: [alice], to: [app]}
`, keyLine(1))

func TestALongerDurationThatTakesOverAtTheEdgeIsTheOneThatCounts(t *testing.T) {
	hour := 18
	s := still(t, parsePolicy(t, strings.Replace(twoHosts, "to: [app]}\n", `to: [app], when: {hours: ["09:00-19:00"]}, limits: {duration: 1h}}
  - {name: late, users: [alice], to: [app]}
`, 1)), func(c *Config) {
		c.Now = func() time.Time { return time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC) }
	})
	fw := stillForward(t, s, Principal{User: "alice", Key: fingerprint(1)}, "app", 22, netip.MustParseAddr("10.0.1.5"), time.Now().Add(-2*time.Hour), true)
	hour = 19
	s.forwarder.tendOne(fw)
	if fw.cutting.Err() != nil || stateOf(fw).grant != "late" {
		t.Errorf("%+v, %v", stateOf(fw), causeOf(fw.cutting, nil))
	}
}

// heldConn is a connection whose Close takes as long as the test wants.
type heldConn struct {
	net.Conn
	held chan struct{}
}

func (c *heldConn) Close() error {
	<-c.held
	return c.Conn.Close()
}

func TestSetPolicyWaitsForNoSocketAndNoRecord(t *testing.T) {
	s := still(t, parsePolicy(t, twoHosts), func(c *Config) { c.Recorder = hungBook{} })
	alice := Principal{User: "alice", Key: fingerprint(1)}
	held := make(chan struct{})
	defer close(held)
	var conns []*connection
	for range 3 {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conns = append(conns, stillConnection(s, alice, &heldConn{ours, held}))
		stillForward(t, s, alice, "app", 22, netip.MustParseAddr("10.0.1.5"), time.Now(), true)
	}
	// First to another grant, which is recorded, then to nobody.
	if forwards, closed := s.SetPolicy(parsePolicy(t, strings.Replace(twoHosts, "{name: app, users", "{name: second, users", 1))); forwards != 0 || closed != 0 {
		t.Errorf("ended %d forwards, %d connections", forwards, closed)
	}
	if forwards, closed := s.SetPolicy(parsePolicy(t, strings.ReplaceAll(twoHosts, "alice", "nobody"))); forwards != 3 || closed != 3 {
		t.Errorf("ended %d forwards, %d connections", forwards, closed)
	}
	for _, c := range conns {
		if c.ctx.Err() == nil {
			t.Error("a connection goes on")
		}
	}
}

// hungBook never answers.
type hungBook struct{}

func (hungBook) Append(ctx context.Context, _ audit.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

// BenchmarkRejudge10000 judges 10,000 forwards that run, by a policy of 400
// grants. One op is all of them.
func BenchmarkRejudge10000(b *testing.B) {
	const users, grants, forwards = 100, 400, 10_000
	policy := func(change string) *authz.Policy {
		var text strings.Builder
		text.WriteString("version: 1\nusers:\n")
		for i := range users {
			fmt.Fprintf(&text, "  - {name: user%d, groups: [all, group%d], keys: [%q]}\n", i, i%20, keyLine(i))
		}
		text.WriteString("targets:\n")
		for i := range grants {
			fmt.Fprintf(&text, "  - {name: t%d, hosts: [host%d, \"web-*.s%d.corp.example\", 10.%d.0.0/16], ports: [\"22\", \"8000-8100\"]}\n", i, i, i, i%200)
		}
		text.WriteString("grants:\n")
		for i := range grants {
			who := fmt.Sprintf("groups: [%sgroup%d]", change, i%20)
			if i%10 == 9 {
				who = "groups: [all" + change + "]"
			}
			fmt.Fprintf(&text, "  - {name: %sg%d, %s, to: [t%d], when: {hours: [\"00:00-24:00\"]}}\n", change, i, who, i)
		}
		return parsePolicy(b, text.String())
	}
	granted, none := policy(""), policy("no")
	began := time.Now()
	made := func(b *testing.B) *Server {
		s := still(b, granted, nil)
		for i := range forwards {
			user, target := i%users, i%20+20*(i%7)
			p := Principal{User: fmt.Sprintf("user%d", user), Key: fingerprint(user), Conn: fmt.Sprintf("c%d", i/100)}
			stillForward(b, s, p, fmt.Sprintf("host%d", target), 22, netip.AddrFrom4([4]byte{10, byte(target % 200), 1, 5}), began, true)
		}
		return s
	}
	b.Run("all-go-on", func(b *testing.B) {
		s := made(b)
		b.ReportAllocs()
		for b.Loop() {
			if forwards, _ := s.SetPolicy(granted); forwards != 0 {
				b.Fatalf("ended %d", forwards)
			}
		}
	})
	b.Run("all-are-cut", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			s := made(b)
			b.StartTimer()
			if cut, _ := s.SetPolicy(none); cut < forwards/2 {
				b.Fatalf("ended %d", cut)
			}
		}
	})
	b.Run("preview", func(b *testing.B) {
		s := made(b)
		b.ReportAllocs()
		for b.Loop() {
			if ends, _ := s.Preview(none); len(ends) < forwards/2 {
				b.Fatalf("would end %d", len(ends))
			}
		}
	})
}
