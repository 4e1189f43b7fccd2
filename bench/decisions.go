package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sekisho/authz"
)

// What a decision takes, against the size of the policy: package authz in this
// process, asked as a server asks it for an address that it is about to dial.

var policySizes = []int{10, 100, 1000, 10_000, 100_000} // in grants

const (
	decisionsNote = "A tenth as many users, a fifth as many targets; a thousand random requests in turn; one processor."

	policyGroups   = 500
	requestsInTurn = 1000
	batchTime      = 30 * time.Millisecond
	batches        = 10 // the least of them counts, which nothing else on the machine has bent
)

// A question is a kind of request.
type question struct {
	name   string
	host   string // with the number of a target
	port   uint32
	reason authz.Reason // why it is answered so
}

var questions = []question{
	{"granted by name", "host%d", 22, authz.Granted},
	{"granted by pattern", "web-1.s%d.corp.example", 8050, authz.Granted},
	{"no grant", "host%d", 23, authz.NoGrant},
}

func decisionsCurve(ctx context.Context) ([]series, error) {
	lines := make([]series, len(questions))
	for _, grants := range policySizes {
		p, err := newSizedPolicy(grants)
		if err != nil {
			return nil, err
		}
		for i, q := range questions {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			ns, err := p.time(q, batchTime)
			if err != nil {
				return nil, err
			}
			lines[i].name, lines[i].colour = q.name, i
			lines[i].points = append(lines[i].points, point{float64(grants), ns})
		}
		fmt.Printf("decisions with %d grants\n", grants)
	}
	return lines, nil
}

// A sizedPolicy is one whose users and targets grow with its grants.
type sizedPolicy struct {
	*authz.Policy
	users, targets, grants int
}

func newSizedPolicy(grants int) (*sizedPolicy, error) {
	s := &sizedPolicy{users: max(grants/10, 1), targets: max(grants/5, 1), grants: grants}
	p, problems := authz.Parse(bytes.NewReader(s.text()), "policy.yaml", authz.Options{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Zones:    []string{"corp.example"},
	})
	if p == nil {
		return nil, fmt.Errorf("a policy of %d grants: %w", grants, problems.Err())
	}
	s.Policy = p
	return s, nil
}

// text is the policy. A hundredth of the grants are of a group that everybody is
// in, and a tenth of other groups.
func (s *sizedPolicy) text() []byte {
	var b bytes.Buffer
	b.WriteString("version: 1\nusers:\n")
	for i := range s.users {
		fmt.Fprintf(&b, "  - {name: user%d, groups: [all, group%d, group%d], keys: [%q]}\n",
			i, i%policyGroups, (i*7+1)%policyGroups, bytes.TrimSpace(ssh.MarshalAuthorizedKey(numberedKey(i))))
	}
	b.WriteString("targets:\n")
	for i := range s.targets {
		fmt.Fprintf(&b, "  - {name: t%d, hosts: [host%d, \"web-*.s%d.corp.example\", 10.%d.%d.0/24], ports: [22, 8000-8100]}\n", i, i, i, i%256, i/256)
	}
	b.WriteString("grants:\n")
	for i := range s.grants {
		who := fmt.Sprintf("users: [user%d]", s.userOf(i))
		switch {
		case i%100 == 99:
			who = "groups: [all]"
		case i%10 == 9:
			who = fmt.Sprintf("groups: [group%d]", i/10%policyGroups)
		}
		fmt.Fprintf(&b, "  - {name: g%d, %s, to: [t%d]}\n", i, who, s.targetOf(i))
	}
	return b.Bytes()
}

// userOf and targetOf are whom a grant is for and what it is to.
func (s *sizedPolicy) userOf(grant int) int   { return grant % s.users }
func (s *sizedPolicy) targetOf(grant int) int { return grant * 13 % s.targets }

// numberedKey is a key that nobody has.
func numberedKey(n int) ssh.PublicKey {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		panic(err) // an ed25519 key is one
	}
	return key
}

// requests are of users and targets of random grants.
func (s *sizedPolicy) requests(q question) []authz.Request {
	random := rand.New(rand.NewPCG(1, uint64(s.grants)))
	var all []authz.Request
	for len(all) < requestsInTurn {
		grant := random.IntN(s.grants)
		if grant%10 == 9 {
			continue // of a group, which not every user is in
		}
		user, target := s.userOf(grant), s.targetOf(grant)
		all = append(all, authz.Request{
			User: fmt.Sprintf("user%d", user), Key: ssh.FingerprintSHA256(numberedKey(user)),
			Host: fmt.Sprintf(q.host, target), Port: q.port, Addr: netip.AddrFrom4([4]byte{10, byte(target % 256), byte(target / 256), 5}),
			Source: netip.AddrFrom4([4]byte{203, 0, 113, 9}), Time: time.Now(),
		})
	}
	return all
}

// time is what one decision takes of a processor, in nanoseconds, at best of some
// batches of the given time.
func (s *sizedPolicy) time(q question, batch time.Duration) (ns float64, err error) {
	requests := s.requests(q)
	for _, r := range requests {
		if d := s.Decide(r); d.Reason != q.reason || (d.Effect == authz.Allow) != (q.reason == authz.Granted) {
			return 0, fmt.Errorf("%s of %d grants: %s may open %s:%d: %s", q.name, s.grants, r.User, r.Host, r.Port, d.Reason)
		}
	}
	runtime.LockOSThread() // whose time is taken
	defer runtime.UnlockOSThread()
	for range batches {
		n, began, before := 0, time.Now(), threadTime()
		for time.Since(began) < batch {
			for i := range requests {
				s.Decide(requests[i])
			}
			n += len(requests)
		}
		if took := float64(threadTime()-before) / float64(n); ns == 0 || took < ns {
			ns = took
		}
	}
	return ns, nil
}

// threadTime is what this thread has used of the processors.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(t.Nano())
}
