package authz

import (
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"web-*.corp.example", "web-1.corp.example", true},
		{"web-*.corp.example", "web-1.2.corp.example", false},
		{"web-*.corp.example", "web-.corp.example", true}, // no host is spelt so
		{"web-*.corp.example", "web-1.corp.example.evil", false},
		{"web-*.corp.example", "xweb-1.corp.example", false},
		{"web-*.corp.example", "web-1xcorp.example", false},
		{"*.corp.example", "a.corp.example", true},
		{"*.corp.example", "corp.example", false},
		{"*.corp.example", "a.b.corp.example", false},
		{"*.*.example", "a.b.example", true},
		{"*.*.example", "a.example", false},
		{"*-db", "main-db", true},
		{"*-db", "main-db2", false},
		{"web*", "web", true},
		{"web*", "web.evil", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "axbxbxc", true},
		{"a*b*c", "axc", false},
		{"a*a*a.x", "aaa.x", true},
		{"a*a*a.x", "aa.x", false},
		{"db.*.internal", "db.tokyo.internal", true},
		{"db.*.internal", "db.tokyo.osaka.internal", false},
		{"web.*", "web.example", true},
		{"a*.b*.c", "a1.b2.c", true},
		{"a*.b*.c", "a1.c2.c", false},
		{"*a.b", "aaaa.b", true},
		{"*a.*a", "a.ba", true},
		{"*a.*a", "a.ab", false},
	}
	for _, tt := range tests {
		p, msg, _ := parsePattern(tt.pattern)
		if msg != "" {
			t.Errorf("%s: %s", tt.pattern, msg)
			continue
		}
		if got := p.match(tt.name); got != tt.want {
			t.Errorf("%s matches %s: %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
		if tt.want && p.tail != "" && !strings.HasSuffix(tt.name, "."+p.tail) {
			t.Errorf("%s: the index would miss %s under %q", tt.pattern, tt.name, p.tail)
		}
	}
}

// naive is what a pattern means, told as plainly as can be.
func naive(pattern, name string) bool {
	ps, ns := strings.Split(pattern, "."), strings.Split(name, ".")
	if len(ps) != len(ns) {
		return false
	}
	for i := range ps {
		if !naiveLabel(ps[i], ns[i]) {
			return false
		}
	}
	return true
}

func naiveLabel(p, n string) bool {
	if p == "" {
		return n == ""
	}
	if p[0] == '*' {
		for i := 0; i <= len(n); i++ {
			if naiveLabel(p[1:], n[i:]) {
				return true
			}
		}
		return false
	}
	return n != "" && n[0] == p[0] && naiveLabel(p[1:], n[1:])
}

func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{
		{"web-*.corp.example", "web-1.corp.example"}, {"*.a", "b.a"}, {"a*b*c", "abbc"}, {"*a.*a", "ba.ab"}, {"a.*", "a.b"}, {"*-*-*.x", "a-b-c.x"}, {"**a", "a"}, {"10.0.*", "10.0.1"}, {"a", "0"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, msg, _ := parsePattern(pattern)
		host, addr, err := ParseHost(name)
		if msg != "" || err != nil || addr.IsValid() || strings.Count(pattern, "*") > 6 {
			return
		}
		got, want := p.match(host), naive(pattern, host)
		if got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, host, got, want)
		}
		if got && p.tail != "" && !strings.HasSuffix(host, "."+p.tail) {
			t.Fatalf("%q: the index would miss %q under %q", pattern, host, p.tail)
		}
	})
}

func TestPortSets(t *testing.T) {
	ps := makePorts([]portRange{{8000, 8100}, {22, 22}, {8050, 8200}, {23, 23}, {65535, 65535}})
	want := portSet{{22, 23}, {8000, 8200}, {65535, 65535}}
	if len(ps) != len(want) {
		t.Fatalf("got %v, want %v", ps, want)
	}
	for i := range ps {
		if ps[i] != want[i] {
			t.Fatalf("got %v, want %v", ps, want)
		}
	}
	for port := 0; port <= 65535; port++ {
		want := port == 22 || port == 23 || port >= 8000 && port <= 8200 || port == 65535
		if got := ps.contains(uint16(port)); got != want {
			t.Fatalf("%d: %v", port, got)
		}
	}
}
