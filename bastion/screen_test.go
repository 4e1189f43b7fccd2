package bastion

import (
	"testing"

	"sekisho/authz"
)

func TestExamplesCanBeTyped(t *testing.T) {
	target := func(ports []string, hosts ...string) authz.GrantView {
		return authz.GrantView{Targets: []authz.TargetView{{Hosts: hosts, Ports: ports}}}
	}
	for _, test := range []struct {
		name          string
		grants        []authz.GrantView
		shell, tunnel string
	}{
		{"ssh and a database", []authz.GrantView{target([]string{"22"}, "web-*.corp.example", "appserver"), target([]string{"3306"}, "rds")}, "appserver", "13306:rds:3306"},
		{"a range that holds 22", []authz.GrantView{target([]string{"20-25"}, "a")}, "a", ""},
		{"no ssh", []authz.GrantView{target([]string{"38673"}, "web")}, "", "18673:web:38673"},
		{"a high port", []authz.GrantView{target([]string{"15432"}, "db")}, "", "25432:db:15432"},
		{"only a network", []authz.GrantView{target([]string{"22", "8000-8100"}, "10.0.0.0/8")}, "HOST", "18000:HOST:8000"},
		{"an IPv6 address", []authz.GrantView{target([]string{"5432"}, "fd00::5")}, "", "15432:[fd00::5]:5432"},
		{"nothing", nil, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			shell, tunnel := examples(test.grants)
			if shell != test.shell || tunnel != test.tunnel {
				t.Errorf("got %q, %q", shell, tunnel)
			}
		})
	}
}
