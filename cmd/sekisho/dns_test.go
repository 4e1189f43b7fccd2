package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer serves DNS on loopback, by UDP and TCP on the same port, and
// returns a resolver that asks only it.
func nameServer(t *testing.T, handle dns.HandlerFunc) *dnsResolver {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	var err error
	for range 10 { // until both have the same port
		if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			break
		}
		udp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handle}, {Listener: tcp, Handler: handle}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	config := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(config, []byte("nameserver 127.0.0.1\nsearch search.example\noptions attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(udp.LocalAddr().String())
	return &dnsResolver{config: config, port: port}
}

// answerWith answers with lines of a zone file.
func answerWith(t *testing.T, w dns.ResponseWriter, q *dns.Msg, lines ...string) {
	m := new(dns.Msg).SetReply(q)
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Error(err)
			continue
		}
		if rr.Header().Rrtype == q.Question[0].Qtype || rr.Header().Rrtype == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	w.WriteMsg(m)
}

func TestDNSAnswers(t *testing.T) {
	var byTCP atomic.Bool
	r := nameServer(t, func(w dns.ResponseWriter, q *dns.Msg) {
		switch q.Question[0].Name {
		case "both.example.":
			answerWith(t, w, q, "both.example. A 10.0.0.1", "both.example. A 10.0.0.2", "both.example. AAAA fd00::1")
		case "alias.example.":
			answerWith(t, w, q, "alias.example. CNAME there.example.", "there.example. A 10.0.0.3", "stranger.example. A 10.6.6.6")
		case "large.example.":
			if w.LocalAddr().Network() == "udp" {
				m := new(dns.Msg).SetReply(q)
				m.Truncated = true
				w.WriteMsg(m)
				return
			}
			byTCP.Store(true)
			answerWith(t, w, q, "large.example. A 10.0.0.4")
		case "half.example.":
			if q.Question[0].Qtype == dns.TypeAAAA {
				w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
				return
			}
			answerWith(t, w, q, "half.example. A 10.0.0.5")
		case "empty.example.":
			answerWith(t, w, q)
		case "broken.example.":
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		case "other.example.":
			m := new(dns.Msg).SetReply(q)
			m.Question[0].Name = "victim.example."
			w.WriteMsg(m)
		default:
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeNameError))
		}
	})
	for _, test := range []struct {
		host     string
		want     string
		notFound bool
	}{
		{"both.example.", "[10.0.0.1 10.0.0.2 fd00::1]", false},
		{"alias.example.", "[10.0.0.3]", false},
		{"large.example.", "[10.0.0.4]", false},
		{"half.example.", "[10.0.0.5]", false},
		{"empty.example.", "[]", true},
		{"nosuch.example.", "[]", true},
		{"localhost.", "[]", true}, // /etc/hosts has it
		{"broken.example.", "[]", false},
		{"other.example.", "[]", false},
	} {
		addrs, err := r.LookupNetIP(t.Context(), "ip", test.host)
		if got := fmt.Sprint(append([]netip.Addr{}, addrs...)); got != test.want {
			t.Errorf("%s: %s, want %s (%v)", test.host, got, test.want, err)
		}
		var dnsError *net.DNSError
		if len(addrs) == 0 && (!errors.As(err, &dnsError) || dnsError.IsNotFound != test.notFound) {
			t.Errorf("%s: %v", test.host, err)
		}
	}
	if !byTCP.Load() {
		t.Error("an answer that was cut off was not asked for by TCP")
	}
	if addrs, err := r.LookupNetIP(t.Context(), "ip4", "both.example."); err != nil || !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}) {
		t.Errorf("ip4: %v, %v", addrs, err)
	}
}

func TestDNSThatIsSilentEndsWithItsContext(t *testing.T) {
	r := nameServer(t, func(dns.ResponseWriter, *dns.Msg) {})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := r.LookupNetIP(ctx, "ip", "silent.example.")
	var dnsError *net.DNSError
	if !errors.As(err, &dnsError) || dnsError.IsNotFound || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
