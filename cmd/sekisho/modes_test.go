package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// needRoot skips a test that gives files to others, or in CI fails it, unless it
// runs as root.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") != "":
		t.Fatal("this test needs root, and in CI nothing is skipped")
	default:
		t.Skip("this test needs root")
	}
}

func TestOwners(t *testing.T) {
	needRoot(t)
	const service, other = 1001, 1002
	for _, test := range []struct {
		name   string
		self   int            // who runs sekisho
		folder int            // who owns the folder and, if not said otherwise, all in it
		owners map[string]int // who owns others
		want   []string       // the files that are refused
	}{
		{"all root's, run by root", 0, 0, nil, nil},
		{"all his own", service, service, nil, nil},
		{"root's files in his own folder", service, service, map[string]int{"policy.yaml": 0, "hosts": 0}, nil},
		{"another's file in his own folder", service, service, map[string]int{"policy.yaml": other}, []string{"policy.yaml"}},
		{"another's folder", service, other, nil, []string{".", "audit", "hosts", "key", "policy.yaml", "sekisho.yaml"}},
		{"another's folder, run by root", 0, other, map[string]int{"audit": 0}, []string{".", "hosts", "key", "policy.yaml", "sekisho.yaml"}},
		{"root's folder, with log and keys of the service", service, 0, map[string]int{"audit": service, "key": service}, nil},
		{"the same, looked at by root", 0, 0, map[string]int{"audit": service, "key": service}, nil},
		{"root's folder with files of the service", service, 0, map[string]int{"audit": service, "policy.yaml": service, "hosts": service, "sekisho.yaml": service}, []string{"hosts", "policy.yaml", "sekisho.yaml"}},
		{"the same, looked at by root", 0, 0, map[string]int{"audit": service, "policy.yaml": service}, []string{"policy.yaml"}},
		{"another's key", service, 0, map[string]int{"key": other}, []string{"key"}},
		{"another's log", service, 0, map[string]int{"audit": other}, []string{"audit"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"sekisho.yaml", "policy.yaml", "hosts", "key"} {
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "audit"), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"sekisho.yaml", "policy.yaml", "hosts", "key", "audit", "."} {
				owner, ok := test.owners[name]
				if !ok {
					owner = test.folder
				}
				if err := os.Chown(filepath.Join(dir, name), owner, -1); err != nil {
					t.Fatal(err)
				}
			}
			m := newModes(dir, filepath.Join(dir, "audit"), test.self)
			for _, name := range []string{"sekisho.yaml", "policy.yaml", "hosts"} {
				m.decides(filepath.Join(dir, name))
			}
			m.secret(filepath.Join(dir, "key"))
			m.audit(filepath.Join(dir, "audit"))
			var got []string
			for _, p := range m.problems {
				name, _ := filepath.Rel(dir, p.File)
				got = append(got, name)
				if !strings.Contains(p.Message, "belongs to ") || !strings.HasPrefix(p.Hint, "chown ") {
					t.Errorf("%v", p)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("refused are %v, want %v", got, test.want)
			}
		})
	}
}

func TestLinksOfOthersAreRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("policy.yaml", link); err != nil {
		t.Fatal(err)
	}
	m := newModes(dir, "", 0)
	m.decides(link)
	if len(m.problems) > 0 {
		t.Error(m.problems)
	}
	if err := os.Lchown(link, 1001, -1); err != nil {
		t.Fatal(err)
	}
	m = newModes(dir, "", 0)
	m.decides(link)
	wantProblem(t, m.problems, link+": belongs to ")
}

// What is looked at under two rules must keep both.
func TestTheStricterRuleCountsToo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := newModes(dir, dir, os.Geteuid())
	m.decides(file)
	if m.problems.Err() != nil {
		t.Fatal(m.problems)
	}
	m.secret(file)
	m.secret(file)
	m.audit(dir)
	wantProblem(t, m.problems, file+": is open to others")
	wantProblem(t, m.problems, dir+": is open to others")
	if len(m.problems) != 2 {
		t.Errorf("told are %v", m.problems)
	}
}

func TestLinksInACircleEnd(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("b", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	m := newModes(dir, "", os.Geteuid())
	m.decides(filepath.Join(dir, "a"))
	if m.problems.Err() != nil {
		t.Error(m.problems)
	}
}
