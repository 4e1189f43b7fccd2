package bastion_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A guarded is a bastion with the default penalties, in a bubble.
type guarded struct {
	*bastiontest.Bastion
	t       *testing.T
	network *bastiontest.Network
}

func inGuarded(t *testing.T, set func(*bastion.Config), test func(*testing.T, *guarded)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &guarded{t: t, network: bastiontest.NewNetwork()}
		g.Bastion = bastiontest.Start(t, bastiontest.Options{
			Listener: g.network, Dialer: echoDialer{},
			Config: func(c *bastion.Config) {
				c.Penalties = bastion.DefaultPenalties()
				if set != nil {
					set(c)
				}
			},
		})
		test(t, g)
	})
}

const stranger = "203.0.113.66"

func (g *guarded) dial(from string) net.Conn {
	g.t.Helper()
	conn, err := g.network.Dial(netip.AddrPortFrom(netip.MustParseAddr(from), 50000))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

// letIn reports whether a connection is taken in.
func (g *guarded) letIn(from string) bool {
	g.t.Helper()
	conn := g.dial(from)
	defer conn.Close()
	_, err := conn.Read(make([]byte, 1))
	return err == nil
}

func (g *guarded) raw(from string) *bastiontest.Raw {
	g.t.Helper()
	return bastiontest.NewRawOver(g.t, g.Bastion, g.dial(from))
}

func (g *guarded) client(from string, config *ssh.ClientConfig) (*ssh.Client, error) {
	g.t.Helper()
	c, chans, reqs, err := ssh.NewClientConn(g.dial(from), "bastion", config)
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// The habits of clients in order: what one does in a connection.
var habits = map[string]func(*guarded){
	"a health check that connects and closes": func(g *guarded) { g.dial(stranger).Close() },
	"one that reads the version": func(g *guarded) {
		conn := g.dial(stranger)
		conn.Read(make([]byte, 64))
		conn.Close()
	},
	"a client that does not know the host key, ssh-keyscan": func(g *guarded) {
		config := g.ClientConfig("alice", g.Alice)
		config.HostKeyCallback = func(string, net.Addr, ssh.PublicKey) error { return errors.New("unknown") }
		if _, err := g.client(stranger, config); err == nil || !strings.Contains(err.Error(), "unknown") {
			g.t.Errorf("%v", err)
		}
	},
	"a client that finishes the key exchange and leaves": func(g *guarded) { g.raw(stranger).Close() },
	"method none": func(g *guarded) {
		raw := g.raw(stranger)
		raw.None("ec2-user")
		raw.Close()
	},
	"an agent with keys that are all refused": func(g *guarded) {
		raw := g.raw(stranger)
		raw.None("alice")
		for range 6 {
			raw.Offer("alice", bastiontest.Key(g.t).PublicKey())
		}
		raw.Close()
	},
	"an agent with twenty keys before the right one": func(g *guarded) {
		var keys []ssh.Signer
		for range 20 {
			keys = append(keys, bastiontest.Key(g.t))
		}
		client, err := g.client(stranger, g.ClientConfig("alice", append(keys, g.Alice)...))
		if err != nil {
			g.t.Fatal(err)
		}
		client.Close()
	},
	"a key that would be let in and is not unlocked": func(g *guarded) {
		raw := g.raw(stranger)
		if !raw.Offer("alice", g.Alice.PublicKey()) {
			g.t.Error("it is refused")
		}
		raw.Close()
	},
	"a client with no algorithm in common": func(g *guarded) {
		config := g.ClientConfig("alice", g.Alice)
		config.HostKeyAlgorithms = []string{"sk-ssh-ed25519@openssh.com"} // ssh-keyscan asks for it
		if _, err := g.client(stranger, config); err == nil {
			g.t.Error("it is let in")
		}
	},
	"a login": func(g *guarded) {
		client, err := g.client(stranger, g.ClientConfig("alice", g.Alice))
		if err != nil {
			g.t.Fatal(err)
		}
		client.Close()
	},
}

func TestWhatClientsDoByHabitIsNoOffence(t *testing.T) {
	for name, visit := range habits {
		t.Run(name, func(t *testing.T) {
			inGuarded(t, nil, func(t *testing.T, g *guarded) {
				for range 40 {
					visit(g)
				}
				synctest.Wait()
				if !g.letIn(stranger) || g.Server.Penalised() != 0 {
					t.Error("its source is refused")
				}
			})
		})
	}
}

// The offences, and after how many at once their source is refused.
var offences = map[string]struct {
	atOnce int
	visit  func(*guarded)
	left   time.Duration
}{
	"a signature that is not the key's": {3, func(g *guarded) {
		raw := g.raw(stranger)
		if in, _ := raw.Try(bastiontest.Proof{User: "alice", Key: g.Alice, Signer: g.Bob}); in {
			g.t.Error("it is let in")
		}
		raw.Close()
	}, 15 * time.Second},
	"keys until there are no tries left": {3, func(g *guarded) {
		var keys []ssh.Signer
		for range 30 {
			keys = append(keys, bastiontest.Key(g.t))
		}
		if _, err := g.client(stranger, g.ClientConfig("alice", keys...)); err == nil {
			g.t.Error("it is let in")
		}
	}, 15 * time.Second},
	"a password": {3, func(g *guarded) {
		raw := g.raw(stranger)
		raw.Password("root", "123456")
		raw.Close()
	}, 15 * time.Second},
	"bytes that are not SSH": {2, func(g *guarded) {
		conn := g.dial(stranger)
		conn.Write(bytes.Repeat([]byte("\x16\x03\x01"), 1000))
		io.Copy(io.Discard, conn)
		conn.Close()
	}, 20 * time.Second},
	"a packet that is none": {2, func(g *guarded) {
		conn := g.dial(stranger)
		io.WriteString(conn, "SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff")
		io.Copy(io.Discard, conn)
		conn.Close()
	}, 20 * time.Second},
	"silence until the end of login_grace": {2, func(g *guarded) { io.Copy(io.Discard, g.dial(stranger)) }, 20 * time.Second},
	"a client that leaves before it is shown a host key": {15, func(g *guarded) {
		conn := g.dial(stranger)
		io.WriteString(conn, "SSH-2.0-scan\r\n")
		conn.Read(make([]byte, 64))
		conn.Close()
	}, 15 * time.Second},
}

func TestOffencesHaveTheirSourceRefusedForAWhile(t *testing.T) {
	for name, test := range offences {
		t.Run(name, func(t *testing.T) {
			inGuarded(t, nil, func(t *testing.T, g *guarded) {
				inside, err := g.client(stranger, g.ClientConfig("alice", g.Alice))
				if err != nil {
					t.Fatal(err)
				}
				for n := range test.atOnce {
					if n == test.atOnce-1 && !g.letIn(stranger) {
						t.Fatalf("it is refused after %d", n)
					}
					go test.visit(g)
					if n == test.atOnce-1 && name == "silence until the end of login_grace" {
						time.Sleep(30*time.Second + time.Millisecond)
					}
					synctest.Wait()
				}
				if g.letIn(stranger) || g.Server.Penalised() != 1 {
					t.Fatalf("after %d it is let in", test.atOnce)
				}
				if n := g.Server.Counts().ConnectionsRefused["penalty"]; n != 1 {
					t.Errorf("%d are counted as refused", n)
				}
				if !g.letIn("203.0.113.67") {
					t.Error("another source is refused")
				}
				conn, err := inside.Dial("tcp", "target:22")
				if err != nil {
					t.Errorf("who is logged in from there: %v", err)
				} else {
					conn.Close()
				}
				time.Sleep(test.left - time.Second)
				if g.letIn(stranger) {
					t.Error("it is let in before its time is over")
				}
				time.Sleep(time.Second)
				if !g.letIn(stranger) || g.Server.Penalised() != 0 {
					t.Error("it is refused after its time is over")
				}
				inside.Close()
			})
		})
	}
}

func TestWhoIsExemptIsNeverRefusedForOffences(t *testing.T) {
	exempt := func(c *bastion.Config) {
		c.Penalties.Exempt = []netip.Prefix{netip.MustParsePrefix(stranger + "/32")}
		c.Limits.MaxStartupsPerSource = 2
	}
	inGuarded(t, exempt, func(t *testing.T, g *guarded) {
		for range 20 {
			go offences["bytes that are not SSH"].visit(g)
			synctest.Wait()
		}
		if !g.letIn(stranger) {
			t.Error("it is refused")
		}
		synctest.Wait()
		g.dial(stranger)
		g.dial(stranger)
		if g.letIn(stranger) {
			t.Error("limits no longer hold for it")
		}
	})
}

func TestWhoDidNotLeaveByItselfIsNotPenalised(t *testing.T) {
	inGuarded(t, func(c *bastion.Config) { c.Limits.MaxConnectionsPerUser = 1 }, func(t *testing.T, g *guarded) {
		if _, err := g.client(stranger, g.ClientConfig("alice", g.Alice)); err != nil {
			t.Fatal(err)
		}
		for range 40 {
			if _, err := g.client(stranger, g.ClientConfig("alice", g.Alice)); err == nil {
				t.Fatal("there is room")
			}
		}
		synctest.Wait()
		if !g.letIn(stranger) {
			t.Error("who found no room is refused")
		}
	})
}

func TestARefusedSourceIsToldToTheAdministrator(t *testing.T) {
	inGuarded(t, nil, func(t *testing.T, g *guarded) {
		for range 2 {
			go offences["bytes that are not SSH"].visit(g)
			synctest.Wait()
		}
		g.letIn(stranger)
		synctest.Wait()
		for _, want := range []string{
			`msg="a source is refused, for what it did before logging in" for=20s`, "offence=bad_bytes", "source=" + stranger + "/32", "penalties.exempt",
			`msg="connection refused" detail="its source is refused for another 20s" reason=penalty`,
		} {
			if !strings.Contains(g.Lines.String(), want) {
				t.Errorf("nothing says %s", want)
			}
		}
	})
}
