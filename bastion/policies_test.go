package bastion

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"sekisho/authz"
)

func TestOwnAddressesStayKnownWhenTheyCannotBeAsked(t *testing.T) {
	policy, problems := authz.Parse(strings.NewReader(`version: 1
users:
  - {name: alice, keys: []}
targets:
  - {name: net, hosts: [10.0.0.0/24], ports: ["22"]}
grants:
  - {name: net, users: [alice], to: [net]}
`), "policy.yaml", authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}})
	if policy == nil {
		t.Fatal(problems.Err())
	}
	own, failure := []netip.Addr{netip.MustParseAddr("10.0.0.5")}, error(nil)
	log := logrus.New()
	log.SetOutput(t.Output())
	p := policies{log: log, own: func() ([]netip.Addr, error) { return own, failure }}
	ask := authz.Request{User: "alice", Key: authz.AnyKey, Host: "10.0.0.5", Port: 22, Addr: own[0]}

	failure = errors.New("too many open files")
	if err := p.set(policy); err == nil {
		t.Fatal("a policy is in force though the own addresses have never been known")
	}
	failure = nil
	if err := p.set(policy); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"while they can be asked":    func() {},
		"when they cannot be asked":  func() { own, failure = nil, errors.New("too many open files") },
		"when another policy is set": func() { p.set(policy) },
	} {
		change()
		p.asked.Store(-int64(ownAge))
		if d := p.Decide(ask); d.Reason != authz.OwnAddress {
			t.Errorf("%s: %s", name, d.Reason)
		}
	}
	// An address that the machine has from now on is the server's, too.
	own, failure = []netip.Addr{netip.MustParseAddr("10.0.0.6")}, nil
	p.asked.Store(-int64(ownAge))
	ask.Host, ask.Addr = "10.0.0.6", own[0]
	if d := p.Decide(ask); d.Reason != authz.OwnAddress {
		t.Errorf("a new address: %s", d.Reason)
	}
}
