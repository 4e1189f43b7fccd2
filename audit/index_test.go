package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// indexOf is the index of records that are numbered from first on.
func indexOf(first uint64, recs ...Record) *Index {
	in := newIndexer(first)
	for i, r := range recs {
		r.V, r.Seq, r.Time, r.Bastion, r.Run = Version, first+uint64(i), at, "b", "01R"
		in.add(r.AppendJSON(nil), r)
	}
	return in.done()
}

func TestIndex(t *testing.T) {
	rec := opened("f1")
	rec.Target.Host = "RDS.Corp.Example."
	rec.Reason, rec.Offered = "r", []string{"SHA256:off"}
	x := indexOf(7, rec, Record{Type: AuthFail, Login: "root"}, Record{Type: "auth.flood", Source: netip.MustParseAddrPort("192.0.2.9:0")})

	t.Run("says yes to what is in it, and no to what is not", func(t *testing.T) {
		for _, v := range [][2]string{
			{"user", rec.User}, {"login", rec.Login}, {"login", "root"}, {"key", rec.Key}, {"offered", "SHA256:off"}, {"grant", rec.Grant},
			{"target", "rds.corp.example"}, {"target", "rds.corp.example:3306"}, {"target.host", "RDS.corp.example"}, {"target.host", "rds.corp.example."},
			{"address", rec.Address.Addr().String()}, {"address.ip", rec.Address.Addr().String()}, {"source", "192.0.2.9"}, {"source.ip", "192.0.2.9"},
			{"type", "forward.open"}, {"type", "auth.flood"}, {"reason", "r"}, {"conn", rec.Conn}, {"forward", "f1"},
			{"user", ""}, {"detail", "anything"}, {"", "anything"},
		} {
			if !x.May(v[0], v[1]) {
				t.Errorf("%q is not in the index", v)
			}
		}
		for _, v := range [][2]string{
			{"user", "root"}, {"login", "nobody"}, {"target", "rds"}, {"target", "rds.corp.example:22"}, {"address", "192.0.2.9"},
			{"source", "192.0.2.10"}, {"type", "forward"}, {"forward", "f2"}, {"key", "SHA256:off"},
		} {
			if x.May(v[0], v[1]) {
				t.Errorf("%q is in the index", v)
			}
		}
	})
	t.Run("counts the bytes of failed logins apart", func(t *testing.T) {
		if x.Failed() == 0 || x.Failed() >= x.Bytes() || x.First() != 7 || x.Next() != 10 {
			t.Errorf("%d of %d, %d to %d", x.Failed(), x.Bytes(), x.First(), x.Next())
		}
	})
	t.Run("is read as it was signed", func(t *testing.T) {
		opts := withKey(t)
		text, err := x.sign(opts.Signer)
		try(t, err)
		got, err := openIndex(text, opts.Verifier)
		try(t, err)
		same(t, got, x)
	})
	t.Run("of an IPv6 target has the host as it is", func(t *testing.T) {
		x := indexOf(0, Record{Target: Endpoint{"2001:db8::1", 22}})
		same(t, []bool{x.May("target", "2001:db8::1"), x.May("target", "[2001:db8::1]:22")}, []bool{true, true})
	})
}

func TestIndexFilter(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 50, 3000, 100_000, 800_000} {
		if testing.Short() && n > 10_000 {
			continue
		}
		f := make(filter, maxFilter)
		for i := range n {
			f.add("conn", fmt.Sprint("c", i))
		}
		f = f.fold()
		for i := range n {
			if !f.has("conn", fmt.Sprint("c", i)) {
				t.Fatalf("of %d, c%d is denied", n, i)
			}
		}
		yes := 0
		for i := range 10_000 {
			if f.has("conn", fmt.Sprint("x", i)) {
				yes++
			}
		}
		most := 300
		if n > 400_000 {
			most = 4000
		}
		if yes > most || len(f) > max(minFilter, n*entryBits/8*2) || len(f) > maxFilter {
			t.Errorf("%d entries: %d false yes in 10000 of %d bytes", n, yes, len(f))
		}
	}
}

func TestBadIndex(t *testing.T) {
	opts, other := withKey(t), withKey(t)
	x := indexOf(0, opened("f1"), opened("f2"))
	whole := must2(x.sign(opts.Signer))
	body, sig, _ := strings.Cut(string(whole), "\n\n")
	body += "\n"
	edit := func(from, to string) string {
		if !strings.Contains(body, from) {
			t.Fatalf("%q is not in %s", from, body)
		}
		return string(must2(note.Sign(&note.Note{Text: strings.Replace(body, from, to, 1)}, opts.Signer)))
	}
	big := *x
	big.filter = make(filter, 2*maxFilter)
	for name, tt := range map[string]struct {
		text string
		want error
	}{
		"of another key":            {string(must2(x.sign(other.Signer))), tree.ErrForeignKey},
		"with a changed record":     {strings.Replace(string(whole), "records 0 2", "records 0 3", 1), tree.ErrMalformed},
		"with a changed number":     {strings.Replace(string(whole), "of which 0", "of which 1", 1), tree.ErrSignature},
		"without a signature":       {body, tree.ErrMalformed},
		"signed twice":              {string(must2(note.Sign(&note.Note{Text: body}, opts.Signer, other.Signer))), tree.ErrMalformed},
		"that is empty":             {"", tree.ErrMalformed},
		"cut off":                   {string(whole[:len(whole)-5]), tree.ErrMalformed},
		"with something after it":   {string(whole) + "\n", tree.ErrMalformed},
		"that is a head":            {string(must2(tree.Head{Size: 2}.Sign(opts.Signer))), tree.ErrMalformed},
		"of another version":        {edit("v1", "v2"), tree.ErrMalformed},
		"with a line too many":      {edit("\nfilter", "\nmore 1\nfilter"), tree.ErrMalformed},
		"with a line after it":      {edit("\nfilter ", "\nfilter AAAA\nfilter "), tree.ErrMalformed},
		"whose range is another":    {edit("\nrange 0 2", "\nrange 0 1"), tree.ErrMalformed},
		"whose records are others":  {edit("\nrecords 0 2", "\nrecords 0 1"), tree.ErrMalformed},
		"whose time goes back":      {edit("02:03.123456Z\nrun", "02:02.123456Z\nrun"), tree.ErrMalformed},
		"with another spelling":     {edit("bytes ", "bytes 0"), tree.ErrMalformed},
		"with more failed than all": {edit("of which 0", "of which 99999"), tree.ErrMalformed},
		"with a sign before a size": {edit("\npacked ", "\npacked +"), tree.ErrMalformed},
		"without the packed size":   {edit("\npacked 0 without failed logins", ""), tree.ErrMalformed},
		"with another packed line":  {edit("without failed logins", "with failed logins"), tree.ErrMalformed},
		"with a filter too short":   {edit(base64.StdEncoding.EncodeToString(x.filter), "AAAA"), tree.ErrMalformed},
		"with a filter too long":    {string(must2(note.Sign(&note.Note{Text: big.text()}, opts.Signer))), tree.ErrMalformed},
		"with two ways of base64":   {edit("==\n", "=\n"), tree.ErrMalformed},
	} {
		got, err := openIndex([]byte(tt.text), opts.Verifier)
		if !errors.Is(err, tt.want) || got != nil {
			t.Errorf("an index %s: %v", name, err)
		}
	}
	_ = sig
}

func FuzzIndex(f *testing.F) {
	x := indexOf(3, opened("f1"), opened("f2"))
	private, public, err := note.GenerateKey(nil, "b")
	if err != nil {
		f.Fatal(err)
	}
	key := must2(note.NewVerifier(public))
	f.Add(must2(x.sign(must2(note.NewSigner(private)))))
	f.Add([]byte(x.text() + "\n— b AAAAAAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if x, n, err := readIndex(text); err == nil {
			if sig := n.UnverifiedSigs[0]; x.text()+"\n— "+sig.Name+" "+sig.Base64+"\n" != string(text) {
				t.Errorf("%q is read and not written so", text)
			}
			x.May("user", "alice")
		}
		if x, err := openIndex(text, key); err == nil {
			x.Span()
		}
		// The text alone, which is reached without a signature.
		if x, err := parseIndex(string(text)); err == nil && x.text() != string(text) {
			t.Errorf("%q is read and not written so", text)
		}
	})
}

// packedLog is a log with a key of runs with these many notes each, all but
// the newest packed.
func packedLog(t *testing.T, opts Options, runs ...int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for run, n := range runs {
		l := open(t, dir, opts)
		for i := range n {
			mustNote(t, l, fmt.Sprint(run, ".", i))
		}
		keepNow(t, l)
		try(t, l.Close())
	}
	return dir
}

func TestStartTakesRangesFromIndexes(t *testing.T) {
	opts := withKey(t)
	logOf := func(t *testing.T) (dir string, first string) {
		dir = packedLog(t, opts, 3, 2, 4, 1)
		return dir, filepath.Join(dir, stem(0, 0))
	}
	// unread makes the first segment one that cannot be read.
	unread := func(t *testing.T, first string) {
		try(t, os.WriteFile(first+packedEnd, []byte("not zstd"), 0o600))
	}
	opens := func(t *testing.T, dir string) error {
		t.Helper()
		o := opts
		o.Bastion, o.still = "b", true
		l, err := Open(dir, o)
		if err != nil {
			return err
		}
		defer l.Close()
		before := len(heads(t, dir, opts.Verifier))
		mustNote(t, l, "on")
		try(t, l.Close())
		all := heads(t, dir, opts.Verifier)
		if len(all) <= before {
			t.Error("no head was signed")
		}
		return nil
	}
	t.Run("and does not read what they are of", func(t *testing.T) {
		dir, first := logOf(t)
		unread(t, first)
		try(t, opens(t, dir))
	})
	t.Run("which gives the same tree as the records", func(t *testing.T) {
		dir, _ := logOf(t)
		with := must2(inspect(dir, opts.Verifier))
		without := must2(inspect(dir, nil))
		same(t, with.tree, without.tree)
		same(t, [32]byte(must2(with.tree.Root())), rfcRoot(plainLeaves(t, dir)))
	})
	for name, harm := range map[string]func(t *testing.T, first string){
		"is missing": func(t *testing.T, first string) { try(t, os.Remove(first+indexEnd)) },
		"is forged": func(t *testing.T, first string) {
			x := must2(openIndex(must2(os.ReadFile(first+indexEnd)), opts.Verifier))
			try(t, os.WriteFile(first+indexEnd, must2(x.sign(withKey(t).Signer)), 0o600))
		},
		"is changed": func(t *testing.T, first string) {
			text := strings.Replace(string(must2(os.ReadFile(first+indexEnd))), "of which 0", "of which 1", 1)
			try(t, os.WriteFile(first+indexEnd, []byte(text), 0o600))
		},
		"is of other records": func(t *testing.T, first string) {
			try(t, os.WriteFile(first+indexEnd, must2(indexOf(0, opened("f1")).sign(opts.Signer)), 0o600))
		},
	} {
		t.Run("but reads where one "+name, func(t *testing.T) {
			dir, first := logOf(t)
			harm(t, first)
			try(t, opens(t, dir))
			unread(t, first)
			if err := opens(t, dir); err == nil || !strings.Contains(err.Error(), first) {
				t.Errorf("what has no good index was not read: %v", err)
			}
		})
	}
	t.Run("but reads where the newest head ends within", func(t *testing.T) {
		dir, first := logOf(t)
		files := must2(headFiles(dir))
		for _, f := range files[1:] {
			try(t, os.Remove(f))
		}
		root := rfcRoot(plainLeaves(t, dir)[:2])
		try(t, os.WriteFile(first+headsEnd, must2(tree.Head{Size: 2, Root: root, Time: at}.Sign(opts.Signer)), 0o600))
		unread(t, first)
		if err := opens(t, dir); err == nil || !strings.Contains(err.Error(), first) {
			t.Error(err)
		}
	})
	t.Run("and one that lies about as many records is found out by the head", func(t *testing.T) {
		dir, first := logOf(t)
		lie := indexOf(0, opened("f1"), opened("f2"), opened("f3"), opened("f4"))
		try(t, os.WriteFile(first+indexEnd, must2(lie.sign(opts.Signer)), 0o600))
		if err := opens(t, dir); err == nil || !strings.Contains(err.Error(), "not the records whose head was signed") {
			t.Error(err)
		}
	})
}
