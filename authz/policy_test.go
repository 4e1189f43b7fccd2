package authz

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	_ "time/tzdata"

	"golang.org/x/crypto/ssh"
)

// testKey makes the n-th key of the tests.
func testKey(n int) ssh.PublicKey {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	key, err := ssh.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		panic(err)
	}
	return key
}

func fingerprint(n int) string { return ssh.FingerprintSHA256(testKey(n)) }

func keyLine(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// fill puts the keys of the tests in the place of KEY1, KEY2 …
func fill(text string) string {
	for n := 1; n <= 5; n++ {
		text = strings.ReplaceAll(text, fmt.Sprintf("KEY%d", n), keyLine(testKey(n)))
	}
	return text
}

// ask5 is a request of a client in no special circumstances.
func ask5(user, key, host string, port uint32, addr netip.Addr) Request {
	return Request{User: user, Key: key, Host: host, Port: port, Addr: addr}
}

func mustParse(t testing.TB, text string, opts Options) *Policy {
	t.Helper()
	p, ps := Parse(strings.NewReader(fill(text)), "policy.yaml", opts)
	if p == nil {
		t.Fatal(ps.Err())
	}
	return p
}

const testPolicy = `
version: 1
timezone: Asia/Tokyo
users:
  - {name: alice, groups: [developers, oncall], keys: ["KEY1 alice@laptop", "KEY2 alice@desk"]}
  - {name: bob, groups: [dba], keys: [KEY3]}
  - {name: carol, keys: [KEY4]}
  - {name: dave, groups: [oncall]}
  - {name: erin, keys: [KEY5]}
targets:
  - {name: web, hosts: [appserver, "web-*.corp.example", 10.0.1.0/24], ports: ["22", 80, "8000-8100"], within: [10.0.1.0/24, 10.0.2.7]}
  - {name: db, hosts: [rds], ports: ["3306"]}
  - {name: one, hosts: [10.0.9.9], ports: [22]}
  - {name: all-ssh, hosts: [10.0.0.0/8, "fd12::/32"], ports: [22]}
  - {name: git, hosts: [git.other.example], ports: [22, 443]}
  - {name: local, hosts: [127.0.0.1, 127.0.0.2, self], ports: [22]}
grants:
  - {name: dev-web, groups: [developers], to: [web]}
  - {name: dba-db, groups: [dba], users: [carol, alice], to: [db]}
  - {name: oncall-ssh, groups: [oncall], to: [all-ssh]}
  - {name: alice-late, users: [alice], to: [web, git, db]}
  - {name: carol-one, users: [carol], to: [one, local]}
`

var testOptions = Options{
	Networks: prefixes("10.0.0.0/16", "fd12::/32", "127.0.0.1/32"),
	Zones:    []string{"Corp.Example.", "z.example"},
	Own:      addrs("10.0.0.1", "fd12::1"),
}

func TestDecide(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	fp := func(n int) string { return ssh.FingerprintSHA256(testKey(n)) }
	var ask netip.Addr // the first question
	at := netip.MustParseAddr
	type flags struct{ dns, named bool }
	tests := []struct {
		name   string
		req    Request
		reason Reason
		grant  string
		flags  flags
	}{
		// Who.
		{"the zero request", Request{}, UnknownUser, "", flags{}},
		{"a user that is not there", ask5("mallory", AnyKey, "rds", 3306, ask), UnknownUser, "", flags{}},
		{"a user in another case", ask5("Bob", AnyKey, "rds", 3306, ask), UnknownUser, "", flags{}},
		{"a group is no user", ask5("dba", AnyKey, "rds", 3306, ask), UnknownUser, "", flags{}},
		{"no key", ask5("bob", "", "rds", 3306, ask), KeyRemoved, "", flags{}},
		{"another's key", ask5("bob", fp(1), "rds", 3306, ask), KeyRemoved, "", flags{}},
		{"a key that nobody has", ask5("bob", "SHA256:x", "rds", 3306, ask), KeyRemoved, "", flags{}},
		{"his own key", ask5("bob", fp(3), "rds", 3306, ask), Granted, "dba-db", flags{named: true}},
		{"the second of two keys", ask5("alice", fp(2), "rds", 3306, ask), Granted, "dba-db", flags{named: true}},
		{"a user without keys, as explain asks", ask5("dave", AnyKey, "10.0.3.3", 22, ask), Granted, "oncall-ssh", flags{}},

		// What.
		{"no host", ask5("bob", AnyKey, "", 3306, ask), BadHost, "", flags{}},
		{"a host that resolvers read as loopback", ask5("bob", AnyKey, "127.1", 3306, ask), BadHost, "", flags{}},
		{"port 0", ask5("bob", AnyKey, "rds", 0, ask), BadPort, "", flags{}},
		{"port 65536", ask5("bob", AnyKey, "rds", 65536, ask), BadPort, "", flags{}},
		{"a port that is 3306 in 16 bits", ask5("bob", AnyKey, "rds", 65536+3306, ask), BadPort, "", flags{}},
		{"a bad host comes before a bad port", ask5("bob", AnyKey, "a b", 0, ask), BadHost, "", flags{}},
		{"another port", ask5("bob", AnyKey, "rds", 3307, ask), NoGrant, "", flags{named: true}},
		{"another's host", ask5("bob", AnyKey, "appserver", 22, ask), NoGrant, "", flags{}},
		{"a user without grants", ask5("erin", AnyKey, "rds", 3306, ask), NoGrant, "", flags{}},
		{"a name in upper case with a dot", ask5("bob", AnyKey, "RDS.", 3306, ask), Granted, "dba-db", flags{named: true}},
		{"a grant to the user besides the group", ask5("carol", AnyKey, "rds", 3306, ask), Granted, "dba-db", flags{named: true}},
		{"the first grant in file order", ask5("alice", AnyKey, "appserver", 80, ask), Granted, "dev-web", flags{named: true}},
		{"the group's grant before the user's own", ask5("alice", AnyKey, "rds", 3306, ask), Granted, "dba-db", flags{named: true}},
		{"the first port of a range", ask5("alice", AnyKey, "appserver", 8000, ask), Granted, "dev-web", flags{named: true}},
		{"the last port of a range", ask5("alice", AnyKey, "appserver", 8100, ask), Granted, "dev-web", flags{named: true}},
		{"past the range", ask5("alice", AnyKey, "appserver", 8101, ask), NoGrant, "", flags{named: true}},
		{"a pattern", ask5("alice", AnyKey, "web-1.corp.example", 80, ask), Granted, "dev-web", flags{dns: true, named: true}},
		{"a pattern does not cross a dot", ask5("alice", AnyKey, "web-1.x.corp.example", 443, ask), NoGrant, "", flags{}},
		{"a name longer than the pattern", ask5("alice", AnyKey, "web-1.corp.example.evil.example", 8000, ask), Granted, "dev-web", flags{}}, // its network entry, if the hosts file knows the name
		{"a name of several labels that is spelt out", ask5("alice", AnyKey, "git.other.example", 443, ask), Granted, "alice-late", flags{dns: true, named: true}},
		{"a name that is spelt out, on a port of a network grant", ask5("alice", AnyKey, "git.other.example", 80, ask), Granted, "dev-web", flags{dns: true, named: true}},

		// First question about what only a network could cover.
		{"a name in a zone", ask5("dave", AnyKey, "build.corp.example", 22, ask), Granted, "oncall-ssh", flags{dns: true}},
		{"the zone itself", ask5("dave", AnyKey, "corp.example", 22, ask), Granted, "oncall-ssh", flags{dns: true}},
		{"a name that only ends as the zone does", ask5("dave", AnyKey, "evilcorp.example", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a name outside the zones", ask5("dave", AnyKey, "build.evil.example", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a single label", ask5("dave", AnyKey, "rds", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a name, on a port that no network has", ask5("dave", AnyKey, "build.corp.example", 23, ask), NoGrant, "", flags{}},
		{"a name, for a user without networks", ask5("bob", AnyKey, "build.corp.example", 22, ask), NoGrant, "", flags{}},
		{"the first network in file order", ask5("alice", AnyKey, "other", 22, ask), Granted, "dev-web", flags{}},
		{"the network's grant comes before the name's", ask5("alice", AnyKey, "git.other.example", 22, ask), Granted, "dev-web", flags{dns: true, named: true}},

		// Literals.
		{"a literal in a network", ask5("dave", AnyKey, "10.0.3.3", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a mapped literal", ask5("dave", AnyKey, "::ffff:10.0.3.3", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a v6 literal", ask5("dave", AnyKey, "FD12::5", 22, ask), Granted, "oncall-ssh", flags{}},
		{"a literal on another port", ask5("dave", AnyKey, "10.0.3.3", 23, ask), NoGrant, "", flags{}},
		{"a literal outside", ask5("dave", AnyKey, "11.0.0.1", 22, ask), NoGrant, "", flags{}},
		{"a literal spelt out", ask5("carol", AnyKey, "10.0.9.9", 22, ask), Granted, "carol-one", flags{}},
		{"the literal beside it", ask5("carol", AnyKey, "10.0.9.8", 22, ask), NoGrant, "", flags{}},
		{"a literal outside within: the second question tells", ask5("alice", AnyKey, "10.0.1.9", 80, ask), Granted, "dev-web", flags{}},
		{"a literal is not granted by a name that has its address", ask5("bob", AnyKey, "10.0.11.147", 3306, ask), NoGrant, "", flags{}},
		{"a loopback literal: the second question tells", ask5("carol", AnyKey, "127.0.0.2", 22, ask), Granted, "carol-one", flags{}},

		// Where.
		{"a name's address", ask5("bob", AnyKey, "rds", 3306, at("10.0.11.147")), Granted, "dba-db", flags{named: true}},
		{"a name's mapped address", ask5("bob", AnyKey, "rds", 3306, at("::ffff:10.0.11.147")), Granted, "dba-db", flags{named: true}},
		{"outside networks", ask5("bob", AnyKey, "rds", 3306, at("10.1.0.1")), OutsideNetworks, "", flags{named: true}},
		{"a public address", ask5("bob", AnyKey, "rds", 3306, at("8.8.8.8")), OutsideNetworks, "", flags{named: true}},
		{"loopback", ask5("bob", AnyKey, "rds", 3306, at("127.0.0.2")), Loopback, "", flags{named: true}},
		{"v6 loopback", ask5("bob", AnyKey, "rds", 3306, at("::1")), Loopback, "", flags{named: true}},
		{"metadata", ask5("bob", AnyKey, "rds", 3306, at("169.254.169.254")), Metadata, "", flags{named: true}},
		{"link-local", ask5("bob", AnyKey, "rds", 3306, at("fe80::1").WithZone("eth0")), LinkLocal, "", flags{named: true}},
		{"multicast", ask5("bob", AnyKey, "rds", 3306, at("224.0.0.1")), Multicast, "", flags{named: true}},
		{"unspecified", ask5("bob", AnyKey, "rds", 3306, at("0.0.0.0")), Unspecified, "", flags{named: true}},
		{"the server's own address", ask5("bob", AnyKey, "rds", 3306, at("10.0.0.1")), OwnAddress, "", flags{named: true}},
		{"the server's own address, mapped", ask5("bob", AnyKey, "rds", 3306, at("::ffff:10.0.0.1")), OwnAddress, "", flags{named: true}},
		{"an address with a zone", ask5("dave", AnyKey, "x.corp.example", 22, at("fd12::5").WithZone("eth0")), OutsideNetworks, "", flags{}},
		{"an address that networks list singly", ask5("carol", AnyKey, "self", 22, at("127.0.0.1")), Granted, "carol-one", flags{named: true}},
		{"the address beside it", ask5("carol", AnyKey, "self", 22, at("127.0.0.2")), Loopback, "", flags{named: true}},
		{"a singly listed address still needs a grant", ask5("bob", AnyKey, "self", 3306, at("127.0.0.1")), NoGrant, "", flags{}},
		{"the fence's reason comes before the grants'", ask5("erin", AnyKey, "nothing", 1, at("127.0.0.2")), Loopback, "", flags{}},
		{"no grant, inside the fence", ask5("erin", AnyKey, "nothing", 1, at("10.0.5.5")), NoGrant, "", flags{}},
		{"inside within", ask5("alice", AnyKey, "appserver", 80, at("10.0.1.5")), Granted, "dev-web", flags{named: true}},
		{"the single address of within", ask5("alice", AnyKey, "appserver", 80, at("10.0.2.7")), Granted, "dev-web", flags{named: true}},
		{"outside within", ask5("alice", AnyKey, "appserver", 80, at("10.0.3.5")), OutsideWithin, "", flags{named: true}},
		{"outside within, but in a network of a later grant", ask5("alice", AnyKey, "appserver", 22, at("10.0.3.5")), Granted, "oncall-ssh", flags{named: true}},
		{"a name whose address lies in a network", ask5("dave", AnyKey, "build.corp.example", 22, at("10.0.3.5")), Granted, "oncall-ssh", flags{dns: true}},
		{"a name whose address lies in a network, on another port", ask5("dave", AnyKey, "build.corp.example", 23, at("10.0.3.5")), NoGrant, "", flags{}},
		{"a name whose address lies in no network of the user", ask5("carol", AnyKey, "build.corp.example", 22, at("10.0.3.5")), NoGrant, "", flags{}},
		{"a name whose address is spelt out", ask5("carol", AnyKey, "anything", 22, at("10.0.9.9")), Granted, "carol-one", flags{}},
		{"a network as wide as the grants, not as the fence", ask5("dave", AnyKey, "x", 22, at("10.200.0.1")), OutsideNetworks, "", flags{}},
		{"a literal with its address", ask5("dave", AnyKey, "10.0.3.3", 22, at("10.0.3.3")), Granted, "oncall-ssh", flags{}},
		{"a literal with its address mapped", ask5("dave", AnyKey, "10.0.3.3", 22, at("::ffff:10.0.3.3")), Granted, "oncall-ssh", flags{}},
		{"a literal with another address", ask5("dave", AnyKey, "10.0.3.3", 22, at("10.0.3.4")), NoGrant, "", flags{}},
		{"a v6 literal with a zone", ask5("dave", AnyKey, "fd12::5", 22, at("fd12::5").WithZone("eth0")), OutsideNetworks, "", flags{}},
		{"a loopback literal", ask5("carol", AnyKey, "127.0.0.2", 22, at("127.0.0.2")), Loopback, "", flags{}},
		{"a literal in within", ask5("alice", AnyKey, "10.0.1.9", 80, at("10.0.1.9")), Granted, "dev-web", flags{}},
		{"a bad port with an address", ask5("bob", AnyKey, "rds", 0, at("10.0.11.147")), BadPort, "", flags{}},
		{"a removed key with an address", ask5("bob", fp(1), "rds", 3306, at("10.0.11.147")), KeyRemoved, "", flags{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := p.Decide(tt.req)
			want := Deny
			if tt.reason == Granted {
				want = Allow
			}
			if d.Effect != want || d.Reason != tt.reason || d.Grant != tt.grant {
				t.Errorf("%v %s by %q (%s); want %v %s by %q", d.Effect, d.Reason, d.Grant, d.Detail, want, tt.reason, tt.grant)
			}
			if got := (flags{d.DNS, d.Named}); got != tt.flags {
				t.Errorf("%+v, want %+v", got, tt.flags)
			}
			if d.Effect == Deny && d.Detail == "" {
				t.Error("a denial without a sentence")
			}
			if d.Policy != p.Hash() {
				t.Errorf("decided by policy %q", d.Policy)
			}
			if again := p.Decide(tt.req); again != d {
				t.Errorf("asked again: %+v", again)
			}
			for _, none := range []*Policy{nil, {}} {
				if d := none.Decide(tt.req); d.Effect != Deny || d.Reason != UnknownUser {
					t.Errorf("no policy: %+v", d)
				}
			}
		})
	}
}

func TestDecideTellsTheNormalForm(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	for _, tt := range []struct {
		host, want string
		literal    netip.Addr
	}{
		{"RDS.", "rds", netip.Addr{}},
		{"::ffff:10.0.3.3", "10.0.3.3", netip.MustParseAddr("10.0.3.3")},
		{"FD12::5", "fd12::5", netip.MustParseAddr("fd12::5")},
		{"127.1", "", netip.Addr{}},
	} {
		if d := p.Decide(Request{User: "dave", Key: AnyKey, Host: tt.host, Port: 22}); d.Host != tt.want || d.Literal != tt.literal {
			t.Errorf("%s: %q, %v", tt.host, d.Host, d.Literal)
		}
	}
}

func TestDetailsAreSafeAndSaySo(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	at := netip.MustParseAddr
	for _, tt := range []struct {
		req  Request
		want string
	}{
		{Request{User: "x\x1b[31m"}, `the policy has no user "x\x1b[31m"`},
		{Request{User: "bob", Key: "a\nb"}, `bob has no key "a\nb"`},
		{Request{User: "bob", Key: AnyKey, Host: "a\nb", Port: 1}, `"a\nb": a control character is not allowed`},
		{Request{User: "bob", Key: AnyKey, Host: "rds", Port: 70000}, "the port 70000 is not between 1 and 65535"},
		{Request{User: "bob", Key: AnyKey, Host: "rds", Port: 1}, "grants of bob name rds, but not on port 1"},
		{Request{User: "bob", Key: AnyKey, Host: "web", Port: 1}, "no grant of bob reaches web with port 1"},
		{ask5("bob", AnyKey, "web", 22, at("10.0.3.3")), "no grant of bob names web or has 10.0.3.3, with port 22"},
		{ask5("bob", AnyKey, "rds", 3306, at("10.7.0.1")), "10.7.0.1 is outside networks"},
		{ask5("bob", AnyKey, "rds", 3306, at("fd12::5").WithZone("a\n")), `"fd12::5%a\n" has a zone`},
		{ask5("bob", AnyKey, "rds", 3306, at("10.0.0.1")), `"10.0.0.1" is an address of this server, and networks does not list it as that single address`},
		{ask5("alice", AnyKey, "appserver", 80, at("10.0.3.5")), `10.0.3.5 is outside within of target "web" in grant "dev-web"`},
		{ask5("dave", AnyKey, "10.0.3.3", 22, at("10.0.3.4")), `"10.0.3.4" is not the address that was asked for, 10.0.3.3`},
	} {
		if d := p.Decide(tt.req); d.Detail != tt.want {
			t.Errorf("got  %s\nwant %s", d.Detail, tt.want)
		}
	}
}

func TestIdentify(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: testKey(1), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"}}
	if err := cert.SignCert(zeroRand{}, signer); err != nil {
		t.Fatal(err)
	}
	stranger := testKey(99)
	tests := []struct {
		name, login string
		key         ssh.PublicKey
		user        string
		reason      Reason
		detail      string
	}{
		{"her own name", "alice", testKey(1), "alice", "", ""},
		{"her second key", "alice", testKey(2), "alice", "", ""},
		{"a name that a tool has typed in", "ec2-user", testKey(1), "alice", "", ""},
		{"no name", "", testKey(1), "alice", "", ""},
		{"another user's name", "bob", testKey(1), "", OtherUser, `the key is alice's, and the login "bob" is another user's name`},
		{"another user's name in another case", "BOB", testKey(1), "alice", "", ""},
		{"the name of a group", "dba", testKey(1), "alice", "", ""},
		{"a stranger's key", "alice", stranger, "", UnknownKey, "the key " + ssh.FingerprintSHA256(stranger) + " is nobody's"},
		{"a certificate over her key", "alice", cert, "", UnknownAuthority, `the certificate "" (serial 0) is signed by ` + ssh.FingerprintSHA256(signer.PublicKey()) + ", which is no authority of the policy"},
		{"no key", "alice", nil, "", KeyUnsupported, "there is no key"},
		{"a small RSA key", "alice", rsaKey(1024), "", KeyUnsupported, "an RSA key needs at least 2048 bits, this one has 1024"},
		{"a large RSA key", "alice", rsaKey(2048), "", UnknownKey, "the key " + ssh.FingerprintSHA256(rsaKey(2048)) + " is nobody's"},
		{"a DSA key", "alice", dsaKey(), "", KeyUnsupported, "DSA keys are too weak"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, reason, detail := p.Identify(tt.login, tt.key)
			if id.User != tt.user || reason != tt.reason || detail != tt.detail {
				t.Errorf("%q, %q, %q", id.User, reason, detail)
			}
			if id, reason, _ := (*Policy)(nil).Identify(tt.login, tt.key); id != (Identity{}) || reason == "" {
				t.Errorf("no policy: %q, %q", id.User, reason)
			}
		})
	}
}

func TestViews(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	if got, want := p.Groups("alice"), []string{"developers", "oncall"}; !reflect.DeepEqual(got, want) {
		t.Errorf("groups %q", got)
	}
	if p.Groups("carol") != nil || p.Groups("nobody") != nil || (*Policy)(nil).Groups("alice") != nil {
		t.Error("groups of those who have none")
	}
	db := TargetView{"db", []string{"rds"}, []string{"3306"}}
	want := []GrantView{
		{"dba-db", []TargetView{db}},
		{"carol-one", []TargetView{{"one", []string{"10.0.9.9"}, []string{"22"}}, {"local", []string{"127.0.0.1", "127.0.0.2", "self"}, []string{"22"}}}},
	}
	if got := p.Reach("carol"); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	p.Reach("carol")[0].Targets[0].Hosts[0] = "changed"
	if got := p.Reach("carol"); !reflect.DeepEqual(got, want) {
		t.Error("a view reaches into the policy")
	}
	var names []string
	for _, g := range p.Reach("alice") {
		names = append(names, g.Name)
	}
	if want := []string{"dev-web", "dba-db", "oncall-ssh", "alice-late"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %q", names)
	}
	if len(p.Reach("erin")) != 0 || p.Reach("nobody") != nil || (*Policy)(nil).Reach("alice") != nil {
		t.Error("reach of those who have none")
	}
	sum := sha256.Sum256([]byte(fill(testPolicy)))
	if got, want := p.Hash(), "sha256:"+hex.EncodeToString(sum[:]); got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	if got := p.Timezone().String(); got != "Asia/Tokyo" {
		t.Errorf("timezone %s", got)
	}
}

func TestReachByCertificate(t *testing.T) {
	p := mustParseCerts(t, certPolicy)
	names := func(views []GrantView) string {
		var all []string
		for _, v := range views {
			all = append(all, v.Name)
		}
		return strings.Join(all, " ")
	}
	for _, tt := range []struct{ name, user, byName, byCert string }{
		{"a user", "alice", "dev-web", "dev-web staff-wiki"},
		{"somebody whom only a grant names", "carol", "dba-db", "dba-db staff-wiki"},
		{"somebody whom nothing names", "zoe", "", "staff-wiki"},
	} {
		id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{tt.user}))
		if got := names(p.Reach(tt.user)); got != tt.byName {
			t.Errorf("%s, by name: %s", tt.name, got)
		}
		if got := names(p.ReachOf(id)); got != tt.byCert {
			t.Errorf("%s, by certificate: %s", tt.name, got)
		}
		later := mustParseCerts(t, strings.Replace(certPolicy, `principals: ["*"]`, "principals: [nobody]", 1))
		for _, p := range []*Policy{later, nil, {}} {
			if got := p.ReachOf(id); got != nil {
				t.Errorf("%s, by an authority that is none: %v", tt.name, got)
			}
		}
	}
	for id, want := range map[Identity]string{{User: "alice", Key: fingerprint(1)}: "dev-web", {User: "alice", Key: fingerprint(2)}: "", {User: "carol", Key: AnyKey}: ""} {
		if got := names(p.ReachOf(id)); got != want {
			t.Errorf("%+v: %s", id, got)
		}
	}
}

func TestWithOwn(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	if q := p.WithOwn(addrs("fd12::1", "::ffff:10.0.0.1", "10.0.0.1")); q != p {
		t.Error("the same addresses in another order: another policy")
	}
	q := p.WithOwn(addrs("10.0.0.2"))
	if q == p || q.Hash() != p.Hash() {
		t.Error("other addresses: not another policy of the same file")
	}
	for addr, want := range map[string][2]Reason{"10.0.0.1": {OwnAddress, Granted}, "10.0.0.2": {Granted, OwnAddress}} {
		r := ask5("bob", AnyKey, "rds", 3306, netip.MustParseAddr(addr))
		if got := [2]Reason{p.Decide(r).Reason, q.Decide(r).Reason}; got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
	if (*Policy)(nil).WithOwn(nil) != nil {
		t.Error("something from nothing")
	}
}
