package audit_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"sekisho/audit"
	"sekisho/audit/query"
	"sekisho/audit/tree"
)

// Files of the log that somebody has put something else in the place of: what
// reads the log says so and does not wait, and neither is led elsewhere.
func TestWhatIsNoRegularFileIsNotRead(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	skey, vkey, err := note.GenerateKey(nil, "bastion-1")
	if err != nil {
		t.Fatal(err)
	}
	signer, err1 := note.NewSigner(skey)
	verifier, err2 := note.NewVerifier(vkey)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	opts := audit.Options{Bastion: "bastion-1", Signer: signer, Verifier: verifier, SegmentSize: 900}
	policy := []byte("users: {}\n")

	kinds := map[string]func(path string) error{
		"a named pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"a folder":        func(path string) error { return os.Mkdir(path, 0o700) },
		"a socket": func(path string) error {
			// Its name is short enough only from within its folder.
			dir, err := os.Open(filepath.Dir(path))
			if err != nil {
				return err
			}
			defer dir.Close()
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)})
			if err == nil {
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		},
	}
	files := map[string]struct {
		pattern string
		nth     int // from the end, if below 0
		refuse  string
	}{
		"an old segment":     {"*[0-9].jsonl*", 0, "verify search prove answer follow open read"},
		"the newest segment": {"*[0-9].jsonl*", -1, "verify search prove answer follow open read"},
		"an index":           {"*.index", 0, ""}, // a search reads the records then,
		"old heads":          {"*.heads", 0, "verify"},
		"the newest heads":   {"*.heads", -1, "verify open newest"},
		"what was pruned":    {"pruned", 0, "verify search prove answer open read"},
		"a policy":           {"policies/*.yaml", 0, "policy"},
		"the lock":           {"lock", 0, "open"},
	}
	for kind, put := range kinds {
		for name, file := range files {
			t.Run(kind+" for "+name, func(t *testing.T) {
				dir := t.TempDir()
				l, err := audit.Open(dir, opts)
				if err != nil {
					t.Fatal(err)
				}
				for range 20 {
					if err := l.Append(t.Context(), audit.Record{Type: audit.AuthFail, User: "bob"}); err != nil {
						t.Fatal(err)
					}
				}
				hash := fmt.Sprintf("sha256:%x", sha256.Sum256(policy))
				if err := errors.Join(l.Keep(hash, policy), l.Close(), os.WriteFile(filepath.Join(dir, "pruned"), []byte("0 0\n"), 0o600),
					os.WriteFile(filepath.Join(dir, "00000000000000000000.index"), nil, 0o600)); err != nil {
					t.Fatal(err)
				}
				head, _, err := audit.NewestHead(dir, verifier)
				if err != nil {
					t.Fatal(err)
				}
				var line []byte
				if err := audit.ReadRecord(dir, 1, func(b []byte, _ audit.Record) error { line = append(line, b...); return nil }); err != nil {
					t.Fatal(err)
				}
				found, err := filepath.Glob(filepath.Join(dir, file.pattern))
				if err != nil || len(found) == 0 {
					t.Fatalf("no file is %s: %v", file.pattern, err)
				}
				path := found[(file.nth+len(found))%len(found)]
				if err := errors.Join(os.Remove(path), put(path)); err != nil {
					t.Fatal(err)
				}
				within := func(what string, f func(ctx context.Context) error) {
					t.Helper()
					ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
					defer cancel()
					done := make(chan error, 1)
					go func() { done <- f(ctx) }()
					select {
					case err := <-done:
						refused := strings.Contains(" "+file.refuse+" ", " "+what+" ")
						if refused && (err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "regular file")) {
							t.Errorf("%s: %v", what, err)
						}
						if err != nil && strings.Contains(err.Error(), "secret") {
							t.Errorf("%s was led elsewhere: %v", what, err)
						}
					case <-time.After(20 * time.Second):
						t.Fatalf("%s hangs", what)
					}
				}
				within("verify", func(ctx context.Context) error {
					v, err := audit.Verify(ctx, dir, audit.VerifyOptions{Keys: []note.Verifier{verifier}})
					if err == nil && len(v.Harms) > 0 {
						err = errors.New(v.Harms[0].Detail)
					}
					return err
				})
				within("search", func(ctx context.Context) error {
					return query.Search(ctx, dir, query.Query{}, query.Options{}, func([]byte, audit.Record) error { return nil })
				})
				within("prove", func(context.Context) error {
					_, err := audit.Prove(dir, head, []tree.Proven{{Seq: 1, Line: line}})
					return err
				})
				within("answer", func(context.Context) error {
					text, err := audit.Answer(dir, head, 1)
					if err == nil && strings.Contains(string(text), "\nunprovable\n") {
						err = errors.New(path + ": no regular file")
					}
					return err
				})
				within("read", func(context.Context) error {
					return audit.Read(dir, func(audit.Record) error { return nil })
				})
				within("newest", func(context.Context) error { _, _, err := audit.NewestHead(dir, verifier); return err })
				within("policy", func(context.Context) error { _, err := audit.Policy(dir, hash); return err })
				within("follow", func(ctx context.Context) error {
					return audit.Follow(ctx, dir, 0, audit.FollowOptions{}, func([]byte, audit.Record) error { return nil })
				})
				within("open", func(context.Context) error {
					l, err := audit.Open(dir, opts)
					if err == nil {
						err = l.Close()
					}
					return err
				})
			})
		}
	}
}
