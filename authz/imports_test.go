package authz

import (
	goparser "go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A decision is pure: what could open a connection or read a clock of its own
// is not even imported, nor is any other package of ours.
func TestImports(t *testing.T) {
	allowed := map[string][]string{
		".":          {"bytes", "cmp", "crypto/ecdsa", "crypto/ed25519", "crypto/rsa", "crypto/sha256", "encoding/base64", "encoding/binary", "encoding/hex", "errors", "fmt", "io", "maps", "math", "math/bits", "net/netip", "regexp", "slices", "strconv", "strings", "time", "golang.org/x/crypto/ssh", "sekisho/authz/strictyaml", "sekisho/authz/authkeys", "sekisho/authz/krl"},
		"authkeys":   {"cmp", "crypto/rsa", "encoding/base64", "fmt", "io", "net/netip", "slices", "strconv", "strings", "time", "unicode", "unicode/utf8", "golang.org/x/crypto/ssh", "sekisho/authz/strictyaml"},
		"krl":        {"bytes", "cmp", "crypto/sha1", "crypto/sha256", "encoding/base64", "encoding/binary", "errors", "fmt", "math", "math/bits", "slices", "strconv", "strings", "time", "unicode", "unicode/utf8", "golang.org/x/crypto/ssh"},
		"policyedit": {"bytes", "cmp", "fmt", "regexp", "slices", "strconv", "strings", "time", "unicode", "unicode/utf8", "golang.org/x/crypto/ssh", "sekisho/authz/strictyaml"},
		"strictyaml": {"cmp", "errors", "fmt", "io", "iter", "math", "regexp", "slices", "strconv", "strings", "time", "unicode/utf8", "go.yaml.in/yaml/v3"},
	}
	for dir, paths := range allowed {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := goparser.ParseFile(token.NewFileSet(), file, nil, goparser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				if path, _ := strconv.Unquote(i.Path.Value); !slices.Contains(paths, path) {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	}
}

func TestDecideDoesNotAllocateToAllow(t *testing.T) {
	p := mustParse(t, testPolicy, testOptions)
	for _, r := range []Request{
		{User: "alice", Key: AnyKey, Host: "web-1.corp.example", Port: 80},
		{User: "alice", Key: AnyKey, Host: "appserver", Port: 80, Addr: addrs("10.0.1.5")[0]},
		{User: "dave", Key: AnyKey, Host: "10.0.3.3", Port: 22, Addr: addrs("10.0.3.3")[0]},
	} {
		if n := testing.AllocsPerRun(100, func() { p.Decide(r) }); n > 0 {
			t.Errorf("%+v: %v allocations", r, n)
		}
	}
}
