package authz

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/authz/authkeys"
	"sekisho/authz/strictyaml"
)

// testSigner holds the private key of testKey.
func testSigner(n int) ssh.Signer {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n))
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err)
	}
	return signer
}

// The authorities of the tests have these keys.
const (
	corpCA     = 101
	ciCA       = 102
	strangerCA = 199
)

const certPolicy = `
version: 1
users:
  - {name: alice, groups: [dev], keys: [KEY1]}
  - {name: bob, groups: [dba], keys: [KEY2], when: {from: [203.0.113.0/24], until: 2027-12-31}}
  - {name: Frank, groups: [dev]}
authorities:
  - {name: corp, key: CORP, principals: ["*"], groups: [staff]}
  - {name: ci, key: CI, principals: ["ci-*", deploy, alice]}
targets:
  - {name: web, hosts: [web], ports: [22]}
  - {name: db, hosts: [db], ports: [3306]}
  - {name: wiki, hosts: [wiki], ports: [443]}
  - {name: build, hosts: [build], ports: [22]}
grants:
  - {name: dev-web, groups: [dev], to: [web]}
  - {name: dba-db, groups: [dba], users: [carol], to: [db]}
  - {name: staff-wiki, groups: [staff], to: [wiki]}
  - {name: ci-build, users: [ci-1, deploy], to: [build]}
`

func fillAuthorities(text string) string {
	return strings.NewReplacer("CORP", `"`+keyLine(testKey(corpCA))+`"`, "CI,", `"`+keyLine(testKey(ciCA))+`",`).Replace(text)
}

func mustParseCerts(t testing.TB, text string) *Policy {
	t.Helper()
	return mustParse(t, fillAuthorities(text), testOptions)
}

// noon is when the certificates of the tests are valid.
var noon = time.Date(2027, 1, 13, 12, 0, 0, 0, time.UTC)

// makeCert makes a certificate over testKey(50), valid for two hours around
// noon, changed before it is signed. It comes back as from the wire.
func makeCert(t testing.TB, ca ssh.Signer, principals []string, change ...func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{
		Key: testKey(50), CertType: ssh.UserCert, KeyId: "id", Serial: 7, ValidPrincipals: principals,
		ValidAfter: uint64(noon.Add(-time.Hour).Unix()), ValidBefore: uint64(noon.Add(time.Hour).Unix()),
	}
	c.Extensions = map[string]string{"permit-port-forwarding": "", "permit-pty": ""}
	c.CriticalOptions = map[string]string{}
	for _, f := range change {
		f(c)
	}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return wired(t, c)
}

// wired reads a certificate back from the wire.
func wired(t testing.TB, c *ssh.Certificate) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func option(name, value string) func(*ssh.Certificate) {
	return func(c *ssh.Certificate) { c.CriticalOptions[name] = value }
}

func valid(after, before uint64) func(*ssh.Certificate) {
	return func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = after, before }
}

// mustIdentify returns whose a certificate is.
func mustIdentify(t testing.TB, p *Policy, key ssh.PublicKey) Identity {
	t.Helper()
	id, reason, detail := p.Identify("", key)
	if reason != "" {
		t.Fatalf("%s: %s", reason, detail)
	}
	return id
}

// ask makes a request of an identity whose client is where bob may be.
func (id Identity) ask(host string, port uint32, at time.Time) Request {
	return Request{User: id.User, Key: id.Key, Cert: id.Cert, Host: host, Port: port, Time: at, Source: netip.MustParseAddr("203.0.113.5")}
}

// keygen runs ssh-keygen in a folder.
func keygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", append([]string{"-q"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func readKey(t testing.TB, file string) ssh.PublicKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keygenCert makes a certificate of the file's key with ssh-keygen.
func keygenCert(t testing.TB, dir, ca, key string, args ...string) *ssh.Certificate {
	t.Helper()
	keygen(t, dir, append([]string{"-s", ca, "-I", "laptop of alice"}, append(args, key+".pub")...)...)
	return readKey(t, filepath.Join(dir, key+"-cert.pub")).(*ssh.Certificate)
}

// keyFile is a file of authorized_keys, with the keys of the tests in place of
// KEY1, … and of an authority's in place of CORP and CI.
func keyFile(user, text string) KeyFile {
	text = strings.NewReplacer("CORP", keyLine(testKey(corpCA)), "CI", keyLine(testKey(ciCA)), "KEY9", keyLine(testKey(9))).Replace(fill(text))
	f := KeyFile{User: user, Name: "keys/" + user}
	f.File, _ = authkeys.Parse(strings.NewReader(text), f.Name, time.UTC)
	return f
}

func unusable(user, why string) KeyFile {
	f := KeyFile{User: user, Name: "keys/" + user}
	f.Unusable = why
	return f
}

func messages(ps strictyaml.Problems) (out []string) {
	for _, p := range ps {
		out = append(out, p.Error())
	}
	return out
}
