package bastion_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/bastion/bastiontest"
)

// A flood of handshakes delays nobody's login by much: from one source it waits
// for itself, from many the others' turns are between.
func TestAFloodOfHandshakesDoesNotDelayABystandersLogin(t *testing.T) {
	one, many := make([]netip.Addr, 60), make([]netip.Addr, 150)
	for i := range one {
		one[i] = netip.MustParseAddr("203.0.113.66")
	}
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{203, 0, 114, byte(i)})
	}
	for _, test := range []struct {
		name    string
		sources []netip.Addr
		most    time.Duration // generous: a login alone takes a few milliseconds
	}{
		{"no flood", nil, 2 * time.Second},
		{"from one source", one, 2 * time.Second},
		{"from 150 sources", many, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			network := bastiontest.NewNetwork()
			b := bastiontest.Start(t, bastiontest.Options{Listener: network, Dialer: echoDialer{}})
			flood := bastiontest.Flood(network.Dial, test.sources)
			defer flood.Stop()
			if len(test.sources) > 0 {
				bastiontest.Eventually(t, "the flood is on", func() bool { return flood.Answered.Load() > int64(len(test.sources)) })
			}
			began, before := time.Now(), flood.Answered.Load()
			var worst, sum time.Duration
			const logins = 10
			for range logins {
				began := time.Now()
				conn, err := network.Dial(netip.MustParseAddrPort("192.0.2.9:50000"))
				if err != nil {
					t.Fatal(err)
				}
				c, chans, reqs, err := ssh.NewClientConn(conn, "bastion", b.ClientConfig("alice", b.Alice))
				if err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				worst, sum = max(worst, took), sum+took
				ssh.NewClient(c, chans, reqs).Close()
			}
			rate := float64(flood.Answered.Load()-before) / time.Since(began).Seconds()
			t.Logf("a login took %v, %v at the most; the flood got %.0f answers a second", (sum / logins).Round(time.Millisecond/10), worst.Round(time.Millisecond/10), rate)
			if worst > test.most {
				t.Errorf("a login took %v", worst)
			}
		})
	}
}
