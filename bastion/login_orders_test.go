package bastion_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A try is one request of a login, and what is to come of it.
type try struct {
	name string
	do   func(*bastiontest.Raw) (says, error)
	says says
	user string // the login
	key  string // fingerprint of the key that it is about; empty: none

	in *audit.Record // who it logs in; nil: nobody
	// touch says that the login shows a touch of the key.
	touch bool

	refused string // why the key is refused: a reason of a record
	method  string // that is not supported
	sha1    bool   // by which it would be signed
}

// says is how the server answers.
type says string

const (
	no      says = "no"
	goOn    says = "sign with it"
	welcome says = "welcome"
	hangsUp says = "hangs up"
)

// wants is the reason of the record of a login that was given up after tries,
// and the key in it; it is written down here a second time, from what an
// administrator would want to read.
func wants(tries []try) (reason, key string) {
	var accepted, method string
	var refused *try
	sha1 := false
	var asked *try // the last about a key
	for i := range tries {
		if i > 0 && tries[i-1].key != "" {
			again := asked != nil && asked.refused != "" && tries[i-1].says == goOn && asked.user == tries[i-1].user && asked.key == tries[i-1].key
			if !again { // else it was told what is remembered
				asked = &tries[i-1]
			}
		}
		switch t := &tries[i]; {
		case t.says == hangsUp && t.refused == "":
			return "bad_signature", t.key
		case t.says == goOn && asked != nil && asked.refused != "" && asked.user == t.user && asked.key == t.key:
			// The library remembers the answer. That the key was proven, and
			// refused all the same, says more.
		case t.says == goOn:
			accepted = t.key
		case t.refused != "":
			refused = t
			if t.refused != "unknown_key" && t.refused != "unknown_authority" {
				accepted = "" // it was proven
			}
			if t.says == hangsUp {
				return t.refused, t.key
			}
		case t.method != "":
			method = t.method
		case t.sha1:
			sha1 = true
		}
	}
	switch {
	case sha1 && refused == nil:
		if accepted == "" {
			return "sha1_signature", ""
		}
		return "sha1_signature", accepted
	case accepted != "":
		return "not_proven", accepted
	case refused != nil:
		return refused.refused, refused.key
	case method != "":
		return "method_not_supported", ""
	}
	return "no_key_offered", ""
}

// certify signs a certificate of a user.
func certify(t *testing.T, authority, key ssh.Signer, serial uint64, principal string, change func(*ssh.Certificate)) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, Serial: serial, KeyId: principal + "@corp", ValidPrincipals: []string{principal},
		ValidAfter: 0, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
	}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(cryptorand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return certSigner{cert, key}
}

// certSigner signs with whatever key it holds, also with one that ssh would
// not take for a certificate.
type certSigner struct {
	*ssh.Certificate
	key ssh.Signer
}

func (c certSigner) PublicKey() ssh.PublicKey { return c.Certificate }
func (c certSigner) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return c.key.Sign(r, data)
}
func (c certSigner) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	return c.key.(ssh.AlgorithmSigner).SignWithAlgorithm(r, data, algorithm)
}

func print(key ssh.Signer) string {
	if c, ok := key.(certSigner); ok {
		return ssh.FingerprintSHA256(c.Certificate.Key)
	}
	return ssh.FingerprintSHA256(key.PublicKey())
}

// orders is a server and the tries that are put in every order at it.
type orders struct {
	b       *bastiontest.Bastion
	network *bastiontest.Network
	next    atomic.Uint32 // client

	mu     sync.Mutex
	made   map[netip.AddrPort][]try
	logins map[netip.AddrPort][]audit.Record // and ends of connections
}

// Append keeps what the book is told of logins.
func (o *orders) Append(_ context.Context, rec audit.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if rec.Type != audit.ForwardDeny {
		o.logins[rec.Source] = append(o.logins[rec.Source], rec)
	}
	return nil
}

// raw connects from an address of its own, by which its records are found.
func (o *orders) raw(t *testing.T) (*bastiontest.Raw, netip.AddrPort) {
	t.Helper()
	n := o.next.Add(1)
	source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), uint16(1024+n>>16))
	conn, err := o.network.Dial(source)
	if err != nil {
		t.Fatal(err)
	}
	return bastiontest.NewRawOver(t, o.b, conn), source
}

func newOrders(t *testing.T) (*orders, []try) {
	t.Helper()
	corp, stranger, unknown, lena, revoked, skOther := bastiontest.Key(t), bastiontest.Key(t), bastiontest.Key(t), bastiontest.Key(t), bastiontest.Key(t), bastiontest.Key(t)
	touched, untouched := bastiontest.NewSecurityKey(t, true), bastiontest.NewSecurityKey(t, false)
	private, err := rsa.GenerateKey(cryptorand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	o := &orders{network: bastiontest.NewNetwork(), made: map[netip.AddrPort][]try{}, logins: map[netip.AddrPort][]audit.Record{}}
	o.b = bastiontest.Start(t, bastiontest.Options{
		Listener: o.network, Recorder: o,
		Policy: fmt.Sprintf(`version: 1
users:
  - {name: alice, keys: ["{alice}", %q, %q, %q, %q]}
  - {name: bob, keys: ["{bob}"]}
  - {name: lena, keys: [%q]}
authorities:
  - {name: corp, key: %q, principals: ["*"]}
targets:
  - {name: all, hosts: [nowhere], ports: ["22"]}
grants:
  - {name: touched, users: [alice, bob, carol], to: [all], require: [touch]}
`, bastiontest.Line(touched), bastiontest.Line(untouched), bastiontest.Line(revoked), bastiontest.Line(old), bastiontest.Line(lena), bastiontest.Line(corp)),
		Limits: func(l *bastion.Limits) { l.MaxStartups, l.MaxConnectionsPerUser = 1<<20, 1<<20 },
		Config: func(c *bastion.Config) {
			c.Policy = c.Policy.WithLocks(&authz.Locks{All: []authz.Lock{
				{User: "lena"}, {Key: ssh.FingerprintSHA256(revoked.PublicKey())}, {Serial: 13},
			}}, nil)
		},
	})
	bastion.RecordEveryFailure(o.b.Server)
	alice, bob := o.b.Alice, o.b.Bob
	aliceCert := certify(t, corp, skOther, 7, "alice", nil)
	bobCert := certify(t, corp, bastiontest.Key(t), 8, "bob", nil)
	carolCert := certify(t, corp, bastiontest.Key(t), 9, "carol", nil)
	strangeCert := certify(t, stranger, bastiontest.Key(t), 7, "alice", nil)
	expiredCert := certify(t, corp, bastiontest.Key(t), 10, "alice", func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Minute).Unix()) })
	revokedCert := certify(t, corp, bastiontest.Key(t), 13, "alice", nil)
	waived := func(c *ssh.Certificate) { c.Permissions.Extensions["no-touch-required"] = "" }
	lazyCert, waivedCert := certify(t, corp, untouched, 11, "alice", waived), certify(t, corp, touched, 12, "alice", waived)
	oldCert := certify(t, corp, old, 14, "alice", nil)

	in := func(user, login string, key ssh.Signer) *audit.Record {
		rec := &audit.Record{User: user, Login: login, Key: print(key)}
		if c, ok := key.(certSigner); ok {
			rec.Cert = audit.Certificate{Authority: "corp", KeyID: c.KeyId, Serial: c.Serial}
		}
		return rec
	}
	answered := func(in bool) (says, error) {
		if in {
			return welcome, nil
		}
		return no, nil
	}
	offer := func(name, user string, key ssh.Signer, refused string) try {
		t := try{name: "offer " + name, user: user, key: print(key), refused: refused, says: goOn}
		if refused != "" {
			t.says = no
		}
		t.do = func(r *bastiontest.Raw) (says, error) {
			if r.Offer(user, key.PublicKey()) {
				return goOn, nil
			}
			return no, nil
		}
		return t
	}
	sign := func(name string, p bastiontest.Proof, want try) try {
		want.name, want.user, want.key = "sign "+name, p.User, print(p.Key)
		if want.says == "" {
			want.says = no
		}
		if want.in != nil {
			want.says = welcome
		}
		want.do = func(r *bastiontest.Raw) (says, error) {
			in, err := r.Try(p)
			if err != nil {
				return hangsUp, nil
			}
			return answered(in)
		}
		return want
	}
	other := bytes.Repeat([]byte{7}, 32) // a session
	return o, []try{
		{name: "none", says: no, do: func(r *bastiontest.Raw) (says, error) { return answered(r.None("alice")) }},
		{name: "password", says: no, method: "password", do: func(r *bastiontest.Raw) (says, error) { return answered(r.Password("alice", "secret")) }},
		{name: "keyboard-interactive", says: no, method: "keyboard-interactive", do: func(r *bastiontest.Raw) (says, error) { return answered(r.Interactive("bob")) }},
		offer("her own key", "alice", alice, ""),
		offer("another user's key", "alice", bob, ""),
		offer("an unknown key", "alice", unknown, "unknown_key"),
		offer("her own certificate", "alice", aliceCert, ""),
		offer("another user's certificate", "alice", bobCert, ""),
		offer("a certificate of an unknown authority", "alice", strangeCert, "unknown_authority"),
		offer("an expired certificate", "alice", expiredCert, ""),
		offer("a security key", "alice", touched, ""),
		{name: "offer an RSA key for SHA-1", says: no, sha1: true, do: func(r *bastiontest.Raw) (says, error) {
			return answered(r.OfferAs("alice", old.PublicKey(), "ssh-rsa"))
		}},
		{name: "offer an RSA certificate for SHA-1", says: no, sha1: true, do: func(r *bastiontest.Raw) (says, error) {
			return answered(r.OfferAs("alice", oldCert.PublicKey(), "ssh-rsa-cert-v01@openssh.com"))
		}},
		sign("her own key as another user", bastiontest.Proof{User: "bob", Key: alice}, try{refused: "other_user"}),
		sign("another user's key", bastiontest.Proof{User: "alice", Key: bob}, try{refused: "other_user"}),
		sign("another user's certificate", bastiontest.Proof{User: "alice", Key: bobCert}, try{refused: "other_user"}),
		sign("an unknown key", bastiontest.Proof{User: "alice", Key: unknown}, try{refused: "unknown_key"}),
		sign("a certificate of an unknown authority", bastiontest.Proof{User: "alice", Key: strangeCert}, try{refused: "unknown_authority"}),
		sign("an expired certificate", bastiontest.Proof{User: "alice", Key: expiredCert}, try{refused: "cert_expired"}),
		sign("a locked user's key", bastiontest.Proof{User: "lena", Key: lena}, try{refused: "locked"}),
		sign("a revoked key", bastiontest.Proof{User: "alice", Key: revoked}, try{refused: "revoked"}),
		sign("a revoked certificate", bastiontest.Proof{User: "alice", Key: revokedCert}, try{refused: "revoked"}),

		sign("her own key, well", bastiontest.Proof{User: "alice", Key: alice}, try{in: in("alice", "alice", alice)}),
		sign("her own key under nobody's name", bastiontest.Proof{User: "ec2-user", Key: alice}, try{in: in("alice", "ec2-user", alice)}),
		sign("another user's key as he", bastiontest.Proof{User: "bob", Key: bob}, try{in: in("bob", "bob", bob)}),
		sign("her own certificate, well", bastiontest.Proof{User: "root", Key: aliceCert}, try{in: in("alice", "root", aliceCert)}),
		sign("another user's certificate as he", bastiontest.Proof{User: "bob", Key: bobCert}, try{in: in("bob", "bob", bobCert)}),
		sign("the certificate of somebody in no policy", bastiontest.Proof{User: "carol", Key: carolCert}, try{in: in("carol", "carol", carolCert)}),
		sign("a security key, touched", bastiontest.Proof{User: "alice", Key: touched}, try{in: in("alice", "alice", touched), touch: true}),
		sign("a certificate that waives the touch, untouched", bastiontest.Proof{User: "alice", Key: lazyCert}, try{in: in("alice", "alice", lazyCert)}),
		sign("a certificate that waives the touch, touched", bastiontest.Proof{User: "alice", Key: waivedCert}, try{in: in("alice", "alice", waivedCert)}),

		sign("a security key, untouched", bastiontest.Proof{User: "alice", Key: untouched}, try{says: hangsUp}),
		sign("with another key than offered", bastiontest.Proof{User: "alice", Key: alice, Signer: bob}, try{says: hangsUp}),
		sign("another session", bastiontest.Proof{User: "alice", Key: alice, SignedSession: other}, try{says: hangsUp}),
		sign("another user's name", bastiontest.Proof{User: "alice", Key: alice, SignedUser: "bob"}, try{says: hangsUp}),
		sign("another algorithm", bastiontest.Proof{User: "alice", Key: alice, SignedAlgorithm: "ssh-rsa"}, try{says: hangsUp}),
		sign("another session with a certificate", bastiontest.Proof{User: "alice", Key: aliceCert, SignedSession: other}, try{says: hangsUp}),
		sign("an unknown key, badly", bastiontest.Proof{User: "alice", Key: unknown, SignedSession: other}, try{says: hangsUp, refused: "unknown_key"}),
	}
}

func names(tries []try) string {
	var all []string
	for _, t := range tries {
		all = append(all, t.name)
	}
	return strings.Join(all, ", ")
}

// run makes the tries on one connection, and asks what came of the last.
func (o *orders) run(t *testing.T, tries []try) {
	t.Helper()
	raw, source := o.raw(t)
	defer raw.Close()
	o.mu.Lock()
	o.made[source] = tries
	o.mu.Unlock()
	for _, step := range tries {
		got, err := step.do(raw)
		if err != nil {
			t.Errorf("%s: %v", names(tries), err)
		}
		if got != step.says {
			t.Errorf("%s: the server says %q to the last, want %q", names(tries), got, step.says)
			return
		}
		if step.in == nil {
			continue
		}
		if err := raw.OpenTarget(0, 1<<20, "nowhere", 22); err != nil {
			t.Errorf("%s: %v", names(tries), err)
		}
		const openFailure = 92
		refusal := string(raw.Await(openFailure))
		if touch := !strings.Contains(refusal, "needs a security key that is touched"); touch != step.touch {
			t.Errorf("%s: a grant that requires a touch says %q", names(tries), refusal)
		}
	}
}

// check compares what is recorded of every connection, once all have ended.
func (o *orders) check(t *testing.T) {
	t.Helper()
	bastiontest.Eventually(t, "all connections' end", func() bool { return o.b.Server.Connections() == 0 })
	o.mu.Lock()
	defer o.mu.Unlock()
	for source, tries := range o.made {
		last := tries[len(tries)-1]
		recs := o.logins[source]
		if last.in == nil {
			reason, key := wants(tries)
			if len(recs) != 1 || recs[0].Type != audit.AuthFail || recs[0].Reason != reason || recs[0].Key != key || recs[0].User != "" || recs[0].Cert != (audit.Certificate{}) {
				t.Errorf("%s: want %s of %q, recorded %s", names(tries), reason, key, lines(recs))
			}
			continue
		}
		if len(recs) != 2 || recs[0].Type != audit.AuthOK || recs[1].Type != audit.ConnClose {
			t.Errorf("%s: recorded %s", names(tries), lines(recs))
			continue
		}
		for _, rec := range recs {
			if rec.User != last.in.User || rec.Login != last.in.Login || rec.Key != last.in.Key || rec.Cert != last.in.Cert {
				t.Errorf("%s: recorded %s", names(tries), lines(recs))
			}
		}
	}
	o.made = map[netip.AddrPort][]try{}
}

func lines(recs []audit.Record) string {
	var b strings.Builder
	for _, rec := range recs {
		fmt.Fprintf(&b, "\n\t%s", rec.AppendJSON(nil))
	}
	return b.String()
}

// sequences calls run with every order of one and of two tries, and with some
// orders of three, others in each run, in which only the last may end the
// login.
func sequences(all []try, rnd *rand.Rand, run func([]try)) {
	var goOn []try
	for _, t := range all {
		if run([]try{t}); t.in == nil && t.says != hangsUp {
			goOn = append(goOn, t)
		}
	}
	for _, first := range goOn {
		for _, second := range all {
			if first.name != second.name {
				run([]try{first, second})
			}
		}
	}
	for range 1000 {
		run([]try{oneOf(rnd, goOn...), oneOf(rnd, goOn...), oneOf(rnd, all...)})
	}
}

func oneOf[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

func TestEveryOrderOfMethodsAndKeysLogsInWhoProvedItLast(t *testing.T) {
	o, all := newOrders(t)
	work := make(chan []try)
	var workers sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for tries := range work {
				o.run(t, tries)
			}
		})
	}
	n, seed := 0, uint64(time.Now().UnixNano())
	sequences(all, rand.New(rand.NewPCG(seed, 1)), func(tries []try) { n++; work <- tries })
	close(work)
	workers.Wait()
	o.check(t)
	t.Logf("%d orders, seed %d", n, seed)
}
