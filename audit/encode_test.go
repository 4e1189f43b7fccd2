package audit

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"sekisho/audit/tree"
)

var at = time.Date(2026, 11, 22, 1, 2, 3, 123456000, time.UTC)

// opened has every field that a forward.open has.
func opened(forward string) Record {
	return Record{
		V: 1, Seq: 812, Time: at, Bastion: "bastion-1", Run: "01J",
		Type: ForwardOpen, Conn: "c1", Forward: forward, Entrance: "ssh",
		User: "bob", Login: "ec2-user", Key: "SHA256:abc", Client: "SSH-2.0-OpenSSH_9.9",
		Source:     netip.MustParseAddrPort("203.0.113.9:51234"),
		Originator: Endpoint{"127.0.0.1", 0},
		Target:     Endpoint{"rds", 3306},
		Address:    netip.MustParseAddrPort("10.0.11.147:3306"),
		Grant:      "dba-db", Policy: "sha256:def",
	}
}

func TestEncoding(t *testing.T) {
	const head = `{"v":1,"seq":0,"time":"2026-11-22T01:02:03.123456Z"`
	tests := []struct {
		name string
		rec  Record
		want string
	}{
		{"a forward.open has its fields in the order of the design", opened("f1"),
			`{"v":1,"seq":812,"time":"2026-11-22T01:02:03.123456Z","bastion":"bastion-1","run":"01J","type":"forward.open","conn":"c1","forward":"f1","entrance":"ssh",` +
				`"user":"bob","login":"ec2-user","key":"SHA256:abc","client":"SSH-2.0-OpenSSH_9.9","source":{"ip":"203.0.113.9","port":51234},"originator":{"ip":"127.0.0.1","port":0},` +
				`"target":{"host":"rds","port":3306},"address":{"ip":"10.0.11.147","port":3306},"grant":"dba-db","policy":"sha256:def"}`},
		{"a certificate stands beside the key that it is of", Record{V: 1, Time: at, Type: AuthOK, Key: "SHA256:abc", Cert: Certificate{"corp", "alice@corp", 17}},
			head + `,"type":"auth.ok","key":"SHA256:abc","cert":{"authority":"corp","key_id":"alice@corp","serial":17}}`},
		{"the head of the run before stands in the first record", Record{V: 1, Time: at, Type: ServerStart, Head: TreeHead{812, tree.Leaf(nil)}},
			head + `,"type":"server.start","head":{"size":812,"root":"bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0="}}`},
		{"fields that are zero are left out", Record{V: 1, Time: at}, head + `}`},
		{"the counts of an end stay when they are zero", Record{V: 1, Time: at, Type: ForwardFail},
			head + `,"type":"forward.fail","bytes_up":0,"bytes_down":0,"duration_ms":0}`},
		{"a closed connection has a duration only", Record{V: 1, Time: at, Type: ConnClose},
			head + `,"type":"conn.close","duration_ms":0}`},
		{"a lost forward has no count that nobody made", Record{V: 1, Time: at, Type: ForwardLost, BytesUp: 1},
			head + `,"type":"forward.lost","bytes_up":1}`},
		{"a duration is in whole milliseconds and never negative", Record{V: 1, Time: at, Type: ConnClose, Duration: -time.Hour},
			head + `,"type":"conn.close","duration_ms":0}`},
		{"failures that are told together have their count and sources before the reason", Record{V: 1, Time: at, Type: AuthFlood, Duration: time.Minute, Count: 9, Sources: 2, Reason: "unknown_key"},
			head + `,"type":"auth.flood","duration_ms":60000,"count":9,"sources":2,"reason":"unknown_key"}`},
		{"a port without a host is kept", Record{V: 1, Time: at, Originator: Endpoint{"", 7}, Source: netip.AddrPortFrom(netip.Addr{}, 8)},
			head + `,"source":{"ip":"","port":8},"originator":{"ip":"","port":7}}`},
		{"an IPv4 address in IPv6 is written as IPv4", Record{V: 1, Time: at, Address: netip.MustParseAddrPort("[::ffff:10.0.0.1]:22")},
			head + `,"address":{"ip":"10.0.0.1","port":22}}`},
		{"a zone is dropped", Record{V: 1, Time: at, Dropped: []Dropped{{netip.MustParseAddr("fe80::1%eth0"), "link-local"}}},
			head + `,"dropped":[{"ip":"fe80::1","reason":"link-local"}]}`},
		{"lists are written in order", Record{V: 1, Time: at, Type: AuthFail, Offered: []string{"a", "", "b"}},
			head + `,"type":"auth.fail","offered":["a","","b"]}`},
		{"a time of another zone is UTC", Record{V: 1, Time: at.In(time.FixedZone("JST", 9*3600))}, head + `}`},
		{"quotes and backslashes are escaped", Record{V: 1, Time: at, User: `a"b\c`}, head + `,"user":"a\"b\\c"}`},
		{"control characters are escaped", Record{V: 1, Time: at, User: "a\n\x1b[2J\x7f\u0085 b"}, head + `,"user":"a\u000a\u001b[2J\u007f\u0085 b"}`},
		{"what changes the direction or the line or cannot be seen is escaped", Record{V: 1, Time: at, User: "\u202e\u2028\u200b\ufeff\u00a0"},
			head + `,"user":"\u202e\u2028\u200b\ufeff\u00a0"}`},
		{"what a display may ignore, and a blank that is none, are escaped", Record{V: 1, Time: at, User: "\u3164\u115f\uffa0\u034f\ufe0f\u2800\U000e0100"},
			head + `,"user":"\u3164\u115f\uffa0\u034f\ufe0f\u2800\udb40\udd00"}`},
		{"what cannot be printed above the BMP is a surrogate pair", Record{V: 1, Time: at, User: "\U000e0041\U0010ffff"},
			head + `,"user":"\udb40\udc41\udbff\udfff"}`},
		{"what can be printed stays", Record{V: 1, Time: at, User: "関所 é 😀"}, head + `,"user":"関所 é 😀"}`},
		{"invalid bytes become U+FFFD", Record{V: 1, Time: at, User: "a\xff\xc3\xed\xa0\x80"}, head + `,"user":"a` + strings.Repeat("\ufffd", 5) + `"}`},
		{"a string of 1024 bytes stays", Record{V: 1, Time: at, User: strings.Repeat("x", 1024)}, head + `,"user":"` + strings.Repeat("x", 1024) + `"}`},
		{"a longer string is cut to 1024 bytes", Record{V: 1, Time: at, User: strings.Repeat("x", 1025)}, head + `,"user":"` + strings.Repeat("x", 1021) + `…"}`},
		{"a string is cut between runes", Record{V: 1, Time: at, User: "x" + strings.Repeat("é", 512)}, head + `,"user":"x` + strings.Repeat("é", 510) + `…"}`},
		{"what an escape takes does not count", Record{V: 1, Time: at, User: strings.Repeat("\n", 1024)}, head + `,"user":"` + strings.Repeat(`\u000a`, 1024) + `"}`},
		{"what an invalid byte becomes counts", Record{V: 1, Time: at, User: strings.Repeat("\xff", 342)}, head + `,"user":"` + strings.Repeat("\ufffd", 340) + `…"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.rec.AppendJSON(nil)
			if string(got) != tt.want {
				t.Fatalf("got  %s\nwant %s", got, tt.want)
			}
			back, err := ParseRecord(got)
			if err != nil {
				t.Fatal(err)
			}
			if again := back.AppendJSON(nil); string(again) != tt.want {
				t.Fatalf("after parsing it is %s", again)
			}
		})
	}
}

func TestListsAreBounded(t *testing.T) {
	r := Record{V: 1, Time: at, Offered: make([]string, 40), Dropped: make([]Dropped, 40)}
	back, err := ParseRecord(r.AppendJSON(nil))
	if err != nil || len(back.Offered) != maxList || len(back.Dropped) != maxList {
		t.Fatalf("got %d offered, %d dropped, %v", len(back.Offered), len(back.Dropped), err)
	}
}

func TestLongestRecordFitsALine(t *testing.T) {
	long := strings.Repeat("\x00", maxString)
	r := Record{V: 1, Time: at, Offered: make([]string, maxList), Dropped: make([]Dropped, maxList)}
	v := reflect.ValueOf(&r).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.String {
			v.Field(i).SetString(long)
		}
	}
	r.Originator.Host, r.Target.Host = long, long
	for i := range maxList {
		r.Offered[i], r.Dropped[i].Reason = long, long
	}
	if n := len(r.AppendJSON(nil)); n >= maxLine {
		t.Fatalf("%d bytes", n)
	}
}

func TestParseRefusesWhatIsNotEscaped(t *testing.T) {
	good := string(Record{V: 1, Time: at, Type: AuthOK, User: "abob"}.AppendJSON(nil))
	for name, sent := range map[string]string{
		"a control character of C1":  "\u009b2J",
		"a change of direction":      "\u202e",
		"a character of no width":    "\u200b",
		"a byte order mark":          "\ufeff",
		"a tag":                      "\U000e0041",
		"a byte that is no UTF-8":    "\xff",
		"an escape and then one raw": `\u001b` + "\u009b",
	} {
		if r, err := ParseRecord([]byte(strings.Replace(good, "abob", "a"+sent+"b", 1))); err == nil {
			t.Errorf("%s is taken: %q", name, r.User)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = `{"v":1,"seq":0,"time":"2026-11-22T01:02:03.123456Z"`
	for name, line := range map[string]string{
		"an empty line":                      ``,
		"an empty object":                    `{}`,
		"another version":                    strings.Replace(head, `"v":1`, `"v":2`, 1) + `}`,
		"white space":                        head + ` }`,
		"what follows the object":            head + `}}`,
		"an unknown field":                   head + `,"shell":"sh"}`,
		"a field out of order":               head + `,"user":"a","conn":"c"}`,
		"a field that comes twice":           head + `,"user":"a","user":"b"}`,
		"a leading zero":                     head + `,"bytes_up":01}`,
		"a negative number":                  head + `,"bytes_up":-1}`,
		"a fraction":                         head + `,"bytes_up":1.0}`,
		"a number out of range":              head + `,"bytes_up":18446744073709551616}`,
		"a duration out of range":            head + `,"duration_ms":9223372036855}`,
		"a port out of range":                head + `,"source":{"ip":"10.0.0.1","port":65536}}`,
		"an originator's port out of range":  head + `,"originator":{"ip":"10.0.0.1","port":4294967296}}`,
		"a day out of range":                 strings.Replace(head, `11-22`, `11-31`, 1) + `}`,
		"a time with an offset":              strings.Replace(head, `56Z`, `56+00:00`, 1) + `}`,
		"a time with a comma":                strings.Replace(head, `03.12`, `03,12`, 1) + `}`,
		"a time in milliseconds":             strings.Replace(head, `456Z`, `Z`, 1) + `}`,
		"an address that is not canonical":   head + `,"source":{"ip":"::FFFF","port":1}}`,
		"an IPv4 address in IPv6":            head + `,"source":{"ip":"::ffff:10.0.0.1","port":1}}`,
		"an address with a zone":             head + `,"source":{"ip":"fe80::1%a","port":1}}`,
		"invalid UTF-8":                      head + "," + `"user":"` + "\xff" + `"}`,
		"a raw control character":            head + `,"user":"` + "\t" + `"}`,
		"a NUL":                              head + `,"user":"` + "\x00" + `"}`,
		"an escape that is not written":      head + `,"user":"\n"}`,
		"an upper-case escape":               head + `,"user":"\u001B"}`,
		"half of a surrogate pair":           head + `,"user":"\ud83d"}`,
		"two first halves of surrogate pair": head + `,"user":"\ud83d\ud83d"}`,
		"a string that does not end":         head + `,"user":"a`,
		"an empty list":                      head + `,"offered":[]}`,
		"null":                               head + `,"user":null}`,
	} {
		t.Run(name, func(t *testing.T) {
			if r, err := ParseRecord([]byte(line)); err == nil {
				t.Errorf("%q is read as %+v", line, r)
			} else if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the message cannot be printed: %q", err)
			}
		})
	}
}

// randomRecord has valid bounded strings and values a record can hold.
func randomRecord(seed uint64, s string) Record {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s = strings.ToValidUTF8(s, "?")
	str := func() string {
		if len(s) == 0 || rnd.IntN(3) == 0 {
			return ""
		}
		i := rnd.IntN(len(s))
		j := i + rnd.IntN(min(len(s)-i, maxString)+1)
		for i < j && !utf8.RuneStart(s[i]) {
			i++
		}
		for j > i && j < len(s) && !utf8.RuneStart(s[j]) {
			j--
		}
		return s[i:j]
	}
	addr := func() netip.Addr {
		switch rnd.IntN(3) {
		case 0:
			return netip.Addr{}
		case 1:
			return netip.AddrFrom4([4]byte{10, 0, byte(rnd.Uint32()), byte(rnd.Uint32())})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(rnd.Uint32())})
	}
	num := func() uint64 { return rnd.Uint64() >> rnd.IntN(65) }
	r := Record{
		V: 1, Seq: num(), Time: time.UnixMicro(int64(num() % (1 << 56))).UTC(), Bastion: str(), Run: str(),
		Type: Type(str()), Conn: str(), Forward: str(), Entrance: str(), User: str(), Login: str(), Key: str(), Client: str(),
		Cert:       Certificate{str(), str(), num()},
		Source:     netip.AddrPortFrom(addr(), uint16(num())),
		Originator: Endpoint{str(), uint32(num())},
		Target:     Endpoint{str(), uint32(num())},
		Address:    netip.AddrPortFrom(addr(), uint16(num())),
		Grant:      str(), Policy: str(), Request: str(),
		BytesUp: num(), BytesDown: num(), Duration: time.Duration(num()%(math.MaxInt64/1_000_000)) * time.Millisecond,
		Count: num(), Sources: num(),
		Reason: str(), Detail: str(),
	}
	for range rnd.IntN(4) {
		r.Offered = append(r.Offered, str())
	}
	for range rnd.IntN(4) {
		r.Dropped = append(r.Dropped, Dropped{addr(), str()})
	}
	return r
}

func FuzzRoundTrip(f *testing.F) {
	for i := range uint64(20) {
		f.Add(i, "alice\x00\u202e \"\\ 関所 😀\n"+strings.Repeat("long", 400))
	}
	f.Fuzz(func(t *testing.T, seed uint64, s string) {
		r := randomRecord(seed, s)
		line := r.AppendJSON(nil)
		back, err := ParseRecord(line)
		if err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		if !reflect.DeepEqual(back, r) {
			t.Fatalf("wrote %+v\nread  %+v", r, back)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(``))
	f.Add(opened("f1").AppendJSON(nil))
	f.Add(randomRecord(3, "a\u2028\U000e0041b").AppendJSON(nil))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRecord(line)
		if err != nil {
			return
		}
		if !json.Valid(line) {
			t.Fatalf("%q is no JSON", line)
		}
		// What was read is what will be written, but for what is too long.
		once := r.AppendJSON(nil)
		back, err := ParseRecord(once)
		if err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		if twice := back.AppendJSON(nil); !bytes.Equal(once, twice) {
			t.Fatalf("%s\n%s", once, twice)
		}
	})
}

func FuzzAnyString(f *testing.F) {
	f.Add("")
	f.Add("\xff\xfe\x00\u202e\u2028\U000e0041\"\\\r\n")
	f.Add(strings.Repeat("é\xff\x00", 600))
	f.Fuzz(func(t *testing.T, s string) {
		line := Record{V: 1, Time: at, Type: Type(s), Login: s, Client: s, Target: Endpoint{s, 1}, Offered: []string{s}, Dropped: []Dropped{{Reason: s}}}.AppendJSON(nil)
		var got struct{ Login string }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); len(s) < maxString/3 && !strings.Contains(want, "\ufffd") && got.Login != want {
			t.Fatalf("%q became %q", s, got.Login)
		}
		if len(got.Login) > maxString {
			t.Fatalf("%d bytes", len(got.Login))
		}
		if !utf8.Valid(line) {
			t.Fatalf("%q is not UTF-8", line)
		}
		for _, r := range string(line) {
			if !unicode.IsPrint(r) {
				t.Fatalf("%U in %q", r, line)
			}
		}
		if _, err := ParseRecord(line); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
	})
}

func TestIDs(t *testing.T) {
	a, b := NewID("c"), NewID("c")
	if a == b || len(a) != 17 || a[0] != 'c' || strings.Trim(a[1:], "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("ids %q, %q", a, b)
	}
	r, s := newRun(at), newRun(at.Add(time.Millisecond))
	if len(r) != 26 || r[:10] != "01M80CCGVK" || r >= s {
		t.Errorf("runs %q, %q", r, s)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r := opened("f1")
	buf := r.AppendJSON(nil)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}

func BenchmarkParseRecord(b *testing.B) {
	line := opened("f1").AppendJSON(nil)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(line); err != nil {
			b.Fatal(err)
		}
	}
}
