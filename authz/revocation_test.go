package authz

import (
	"os"
	"path/filepath"
	"testing"

	"sekisho/authz/krl"
)

// revocationList makes a list of a specification with ssh-keygen.
func revocationList(t *testing.T, name, spec string) RevocationList {
	t.Helper()
	dir := t.TempDir()
	for file, text := range map[string]string{"spec": spec, "ca.pub": keyLine(testKey(corpCA)) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	keygen(t, dir, "-k", "-f", "list", "-s", "ca.pub", "spec")
	content, err := os.ReadFile(filepath.Join(dir, "list"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := krl.Parse(content)
	if err != nil {
		t.Fatal(err)
	}
	return RevocationList{Name: name, List: list}
}

func TestRevocationLists(t *testing.T) {
	p, _ := mustParseCerts(t, certPolicy).WithKeys([]KeyFile{keyFile("alice", "KEY9")})
	policyKey, fileKey := Identity{User: "alice", Key: fingerprint(1)}, Identity{User: "alice", Key: fingerprint(9)}
	cert := mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{"alice"}))
	byCI := mustIdentify(t, p, makeCert(t, testSigner(ciCA), []string{"alice"}))
	for _, tt := range []struct {
		name, spec string
		detail     string // by which it is revoked
		revoked    []Identity
		not        []Identity
	}{
		{"a key of the policy", "key: " + keyLine(testKey(1)), "list.krl revokes the key itself", []Identity{policyKey}, []Identity{fileKey, cert, byCI}},
		{"a key of a file", "hash: " + fingerprint(9), "list.krl revokes its SHA-256 fingerprint", []Identity{fileKey}, []Identity{policyKey, cert, byCI}},
		{"a key in a certificate", "key: " + keyLine(testKey(50)), "list.krl revokes the key itself", []Identity{cert, byCI}, []Identity{policyKey, fileKey}},
		{"an authority's key", "key: " + keyLine(testKey(ciCA)), "list.krl revokes its authority's key", []Identity{byCI}, []Identity{policyKey, fileKey, cert}},
		{"a serial of an authority", "serial: 5-9", "list.krl revokes serial 7 of authority " + fingerprint(corpCA), []Identity{cert}, []Identity{policyKey, fileKey, byCI}},
		{"another serial", "serial: 8", "", nil, []Identity{policyKey, fileKey, cert, byCI}},
		{"an id", "id: id", `list.krl revokes key id "id" of authority ` + fingerprint(corpCA), []Identity{cert}, []Identity{policyKey, fileKey, byCI}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := revocationList(t, "list.krl", tt.spec+"\n")
			empty := RevocationList{Name: "empty.krl"}
			q := p.WithLocks(nil, []RevocationList{empty, list})
			judge := func(q *Policy, id Identity, want Reason, detail string) {
				t.Helper()
				for _, running := range []bool{false, true} {
					r := id.ask("web", 22, noon)
					r.Running = running
					if d := q.Decide(r); d.Reason != want || d.Detail != detail {
						t.Errorf("%+v", d)
					}
					checkExplanation(t, q, r)
				}
				if reason, _, _ := q.HoldsNow(id, source5, noon); (reason == Revoked) != (want == Revoked) {
					t.Errorf("holds now: %q", reason)
				}
			}
			for _, id := range tt.revoked {
				judge(q, id, Revoked, tt.detail)
				judge(q.WithLocks(nil, nil), id, Granted, "")
				judge(q.WithLocks((*Locks)(nil).With(Lock{User: "alice"}), q.lists), id, Locked, "alice is locked")
			}
			for _, id := range tt.not {
				judge(q, id, Granted, "")
			}
		})
	}
	// A key that comes into a file once the list is there is in it, too.
	q := mustParseCerts(t, certPolicy).WithLocks(nil, []RevocationList{revocationList(t, "list.krl", "key: "+keyLine(testKey(9))+"\n")})
	q, _ = q.WithKeys([]KeyFile{keyFile("alice", "KEY9")})
	if d := q.Decide(fileKey.ask("web", 22, noon)); d.Reason != Revoked {
		t.Errorf("%+v", d)
	}
}
