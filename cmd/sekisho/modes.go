package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"sekisho/authz/strictyaml"
)

// modes looks at who could change the files that decide, as sshd's StrictModes
// does: whoever can write one, or a folder on the way to one, is the real
// administrator. Only the permission bits count; access control lists show in
// them as the group's.
//
// The files belong to root, or to the user that sekisho runs as if the
// configuration folder is his too. In a folder of root's, the serving user
// must not be able to change what decides, so none of it may be his, except
// the host keys, which he must be able to read and which nobody else may.
type modes struct {
	self   int    // who serves
	owners []int  // who may own what decides
	folder string // of the configuration, without links

	told     map[broken]bool // so that each path breaks a rule once, whoever looks
	problems strictyaml.Problems
}

// A broken is a rule that a path breaks.
type broken struct{ path, rule string }

// newModes begins with the configuration folder. The folder of the audit log,
// which belongs to who serves, tells root whom that is.
func newModes(folder, auditDir string, self int) *modes {
	m := &modes{self: self, owners: []int{0}, told: map[broken]bool{}}
	if info, err := os.Stat(auditDir); err == nil && self == 0 {
		m.self = ownerOf(info)
	}
	info, err := os.Stat(folder)
	if err != nil {
		return m // what is in it will be missed by whoever reads it
	}
	if owner := ownerOf(info); owner == m.self {
		m.owners = append(m.owners, owner)
	}
	if folder, err = filepath.Abs(folder); err == nil {
		m.folder, _ = filepath.EvalSymlinks(folder)
	}
	return m
}

// decides looks at a file that decides, and at the way to it. What is not
// there is for its reader to tell.
func (m *modes) decides(path string) { m.walk(path, m.owners, 0o022) }

// secret looks at a private key.
func (m *modes) secret(path string) {
	m.walk(path, append([]int{m.self}, m.owners...), 0o077)
}

// serving looks at a file that is no secret, and that may be who serves's.
func (m *modes) serving(path string) {
	m.walk(path, append([]int{m.self}, m.owners...), 0o022)
}

// audit looks at the folder of the audit log, which serve makes if need be.
func (m *modes) audit(dir string) {
	if _, err := os.Lstat(dir); err != nil {
		dir = filepath.Dir(dir)
		m.walk(dir, append([]int{m.self}, m.owners...), 0o022)
		return
	}
	m.walk(dir, append([]int{m.self}, m.owners...), 0o077)
}

// walk goes from the root to path, through symbolic links, and judges
// everything on the way by its owner, the folders by who can write them, and
// what it comes to by the mode bits that are forbidden.
func (m *modes) walk(path string, owners []int, forbidden fs.FileMode) {
	shown := path
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	at, rest := "/", strings.Split(strings.Trim(path, "/"), "/")
	for links := 0; ; {
		info, err := os.Lstat(at)
		if err != nil {
			return
		}
		link := info.Mode()&fs.ModeSymlink != 0
		final := len(rest) == 0 && !link
		name := at
		if at == path {
			name = shown
		}
		if !slices.Contains(owners, ownerOf(info)) && m.first(at, "owner") {
			m.owner(name, info, owners)
		}
		// Of a folder such as /tmp others cannot take a file away; but in
		// that of the configuration, those that they add count, too.
		switch sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0 && at != m.folder; {
		case link:
		case final && forbidden&^0o022 != 0 && info.Mode()&forbidden != 0:
			if m.first(at, "readable") {
				m.readable(name, info)
			}
		case info.Mode()&0o022 != 0 && (final || !sticky):
			if m.first(at, "writable") {
				m.writable(name, info)
			}
		}
		if link {
			target, err := os.Readlink(at)
			if links++; err != nil || links > 40 {
				return
			}
			at = filepath.Dir(at)
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
		}
		if len(rest) == 0 {
			return
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

// first reports whether it is the first time that the path breaks the rule.
func (m *modes) first(path, rule string) bool {
	b := broken{path, rule}
	told := m.told[b]
	m.told[b] = true
	return !told
}

func (m *modes) add(path, hint, format string, args ...any) {
	m.problems = append(m.problems, strictyaml.Problem{File: path, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (m *modes) owner(path string, info fs.FileInfo, owners []int) {
	owner := ownerOf(info)
	right := "root"
	if slices.Contains(owners, m.self) && m.self != 0 {
		right = "root or " + userName(m.self)
	}
	to := owners[len(owners)-1]
	name := strings.TrimPrefix(userName(to), "user ")
	m.add(path, "chown "+shellWord(name)+" "+shellWord(path), "belongs to %s, not to %s", userName(owner), right)
}

func (m *modes) writable(path string, info fs.FileInfo) {
	m.add(path, "chmod go-w "+shellWord(path), "can be written by others than its owner (mode %s)", mode(uint32(info.Mode().Perm())))
}

func (m *modes) readable(path string, info fs.FileInfo) {
	right := "0600"
	if info.IsDir() {
		right = "0700"
	}
	m.add(path, "chmod "+right+" "+shellWord(path), "is open to others than its owner (mode %s)", mode(uint32(info.Mode().Perm())))
}

func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

func groupOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Gid)
	}
	return -1
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}
