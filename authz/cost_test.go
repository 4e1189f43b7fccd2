package authz

import (
	"crypto/elliptic"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestTheWireFormatIsTheOneOfTheLibrary(t *testing.T) {
	keys := []ssh.PublicKey{
		testKey(1), skKey(), skECDSAKey(), ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P384()), ecdsaKey(elliptic.P521()), dsaKey(),
	}
	for bits := 2040; bits <= 2056; bits++ {
		keys = append(keys, rsaKey(bits))
	}
	for _, e := range []int64{3, 127, 129, 255, 257, 32767, 65537, 1<<24 - 1} {
		n := new(big.Int).SetBit(big.NewInt(1), 2047, 1)
		key := wire(struct {
			Type string
			E, N *big.Int
		}{"ssh-rsa", big.NewInt(e), n})
		keys = append(keys, key)
	}
	keys = append(keys, rsaKey(16000)) // longer than the room for it
	for range 200 {                    // some have a coordinate that begins with 0
		keys = append(keys, ecdsaKey(elliptic.P256()))
	}
	for _, key := range keys {
		blob := key.Marshal()
		if got := appendWire([]byte("before"), key, key.Type()); string(got) != "before"+string(blob) {
			t.Errorf("%s: %x, want %x", key.Type(), got, blob)
		}
		if got := string(words(nil).fingerprint(blob)); got != ssh.FingerprintSHA256(key) {
			t.Errorf("%s: %s", key.Type(), got)
		}
	}
}

func TestIdentifyAllocatesAtMostOnceForAUser(t *testing.T) {
	known := []ssh.PublicKey{testKey(1), rsaKey(3072), ecdsaKey(elliptic.P256()), ecdsaKey(elliptic.P384()), ecdsaKey(elliptic.P521())}
	text := "version: 1\nusers:\n  - {name: bob}\n"
	for i, key := range known {
		text += fmt.Sprintf("  - {name: user%d, keys: [%s]}\n", i, keyLine(key))
	}
	p := mustParse(t, text, Options{})
	for _, tt := range []struct {
		name, login string
		keys        []ssh.PublicKey
		reason      Reason
	}{
		{"a user's key", "ec2-user", known, ""},
		{"a user's key, and the name of another", "bob", known, OtherUser},
		{"nobody's key", "ec2-user", []ssh.PublicKey{testKey(2), rsaKey(2048), ecdsaKey(elliptic.P256())}, UnknownKey},
		{"a key that is too weak", "ec2-user", []ssh.PublicKey{rsaKey(1024)}, KeyUnsupported},
	} {
		for _, key := range tt.keys {
			if _, reason, detail := p.Identify(tt.login, key); reason != tt.reason || (detail == "") != (reason == "") {
				t.Errorf("%s, %s: %q, %q", tt.name, key.Type(), reason, detail)
			}
			most := 1.0 // the library's copy of the key
			if tt.reason != "" {
				most = 2 // and the sentence
			}
			if n := testing.AllocsPerRun(100, func() { p.Identify(tt.login, key) }); n > most {
				t.Errorf("%s, %s: %v allocations", tt.name, key.Type(), n)
			}
		}
	}
}

func TestDecideAllocatesAtMostOnce(t *testing.T) {
	text := `
version: 1
users:
  - {name: alice, groups: [all], keys: [KEY1]}
  - {name: bob, groups: [all], when: {from: [203.0.113.0/24], except: [203.0.113.9], after: 2026-01-01, until: 2027-03-31, hours: ["Mon-Fri 09:00-19:00"]}, require: [touch]}
  - {name: carol, groups: [all]}
targets:
  - {name: web, hosts: [appserver, "web-*.corp.example", 10.0.1.0/24], ports: [22]}
  - {name: db, hosts: [rds, 10.0.2.0/24], ports: [3306], within: [10.0.2.0/25]}
`
	grants := "grants:\n"
	for i := range 30 { // so many that all is looked up, and not gone through
		text += fmt.Sprintf("  - {name: t%d, hosts: [host%d, \"*-%d.corp.example\", 10.1.%d.0/24], ports: [22]}\n", i, i, i, i)
		grants += fmt.Sprintf("  - {name: g%d, groups: [all], to: [t%d]}\n", i, i)
	}
	text += "timezone: UTC\n" + grants + `
  - {name: web, groups: [all], to: [web]}
  - {name: db, users: [carol], to: [db], when: {hours: ["Mon 09:00-10:00"]}}
  - {name: dba, users: [alice], to: [db]}
`
	p := mustParse(t, text, Options{Networks: prefixes("10.0.0.0/8", "127.0.0.0/8"), Own: addrs("10.0.1.1")})
	key, addr := fingerprint(1), netip.MustParseAddr
	monday := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	bob := Request{User: "bob", Key: AnyKey, Host: "appserver", Port: 22, Source: addr("203.0.113.5"), Time: monday, Touch: true}
	of := func(r Request, change func(*Request)) Request { change(&r); return r }
	locked := p.WithLocks(&Locks{All: []Lock{{User: "alice", At: monday, By: "ops", Why: "leaves"}}}, nil)
	revoked := p.WithLocks(&Locks{All: []Lock{{Key: key, At: monday, By: "ops"}}}, nil)
	lockdown := p.WithLocks(&Locks{Lockdown: &Lock{At: monday}}, nil)
	for _, tt := range []struct {
		name   string
		policy *Policy
		req    Request
		want   Reason
	}{
		{"a name", p, ask5("alice", key, "appserver", 22, netip.Addr{}), Granted},
		{"a name in upper case", p, ask5("alice", key, "AppServer", 22, netip.Addr{}), Granted},
		{"a pattern and an address", p, ask5("alice", key, "web-1.corp.example", 22, addr("10.0.1.5")), Granted},
		{"a literal", p, ask5("alice", key, "10.0.1.5", 22, addr("10.0.1.5")), Granted},
		{"conditions that hold", p, bob, Granted},
		{"nobody", p, ask5("mallory", key, "appserver", 22, netip.Addr{}), UnknownUser},
		{"nobody, without a policy", nil, ask5("mallory", key, "appserver", 22, netip.Addr{}), UnknownUser},
		{"another one's key", p, ask5("bob", key, "appserver", 22, netip.Addr{}), KeyRemoved},
		{"somebody who is locked", locked, ask5("alice", key, "appserver", 22, netip.Addr{}), Locked},
		{"a key that is revoked", revoked, ask5("alice", key, "appserver", 22, netip.Addr{}), Revoked},
		{"a lockdown", lockdown, ask5("alice", key, "appserver", 22, netip.Addr{}), Lockdown},
		{"no host", p, ask5("alice", key, "", 22, netip.Addr{}), BadHost},
		{"a character that no host has", p, ask5("alice", key, "a$b", 22, netip.Addr{}), BadHost},
		{"half an IPv4 address", p, ask5("alice", key, "A.10.0.1", 22, netip.Addr{}), BadHost},
		{"no IPv6 address", p, ask5("alice", key, "FD00::G", 22, netip.Addr{}), BadHost},
		{"an IPv6 address that is not canonical", p, ask5("alice", key, "FD00:0::1", 22, netip.Addr{}), BadHost},
		{"no port", p, ask5("alice", key, "appserver", 0, netip.Addr{}), BadPort},
		{"no grant", p, ask5("alice", key, "other.corp.example", 22, netip.Addr{}), Granted}, // it may lie in a network
		{"no grant on this port", p, ask5("alice", key, "appserver", 23, netip.Addr{}), NoGrant},
		{"no grant for the name and address", p, ask5("alice", key, "Other", 22, addr("10.9.9.9")), NoGrant},
		{"no grant for the literal", p, ask5("alice", key, "10.9.9.9", 22, netip.Addr{}), NoGrant},
		{"another address than the literal", p, ask5("alice", key, "10.0.1.5", 22, addr("10.0.1.6")), NoGrant},
		{"outside networks", p, ask5("alice", key, "appserver", 22, addr("11.1.1.1")), OutsideNetworks},
		{"outside within", p, ask5("alice", key, "rds", 3306, addr("10.0.2.200")), OutsideWithin},
		{"an own address", p, ask5("alice", key, "appserver", 22, addr("10.0.1.1")), OwnAddress},
		{"a loopback address", p, ask5("alice", key, "appserver", 22, addr("127.0.0.1")), Loopback},
		{"a metadata address", p, ask5("alice", key, "appserver", 22, addr("169.254.169.254")), Metadata},
		{"a link-local address with a zone", p, ask5("alice", key, "appserver", 22, addr("fe80::1%eth0")), LinkLocal},
		{"not from", p, of(bob, func(r *Request) { r.Source = addr("198.51.100.1") }), NotFrom},
		{"excepted", p, of(bob, func(r *Request) { r.Source = addr("203.0.113.9") }), Excepted},
		{"not yet", p, of(bob, func(r *Request) { r.Time = monday.AddDate(-1, 0, 0) }), NotYet},
		{"expired", p, of(bob, func(r *Request) { r.Time = monday.AddDate(1, 0, 0) }), Expired},
		{"outside hours", p, of(bob, func(r *Request) { r.Time = monday.Add(12 * time.Hour) }), OutsideHours},
		{"not touched", p, of(bob, func(r *Request) { r.Touch = false }), NeedsTouch},
		{"outside hours of the grant", p, of(bob, func(r *Request) { r.User, r.Host, r.Port = "carol", "rds", 3306 }), OutsideHours},
	} {
		d := tt.policy.Decide(tt.req)
		if d.Reason != tt.want || (d.Detail == "") != (d.Effect == Allow) || strings.Contains(d.Detail, "%!") {
			t.Errorf("%s: %+v", tt.name, d)
		}
		most := 1.0
		switch tt.name {
		case "half an IPv4 address", "no IPv6 address", "an IPv6 address that is not canonical", "no grant for the name and address":
			most = 2 // the standard library's error; the right form; the host in lower case
		}
		if n := testing.AllocsPerRun(100, func() { tt.policy.Decide(tt.req) }); n > most {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
