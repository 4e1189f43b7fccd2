package authz

import (
	"bytes"
	"crypto/elliptic"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	benchUsers  = 10_000
	benchGrants = 100_000
	benchGroups = 500
)

// benchKeys are three keys for a user: of all 30,000, a ninth each are of RSA
// and ECDSA.
func benchKeys(user int) [3]ssh.PublicKey {
	keys := [3]ssh.PublicKey{testKey(3 * user), testKey(3*user + 1), testKey(3*user + 2)}
	switch user % 3 {
	case 0:
		n := new(big.Int).SetBit(big.NewInt(int64(user)), 3071, 1)
		keys[2] = wire(struct {
			Type string
			E, N *big.Int
		}{"ssh-rsa", big.NewInt(65537), n})
	case 1:
		keys[2] = ecdsaKey(elliptic.P256())
	}
	return keys
}

// bigText is a policy of 10,000 users with 30,000 keys, in 500 groups, and of
// 100,000 grants over 20,000 targets; the group "all", which everybody is in,
// has 1,000 of the grants.
var bigText = sync.OnceValue(func() []byte { return policyText(benchUsers, 20_000, benchGrants) })

func policyText(users, targets, grants int) []byte {
	var b bytes.Buffer
	b.WriteString("version: 1\nusers:\n")
	for i := range users {
		keys := benchKeys(i)
		fmt.Fprintf(&b, "  - {name: user%d, groups: [all, group%d, group%d], keys: [%s, %s, %s]}\n",
			i, i%benchGroups, (i*7+1)%benchGroups, keyLine(keys[0]), keyLine(keys[1]), keyLine(keys[2]))
	}
	b.WriteString("targets:\n")
	for i := range targets {
		fmt.Fprintf(&b, "  - {name: t%d, hosts: [host%d, \"web-*.s%d.corp.example\", 10.%d.%d.0/24], ports: [22, 8000-8100]}\n", i, i, i, i%256, i/256)
	}
	b.WriteString("grants:\n")
	for i := range grants {
		who := fmt.Sprintf("users: [user%d]", i%users)
		switch {
		case i%100 == 99:
			who = "groups: [all]"
		case i%10 == 9:
			who = fmt.Sprintf("groups: [group%d]", i/10%benchGroups)
		}
		fmt.Fprintf(&b, "  - {name: g%d, %s, to: [t%d]}\n", i, who, i*13%targets)
	}
	return b.Bytes()
}

var bigPolicy = sync.OnceValue(func() *Policy { return parseBig(bigText()) })

func parseBig(text []byte) *Policy {
	p, ps := Parse(bytes.NewReader(text), "policy.yaml", Options{Networks: prefixes("10.0.0.0/8"), Own: addrs("10.0.0.1"), Zones: []string{"corp.example"}})
	if p == nil {
		panic(ps.Err())
	}
	return p
}

func BenchmarkDecide(b *testing.B) {
	p := bigPolicy()
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
		{"with key", Request{User: "user5", Key: ssh.FingerprintSHA256(testKey(15)), Host: "host65", Port: 22, Addr: at("10.3.4.5")}, Granted},
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

// BenchmarkDecideBySize shows how the cost of a decision grows with the policy,
// whose users and targets grow with its grants.
func BenchmarkDecideBySize(b *testing.B) {
	sizes := []int{10, 100, 1000, 10_000, 100_000}
	policies := map[int]*Policy{}
	for _, bm := range []struct {
		name string
		req  Request
		want Reason
	}{
		{"name", Request{User: "user0", Key: AnyKey, Host: "host0", Port: 22, Addr: netip.MustParseAddr("10.0.0.5")}, Granted},
		{"pattern", Request{User: "user0", Key: AnyKey, Host: "web-1.s0.corp.example", Port: 8050, Addr: netip.MustParseAddr("10.0.0.5")}, Granted},
		{"no-grant", Request{User: "user0", Key: AnyKey, Host: "host0", Port: 23}, NoGrant},
	} {
		for _, grants := range sizes {
			b.Run(fmt.Sprintf("%s/grants=%d", bm.name, grants), func(b *testing.B) {
				p := policies[grants]
				if p == nil {
					p = parseBig(policyText(max(grants/10, 1), max(grants/5, 1), grants))
					policies[grants] = p
				}
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
}

func BenchmarkIdentify(b *testing.B) {
	p := bigPolicy()
	for name, key := range map[string]ssh.PublicKey{"ed25519": testKey(7776), "rsa-unknown": rsaKey(3072)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Identify("ec2-user", key)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	text := bigText()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		parseBig(text)
	}
}

// loadEnv names the file that BenchmarkLoad loads, in the process that it
// starts for that.
const loadEnv = "SEKISHO_BENCHMARK_LOAD"

// BenchmarkLoad loads the policy from a file in a process that does nothing
// else, and reports the most memory that it had resident (VmHWM of proc(5)),
// the memory that the policy holds, and the time that all processors spent.
func BenchmarkLoad(b *testing.B) {
	if file := os.Getenv(loadEnv); file != "" {
		load(b, file)
		return
	}
	file := filepath.Join(b.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, bigText(), 0o600); err != nil {
		b.Fatal(err)
	}
	var sum [4]float64
	n := 0
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkLoad$", "-test.benchtime=1x")
		cmd.Env = append(os.Environ(), loadEnv+"="+file)
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		_, line, _ := strings.Cut(string(out), "loaded: ")
		var one [4]float64
		if _, err := fmt.Sscan(line, &one[0], &one[1], &one[2], &one[3]); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		for i := range one {
			sum[i] += one[i]
		}
		n++
	}
	for i, unit := range []string{"s/load", "cpu-s/load", "peak-MB", "kept-MB"} {
		b.ReportMetric(sum[i]/float64(n), unit)
	}
}

func load(b *testing.B, file string) {
	start := time.Now()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	p := parseBig(text)
	text = nil
	took := time.Since(start)
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	var kB float64
	if _, err := fmt.Sscan(peak, &kB); err != nil {
		b.Fatal(err)
	}
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	runtime.KeepAlive(p)
	cpu := float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
	fmt.Printf("loaded: %f %f %f %f\n", took.Seconds(), cpu, kB/1024, float64(mem.HeapAlloc)/(1<<20))
	os.Exit(0)
}
