package authkeys

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/crypto/ssh"
)

func FuzzParse(f *testing.F) {
	k1, k2 := keyLine(testKey(1)), keyLine(skKey())
	for _, s := range []string{
		"", k1, k1 + "\n" + k1 + "\r\n" + k2, "\ufeff# x\n" + k1 + " c\xe9", "restrict,port-forwarding,permitopen=\"[::1]:22\" " + k1, `permitopen="a\"b:*",permitopen="*:1" ` + k1,
		`from="10.0.0.0/8,!10.0.0.1,fe80:*",expiry-time="20270331Z",expiry-time="202703311200" ` + k2, `cert-authority,principals="a b,\"c\"" ` + k1, `command="\\" x",environment="A=b" ` + k1,
		"verify-required,no-verify-required,no-touch-required " + k2, ",,pty, " + k1, "a=b\"c " + k1, keyLine(rsaKey(1024)), keyLine(dsaKey()), "ssh-ed25519", `x="\"`, "\x00", "-----BEGIN", "tunnel=\"1\"\t" + k1,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkFile(t, text)
		checkFile(t, text+" "+k1) // what is found as options too
	})
}

func checkFile(t *testing.T, text string) {
	file, problems := Parse(strings.NewReader(text), "f", nil)
	entries := file.Keys
	if len(entries) > maxEntries || len(problems) > maxProblems+1 || problems.Err() != nil {
		t.Fatal(len(entries), len(problems), problems.Err())
	}
	told := make(map[int]bool)
	for _, p := range problems {
		told[p.Line] = true
		if strings.ContainsFunc(p.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("not safe to print: %q", p.Error())
		}
	}
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	for _, e := range entries {
		told[e.Line] = true
		checkEntry(t, lines[e.Line-1], e)
	}
	if len(entries) == maxEntries || len(problems) > maxProblems {
		return
	}
	for i, line := range lines {
		line = strings.Trim(strings.TrimSuffix(line, "\r"), " \t")
		if (line != "" && line[0] != '#') != told[i+1] {
			t.Fatalf("line %d, %q: told of it is %v", i+1, line, told[i+1])
		}
	}
}

// checkEntry judges an entry by another reader, and by reading it again.
func checkEntry(t *testing.T, line string, e Entry) {
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || string(key.Marshal()) != string(e.Key.Marshal()) || !slices.Contains(keyTypes, key.Type()) {
		t.Fatalf("%q is another key: %v", line, err)
	}
	authority, forwarding, pin := false, true, false
	for _, o := range options {
		name, _, _ := strings.Cut(strings.ToLower(o), "=")
		switch name {
		case "cert-authority":
			authority = true
		case "restrict", "no-port-forwarding":
			forwarding = false
		case "port-forwarding":
			forwarding = true
		case "verify-required", "no-verify-required":
			pin = name == "verify-required"
		}
		if !slices.ContainsFunc(known, func(k string) bool { return strings.ToLower(k) == name }) {
			t.Fatalf("%q has an unknown option", line)
		}
	}
	if pin || authority != e.Options.CertAuthority || forwarding == e.Options.NoForwarding || e.Options.Principals != nil && !authority {
		t.Fatalf("%q gives %+v", line, e.Options)
	}
	file, problems := Parse(strings.NewReader(write(e.Options)+" "+keyLine(e.Key)+" "+e.Comment), "f", nil)
	if e.Options.NoForwarding && e.Options.PermitOpen != nil {
		problems = nil // it says that permitopen is ignored
	}
	e.Line = 1
	if len(file.Keys) != 1 || problems != nil || !reflect.DeepEqual(file.Keys[0], e) {
		t.Fatalf("%q gives %+v, and again %+v %v", line, e, file.Keys, problems)
	}
}

func FuzzFrom(f *testing.F) {
	for _, s := range [][2]string{
		{"10.0.0.0/8,!10.0.0.9", "10.0.0.9"}, {"10.*,*.1", "10.0.0.1"}, {"2001:DB8:*", "2001:db8::1"}, {"::ffff:0:0/96", "::ffff:1.2.3.4"}, {"*,!fe80::/10", "fe80::1%eth0"},
		{"1*1*1*1", "111.11.1.1"}, {"!1.1.1.1,?.?.?.?", "1.1.1.1"}, {"", "::"}, {",", "::"}, {"*.de", "::de"}, {"10.0.0.1/8", "10.0.0.1"}, {"!*", "::1"}, {"::/0", "1.1.1.1"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, list, addr string) {
		s, why, hint := parseSources(list)
		if (s == nil) != (why != "") {
			t.Fatal(s, why)
		}
		if strings.ContainsFunc(why+hint, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("not safe to print: %q %q", why, hint)
		}
		a, err := netip.ParseAddr(addr)
		if s == nil || err != nil || strings.Count(list, "*") > 8 {
			return
		}
		if strings.ContainsFunc(s.String(), func(r rune) bool { return r <= ' ' || r > '~' }) || s.String() != list {
			t.Fatalf("%q is written %q", list, s)
		}
		got := s.Match(a)
		if want := naiveMatch(list, a); got != want {
			t.Fatalf("%q and %s: %v, want %v", list, a, got, want)
		}
		entries := strings.Split(list, ",")
		slices.Reverse(entries)
		if back, _, _ := parseSources(strings.Join(entries, ",")); back.Match(a) != got {
			t.Fatalf("%q and %s: the order counts", list, a)
		}
		if but, why, _ := parseSources(list + ",!" + a.WithZone("").String()); why != "" || but.Match(a) {
			t.Fatalf("%q but %s: %s", list, a, why)
		}
	})
}

// naiveMatch says the same as Sources.Match, more slowly.
func naiveMatch(list string, a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	yes := false
	for entry := range strings.SplitSeq(strings.ToLower(list), ",") {
		entry, not := strings.CutPrefix(entry, "!")
		match := naiveLike(entry, a.String())
		if host, err := netip.ParseAddr(entry); err == nil {
			match = host.Unmap() == a
		} else if p, err := netip.ParsePrefix(entry); err == nil {
			match = naiveContains(p, a)
		}
		if match && not {
			return false
		}
		yes = yes || match
	}
	return yes
}

func naiveContains(p netip.Prefix, a netip.Addr) bool {
	bits, net := p.Bits(), p.Addr()
	if net.Is4() || bits >= 96 && net.Is4In6() {
		if net.Is4() {
			bits += 96
		}
		if !a.Is4() {
			return false
		}
	} else if a.Is4() {
		return false
	}
	x, y := net.As16(), a.As16()
	for i := range bits {
		if (x[i/8]^y[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

func naiveLike(pattern, text string) bool {
	switch {
	case pattern == "":
		return text == ""
	case pattern[0] == '*':
		return naiveLike(pattern[1:], text) || text != "" && naiveLike(pattern, text[1:])
	}
	return text != "" && (pattern[0] == '?' || pattern[0] == text[0]) && naiveLike(pattern[1:], text[1:])
}
