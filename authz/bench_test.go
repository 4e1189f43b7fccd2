package authz

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

const (
	benchUsers  = 10_000
	benchGrants = 100_000
	benchGroups = 500
)

// bigPolicy has 10,000 users in 500 groups and 100,000 grants over 20,000
// targets; the group "all", which everybody is in, has 1,000 of the grants.
var bigPolicy = sync.OnceValues(func() (*Policy, []byte) {
	var b bytes.Buffer
	b.WriteString("version: 1\nusers:\n")
	for i := range benchUsers {
		fmt.Fprintf(&b, "  - {name: user%d, groups: [all, group%d, group%d], keys: [%s]}\n", i, i%benchGroups, (i*7+1)%benchGroups, keyLine(testKey(i)))
	}
	b.WriteString("targets:\n")
	for i := range 20_000 {
		fmt.Fprintf(&b, "  - {name: t%d, hosts: [host%d, \"web-*.s%d.corp.example\", 10.%d.%d.0/24], ports: [22, 8000-8100]}\n", i, i, i, i%256, i/256)
	}
	b.WriteString("grants:\n")
	for i := range benchGrants {
		who := fmt.Sprintf("users: [user%d]", i%benchUsers)
		switch {
		case i%100 == 99:
			who = "groups: [all]"
		case i%10 == 9:
			who = fmt.Sprintf("groups: [group%d]", i/10%benchGroups)
		}
		fmt.Fprintf(&b, "  - {name: g%d, %s, to: [t%d]}\n", i, who, i*13%20_000)
	}
	p, ps := Parse(bytes.NewReader(b.Bytes()), "policy.yaml", Options{Networks: prefixes("10.0.0.0/8"), Own: addrs("10.0.0.1"), Zones: []string{"corp.example"}})
	if p == nil {
		panic(ps.Err())
	}
	return p, b.Bytes()
})

func BenchmarkDecide(b *testing.B) {
	p, _ := bigPolicy()
	at := netip.MustParseAddr
	for _, bm := range []struct {
		name string
		req  Request
		want Reason
	}{
		{"name", Request{User: "user5", Key: AnyKey, Host: "host65", Port: 22}, Granted},
		{"name and address", Request{User: "user5", Key: AnyKey, Host: "host65", Port: 22, Addr: at("10.3.4.5")}, Granted},
		{"name by group of all", Request{User: "user5", Key: AnyKey, Host: "host1287", Port: 22, Addr: at("10.3.4.5")}, Granted},
		{"pattern and address", Request{User: "user5", Key: AnyKey, Host: "web-1.s65.corp.example", Port: 8050, Addr: at("10.3.4.5")}, Granted},
		{"literal", Request{User: "user5", Key: AnyKey, Host: "10.65.0.7", Port: 22, Addr: at("10.65.0.7")}, Granted},
		{"with key", Request{User: "user5", Key: ssh.FingerprintSHA256(testKey(5)), Host: "host65", Port: 22, Addr: at("10.3.4.5")}, Granted},
		{"no grant", Request{User: "user5", Key: AnyKey, Host: "host66", Port: 23}, NoGrant},
		{"outside", Request{User: "user5", Key: AnyKey, Host: "host65", Port: 22, Addr: at("11.3.4.5")}, OutsideNetworks},
	} {
		b.Run(strings.ReplaceAll(bm.name, " ", "-"), func(b *testing.B) {
			if d := p.Decide(bm.req); d.Reason != bm.want {
				b.Fatalf("%+v", d)
			}
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(bm.req)
			}
		})
	}
}

func BenchmarkIdentify(b *testing.B) {
	p, _ := bigPolicy()
	for name, key := range map[string]ssh.PublicKey{"ed25519": testKey(7777), "rsa-unknown": rsaKey(3072)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Identify("ec2-user", key)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	_, text := bigPolicy()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if p, ps := Parse(bytes.NewReader(text), "policy.yaml", Options{}); p == nil {
			b.Fatal(ps.Err())
		}
	}
}
