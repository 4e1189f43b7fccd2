package bastion_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/authz"
	"sekisho/authz/authkeys"
	"sekisho/authz/krl"
	"sekisho/bastion/bastiontest"
)

// A bubble is a whole bastion without sockets inside a testing/synctest
// bubble: client, server and targets, and a clock that jumps. It begins on
// Saturday, 1 January 2000, five minutes to midnight, UTC.
type bubble struct {
	*bastiontest.Bastion
	t       *testing.T
	network *bastiontest.Network
	text    string // of the policy in force
}

// midnight is the edge of time in most tests.
var midnight = time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)

// inBubble runs a test with a policy in which {alice} and {bob} stand for
// their keys.
func inBubble(t *testing.T, policy string, test func(*testing.T, *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(midnight.Add(-5*time.Minute + 123*time.Millisecond))) // no tick of the server is to fall on a whole second
		b := &bubble{t: t, network: bastiontest.NewNetwork(), text: "version: 1\ntimezone: UTC\n" + policy}
		b.Bastion = bastiontest.Start(t, bastiontest.Options{
			Policy: b.text, Listener: b.network, Dialer: echoDialer{},
			Hosts: bastiontest.Hosts{"target": {"127.0.0.1"}, "other": {"127.0.0.1"}},
		})
		test(t, b)
	})
}

// echoDialer connects to a target in memory that echoes.
type echoDialer struct{}

func (echoDialer) DialContext(_ context.Context, _, addr string) (net.Conn, error) {
	ours, theirs := bastiontest.Pipe(netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort(addr))
	go func() {
		io.Copy(theirs, theirs)
		theirs.Close()
	}()
	return ours, nil
}

// login logs in from 203.0.113.9 with a key, or certificate.
func (b *bubble) login(key ssh.Signer) *bubbleClient {
	b.t.Helper()
	conn, err := b.network.Dial(netip.MustParseAddrPort("203.0.113.9:50000"))
	if err != nil {
		b.t.Fatal(err)
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, "bastion", b.ClientConfig("ec2-user", key))
	if err != nil {
		b.t.Fatalf("login: %v", err)
	}
	client := &bubbleClient{b, ssh.NewClient(c, chans, reqs), make(chan time.Time, 1)}
	go func() { client.Wait(); client.over <- time.Now() }()
	b.t.Cleanup(func() { conn.Close() })
	return client
}

// refused tries to log in and returns the reason of the record.
func (b *bubble) refused(key ssh.Signer) string {
	b.t.Helper()
	n := len(b.Book.Records(audit.AuthFail))
	conn, err := b.network.Dial(netip.MustParseAddrPort("203.0.113.9:50001"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if _, _, _, err := ssh.NewClientConn(conn, "bastion", b.ClientConfig("ec2-user", key)); err == nil {
		b.t.Fatal("he logs in")
	}
	conn.Close()
	return b.Book.Await(b.t, audit.AuthFail, n+1).Reason
}

type bubbleClient struct {
	b *bubble
	*ssh.Client
	over chan time.Time // when the connection ended
}

// A bubbleForward is an open forward to an echo.
type bubbleForward struct {
	b *bubble
	net.Conn
	over chan time.Time // when it ended, of those that are watched
}

func (c *bubbleClient) open(host string) *bubbleForward {
	c.b.t.Helper()
	conn, err := c.Dial("tcp", host+":22")
	if err != nil {
		c.b.t.Fatalf("opening %s: %v", host, err)
	}
	f := &bubbleForward{b: c.b, Conn: conn}
	f.echoes()
	return f
}

func (f *bubbleForward) echoes() {
	f.b.t.Helper()
	if _, err := io.WriteString(f, "ping"); err != nil {
		f.b.t.Fatalf("writing to an open forward: %v", err)
	}
	if got := make([]byte, 4); true {
		if _, err := io.ReadFull(f, got); err != nil || string(got) != "ping" {
			f.b.t.Fatalf("the echo is %q, %v", got, err)
		}
	}
}

// watch notes when the forward ends; nothing is read of it any more.
func (f *bubbleForward) watch() *bubbleForward {
	f.over = make(chan time.Time, 1)
	go func() {
		io.Copy(io.Discard, f.Conn)
		f.over <- time.Now()
	}()
	return f
}

// within is how fast what is over must end.
const within = time.Second

// endedAt fails unless over was told of within a second after the edge, and
// not before it.
func endedAt(t *testing.T, what string, over <-chan time.Time, edge time.Time) {
	t.Helper()
	time.Sleep(time.Until(edge) - time.Nanosecond)
	synctest.Wait()
	select {
	case at := <-over:
		t.Fatalf("%s ended at %v, before %v", what, at, edge)
	default:
	}
	time.Sleep(within + time.Nanosecond)
	synctest.Wait()
	select {
	case at := <-over:
		t.Logf("%s ended %v after the edge", what, at.Sub(edge))
	default:
		t.Fatalf("%s goes on a second after %v", what, edge)
	}
}

const openToAll = `targets:
  - {name: all, hosts: [target, other], ports: ["22"]}
grants:
  - {name: all, users: [alice, bob], to: [all]}
`

const both = `users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
`

func TestAForwardEndsWithinASecondOfEveryEdgeOfTime(t *testing.T) {
	corp, certified := bastiontest.Key(t), bastiontest.Key(t)
	ending := certify(t, corp, certified, 17, "alice", func(c *ssh.Certificate) { c.ValidBefore = uint64(midnight.Unix()) })
	authority := fmt.Sprintf("authorities:\n  - {name: corp, key: %q, principals: [alice]}\n", bastiontest.Line(corp))
	limited := func(grant string) string {
		return both + strings.Replace(openToAll, "{name: all, users: [alice, bob], to: [all]}",
			"{name: mine, users: [alice], to: [all], "+grant+"}\n  - {name: bobs, users: [bob], to: [all]}", 1)
	}
	for _, c := range []struct {
		name   string
		policy string
		key    ssh.Signer // nil: alice's
		file   string     // alice's authorized_keys; {alice} is her key
		reason string
		conn   bool // the connection ends, too, and may not come back
	}{
		{"the user's until", strings.Replace(both, `["{alice}"]`, `["{alice}"], when: {until: 2000-01-01}`, 1) + openToAll, nil, "", "expired", true},
		{"the user's hours", strings.Replace(both, `["{alice}"]`, `["{alice}"], when: {hours: ["Sat 20:00-24:00"]}`, 1) + openToAll, nil, "", "outside_hours", true},
		{"the grant's until", limited("when: {until: 2000-01-01}"), nil, "", "expired", false},
		{"the grant's hours with at_end: close", limited(`when: {hours: ["Sat 09:00-24:00"]}, at_end: close`), nil, "", "outside_hours", false},
		{"the grant's hours where nothing says what their end does", limited(`when: {hours: ["Sat 09:00-24:00"]}`), nil, "", "outside_hours", false},
		{"limits.duration", limited("limits: {duration: 5m}"), nil, "", "duration", false},
		{"the certificate's end", both + authority + openToAll, ending, "", "cert_expired", true},
		{"the key's expiry-time", both + openToAll, nil, `expiry-time="20000102000000Z" {alice}`, "key_expired", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, c.policy, func(t *testing.T, b *bubble) {
				if c.file != "" {
					b.Server.SetPolicy(b.withKeys(c.file))
				}
				key := c.key
				if key == nil {
					key = b.Alice
				}
				client := b.login(key)
				goes := client.open("target").watch()
				another := b.login(b.Bob)
				stays := another.open("target")

				endedAt(t, "the forward", goes.over, midnight)
				stays.echoes()
				if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Reason != c.reason || rec.User != "alice" || rec.BytesUp != 4 || rec.BytesDown != 4 {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
				if !c.conn {
					if _, _, err := client.SendRequest("are-you-there", true, nil); err != nil {
						t.Errorf("the connection ended with its forward: %v", err)
					}
					return
				}
				select {
				case <-client.over:
				default:
					t.Fatal("the connection goes on")
				}
				if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != c.reason || rec.User != "alice" {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
				if reason := b.refused(key); reason != c.reason {
					t.Errorf("another login is refused for %q", reason)
				}
			})
		})
		if !c.conn {
			continue
		}
		t.Run(c.name+", of a connection without forwards", func(t *testing.T) {
			inBubble(t, c.policy, func(t *testing.T, b *bubble) {
				if c.file != "" {
					b.Server.SetPolicy(b.withKeys(c.file))
				}
				key := c.key
				if key == nil {
					key = b.Alice
				}
				client := b.login(key)
				endedAt(t, "the connection", client.over, midnight)
				if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != c.reason {
					t.Errorf("%s", rec.AppendJSON(nil))
				}
			})
		})
	}
}

// withKeys is the policy in force with an authorized_keys file of alice.
func (b *bubble) withKeys(text string) *authz.Policy {
	b.t.Helper()
	text = strings.ReplaceAll(text, "{alice}", bastiontest.Line(b.Alice))
	file, problems := authkeys.Parse(strings.NewReader(text), "alice", time.UTC)
	if problems.Err() != nil {
		b.t.Fatal(problems.Err())
	}
	policy, problems := b.Parse(b.text).WithKeys([]authz.KeyFile{{User: "alice", Name: "alice", File: file}})
	if len(problems) > 0 {
		b.t.Fatal(problems)
	}
	return policy
}

func TestWhatIsKeptGoesOnPastItsHours(t *testing.T) {
	inBubble(t, both+`targets:
  - {name: all, hosts: [target], ports: ["22"]}
grants:
  - {name: kept, users: [alice], to: [all], when: {hours: ["Sat 09:00-24:00"]}, at_end: keep}
`, func(t *testing.T, b *bubble) {
		client := b.login(b.Alice)
		kept := client.open("target")
		time.Sleep(time.Hour)
		kept.echoes()
		if _, err := client.Dial("tcp", "target:22"); err == nil {
			t.Error("another begins after the hours")
		}
		if n := len(b.Book.Records(audit.ForwardClose)); n != 0 {
			t.Errorf("%d forwards are recorded as closed", n)
		}
	})
}

func TestAForwardWhoseGrantEndsGoesOnUnderAnother(t *testing.T) {
	inBubble(t, both+`targets:
  - {name: all, hosts: [target], ports: ["22"]}
grants:
  - {name: evening, users: [alice], to: [all], when: {hours: ["20:00-24:00"]}}
  - {name: night, users: [alice], to: [all], when: {hours: ["23:00-00:10"]}}
  - {name: late, users: [alice], to: [all], when: {hours: ["00:10-00:20"]}, limits: {duration: 1000h}}
  - {name: bobs, users: [bob], to: [all]}
`, func(t *testing.T, b *bubble) {
		f := b.login(b.Alice).open("target")
		other := b.login(b.Bob).open("target")
		for i, edge := range []struct {
			minute int
			grant  string
		}{{0, "night"}, {10, "late"}} {
			time.Sleep(time.Until(midnight.Add(time.Duration(edge.minute)*time.Minute - time.Nanosecond)))
			synctest.Wait()
			f.echoes()
			if n := len(b.Book.Records(audit.ForwardProgress)); n != i {
				t.Fatalf("%d records of progress before 00:%02d", n, edge.minute)
			}
			time.Sleep(within)
			synctest.Wait()
			f.echoes()
			other.echoes()
			recs := b.Book.Records(audit.ForwardProgress)
			if len(recs) != i+1 || recs[i].Grant != edge.grant || recs[i].Reason != "grant_changed" || recs[i].BytesUp == 0 {
				t.Fatalf("recorded %s", lines(recs))
			}
		}
		f.watch()
		endedAt(t, "the forward", f.over, midnight.Add(20*time.Minute))
		if rec := b.Book.Await(t, audit.ForwardClose, 1); rec.Grant != "late" || rec.Reason != "outside_hours" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
		other.echoes()

	})
}

func TestWhatIsTakenAwayEndsAtOnceAndNothingElse(t *testing.T) {
	corp, certified, token := bastiontest.Key(t), bastiontest.Key(t), bastiontest.NewSecurityKey(t, true)
	cert := certify(t, corp, certified, 17, "alice", nil)
	policy := fmt.Sprintf(`users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
  - {name: root, keys: [%q]}
authorities:
  - {name: corp, key: %q, principals: [alice]}
%sroles:
  admin: {users: [root, bob], require: [touch]}
`, bastiontest.Line(token), bastiontest.Line(corp), strings.Replace(openToAll, "users: [alice, bob]", "users: [alice, bob, root]", 1))
	list := func(key ssh.PublicKey) []authz.RevocationList {
		l, err := krl.Parse(ssh.MarshalAuthorizedKey(key))
		if err != nil {
			t.Fatal(err)
		}
		return []authz.RevocationList{{Name: "revoked_keys", List: l}}
	}
	aliceOf := func(b *bubble) ssh.PublicKey { return b.Alice.PublicKey() }
	for _, c := range []struct {
		name   string
		locks  func(*bubble) *authz.Locks
		lists  func(*bubble) []authz.RevocationList
		byKey  string // why what alice has opened by her key ends; empty: it goes on
		byCert string // and by her certificate
	}{
		{"a lock of the user", func(*bubble) *authz.Locks { return (*authz.Locks)(nil).With(authz.Lock{User: "alice"}) }, nil, "locked", "locked"},
		{"a revoked key", func(b *bubble) *authz.Locks {
			return (*authz.Locks)(nil).With(authz.Lock{Key: ssh.FingerprintSHA256(aliceOf(b))})
		}, nil, "revoked", ""},
		{"the revoked key of a certificate", func(*bubble) *authz.Locks {
			return (*authz.Locks)(nil).With(authz.Lock{Key: print(cert)})
		}, nil, "", "revoked"},
		{"a revoked serial", func(*bubble) *authz.Locks { return (*authz.Locks)(nil).With(authz.Lock{Serial: 17}) }, nil, "", "revoked"},
		{"a revoked serial of another authority", func(*bubble) *authz.Locks {
			return (*authz.Locks)(nil).With(authz.Lock{Serial: 17, Authority: "other"})
		}, nil, "", ""},
		{"a revoked authority", func(*bubble) *authz.Locks {
			return (*authz.Locks)(nil).With(authz.Lock{Key: ssh.FingerprintSHA256(corp.PublicKey())})
		}, nil, "", "revoked"},
		{"a list of revoked keys", nil, func(b *bubble) []authz.RevocationList { return list(aliceOf(b)) }, "revoked", ""},
		{"a list that revokes the key of a certificate", nil, func(*bubble) []authz.RevocationList { return list(certified.PublicKey()) }, "", "revoked"},
		{"a list that revokes the authority", nil, func(*bubble) []authz.RevocationList { return list(corp.PublicKey()) }, "", "revoked"},
		{"a lockdown", func(*bubble) *authz.Locks { return (*authz.Locks)(nil).With(authz.Lock{}) }, nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, policy, func(t *testing.T, b *bubble) {
				byKey, byCert, bob := b.login(b.Alice), b.login(cert), b.login(b.Bob)
				idle := map[bool]*bubbleClient{false: b.login(b.Alice), true: b.login(cert)}
				forwards := []*bubbleForward{byKey.open("target"), byCert.open("target")}
				bobs := bob.open("target")
				var locks *authz.Locks
				var lists []authz.RevocationList
				if c.locks != nil {
					locks = c.locks(b)
				}
				if c.lists != nil {
					lists = c.lists(b)
				}
				time.Sleep(time.Minute)
				forwards[0].echoes()
				b.Server.SetPolicy(b.Parse(b.text).WithLocks(locks, lists))
				synctest.Wait() // no time passes

				keys := []ssh.Signer{b.Alice, cert}
				for i, reason := range []string{c.byKey, c.byCert} {
					client := []*bubbleClient{byKey, byCert}[i]
					if reason == "" {
						forwards[i].echoes()
						if locks.Has(authz.Lock{}) == nil {
							client.open("other").Close()
						} else if _, err := client.Dial("tcp", "other:22"); err == nil || !strings.Contains(err.Error(), "locked down") {
							t.Errorf("a new forward: %v", err)
						}
						b.login(keys[i]).Close()
						continue
					}
					forwards[i].watch()
					synctest.Wait()
					for what, over := range map[string]chan time.Time{"the forward": forwards[i].over, "the connection": client.over, "the connection without forwards": idle[i == 1].over} {
						select {
						case <-over:
						default:
							t.Errorf("%s goes on", what)
						}
					}
					if got := b.refused(keys[i]); got != reason {
						t.Errorf("another login is refused for %q, want %q", got, reason)
					}
				}
				for _, rec := range b.Book.Records(audit.ForwardClose) {
					want := c.byKey
					if rec.Cert.Serial == 17 {
						want = c.byCert
					}
					if rec.User != "alice" || rec.Reason != want && rec.Target.Host != "other" {
						t.Errorf("%s", rec.AppendJSON(nil))
					}
				}
				bobs.echoes()

				// What was given back is as before.
				b.Server.SetPolicy(b.Parse(b.text).WithLocks(nil, nil))
				bobs.echoes()
				for _, key := range keys {
					b.login(key).open("other").Close()
				}
			})
		})
	}
	t.Run("a lockdown and its admins", func(t *testing.T) {
		inBubble(t, policy, func(t *testing.T, b *bubble) {
			root, bob := b.login(token), b.login(b.Bob)
			b.Server.SetPolicy(b.Parse(b.text).WithLocks((*authz.Locks)(nil).With(authz.Lock{}), nil))
			root.open("target").Close()
			if _, err := bob.Dial("tcp", "target:22"); err == nil || !strings.Contains(err.Error(), "locked down") {
				t.Errorf("an admin whose key shows no touch: %v", err)
			}
			synctest.Wait()
			if recs := b.Book.Records(audit.ForwardDeny); len(recs) != 1 || recs[0].Reason != "lockdown" || recs[0].User != "bob" {
				t.Errorf("recorded %s", lines(recs))
			}
			b.Server.SetPolicy(b.Parse(b.text).WithLocks(nil, nil))
			bob.open("target").Close()
		})
	})
}
