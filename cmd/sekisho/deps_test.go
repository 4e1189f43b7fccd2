package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImports holds the direction of imports: the packages that others may use
// know nothing of servers, of each other, or of how a program is set up.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "sekisho/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	may := map[string][]string{
		"sekisho/audit":            {"sekisho/audit/tree"},
		"sekisho/audit/tree":       {},
		"sekisho/audit/query":      {"sekisho/audit"},
		"sekisho/audit/audittest":  {"sekisho/audit"},
		"sekisho/audit/ship":       {"sekisho/audit"},
		"sekisho/hostsfile":        {},
		"sekisho/authz/strictyaml": {},
		"sekisho/authz/authkeys":   {"sekisho/authz/strictyaml"},
		"sekisho/authz/krl":        {},
		"sekisho/authz/policyedit": {"sekisho/authz/strictyaml"},
		"sekisho/authz":            {"sekisho/authz/authkeys", "sekisho/authz/krl", "sekisho/authz/strictyaml"},
		"sekisho/bastion":          {"sekisho/audit", "sekisho/authz"},
		"sekisho/bastion/admin":    {},
		"sekisho/cmd/sekisho": {
			"sekisho/audit", "sekisho/audit/query", "sekisho/audit/ship", "sekisho/audit/tree", "sekisho/authz", "sekisho/authz/authkeys", "sekisho/authz/krl", "sekisho/authz/policyedit", "sekisho/authz/strictyaml",
			"sekisho/bastion", "sekisho/bastion/admin", "sekisho/hostsfile",
		},
	}
	leaves := []string{
		"sekisho/audit", "sekisho/audit/tree", "sekisho/audit/query", "sekisho/audit/ship", "sekisho/audit/audittest", "sekisho/hostsfile", "sekisho/bastion/admin", "sekisho/authz/strictyaml", "sekisho/authz/authkeys", "sekisho/authz/krl", "sekisho/authz/policyedit", "sekisho/authz",
	}
	servers := []string{"github.com/sirupsen/logrus", "github.com/spf13/", "github.com/gliderlabs/"}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg, imports := words[0], words[1:]
		allowed, ours := may[pkg]
		if !ours {
			continue // tests of the whole
		}
		seen++
		for _, i := range imports {
			if strings.HasPrefix(i, "sekisho/") && !slices.Contains(allowed, i) {
				t.Errorf("%s imports %s", pkg, i)
			}
			if slices.Contains(leaves, pkg) && slices.ContainsFunc(servers, func(s string) bool { return strings.HasPrefix(i, s) }) {
				t.Errorf("%s imports %s", pkg, i)
			}
			if (strings.HasPrefix(i, "github.com/spf13/viper") || strings.HasPrefix(i, "github.com/prometheus/")) && pkg != "sekisho/cmd/sekisho" {
				t.Errorf("%s imports %s", pkg, i)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d of %d packages were found", seen, len(may))
	}
}

// TestTreeIsPure: what checks proofs reads no files and asks no network.
func TestTreeIsPure(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{join .Imports " "}}`, "sekisho/audit/tree").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range strings.Fields(string(out)) {
		if strings.Contains(i, ".") && !strings.HasPrefix(i, "golang.org/x/mod/sumdb/") || i == "os" || i == "io/fs" || strings.HasPrefix(i, "net") {
			t.Errorf("sekisho/audit/tree imports %s", i)
		}
	}
}

func TestOnlySettingsKnowsViper(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if name != "settings.go" && strings.Contains(string(content), "\t\"github.com/spf13/viper\"\n") {
			t.Errorf("%s imports viper", name)
		}
	}
}
