package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/crypto/ssh"

	"sekisho/authz"
	"sekisho/authz/authkeys"
	"sekisho/hostsfile"
)

// newTestKey returns a key that can sign.
func newTestKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func lineOf(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// testSetup is a setup of a policy and a hosts file, for the questions of
// explain and who-can.
func testSetup(t *testing.T, policy, hosts string, options authz.Options) *setup {
	t.Helper()
	p, problems := authz.Parse(strings.NewReader(policy), "policy.yaml", options)
	if p == nil {
		t.Fatal(problems.Err())
	}
	dir := t.TempDir()
	write(t, dir, "hosts", hosts)
	file, err := hostsfile.Open(filepath.Join(dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	s := &setup{policy: p, hosts: file}
	s.settings.Limits.DialTimeout = 5 * time.Second
	return s
}

// What explain says is what a forward would get: Decide on the name, then on
// each address of the hosts file.
func TestExplainAgreesWithDecide(t *testing.T) {
	alice, bob, old := newTestKey(t).PublicKey(), newTestKey(t).PublicKey(), newTestKey(t).PublicKey()
	s := testSetup(t, fmt.Sprintf(`
version: 1
users:
  - {name: alice, groups: [dev], keys: ["%s", "%s"]}
  - {name: bob, groups: [dev, dba], keys: ["%s"], when: {from: [203.0.113.0/24]}}
targets:
  - {name: web, hosts: [app, "*.corp.example", 10.0.1.0/24], ports: ["22", "80"], within: [10.0.0.0/17]}
  - {name: db, hosts: [rds], ports: ["3306"]}
grants:
  - {name: dba-db, groups: [dba], to: [db], when: {hours: ["Mon-Fri 09:00-19:00"]}}
  - {name: dev-web, groups: [dev], to: [web]}
  - {name: touch-db, users: [alice], to: [db], require: [touch]}
roles: {admin: {users: [alice]}}
`, lineOf(alice), lineOf(old), lineOf(bob)), "10.0.1.5 app\n192.0.2.1 app\n10.0.9.9 rds\n10.0.200.1 far.corp.example\n127.0.0.1 self.corp.example\n10.0.1.7 other\n",
		authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
	file, _ := authkeys.Parse(strings.NewReader(`from="203.0.113.0/24",permitopen="app:22",permitopen="rds:3306" `+lineOf(old)+"\n"), "keys/alice", time.UTC)
	s.policy, _ = s.policy.WithKeys([]authz.KeyFile{{User: "alice", Name: "keys/alice", File: file}})
	open := s.policy
	locks := []*authz.Locks{nil, nil, nil, (&authz.Locks{}).With(authz.Lock{}), (&authz.Locks{}).With(authz.Lock{User: "bob"}).With(authz.Lock{Key: ssh.FingerprintSHA256(old)})}

	rnd := mathrand.New(mathrand.NewPCG(31, 31))
	reasons := map[string]int{}
	for range 1000 {
		s.policy = open.WithLocks(locks[rnd.IntN(len(locks))], nil)
		r := authz.Request{
			User:  []string{"alice", "bob", "mallory"}[min(rnd.IntN(5)/2, 2)],
			Key:   []string{authz.AnyKey, ssh.FingerprintSHA256(alice), ssh.FingerprintSHA256(old), ssh.FingerprintSHA256(bob)}[rnd.IntN(4)],
			Host:  []string{"app", "rds", "far.corp.example", "self.corp.example", "www.corp.example", "other", "none", "10.0.1.9", "10.0.2.1", "127.0.0.1", "0x7f.1", "rds", "rds", "rds", "app"}[rnd.IntN(15)],
			Port:  []uint32{22, 3306, 0}[min(rnd.IntN(7)/3, 2)],
			Time:  time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).Add(time.Duration(rnd.Int64N(int64(7 * 24 * time.Hour)))),
			Touch: rnd.IntN(2) == 0,
		}
		if rnd.IntN(3) > 0 {
			r.Source = netip.MustParseAddr([]string{"203.0.113.9", "192.0.2.9"}[rnd.IntN(2)])
		}
		a := (&question{request: r}).answer(t.Context(), s)
		reasons[a.Reason]++
		first := s.policy.Decide(r)
		if a.Name.Decision != first {
			t.Fatalf("%+v: explained %+v, decided %+v", r, a.Name.Decision, first)
		}
		addrs, err := s.hosts.LookupNetIP(t.Context(), "ip", first.Host)
		if first.Literal.IsValid() {
			addrs, err = []netip.Addr{first.Literal}, nil
		}
		want, grant := authz.Deny, ""
		switch {
		case first.Effect == authz.Deny:
			if a.Reason != string(first.Reason) || len(a.Addresses) > 0 {
				t.Fatalf("%+v: %s, decided %s", r, a.Reason, first.Reason)
			}
		case err != nil && first.DNS: // DNS was not to be asked
			want, grant = authz.Allow, first.Grant
		case err == nil:
			for i, addr := range addrs {
				r.Addr = addr
				d := s.policy.Decide(r)
				if a.Addresses[i].Explanation.Decision != d {
					t.Fatalf("%+v: explained %+v, decided %+v", r, a.Addresses[i].Explanation.Decision, d)
				}
				if d.Effect == authz.Allow && want == authz.Deny {
					want, grant = authz.Allow, d.Grant
				}
			}
		}
		if a.Effect != want || want == authz.Allow && a.grant() != grant {
			t.Fatalf("%+v: explained %s by %q, decided %s by %q", r, a.Effect, a.grant(), want, grant)
		}
		for _, c := range a.Name.Proof { // as it is shown, it is told
			if !c.Holds && c.Detail == "" {
				t.Fatalf("%+v: nothing is said of %+v", r, c)
			}
		}
	}
	for _, reason := range []string{"granted", "no_grant", "no_such_name", "locked", "lockdown", "revoked", "key_removed", "key_not_from", "key_not_permitted", "not_from", "outside_hours", "needs_touch", "outside_within", "loopback", "bad_host", "bad_port", "unknown_user"} {
		if reasons[reason] == 0 {
			t.Errorf("never %s: %v", reason, reasons)
		}
	}
}

// A certificate of a security key shows a touch, unless it waives that.
func TestExplainTakesTheTouchOfACertificate(t *testing.T) {
	ca := newTestKey(t)
	s := testSetup(t, fmt.Sprintf(`
version: 1
users: [{name: alice}]
authorities: [{name: corp, key: "%s", principals: [alice]}]
targets: [{name: web, hosts: [10.0.1.5], ports: ["22"]}]
grants: [{name: g, users: [alice], to: [web], require: [touch]}]
`, lineOf(ca.PublicKey())), "", authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
	sk, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, make([]byte, ed25519.PublicKeySize), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		key       ssh.PublicKey
		untouched bool
		want      string
	}{
		{"a security key", sk, false, "granted"},
		{"one that need not be touched", sk, true, "needs_touch"},
		{"a plain key", newTestKey(t).PublicKey(), false, "needs_touch"},
	} {
		cert := &ssh.Certificate{Key: test.key, CertType: ssh.UserCert, KeyId: "id", ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity,
			Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}}}
		if test.untouched {
			cert.Extensions["no-touch-required"] = ""
		}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		ask := question{request: authz.Request{User: "alice", Key: authz.AnyKey, Host: "10.0.1.5", Port: 22, Time: time.Now()}}
		if err := ask.readProof("-", strings.NewReader(lineOf(cert)+"\n")); err != nil {
			t.Fatal(err)
		}
		if a := ask.answer(t.Context(), s); a.Reason != test.want || a.Key != ssh.FingerprintSHA256(test.key) {
			t.Errorf("%s: %s", test.name, a.Reason)
		}
	}
}

// Who-can says of everybody what explain says of him by his key.
func TestWhoCanAgreesWithExplain(t *testing.T) {
	keys := map[string]ssh.PublicKey{"alice": newTestKey(t).PublicKey(), "bob": newTestKey(t).PublicKey(), "carol": newTestKey(t).PublicKey()}
	s := testSetup(t, fmt.Sprintf(`
version: 1
users:
  - {name: alice, groups: [dev], keys: ["%s"]}
  - {name: bob, groups: [dba], keys: ["%s"], when: {from: [203.0.113.0/24]}}
  - {name: carol, groups: [net], keys: ["%s"]}
targets:
  - {name: web, hosts: [app, "*.corp.example"], ports: ["22"], within: [10.0.0.0/17]}
  - {name: db, hosts: [rds], ports: ["22"]}
  - {name: net, hosts: [10.0.0.0/16], ports: ["22"]}
grants:
  - {name: dba-db, groups: [dba], to: [db, web], when: {hours: ["Mon-Fri 09:00-19:00"]}}
  - {name: dev-web, groups: [dev], to: [web]}
  - {name: net, groups: [net], to: [net]}
`, lineOf(keys["alice"]), lineOf(keys["bob"]), lineOf(keys["carol"])), "10.0.1.5 app\n192.0.2.1 app\n10.0.9.9 rds\n10.0.200.1 far.corp.example\n10.0.1.7 other\n",
		authz.Options{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, Zones: []string{"in.example"}})
	known := systemDNS
	systemDNS = nameServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
		switch name := q.Question[0].Name; name {
		case "www.corp.example.", "a.in.example.", "stranger.example.":
			answerWith(t, w, q, name+" A 10.0.1.8")
		default:
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
		}
	})
	t.Cleanup(func() { systemDNS = known })

	rnd := mathrand.New(mathrand.NewPCG(32, 32))
	outcomes := map[string]int{}
	for _, host := range []string{"app", "rds", "far.corp.example", "www.corp.example", "none.corp.example", "a.in.example", "b.in.example", "stranger.example", "other", "none", "10.0.1.9", "127.0.0.1", "0x7f.1"} {
		for range 8 {
			r := authz.Request{Host: host, Port: []uint32{22, 22, 22, 23}[rnd.IntN(4)], Time: time.Date(2026, 11, 23, rnd.IntN(7*24), 0, 0, 0, time.UTC), Source: netip.MustParseAddr([]string{"203.0.113.9", "192.0.2.9"}[rnd.IntN(2)])}
			resolve := rnd.IntN(2) == 0
			all := (&whoQuestion{request: r, resolve: resolve}).answer(t.Context(), s)
			for name, key := range keys {
				q := question{request: r, resolve: resolve}
				q.request.User, q.request.Key = name, ssh.FingerprintSHA256(key)
				want := q.answer(t.Context(), s)
				outcomes[want.Reason]++
				got := "no_grant"
				for _, u := range append(all.May, all.Could...) {
					if u.User == name {
						got = string(u.Reason)
					}
				}
				if all.Reason != "" {
					got = string(all.Reason)
				}
				if (got == "granted") != (want.Effect == authz.Allow) {
					t.Errorf("%s to %+v, resolve %t: %s, but explained %s %s", name, r, resolve, got, want.Effect, want.Reason)
				}
			}
		}
	}
	for _, reason := range []string{"granted", "no_grant", "no_such_name", "not_from", "outside_hours", "outside_within", "bad_host"} {
		if outcomes[reason] == 0 {
			t.Errorf("never %s: %v", reason, outcomes)
		}
	}
}
