package authz

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const keysPolicy = `
version: 1
users:
  - {name: alice, groups: [dev], keys: [KEY1]}
  - {name: bob, groups: [dev], keys: [KEY2], when: {from: [203.0.113.0/24]}}
  - {name: carol, groups: [dev], keys: []}
authorities:
  - {name: corp, key: CORP, principals: ["*"], groups: [staff]}
targets:
  - {name: web, hosts: [web, "*.example", "10.0.0.0/8", "fd12::/32"], ports: [22, 443]}
  - {name: db, hosts: [db], ports: [3306]}
grants:
  - {name: dev-web, groups: [dev], to: [web], when: {hours: ["09:00-17:00 UTC"]}}
  - {name: staff-db, groups: [staff], to: [db]}
`

func TestWhoseKeysFilesHave(t *testing.T) {
	for _, tt := range []struct {
		name     string
		files    []KeyFile
		key      int
		user     string // "": nobody's
		reason   Reason
		detail   string
		problems []string
	}{
		{"no files", nil, 9, "", UnknownKey, "the key " + fingerprint(9) + " is nobody's", nil},
		{"a key more", []KeyFile{keyFile("alice", "KEY9")}, 9, "alice", "", "", nil},
		{"a key for a user who has none", []KeyFile{keyFile("carol", "KEY9 laptop")}, 9, "carol", "", "", nil},
		{"the same key as in the policy", []KeyFile{keyFile("alice", "KEY1")}, 1, "alice", "", "", nil},
		{"an empty file takes nothing away", []KeyFile{keyFile("alice", "# nothing\n")}, 1, "alice", "", "", nil},
		{"a file of nobody", []KeyFile{keyFile("dave", "KEY9")}, 9, "", UnknownKey, "", []string{`keys/dave: the file is not used: the policy has no user "dave"`}},
		{"a file of a user in another case", []KeyFile{keyFile("Alice", "KEY9")}, 9, "", UnknownKey, "", []string{`keys/Alice: the file is not used: the policy has no user "Alice"`}},
		{"an unusable file of nobody", []KeyFile{unusable("dave", "cannot be read")}, 9, "", UnknownKey, "", []string{`keys/dave: the file is not used: the policy has no user "dave"`}},
		{"another's key, who has it in the policy", []KeyFile{keyFile("bob", "\nKEY1")}, 1, "alice", "", "", []string{"keys/bob:2:1: the key is refused: it is the key of alice"}},
		{"a key in two files", []KeyFile{keyFile("alice", "KEY9"), keyFile("bob", "# bob's\nKEY9")}, 9, "", UnknownKey, "", []string{"keys/bob:2:1: the key is refused, here and in keys/alice: it stands in the files of two users"}},
		{"a key in three files", []KeyFile{keyFile("alice", "KEY9"), keyFile("bob", "KEY9"), keyFile("carol", "KEY9")}, 9, "", UnknownKey, "", []string{
			"keys/bob:1:1: the key is refused, here and in keys/alice: it stands in the files of two users",
			"keys/carol:1:1: the key is refused: it stands in the files of several users"}},
		{"a key in the policy and two files", []KeyFile{keyFile("alice", "KEY1"), keyFile("bob", "KEY1"), keyFile("carol", "KEY1")}, 1, "alice", "", "", []string{
			"keys/bob:1:1: the key is refused: it is the key of alice",
			"keys/carol:1:1: the key is refused: it is the key of alice"}},
		{"a key of a refused line", []KeyFile{keyFile("alice", `environ="x" KEY9`)}, 9, "", UnknownKey, "", nil},
		{"a key of a refused line that the policy has", []KeyFile{keyFile("alice", `# laptop`+"\n"+`from="*.example.com" KEY1`)}, 1, "", KeyUnsupported, `the key is refused at keys/alice:2: from: "*.example.com" is about the client's name, which is never looked up`, nil},
		{"a key of a refused line and of a good one", []KeyFile{keyFile("alice", "verify-required KEY9\nKEY9")}, 9, "", KeyUnsupported, "the key is refused at keys/alice:1: verify-required cannot be kept: whether a PIN was asked for is not known here", nil},
		{"a key of a good line and of a refused one", []KeyFile{keyFile("alice", "KEY9\nverify-required KEY9\nx KEY9")}, 9, "", KeyUnsupported, "the key is refused at keys/alice:2: verify-required cannot be kept: whether a PIN was asked for is not known here", nil},
		{"a key of somebody else's refused line", []KeyFile{keyFile("bob", "verify-required KEY1")}, 1, "alice", "", "", nil},
		{"a key of a refused line, and of a good one of somebody else", []KeyFile{keyFile("bob", "verify-required KEY9"), keyFile("alice", "KEY9")}, 9, "alice", "", "", nil},
		{"an authority's key proves nobody itself", []KeyFile{keyFile("alice", "cert-authority KEY9")}, 9, "", UnknownKey, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustParseCerts(t, keysPolicy)
			q, problems := p.WithKeys(tt.files)
			if got := messages(problems); !reflect.DeepEqual(got, tt.problems) {
				t.Errorf("got  %q\nwant %q", got, tt.problems)
			}
			if problems.Err() != nil {
				t.Error("what is not taken is only a warning")
			}
			id, reason, detail := q.Identify("", testKey(tt.key))
			if id.User != tt.user || reason != tt.reason || tt.detail != "" && detail != tt.detail {
				t.Errorf("%q, %q, %s", id.User, reason, detail)
			}
			if d := q.Decide(ask5("mallory", fingerprint(tt.key), "web", 22, netip.Addr{})); d.Effect == Allow {
				t.Errorf("%+v", d)
			}
			// Nothing is left of it, and the first policy is as it was.
			again, _ := q.WithKeys(nil)
			for _, p := range []*Policy{p, again} {
				if id, _, _ := p.Identify("", testKey(tt.key)); (id.User == "alice") != (tt.key == 1) {
					t.Errorf("without the files: %+v", id)
				}
			}
		})
	}
	if p, problems := (*Policy)(nil).WithKeys([]KeyFile{keyFile("alice", "KEY1")}); p != nil || problems != nil {
		t.Error("something from nothing")
	}
}

func TestOptionsOfKeysNarrow(t *testing.T) {
	const source = "203.0.113.5"
	tenAM := time.Date(2027, 1, 13, 10, 0, 0, 0, time.UTC)
	type at = struct {
		host   string
		port   uint32
		source string
		time   time.Time
	}
	ok := at{"web", 22, source, tenAM}
	with := func(change func(*at)) at { a := ok; change(&a); return a }
	host := func(h string, port uint32) at { return with(func(a *at) { a.host, a.port = h, port }) }
	for _, tt := range []struct {
		name    string
		options string
		at      at
		reason  Reason
		detail  string
		next    time.Time // zero: when the grant's hours end
	}{
		{"none", ``, ok, Granted, "", time.Time{}},
		{"from, inside", `from="203.0.113.0/24"`, ok, Granted, "", time.Time{}},
		{"from, mapped", `from="203.0.113.0/24"`, with(func(a *at) { a.source = "::ffff:203.0.113.5" }), Granted, "", time.Time{}},
		{"from, a pattern", `from="203.0.113.?"`, ok, Granted, "", time.Time{}},
		{"from, outside", `from="10.0.0.0/8"`, ok, KeyNotFrom, "the key is allowed from 10.0.0.0/8; the client is at 203.0.113.5", time.Time{}},
		{"from, excepted", `from="203.0.113.0/24,!203.0.113.5"`, ok, KeyNotFrom, "", time.Time{}},
		{"from, nowhere", `from="*"`, with(func(a *at) { a.source = "" }), KeyNotFrom, "the key is allowed from *; the address of the client is not known", time.Time{}},
		{"expiry-time, just before", `expiry-time="20270113100001Z"`, with(func(a *at) { a.time = tenAM.Add(time.Second - 1) }), Granted, "", tenAM.Add(time.Second)},
		{"expiry-time, reached", `expiry-time="20270113100000Z"`, ok, KeyExpired, "the key is allowed until 2027-01-13 10:00:00 UTC", time.Time{}},
		{"expiry-time, long ago", `expiry-time="20200101"`, ok, KeyExpired, "the key is allowed until 2020-01-01 00:00:00 UTC", time.Time{}},
		{"expiry-time, after the grant's hours", `expiry-time="20280101"`, ok, Granted, "", time.Time{}},
		{"expiry-time, at no time", `expiry-time="20280101"`, with(func(a *at) { a.time = time.Time{} }), KeyExpired, "", time.Time{}},
		{"expiry-time, for what no grant names", `expiry-time="20270113110000Z"`, host("nowhere", 22), Granted, "", tenAM.Add(time.Hour)},
		{"expiry-time, for a bad host", `expiry-time="20270113110000Z"`, host("a b", 22), BadHost, "", tenAM.Add(time.Hour)},
		{"expiry-time, for a bad port", `expiry-time="20270113110000Z"`, host("web", 0), BadPort, "", tenAM.Add(time.Hour)},
		{"from comes before expiry-time", `from="10.0.0.0/8",expiry-time="20200101"`, ok, KeyNotFrom, "", time.Time{}},
		{"permitopen, the host", `permitopen="web:22"`, ok, Granted, "", time.Time{}},
		{"permitopen, another port", `permitopen="web:443"`, ok, KeyNotPermitted, "permitopen of the key does not name web, port 22", time.Time{}},
		{"permitopen, another host", `permitopen="db:22"`, ok, KeyNotPermitted, "", time.Time{}},
		{"permitopen, the second of two", `permitopen="db:22",permitopen="web:22"`, ok, Granted, "", time.Time{}},
		{"permitopen, any port", `permitopen="web:*"`, host("web", 443), Granted, "", time.Time{}},
		{"permitopen, any host", `permitopen="*:22"`, ok, Granted, "", time.Time{}},
		{"permitopen, any host, another port", `permitopen="*:443"`, ok, KeyNotPermitted, "", time.Time{}},
		{"permitopen, asked for in another spelling", `permitopen="a.example:22"`, host("A.Example.", 22), Granted, "", time.Time{}},
		{"permitopen, written in another spelling", `permitopen="A.Example.:22"`, host("a.example", 22), Granted, "", time.Time{}},
		{"permitopen, no more than it names", `permitopen="example:22"`, host("a.example", 22), KeyNotPermitted, "", time.Time{}},
		{"permitopen, an IPv4 address", `permitopen="10.0.0.5:22"`, host("10.0.0.5", 22), Granted, "", time.Time{}},
		{"permitopen, an IPv4 address that is asked for mapped", `permitopen="10.0.0.5:22"`, host("::ffff:10.0.0.5", 22), Granted, "", time.Time{}},
		{"permitopen, an IPv6 address", `permitopen="[fd12::5]:22"`, host("fd12::5", 22), Granted, "", time.Time{}},
		{"permitopen, an IPv6 address in capitals", `permitopen="[FD12::5]:22"`, host("fd12::5", 22), Granted, "", time.Time{}},
		{"permitopen, another IPv6 address", `permitopen="[fd12::5]:22"`, host("fd12::6", 22), KeyNotPermitted, "permitopen of the key does not name fd12::6, port 22", time.Time{}},
		{"permitopen, what is no host names nothing", `permitopen="0x7f.1:22",permitopen="a..b:22"`, ok, KeyNotPermitted, "", time.Time{}},
		{"permitopen never grants", `permitopen="db:3306"`, host("db", 3306), NoGrant, "", time.Time{}},
		{"no forwarding", `no-port-forwarding`, ok, KeyNoForwarding, "the key is not for forwarding (restrict or no-port-forwarding in authorized_keys)", time.Time{}},
		{"restrict", `restrict`, ok, KeyNoForwarding, "", time.Time{}},
		{"restrict, forwarding allowed again", `restrict,port-forwarding`, ok, Granted, "", time.Time{}},
		{"restrict and permitopen", `restrict,permitopen="web:22"`, ok, KeyNoForwarding, "", time.Time{}},
		{"restrict, for what no grant names", `restrict`, host("nowhere.else", 23), NoGrant, "", time.Time{}},
		{"restrict, outside the grant's hours", `restrict`, with(func(a *at) { a.time = tenAM.Add(12 * time.Hour) }), KeyNoForwarding, "", time.Time{}},
		{"a command", `command="x"`, ok, Granted, "", time.Time{}},
	} {
		for key, name := range map[int]string{1: "of the policy", 9: "of the file"} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				file := keyFile("alice", strings.TrimSpace(fmt.Sprintf("%s KEY%d", tt.options, key)))
				if len(file.Keys) != 1 {
					t.Fatalf("%+v", file)
				}
				p, problems := mustParseCerts(t, keysPolicy).WithKeys([]KeyFile{file})
				if problems != nil {
					t.Fatal(problems)
				}
				r := Request{User: "alice", Key: fingerprint(key), Host: tt.at.host, Port: tt.at.port, Time: tt.at.time}
				if tt.at.source != "" {
					r.Source = netip.MustParseAddr(tt.at.source)
				}
				d := p.Decide(r)
				if d.Reason != tt.reason || tt.detail != "" && d.Detail != tt.detail || (d.Effect == Allow) != (tt.reason == Granted) {
					t.Errorf("%+v", d)
				}
				next := tt.next
				if next.IsZero() && tt.reason == Granted {
					next = time.Date(2027, 1, 13, 17, 0, 0, 0, time.UTC)
				}
				if !d.Next.Equal(next) {
					t.Errorf("next %v, want %v", d.Next, next)
				}
				checkExplanation(t, p, r)
				id := Identity{User: "alice", Key: fingerprint(key)}
				if got := p.NoSessions(id); got != strings.Contains(tt.options, "command") {
					t.Errorf("no sessions: %v", got)
				}
				reason, _, next := p.HoldsNow(id, r.Source, r.Time)
				if about := tt.reason == KeyNotFrom || tt.reason == KeyExpired; about != (reason != "") || about && reason != tt.reason {
					t.Errorf("holds now: %q", reason)
				}
				if strings.Contains(tt.options, "expiry") && tt.reason == Granted && !next.Equal(file.Keys[0].Options.Expiry) {
					t.Errorf("holds until %v", next)
				}
				// Nobody else's key is narrowed, and the options stay behind with the file.
				other := Request{User: "bob", Key: fingerprint(2), Host: "web", Port: 22, Time: tenAM, Source: netip.MustParseAddr(source)}
				if d := p.Decide(other); d.Effect != Allow {
					t.Errorf("bob: %+v", d)
				}
				if p, _ = p.WithKeys([]KeyFile{keyFile("alice", "KEY9")}); p.Decide(ok1(key, tenAM)).Effect != Allow {
					t.Error("options outlive their file")
				}
			})
		}
	}
}

// ok1 is alice with nothing against her.
func ok1(key int, at time.Time) Request {
	return Request{User: "alice", Key: fingerprint(key), Host: "web", Port: 22, Time: at, Source: netip.MustParseAddr("203.0.113.5")}
}

// A file that may narrow every key of its user, and cannot be read, leaves him
// none: neither keys of the policy nor certificates.
func TestAnUnusableFileTakesEveryKeyOfItsUser(t *testing.T) {
	const why = "the keys of alice are refused: keys/alice is writable by others"
	base := mustParseCerts(t, keysPolicy)
	p, problems := base.WithKeys([]KeyFile{unusable("alice", "is writable by others"), keyFile("bob", "KEY9")})
	if problems != nil {
		t.Fatal(problems)
	}
	cert := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"}))
	for name, id := range map[string]Identity{"key": {User: "alice", Key: fingerprint(1)}, "certificate": cert, "any": {User: "alice", Key: AnyKey}} {
		for _, running := range []bool{false, true} {
			r := id.ask("web", 22, noon)
			r.Running = running
			if d := p.Decide(r); d.Reason != KeyFileUnusable || d.Detail != why {
				t.Errorf("%s: %+v", name, d)
			}
			checkExplanation(t, p, r)
		}
		if reason, detail, _ := p.HoldsNow(id, netip.Addr{}, noon); reason != KeyFileUnusable || detail != why {
			t.Errorf("%s holds now: %q %s", name, reason, detail)
		}
		if d := base.Decide(id.ask("web", 22, noon)); d.Effect != Allow {
			t.Errorf("%s: the policy without files: %+v", name, d)
		}
	}
	if d := p.Decide(Request{User: "bob", Key: fingerprint(9), Host: "web", Port: 22, Time: noon, Source: netip.MustParseAddr("203.0.113.5")}); d.Effect != Allow {
		t.Errorf("bob: %+v", d)
	}
	if p, _ = p.WithKeys(nil); p.Decide(ok1(1, noon)).Effect != Allow {
		t.Error("the file is gone, and its user still shut out")
	}
}

func TestLinesOfAuthorities(t *testing.T) {
	ci := testSigner(ciCA) // not of the policy
	corp := testSigner(corpCA)
	for _, tt := range []struct {
		name       string
		file       string // of carol
		ca         ssh.Signer
		principals []string
		user       string
		reason     Reason // of Identify, or else of HoldsNow and Decide
		detail     string
		authority  string
	}{
		{"her own name", `cert-authority CI`, ci, []string{"carol"}, "carol", "", "", "keys/carol:1"},
		{"her own name among others", `cert-authority CI`, ci, []string{"alice", "carol"}, "carol", "", "", "keys/carol:1"},
		{"another user's name", `cert-authority CI`, ci, []string{"alice"}, "", CertPrincipals, `the certificate "id" (serial 7) names nobody whom its authority "keys/carol:1" may vouch for: its principals are "alice"`, ""},
		{"a principal that the line names", `cert-authority,principals="ops,build" CI`, ci, []string{"build"}, "carol", "", "", "keys/carol:1"},
		{"another user's name that the line names", `cert-authority,principals="alice" CI`, ci, []string{"alice"}, "carol", "", "", "keys/carol:1"},
		{"her own name that the line does not name", `cert-authority,principals="ops" CI`, ci, []string{"carol"}, "", CertPrincipals, "", ""},
		{"no authority any more", `# cert-authority CI`, ci, []string{"carol"}, "", UnknownAuthority, "", ""},
		{"a plain line of the authority's key", `CI`, ci, []string{"carol"}, "", UnknownAuthority, "", ""},
		{"an authority of the policy, too", `cert-authority CORP`, corp, []string{"carol"}, "carol", "", "", "corp"},
		{"an authority of the policy that the line narrows", `cert-authority,from="10.0.0.0/8" CORP`, corp, []string{"carol"}, "carol", KeyNotFrom, "the key is allowed from 10.0.0.0/8; the client is at 203.0.113.5", ""},
		{"an authority of the policy that the line ends", `cert-authority,expiry-time="20200101" CORP`, corp, []string{"carol"}, "carol", KeyExpired, "", ""},
		{"an authority of the policy and another principal of the line", `cert-authority,principals="alice" CORP`, corp, []string{"alice"}, "", CertPrincipals, `the certificate "id" (serial 7) names several users: alice, carol`, ""},
		{"an authority of the policy whose line cannot be honoured", `cert-authority,from="*.example.com" CORP`, corp, []string{"carol"}, "", KeyUnsupported, `the key is refused at keys/carol:1: from: "*.example.com" is about the client's name, which is never looked up`, ""},
		{"an authority of the policy whose line cannot be honoured, for others", `cert-authority,from="*.example.com" CORP`, corp, []string{"alice"}, "alice", "", "", "corp"},
		{"a line that cannot be honoured and one that can", "cert-authority,verify-required CI\ncert-authority CI", ci, []string{"carol"}, "", KeyUnsupported, "the key is refused at keys/carol:1: verify-required cannot be kept: whether a PIN was asked for is not known here", ""},
		{"from, elsewhere", `cert-authority,from="10.0.0.0/8" CI`, ci, []string{"carol"}, "carol", KeyNotFrom, "", ""},
		{"restrict", `cert-authority,restrict CI`, ci, []string{"carol"}, "carol", KeyNoForwarding, "", ""},
		{"permitopen, elsewhere", `cert-authority,permitopen="db:22" CI`, ci, []string{"carol"}, "carol", KeyNotPermitted, "", ""},
		{"permitopen, here", `cert-authority,permitopen="web:22" CI`, ci, []string{"carol"}, "carol", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, problems := mustParseCerts(t, keysPolicy).WithKeys([]KeyFile{keyFile("carol", tt.file)})
			if problems != nil {
				t.Fatal(problems)
			}
			id, reason, detail := p.Identify("", makeCert(t, tt.ca, tt.principals))
			if id.User != tt.user {
				t.Fatalf("%q, %q, %s", id.User, reason, detail)
			}
			if id.User != "" {
				if tt.authority != "" && id.Cert.Authority != tt.authority {
					t.Errorf("by %q", id.Cert.Authority)
				}
				r := id.ask("web", 22, noon)
				d := p.Decide(r)
				if d.Effect == Allow != (tt.reason == "") {
					t.Errorf("%+v", d)
				}
				if d.Effect == Deny {
					reason, detail = d.Reason, d.Detail
				}
				checkExplanation(t, p, r)
				// Once the file is gone, so is what it vouched for.
				gone, _ := p.WithKeys(nil)
				if d := gone.Decide(r); (d.Effect == Allow) != (tt.ca == corp) || d.Effect == Deny && d.Reason != AuthorityRemoved {
					t.Errorf("without the file: %+v", d)
				}
			}
			if reason != tt.reason || tt.detail != "" && detail != tt.detail {
				t.Errorf("%q, %s", reason, detail)
			}
		})
	}
}

// The line came, or became bad, while a certificate was logged in already.
func TestLinesOfAuthoritiesComeLater(t *testing.T) {
	p := mustParseCerts(t, keysPolicy)
	id := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"carol"}))
	for file, want := range map[string]Reason{
		`cert-authority CORP`:                        Granted,
		`cert-authority,restrict CORP`:               KeyNoForwarding,
		`cert-authority,verify-required CORP`:        KeyUnsupported,
		`cert-authority,principals="ops" CORP`:       Granted, // about other certificates
		`cert-authority,from="!10.0.0.1" CORP`:       KeyUnsupported,
		"cert-authority CORP\nverify-required CORP":  KeyUnsupported,
		`cert-authority,expiry-time="20200101" CORP`: KeyExpired,
	} {
		q, _ := p.WithKeys([]KeyFile{keyFile("carol", file)})
		r := id.ask("web", 22, noon)
		r.Running, r.Grant = true, "dev-web"
		if d := q.Decide(r); d.Reason != want {
			t.Errorf("%s: %+v", file, d)
		}
		checkExplanation(t, q, r)
		if q, _ = q.WithKeys([]KeyFile{keyFile("bob", file)}); q.Decide(r).Reason != Granted {
			t.Errorf("%s, of bob: %+v", file, q.Decide(r))
		}
	}
}

func TestFilesUnderAReloadedPolicy(t *testing.T) {
	files := []KeyFile{keyFile("alice", `from="10.0.0.0/8" KEY1`), keyFile("carol", "KEY9"), keyFile("dave", "KEY5")}
	p, problems := mustParseCerts(t, keysPolicy).WithKeys(files)
	if len(problems) != 1 || p.Decide(Request{User: "carol", Key: fingerprint(9), Host: "web", Port: 22, Time: noon}).Effect != Allow {
		t.Fatal(problems)
	}
	text := strings.Replace(keysPolicy, "{name: carol,", "{name: dave,", 1)
	p, problems = mustParseCerts(t, text).WithKeys(files)
	if got := messages(problems); !reflect.DeepEqual(got, []string{`keys/carol: the file is not used: the policy has no user "carol"`}) {
		t.Errorf("%q", got)
	}
	for _, tt := range []struct {
		user string
		key  int
		want Reason
	}{{"alice", 1, KeyNotFrom}, {"carol", 9, UnknownUser}, {"dave", 5, Granted}, {"dave", 9, KeyRemoved}} {
		r := ok1(tt.key, noon)
		r.User = tt.user
		if d := p.Decide(r); d.Reason != tt.want {
			t.Errorf("%s: %+v", tt.user, d)
		}
	}
}

func TestOptionsCostNoAllocation(t *testing.T) {
	p, _ := mustParseCerts(t, keysPolicy).WithKeys([]KeyFile{keyFile("alice", `from="203.0.113.*",expiry-time="20280101",permitopen="db:1",permitopen="web:22" KEY1`)})
	r := ok1(1, noon)
	if d := p.Decide(r); d.Effect != Allow {
		t.Fatalf("%+v", d)
	}
	if n := testing.AllocsPerRun(100, func() { p.Decide(r) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
