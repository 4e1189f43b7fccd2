package bastion

import (
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

func FuzzDirectTCPIP(f *testing.F) {
	f.Add([]byte{})
	f.Add(ssh.Marshal(struct {
		Host           string
		Port           uint32
		OriginatorHost string
		OriginatorPort uint32
	}{"rds", 3306, "127.0.0.1", 65535}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'})
	f.Fuzz(func(t *testing.T, payload []byte) {
		ask, err := parseDirectTCPIP(payload)
		if err != nil {
			return
		}
		again := ssh.Marshal(struct {
			Host           string
			Port           uint32
			OriginatorHost string
			OriginatorPort uint32
		}{ask.Target.Host, ask.Target.Port, ask.Originator.Host, ask.Originator.Port})
		if string(again) != string(payload) {
			t.Errorf("%x reads as %+v, which writes as %x", payload, ask, again)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("rds")
	f.Add("a\x1b[31m\r\n\x00\u202e\u2028\xff")
	f.Add(strings.Repeat("長", 300))
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if !utf8.ValidString(got) || len(got) > 300 {
			t.Errorf("%q becomes %q", s, got)
		}
		for _, r := range got {
			if r != utf8.RuneError && !unicode.IsPrint(r) {
				t.Errorf("%q becomes %q", s, got)
			}
		}
	})
}

func TestSourcesAreCountedByAddressAndByCustomer(t *testing.T) {
	for addr, want := range map[string]string{
		"203.0.113.9":        "203.0.113.9/32",
		"::ffff:203.0.113.9": "203.0.113.9/32",
		"2001:db8:1:2:3::4":  "2001:db8:1:2::/64",
		"fe80::1%eth0":       "fe80::/64",
	} {
		if got := sourceOf(netip.MustParseAddr(addr)); got.String() != want {
			t.Errorf("%s is counted as %s, want %s", addr, got, want)
		}
	}
}

func TestAlgorithmsAreKnownToTheLibraryAndFreeOfSHA1(t *testing.T) {
	if err := checkAlgorithms(); err != nil {
		t.Error(err)
	}
	weak := ssh.InsecureAlgorithms()
	insecure := map[string]bool{ssh.HMACSHA1: true}
	for _, list := range [][]string{weak.KeyExchanges, weak.Ciphers, weak.MACs, weak.PublicKeyAuths} {
		for _, name := range list {
			insecure[name] = true
		}
	}
	for _, list := range [][]string{keyExchanges, ciphers, macs, signatures} {
		for _, name := range list {
			if insecure[name] {
				t.Errorf("%s is insecure", name)
			}
		}
	}
}
