package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz"
	"sekisho/bastion/bastiontest"
)

// bigPolicy is a policy of 10,000 users with 30,000 keys of several types, and
// of 100,000 grants; in it alice may reach target.
func bigPolicy(b *testing.B) string {
	var text strings.Builder
	line := func(key any) string {
		pub, err := ssh.NewPublicKey(key)
		if err != nil {
			b.Fatal(err)
		}
		return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
	}
	ed := func(n int) string {
		var seed [ed25519.SeedSize]byte
		binary.BigEndian.PutUint64(seed[:], uint64(n))
		return line(ed25519.NewKeyFromSeed(seed[:]).Public())
	}
	text.WriteString("version: 1\nusers:\n  - {name: alice, groups: [all], keys: [\"{alice}\"]}\n")
	for i := range 10_000 {
		third := ed(3*i + 2)
		switch i % 3 {
		case 0:
			third = line(&rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(int64(i)), 3071, 1), E: 65537})
		case 1:
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				b.Fatal(err)
			}
			third = line(&key.PublicKey)
		}
		fmt.Fprintf(&text, "  - {name: user%d, groups: [all, group%d, group%d], keys: [%s, %s, %s]}\n", i, i%500, (i*7+1)%500, ed(3*i), ed(3*i+1), third)
	}
	text.WriteString("targets:\n  - {name: all, hosts: [target, 127.0.0.1], ports: [1-65535]}\n")
	for i := range 20_000 {
		fmt.Fprintf(&text, "  - {name: t%d, hosts: [host%d, \"web-*.s%d.corp.example\", 10.%d.%d.0/24], ports: [22, 8000-8100]}\n", i, i, i, i%256, i/256)
	}
	text.WriteString("grants:\n  - {name: everything, users: [alice], to: [all]}\n")
	for i := range 100_000 {
		whom := fmt.Sprintf("users: [user%d]", i%10_000)
		if i%10 == 9 {
			whom = fmt.Sprintf("groups: [group%d]", i/10%500)
		}
		fmt.Fprintf(&text, "  - {name: g%d, %s, to: [t%d]}\n", i, whom, i*13%20_000)
	}
	return text.String()
}

func BenchmarkReloadBesideForwards(b *testing.B) {
	var moved atomic.Int64
	port := bastiontest.Target(b, func(c *net.TCPConn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			moved.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	text := bigPolicy(b)
	server := bastiontest.Start(b, bastiontest.Options{Policy: text})
	for range 2 {
		client := server.Dial()
		for range 2 {
			c, err := client.Dial("tcp", fmt.Sprintf("target:%d", port))
			if err != nil {
				b.Fatal(err)
			}
			go io.Copy(c, zeros{})
		}
	}
	rate := func(during func()) float64 {
		start, before := time.Now(), moved.Load()
		during()
		return float64(moved.Load()-before) / time.Since(start).Seconds() / 1e6
	}
	var took time.Duration
	reloads := 0
	reload := func() {
		start := time.Now()
		var p *authz.Policy
		quiet(func() { p = server.Parse(text) })
		server.Server.SetPolicy(p)
		took += time.Since(start)
		reloads++
	}
	const window = 4 * time.Second
	var alone, beside, ratios []float64
	for b.Loop() {
		a := rate(func() { time.Sleep(window) })
		r := rate(func() {
			for start := time.Now(); time.Since(start) < window; {
				reload()
			}
		})
		alone, beside, ratios = append(alone, a), append(beside, r), append(ratios, r/a)
	}
	median := func(f []float64) float64 { slices.Sort(f); return f[len(f)/2] }
	b.ReportMetric(median(alone), "alone-MB/s")
	b.ReportMetric(median(beside), "beside-MB/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(took.Seconds()/float64(reloads), "s/reload")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
