package authz

import (
	"testing"
	"time"
)

const rolesPolicy = `
version: 1
users:
  - {name: alice, groups: [ops], keys: [KEY1]}
  - {name: bob, groups: [audit], keys: [KEY2], require: [touch]}
  - {name: dave, groups: [ops], keys: [KEY3], when: {from: [203.0.113.0/24], until: 2027-06-30, hours: ["09:00-17:00 UTC"]}}
  - {name: erin, keys: [KEY4]}
authorities:
  - {name: corp, key: CORP, principals: ["*"], groups: [staff]}
roles:
  admin: {groups: [ops, staff], require: [touch]}
  auditor: {users: [erin, carol], groups: [audit, staff], certificates: true}
`

func TestRoles(t *testing.T) {
	p := mustParseCerts(t, rolesPolicy)
	key := func(user string, n int) Identity { return Identity{User: user, Key: fingerprint(n)} }
	cert := func(user string) Identity {
		return mustIdentify(t, p, makeCert(t, testSigner(corpCA), []string{user}))
	}
	var none time.Time
	for _, tt := range []struct {
		name  string
		id    Identity
		role  Role
		touch bool
		at    time.Time
		has   bool
	}{
		{"by a group, touched", key("alice", 1), Admin, true, noon, true},
		{"by a group, touched, at a time that is not known", key("alice", 1), Admin, true, none, true},
		{"by a group, not touched", key("alice", 1), Admin, false, noon, false},
		{"another role", key("alice", 1), Auditor, true, noon, false},
		{"a role that is none", key("alice", 1), "", true, noon, false},
		{"a role that nobody knows", key("alice", 1), "root", true, noon, false},
		{"by name", key("erin", 4), Auditor, false, noon, true},
		{"by name, another role", key("erin", 4), Admin, true, noon, false},
		{"a user who must touch, touched", key("bob", 2), Auditor, true, noon, true},
		{"a user who must touch, not touched", key("bob", 2), Auditor, false, noon, false},
		{"a user within his own conditions", key("dave", 3), Admin, true, noon, true},
		{"a user outside his hours", key("dave", 3), Admin, true, noon.Add(6 * time.Hour), false},
		{"a user past his end", key("dave", 3), Admin, true, noon.AddDate(1, 0, 0), false},
		{"a user with conditions at a time that is not known", key("dave", 3), Admin, true, none, false},
		{"another's key", key("alice", 4), Admin, true, noon, false},
		{"a key that is nobody's", key("alice", 9), Admin, true, noon, false},
		{"no key", Identity{User: "alice"}, Admin, true, noon, false},
		{"nobody", Identity{}, Admin, true, noon, false},
		{"a user in another case", key("Alice", 1), Admin, true, noon, false},
		{"by certificate, where it does not come by one", cert("alice"), Admin, true, noon, false},
		{"by certificate, by the group of the authority, where it does not come by one", cert("zoe"), Admin, true, noon, false},
		{"by certificate, where it may", cert("erin"), Auditor, false, noon, true},
		{"by certificate, where only the role names the user", cert("carol"), Auditor, false, noon, true},
		{"by certificate, by the group of the authority", cert("zoe"), Auditor, false, noon, true},
		{"by certificate, once it has ended", cert("erin"), Auditor, false, noon.Add(time.Hour), false},
		{"by certificate, at a time that is not known", cert("erin"), Auditor, false, none, false},
		{"the certificate of another", Identity{User: "erin", Key: fingerprint(50), Cert: cert("alice").Cert}, Auditor, false, noon, false},
		{"by key, whom only the role names", key("carol", 1), Auditor, false, noon, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.id.ask("", 0, tt.at)
			r.Touch = tt.touch
			if got := p.HasRole(r, tt.role); got != tt.has {
				t.Errorf("%v", got)
			}
			files := []KeyFile{unusable(tt.id.User, "is gone")}
			shut, _ := p.WithKeys(files)
			for name, p := range map[string]*Policy{
				"locked":        p.WithLocks((*Locks)(nil).With(Lock{User: tt.id.User}), nil),
				"revoked":       p.WithLocks((*Locks)(nil).With(Lock{Key: tt.id.Key}), nil),
				"without roles": mustParseCerts(t, certPolicy), "nil": nil, "zero": {},
			} {
				if tt.id.User != "" && p.HasRole(r, tt.role) && !(name == "revoked" && tt.id.Key == "") {
					t.Errorf("%s, yet in the role", name)
				}
			}
			if p.users[tt.id.User] != nil && shut.HasRole(r, tt.role) {
				t.Error("his file cannot be used, yet in the role")
			}
			// A lockdown takes nobody's role, and gives none.
			if got := p.WithLocks((*Locks)(nil).With(Lock{}), nil).HasRole(r, tt.role); got != tt.has {
				t.Errorf("in a lockdown: %v", got)
			}
		})
	}
	// A key whose file narrows it.
	q, _ := p.WithKeys([]KeyFile{keyFile("erin", `from="10.0.0.0/8" KEY4`)})
	if q.HasRole(key("erin", 4).ask("", 0, noon), Auditor) {
		t.Error("from elsewhere than the key allows")
	}
	if q, _ = p.WithKeys([]KeyFile{keyFile("erin", `restrict KEY4`)}); !q.HasRole(key("erin", 4).ask("", 0, noon), Auditor) {
		t.Error("a key that is not for forwarding may yet read")
	}
}
