package bastion

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestTheGreetingIsTheFirstLine(t *testing.T) {
	for _, test := range []struct {
		name string
		read []string
		want string
	}{
		{"whole", []string{"SSH-2.0-x y\r\nSSH-2.0-z\r\n"}, "SSH-2.0-x y"},
		{"by bytes", strings.Split("SSH-2.0-x\n\x00", ""), "SSH-2.0-x"},
		{"not ended", []string{"SSH-2.0-x"}, ""},
		{"something else", []string{"GET / HTTP/1.1\r\n"}, ""},
		{"nothing", nil, ""},
		{"too long", []string{"SSH-2.0-", strings.Repeat("x", 5000), "\r\n"}, "SSH-2.0-" + strings.Repeat("x", 247)},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := new(greeting)
			for _, p := range test.read {
				if !g.over {
					g.note([]byte(p))
				}
			}
			if got := g.version(); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			if len(g.line) > maxGreeting {
				t.Errorf("%d bytes are kept", len(g.line))
			}
		})
	}
}

func FuzzReadStrings(f *testing.F) {
	f.Add([]byte{}, 1)
	f.Add([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0}, 2)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'}, 2)
	f.Fuzz(func(t *testing.T, payload []byte, most int) {
		all, err := readStrings(payload, most)
		if err != nil {
			return
		}
		if len(all) == 0 || len(all) > most {
			t.Errorf("%d strings, of at most %d", len(all), most)
		}
		var again []byte
		for _, s := range all {
			again = append(again, ssh.Marshal(struct{ S []byte }{s})...)
		}
		if !bytes.Equal(again, payload) {
			t.Errorf("%x reads as %x", payload, all)
		}
	})
}
