package main

import (
	"os"
	"testing"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// floors are the lowest versions of modules that may be built with, and what
// is wrong with those below.
var floors = map[string]struct{ version, since string }{
	"golang.org/x/crypto": {"v0.56.0", "CVE-2024-45337 (the key of another), CVE-2025-22869 (keys never renewed), CVE-2026-39827 (refused opens leak), " +
		"CVE-2026-39830 (unsolicited replies), CVE-2026-56855 and CVE-2026-78662 (the loop over a connection's packets stands still)"},
	"github.com/gliderlabs/ssh":  {"v0.3.8", "the one whose traps are known"},
	"github.com/sirupsen/logrus": {"v1.10.2", "the one that was measured"},
	"github.com/spf13/viper":     {"v1.21.0", "the one whose traps are known"},
}

// gliderlabs/ssh asks for golang.org/x/crypto v0.31 only: it is our go.mod that
// holds the fixes.
func TestNoModuleIsOlderThanItsFixes(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		t.Fatal(err)
	}
	required := map[string]string{}
	for _, r := range file.Require {
		required[r.Mod.Path] = r.Mod.Version
	}
	for path, floor := range floors {
		switch version := required[path]; {
		case version == "":
			t.Errorf("%s is not required", path)
		case semver.Compare(version, floor.version) < 0:
			t.Errorf("%s %s is older than %s: %s", path, version, floor.version, floor.since)
		}
	}
	for _, r := range file.Replace {
		if _, ours := floors[r.Old.Path]; ours {
			t.Errorf("%s is replaced by %s %s, of which nobody knows which fixes it has", r.Old.Path, r.New.Path, r.New.Version)
		}
	}
}
