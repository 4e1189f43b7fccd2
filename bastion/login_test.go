package bastion_test

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// twoUsers lets alice and bob reach everything on 127.0.0.1.
const twoUsers = `version: 1
users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
targets:
  - {name: all, hosts: [target], ports: ["1-65535"]}
grants:
  - {name: everything, users: [alice, bob], to: [all]}
`

// dial tries to log in and closes the connection that succeeds.
func dial(b *bastiontest.Bastion, config *ssh.ClientConfig) error {
	client, err := ssh.Dial("tcp", b.Addr, config)
	if err == nil {
		client.Close()
	}
	return err
}

func TestNobodyGetsInWithoutAKey(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	config := b.ClientConfig("alice")
	config.Auth = nil // no credentials at all
	if dial(b, config) == nil {
		t.Error("a client without credentials got in")
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "no_key_offered" || rec.Login != "alice" || rec.User != "" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}

	raw := bastiontest.NewRaw(t, b)
	for range 3 {
		if raw.None("alice") || raw.None("") || raw.Password("alice", "") || raw.Password("root", "toor") {
			t.Fatal("somebody got in")
		}
	}
	raw.Close()
	rec := b.Book.Await(t, audit.AuthFail, 2)
	if rec.Reason != "method_not_supported" || !strings.Contains(rec.Detail, "password") || rec.Login != "root" || rec.Client != bastiontest.RawVersion {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestTheKeyDecidesThePerson(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	for _, test := range []struct {
		name  string
		login string
		key   ssh.Signer
		user  string // empty: refused
	}{
		{"his own name", "alice", b.Alice, "alice"},
		{"a name that a GUI has typed in already", "ec2-user", b.Alice, "alice"},
		{"no name", "", b.Alice, "alice"},
		{"another user's name", "bob", b.Alice, ""},
		{"another user's name in other case is no user's", "BOB", b.Alice, "alice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := len(b.Book.Records(audit.AuthOK))
			err := dial(b, b.ClientConfig(test.login, test.key))
			if (err == nil) != (test.user != "") {
				t.Fatalf("login: %v", err)
			}
			if test.user == "" {
				rec := b.Book.Await(t, audit.AuthFail, 1)
				if rec.Reason != "other_user" || rec.User != "" || rec.Login != test.login || rec.Key != ssh.FingerprintSHA256(test.key.PublicKey()) {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
				return
			}
			if rec := b.Book.Await(t, audit.AuthOK, before+1); rec.User != test.user || rec.Login != test.login {
				t.Errorf("%s", rec.AppendJSON(nil))
			}
		})
	}
}

// liar offers one key and signs with another.
type liar struct{ offers, signs ssh.Signer }

func (l liar) PublicKey() ssh.PublicKey                              { return l.offers.PublicKey() }
func (l liar) Sign(r io.Reader, data []byte) (*ssh.Signature, error) { return l.signs.Sign(r, data) }

func TestAKeyThatIsOfferedAndNotProvenLetsNobodyIn(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	if dial(b, b.ClientConfig("alice", liar{b.Alice, b.Bob})) == nil {
		t.Fatal("a signature by another key was taken")
	}
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "bad_signature" || !strings.Contains(rec.Detail, ssh.FingerprintSHA256(b.Alice.PublicKey())) {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestWhatWasOfferedBeforeDoesNotStick(t *testing.T) {
	// Alice's key is offered and accepted, but the client cannot sign with
	// it; then it proves bob's. It must be bob.
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	raw := bastiontest.NewRaw(t, b)
	if !raw.Offer("root", b.Alice.PublicKey()) {
		t.Fatal("alice's key is not accepted")
	}
	if !raw.Offer("alice", b.Alice.PublicKey()) {
		t.Fatal("alice's key is not accepted")
	}
	if !raw.Prove("ec2-user", b.Bob) {
		t.Fatal("bob cannot log in")
	}
	if rec := b.Book.Await(t, audit.AuthOK, 1); rec.User != "bob" || rec.Login != "ec2-user" || rec.Key != ssh.FingerprintSHA256(b.Bob.PublicKey()) {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAUserNameThatChangesOnTheWayIsTheLastOne(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	raw := bastiontest.NewRaw(t, b)
	if !raw.Offer("alice", b.Alice.PublicKey()) {
		t.Fatal("alice's key is not accepted")
	}
	if raw.Prove("bob", b.Alice) {
		t.Fatal("alice logged in as bob")
	}
	if !raw.Prove("root", b.Alice) {
		t.Fatal("alice cannot log in as root")
	}
	if rec := b.Book.Await(t, audit.AuthOK, 1); rec.User != "alice" || rec.Login != "root" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestAnAgentWithManyKeysLogsIn(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	var keys []ssh.Signer
	for range 20 {
		keys = append(keys, bastiontest.Key(t))
	}
	if err := dial(b, b.ClientConfig("alice", append(slices.Clone(keys), b.Alice)...)); err != nil {
		t.Errorf("twenty wrong keys and then the right one: %v", err)
	}
	if n := len(b.Book.Records(audit.AuthFail)); n != 0 {
		t.Errorf("%d failures recorded", n)
	}
	if dial(b, b.ClientConfig("alice", append(append(slices.Clone(keys), bastiontest.Key(t)), b.Alice)...)) == nil {
		t.Error("twenty-one wrong keys were allowed")
	}
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "too_many_tries" || len(rec.Offered) != 8 || !strings.HasSuffix(rec.Detail, "; 21 offers were refused, of which 8 are named") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestARefusedLoginSaysWhatToDo(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	stranger := bastiontest.Key(t)
	if dial(b, b.ClientConfig("carol\x1b[2J", stranger)) == nil {
		t.Fatal("a stranger got in")
	}
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "unknown_key" || rec.Key != ssh.FingerprintSHA256(stranger.PublicKey()) || len(rec.Offered) != 1 {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	bastiontest.Eventually(t, "the line", func() bool { return strings.Contains(b.Lines.String(), "login refused") })
	line := b.Lines.String()
	for _, want := range []string{ssh.FingerprintSHA256(stranger.PublicKey()), "carol", bastiontest.Line(stranger), "add it to a user"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in %s", want, line)
		}
	}
	if strings.Contains(line, "\x1b") {
		t.Errorf("an escape code is in %q", line)
	}
}

func TestAClientThatOnlySignsSHA1IsToldApart(t *testing.T) {
	signer := rsaKey(t, 2048)
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	if raw.OfferAs("alice", signer.PublicKey(), "ssh-rsa") {
		t.Fatal("ssh-rsa is accepted")
	}
	raw.Close()
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "sha1_signature" || !strings.Contains(rec.Detail, "SHA-1") || rec.Client != "SSH-2.0-Raw" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func rsaKey(t *testing.T, bits int) ssh.Signer {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// Agents are known that sign with SHA-1 although they were asked for SHA-2.
func TestASignatureWithSHA1IsRefusedByName(t *testing.T) {
	corp, old := bastiontest.Key(t), rsaKey(t, 2048)
	b := bastiontest.Start(t, bastiontest.Options{Policy: fmt.Sprintf("version: 1\nusers:\n  - {name: alice, keys: [%q]}\nauthorities:\n  - {name: corp, key: %q, principals: [alice]}\n",
		bastiontest.Line(old), bastiontest.Line(corp))})
	for i, test := range []struct {
		name, algorithm, format string
		key                     ssh.Signer
	}{
		{"a key", "rsa-sha2-256", "ssh-rsa", old},
		{"a certificate", "rsa-sha2-512-cert-v01@openssh.com", "ssh-rsa", certify(t, corp, old, 1, "alice", nil)},
	} {
		raw := bastiontest.NewRaw(t, b)
		if !raw.OfferAs("alice", test.key.PublicKey(), test.algorithm) {
			t.Errorf("%s for SHA-2 is refused", test.name)
		}
		if in, err := raw.Try(bastiontest.Proof{User: "alice", Key: test.key, Algorithm: test.algorithm, Format: test.format}); in || err != nil {
			t.Errorf("%s: signed with SHA-1: in %v, %v", test.name, in, err)
		}
		raw.Close()
		if rec := b.Book.Await(t, audit.AuthFail, i+1); rec.Reason != "sha1_signature" || !strings.Contains(rec.Detail, "SHA-1 (ssh-rsa)") || rec.Key != print(old) {
			t.Errorf("%s: %s", test.name, rec.AppendJSON(nil))
		}
		raw = bastiontest.NewRaw(t, b)
		if in, err := raw.Try(bastiontest.Proof{User: "alice", Key: test.key, Algorithm: test.algorithm, Format: strings.TrimSuffix(test.algorithm, "-cert-v01@openssh.com")}); !in || err != nil {
			t.Errorf("%s: signed with SHA-2: in %v, %v", test.name, in, err)
		}
		raw.Close()
	}
}

func TestAnRSAKeyThatIsTooShortIsRefusedByName(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	corp, short := bastiontest.Key(t), rsaKey(t, 1024)
	b := bastiontest.Start(t, bastiontest.Options{Policy: fmt.Sprintf("version: 1\nusers:\n  - {name: alice}\nauthorities:\n  - {name: corp, key: %q, principals: [alice]}\n", bastiontest.Line(corp))})
	for i, test := range []struct {
		key    ssh.Signer
		reason string
	}{
		{short, "key_unsupported"},
		{certify(t, corp, short, 1, "alice", nil), "bad_cert"},
	} {
		raw := bastiontest.NewRaw(t, b)
		algorithm := strings.Replace(test.key.PublicKey().Type(), "ssh-rsa", "rsa-sha2-256", 1)
		if in, err := raw.Try(bastiontest.Proof{User: "alice", Key: test.key, Algorithm: algorithm, Format: "rsa-sha2-256"}); in {
			t.Errorf("it logs in (%v)", err)
		}
		raw.Close()
		rec := b.Book.Await(t, audit.AuthFail, i+1)
		if rec.Reason != test.reason || !strings.Contains(rec.Detail, "at least 2048 bits, this one has 1024") {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
}

func TestAClientThatLeavesBeforeItTriesIsNoFailure(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	config := b.ClientConfig("alice", b.Alice)
	config.HostKeyCallback = func(string, net.Addr, ssh.PublicKey) error { return fmt.Errorf("unknown host key") }
	if dial(b, config) == nil {
		t.Fatal("the client did not leave")
	}
	bastiontest.Eventually(t, "the connection's end", func() bool { return b.Server.Connections() == 0 })
	if recs := b.Book.Records(); len(recs) != 0 {
		t.Errorf("%d records, the first %s", len(recs), recs[0].AppendJSON(nil))
	}
}

func TestLoginGraceEndsWhoDoesNotLogIn(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.LoginGrace = 200 * time.Millisecond }})
	silent, err := net.Dial("tcp", b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.SetDeadline(time.Now().Add(bastiontest.Wait))
	if _, err := io.ReadAll(silent); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Fatal("the silent connection stays")
	}
	if rec := b.Book.Await(t, audit.AuthFail, 1); rec.Reason != "login_grace" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	// A login in time is not ended by it.
	client := b.Dial()
	time.Sleep(400 * time.Millisecond)
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("after the grace: %v", err)
	}
}

func TestWeakAlgorithmsAreNotOffered(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	for name, change := range map[string]func(*ssh.ClientConfig){
		"key exchange with SHA-1": func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH14SHA1} },
		"group 1":                 func(c *ssh.ClientConfig) { c.KeyExchanges = []string{ssh.InsecureKeyExchangeDH1SHA1} },
		"CBC":                     func(c *ssh.ClientConfig) { c.Ciphers = []string{ssh.InsecureCipherAES128CBC} },
		"hmac-sha1":               func(c *ssh.ClientConfig) { c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.HMACSHA1} },
		"hmac-sha1-96": func(c *ssh.ClientConfig) {
			c.Ciphers, c.MACs = []string{ssh.CipherAES128CTR}, []string{ssh.InsecureHMACSHA196}
		},
	} {
		config := b.ClientConfig("alice", b.Alice)
		change(config)
		if err := dial(b, config); err == nil || !strings.Contains(err.Error(), "no common algorithm") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, kex := range []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519, ssh.KeyExchangeECDHP256, ssh.KeyExchangeDH14SHA256, ssh.KeyExchangeDH16SHA512} {
		config := b.ClientConfig("alice", b.Alice)
		config.KeyExchanges = []string{kex}
		if err := dial(b, config); err != nil {
			t.Errorf("%s: %v", kex, err)
		}
	}
	for _, cipher := range []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305, ssh.CipherAES128CTR} {
		for _, mac := range []string{ssh.HMACSHA256, ssh.HMACSHA512ETM} {
			config := b.ClientConfig("alice", b.Alice)
			config.Ciphers, config.MACs = []string{cipher}, []string{mac}
			if err := dial(b, config); err != nil {
				t.Errorf("%s, %s: %v", cipher, mac, err)
			}
		}
	}
	bastiontest.Eventually(t, "a line about it", func() bool { return strings.Contains(b.Lines.String(), "no key exchange in common") })
}

// from is a net.Dialer at another address of the loopback network.
func from(t *testing.T, addr string) *net.Dialer {
	t.Helper()
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: bastiontest.Wait}
}

func TestManyFailedLoginsAreCountedAndAllAccountedFor(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.LoginGrace = 2 * time.Second }})
	stranger := bastiontest.Key(t)
	try := func(addr, login string, key ssh.Signer) {
		t.Helper()
		conn, err := from(t, addr).Dial("tcp", b.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, _, _, err := ssh.NewClientConn(conn, b.Addr, b.ClientConfig(login, key)); err == nil {
			t.Fatal("he logs in")
		}
	}
	for range 200 {
		try("127.0.0.2", "root", stranger)
	}
	for range 20 {
		try("127.0.0.3", "alice", stranger)           // whom the policy knows
		try("127.0.0.2", "bob", liar{b.Alice, b.Bob}) // and a key that it knows
	}
	for range 20 { // and some that are silent
		conn, err := from(t, "127.0.0.4").Dial("tcp", b.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	bastiontest.Eventually(t, "the end of all", func() bool { return b.Server.Connections() == 0 })
	if n := len(b.Book.Records(audit.AuthFlood)); n != 0 {
		t.Errorf("%d auth.flood before the minute is over", n)
	}
	b.Server.Shutdown(t.Context())

	singles, counted := map[string]int{}, map[string]uint64{}
	for _, rec := range b.Book.Records() {
		switch source := rec.Source.Addr().String(); {
		case rec.Type == audit.AuthFail:
			singles[source]++
		case rec.Type == audit.AuthFlood && rec.Source.Port() == 0:
			counted[source] += rec.Count
		default:
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	}
	// Both strangers and known at the first.
	wantSingles := map[string]int{"127.0.0.2": 10, "127.0.0.3": 5, "127.0.0.4": 5}
	wantCounted := map[string]uint64{"127.0.0.2": 210, "127.0.0.3": 15, "127.0.0.4": 15}
	if !maps.Equal(singles, wantSingles) || !maps.Equal(counted, wantCounted) {
		t.Errorf("%v are recorded one by one, and %v counted", singles, counted)
	}
	if n := strings.Count(b.Lines.String(), "login refused"); n != 20 {
		t.Errorf("%d operational lines, want one for each record", n)
	}
	if n := strings.Count(b.Lines.String(), "logins refused"); n != 1 {
		t.Errorf("%d operational lines about those that are counted", n)
	}
}

func TestAtTheEndOfTheMinuteIsToldWhatWasCounted(t *testing.T) {
	inBubble(t, strings.TrimPrefix(twoUsers, "version: 1\n"), func(t *testing.T, b *bubble) {
		stranger := bastiontest.Key(t)
		for range 5 {
			if reason := b.refused(stranger); reason != "unknown_key" {
				t.Errorf("refused for %s", reason)
			}
		}
		for range 7 {
			conn, err := b.network.Dial(netip.MustParseAddrPort("203.0.113.9:50001"))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := ssh.NewClientConn(conn, "bastion", b.ClientConfig("ec2-user", stranger)); err == nil {
				t.Fatal("he logs in")
			}
			conn.Close()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		recs := b.Book.Records(audit.AuthFlood)
		if len(recs) != 1 || recs[0].Count != 7 || recs[0].Source != netip.MustParseAddrPort("203.0.113.9:0") || recs[0].Reason != "unknown_key" {
			t.Errorf("%d records: %+v", len(recs), recs)
		}
		if reason := b.refused(stranger); reason != "unknown_key" { // again by itself
			t.Errorf("refused for %s", reason)
		}
	})
}

func TestManyOfferedKeysHideNoneThatThePolicyKnows(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{Policy: twoUsers})
	raw := bastiontest.NewRaw(t, b)
	if raw.Prove("bob", b.Alice) { // alice's key, proven, is refused
		t.Fatal("alice logged in as bob")
	}
	for range 15 {
		raw.Offer("carol", bastiontest.Key(t).PublicKey())
	}
	raw.Close()
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if rec.Reason != "unknown_key" || len(rec.Offered) != 8 || !slices.Contains(rec.Offered, print(b.Alice)) || !strings.HasSuffix(rec.Detail, "; 16 offers were refused, of which 8 are named") {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
}

func TestTheLongestFailedLoginIsBounded(t *testing.T) {
	b := bastiontest.Start(t, bastiontest.Options{})
	raw := bastiontest.NewRaw(t, b)
	for range 8 {
		raw.Password(strings.Repeat("\x00", 20_000), "x")
	}
	raw.Close()
	rec := b.Book.Await(t, audit.AuthFail, 1)
	if n := len(rec.AppendJSON(nil)); n > 7<<10 || len(rec.Login) != 256+len("…") {
		t.Errorf("%d bytes: %s", n, rec.AppendJSON(nil))
	}
	if n := len(b.Lines.String()); n > 4<<10 {
		t.Errorf("%d bytes of operational log", n)
	}
}
