package bastion_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// Addresses that the name rds leads to in these tests.
const (
	primary = "10.0.11.147"
	standby = "10.0.11.148"
	third   = "10.0.11.149"
	fenced  = "192.0.2.9" // outside of networks
)

// changing is a Resolver whose answer for every name changes.
type changing struct {
	mu     sync.Mutex
	answer func(n int) ([]string, error) // the nth time that a name is asked for, from 0
	asked  map[string]int
}

func always(addrs ...string) func(int) ([]string, error) {
	return func(int) ([]string, error) { return addrs, nil }
}

func failing(err error) func(int) ([]string, error) {
	return func(int) ([]string, error) { return nil, err }
}

var errNoName = &net.DNSError{Err: "no such host", IsNotFound: true}

func (c *changing) now(answer func(n int) ([]string, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

func (c *changing) LookupNetIP(ctx context.Context, _, host string) (ips []netip.Addr, err error) {
	c.mu.Lock()
	if c.asked == nil {
		c.asked = map[string]int{}
	}
	n, answer := c.asked[host], c.answer
	c.asked[host]++
	c.mu.Unlock()
	addrs, err := answer(n)
	if errors.Is(err, context.DeadlineExceeded) { // a server that is silent
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, a := range addrs {
		ips = append(ips, netip.MustParseAddr(a))
	}
	return ips, err
}

func (c *changing) count(host string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[host]
}

const grace = 30 * time.Second

// following runs a test with a target whose names are followed.
func following(t *testing.T, test func(*testing.T, *bubble, *changing)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		names := &changing{answer: always(primary)}
		b := &bubble{t: t, network: bastiontest.NewNetwork(), text: `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: db, hosts: ["rds*"], ports: ["22"], follow_dns: 30s}
grants:
  - {name: dba, users: [alice], to: [db]}
`}
		b.Bastion = bastiontest.Start(t, bastiontest.Options{
			Policy: b.text, Listener: b.network, Dialer: echoDialer{}, Hosts: names, Networks: []string{"10.0.0.0/16"},
			Limits: func(l *bastion.Limits) { l.MaxForwardsPerConnection, l.MaxForwardsPerUser = 2000, 2000 },
		})
		test(t, b, names)
	})
}

func TestAForwardIsClosedOnceItsNameHasLedElsewhereForTheGrace(t *testing.T) {
	// Two lookups stand between a move and its end: the one that first tells of
	// it, and the first one after the grace.
	const latest = grace + 8*time.Second
	taking := func(addrs ...string) func(int) ([]string, error) {
		return func(n int) ([]string, error) { return addrs[n%len(addrs) : n%len(addrs)+1], nil }
	}
	for _, c := range []struct {
		name   string
		answer func(int) ([]string, error)
		to     string // how the detail tells where it leads; empty: the forward stays
	}{
		{"it moves", always(standby), standby},
		{"it moves to two addresses", always(standby, third), standby + ", " + third},
		{"it moves to many", always("10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6"), "10.0.1.1, 10.0.1.2, 10.0.1.3, 10.0.1.4 and 2 more"},
		{"it moves, to addresses of which one may not be reached", always(fenced, standby), standby},
		{"it moves, and its other addresses take turns", func(n int) ([]string, error) {
			return [][]string{{standby, third}, {third, "10.0.1.1"}}[n%2], nil
		}, third},
		{"it moves, and every other lookup fails", func(n int) ([]string, error) {
			if n%2 == 0 {
				return nil, errors.New("server misbehaving")
			}
			return []string{standby}, nil
		}, standby},
		{"nothing changes", always(primary), ""},
		{"an address comes to it", always(standby, primary), ""},
		{"two addresses take turns", taking(primary, standby), ""},
		{"one of two addresses, as chance has it", func(int) ([]string, error) { return []string{primary, standby}[rand.IntN(2):][:1], nil }, ""},
		{"many addresses take turns", taking(standby, third, "10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5", "10.0.1.6", "10.0.1.7", primary), ""},
		{"others take turns, and its own never comes", taking(standby, third, "10.0.1.1"), ""},
		{"the name is gone", failing(errNoName), ""},
		{"the answer is empty", always(), ""},
		{"DNS fails", failing(errors.New("server misbehaving")), ""},
		{"DNS is silent", failing(context.DeadlineExceeded), ""},
		{"DNS lies, with addresses outside of the fence", always(fenced, "127.0.0.1", "169.254.169.254"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			following(t, func(t *testing.T, b *bubble, names *changing) {
				fw := b.login(b.Alice).open("rds")
				time.Sleep(2 * grace)
				fw.echoes()
				names.now(c.answer)
				moved := time.Now()
				fw.watch()
				select {
				case at := <-fw.over:
					if c.to == "" {
						t.Fatalf("it is closed after %v: %s", at.Sub(moved), lines(b.Book.Records(audit.ForwardClose)))
					}
					most := latest
					if strings.Contains(c.name, "fails") {
						most += 4 * time.Second
					}
					if took := at.Sub(moved); took < grace || took > most {
						t.Errorf("it is closed after %v, want %v to %v", took, grace, most)
					}
					rec := b.Book.Await(t, audit.ForwardClose, 1)
					if want := "its name no longer resolves to " + primary + " but to " + c.to; rec.Reason != "dns_moved" || rec.Detail != want {
						t.Errorf("recorded as %q, %q, want dns_moved, %q", rec.Reason, rec.Detail, want)
					}
				case <-time.After(30 * time.Minute):
					if c.to != "" {
						t.Fatal("it is not closed")
					}
				}
			})
		})
	}
}

func TestANameThatIsBackBeforeTheGraceClosesNothing(t *testing.T) {
	following(t, func(t *testing.T, b *bubble, names *changing) {
		fw := b.login(b.Alice).open("rds").watch()
		for range 20 {
			names.now(always(standby))
			time.Sleep(grace - 4*time.Second)
			names.now(always(primary))
			time.Sleep(8 * time.Second) // a lookup at rest comes every 5 s
		}
		select {
		case <-fw.over:
			t.Fatalf("it is closed: %s", lines(b.Book.Records(audit.ForwardClose)))
		default:
		}
	})
}

func TestANameIsLookedUpOnceForAllItsForwardsAndOnlyWhileThereAreAny(t *testing.T) {
	following(t, func(t *testing.T, b *bubble, names *changing) {
		const many = 200
		c := b.login(b.Alice)
		var forwards []*bubbleForward
		for range many {
			forwards = append(forwards, c.open("rds"))
		}
		other := c.open("rds-2")
		opened := names.count("rds")
		if opened != many {
			t.Fatalf("%d lookups for %d forwards", opened, many)
		}
		time.Sleep(2 * time.Minute)
		// Every sixth of the grace, that is 24 times in two minutes.
		for host, before := range map[string]int{"rds": many, "rds-2": 1} {
			if n := names.count(host) - before; n < 20 || n > 30 {
				t.Errorf("%s was looked up %d times in two minutes, want about 24", host, n)
			}
		}
		names.now(always(standby))
		for _, fw := range forwards {
			fw.watch()
		}
		before := names.count("rds")
		for _, fw := range append(forwards, other.watch()) {
			select {
			case <-fw.over:
			case <-time.After(time.Minute):
				t.Fatal("a forward is not closed")
			}
		}
		if n := names.count("rds") - before; n > 30 {
			t.Errorf("it was looked up %d times until all were closed, want about 20", n)
		}
		time.Sleep(time.Minute)
		if n := len(slices.DeleteFunc(b.Book.Records(audit.ForwardClose), func(r audit.Record) bool { return r.Reason != "dns_moved" })); n != many+1 {
			t.Errorf("%d forwards are recorded as closed for that, want %d", n, many+1)
		}
		after := names.count("rds") + names.count("rds-2")
		time.Sleep(time.Hour)
		if n := names.count("rds") + names.count("rds-2") - after; n != 0 {
			t.Errorf("without forwards there were %d lookups", n)
		}
	})
}

func TestFollowingIsThatOfThePolicyInForce(t *testing.T) {
	following(t, func(t *testing.T, b *bubble, names *changing) {
		fw := b.login(b.Alice).open("rds").watch()
		off := b.Parse(strings.ReplaceAll(b.text, ", follow_dns: 30s", ""))
		b.Server.SetPolicy(off)
		time.Sleep(time.Second)
		before := names.count("rds")
		names.now(always(standby))
		time.Sleep(time.Hour)
		if n := names.count("rds") - before; n != 0 {
			t.Errorf("a name that is not followed was looked up %d times", n)
		}
		on := b.Parse(b.text)
		if endings, _ := b.Server.Preview(on); len(endings) != 0 {
			t.Errorf("the preview tells of %v", endings)
		}
		if cut, _ := b.Server.SetPolicy(on); cut != 0 {
			t.Errorf("the reload cut %d", cut)
		}
		began := time.Now()
		if took := (<-fw.over).Sub(began); took < grace || took > grace+8*time.Second {
			t.Errorf("it is closed after %v", took)
		}
	})
}

func TestManySilentNamesHoldNeitherEachOtherNorTheLimits(t *testing.T) {
	following(t, func(t *testing.T, b *bubble, names *changing) {
		c := b.login(b.Alice)
		var forwards []*bubbleForward
		for i := range 60 {
			forwards = append(forwards, c.open(fmt.Sprintf("rds-%d", i)))
		}
		names.now(failing(context.DeadlineExceeded))
		time.Sleep(time.Minute)
		began := time.Now()
		b.Server.SetPolicy(b.Parse("version: 1\nusers:\n  - {name: alice, keys: [\"{alice}\"]}\n"))
		for _, fw := range forwards {
			fw.watch()
		}
		for _, fw := range forwards {
			if took := (<-fw.over).Sub(began); took > time.Second {
				t.Fatalf("a forward that is no longer allowed ends after %v", took)
			}
		}
	})
}
