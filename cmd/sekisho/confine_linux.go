package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// confine gives up for good, on every thread, what the server needs no more
// once its files are read and its sockets listen. Whoever takes it over from
// outside then
//
//   - gains no right by any program (no_new_privs, prctl(2)), and starts none;
//   - listens on no other socket (both by seccomp(2));
//   - finds no core of it with keys in it, nor attaches to it as its own user;
//   - opens only files below the folders of places (landlock(7)).
//
// The last is by folder and not by file, since files are replaced by renaming
// others into their places. Connections out are not restricted by the kernel:
// where they may go changes with the policy, and the fence sees to it.
//
// What the kernel does not have is said, and with "confine: require" is the
// error. A folder that is another file system's by the time that it is used, or
// to which a link leads only then, is outside.
func (svc *service) confine() error {
	mode := svc.setup.settings.Confine
	if os.Geteuid() == 0 {
		svc.log.WithField("hint", `give it a user of its own, and port 22 by sekisho.socket: see "Run it as a service" in the README`).
			Warn("sekisho runs as root, which it never needs: whoever took it over would have the machine")
	}
	lacking := giveUpRights()
	var confined *places
	switch {
	case mode == confineOff:
		lacking = append(lacking, errors.New("confine is off in "+svc.setup.config))
	case landlockVersion() == 0:
		lacking = append(lacking, errors.New("this kernel has no Landlock, or is not started with it (lsm= on its command line)"))
	default:
		if _, err := x509.SystemCertPool(); err != nil { // read now, since later it is outside
			svc.log.WithError(err).Debug("the system's certificate authorities cannot be read")
		}
		p := svc.setup.places(os.Geteuid() == 0)
		if err := p.enforce(); err != nil {
			lacking = append(lacking, fmt.Errorf("Landlock: %w", err))
			break
		}
		confined = p
		svc.places = p
	}
	if len(lacking) > 0 && mode == confineRequire {
		return failf(`write "confine: auto" to serve all the same, with a warning`, "the server cannot be confined: %w", errors.Join(lacking...))
	}
	for _, why := range lacking {
		svc.log.WithField("reason", why.Error()).Warn("the server is not confined as it could be")
	}
	if confined != nil {
		svc.log.WithFields(logrus.Fields{
			"landlock": landlockVersion(), "reads": strings.Join(confined.reads, " "),
			"writes": strings.Join(confined.writes, " "), "removes": strings.Join(confined.clears, " "),
		}).Info("confined: it can open no file elsewhere, start no program, and listen nowhere else")
	}
	return nil
}

// neverCalled are system calls that a server that listens needs no more.
// Landlock could forbid to bind TCP ports, but multipath TCP's would be left
// (IPPROTO_MPTCP); and io_uring could do without any call by name.
var neverCalled = []uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_LISTEN, unix.SYS_IO_URING_SETUP}

// giveUpRights gives up what needs no list of files, and returns what could
// not be.
func giveUpRights() (lacking []error) {
	failed := func(what string, err error) {
		if err != nil {
			lacking = append(lacking, fmt.Errorf("%s: %w", what, err))
		}
	}
	// Each thread has its own; those that are made later take it over.
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		failed("no_new_privs", errno)
	}
	failed("execute nothing, and listen nowhere else", forbidCalls(unix.EPERM, neverCalled...))
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	if err == nil && core != (unix.Rlimit{}) {
		err = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	}
	failed("no core dumps", err)
	failed("not dumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)) // RLIMIT_CORE is not asked where cores are piped to a program
	return lacking
}

// landlockVersion is the version of Landlock's interface that the kernel has;
// 0: none.
func landlockVersion() int {
	v, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return v
}

// places are where files may be opened: folders with all that is below them,
// or single files.
type places struct {
	reads  []string
	writes []string // and read
	clears []string // where no more may be done than remove files

	own *os.File // holds /proc/self, see enforce
}

// places returns what the server may still need. Nothing that decides is
// written by it: commands do that.
func (s *setup) places(root bool) *places {
	p := &places{}
	read := func(paths ...string) {
		for _, path := range paths {
			p.reads = append(p.reads, foldersOf(path)...)
		}
	}
	read(s.config, s.path(s.settings.Policy), s.path(s.settings.Hosts), s.path(s.settings.Locks))
	for _, name := range s.settings.RevokedKeys {
		read(s.path(name))
	}
	read(s.paths(s.settings.HostKeys)...)
	read(s.paths(s.settings.HostCertificates)...)
	if dir := s.settings.AuthorizedKeysDir; dir != "" {
		read(filepath.Join(s.path(dir), "any"))
	}
	files := s.syslogTLS()
	for _, path := range []string{files.CA, files.Cert, files.Key} {
		if path != "" {
			read(path)
		}
	}

	p.writes = append(p.writes, absolute(s.path(s.settings.Audit.Dir)))
	if cursor := s.settings.Audit.Syslog.Cursor; cursor != "" {
		p.writes = append(p.writes, foldersOf(s.path(cursor))...)
	}
	if socket := s.settings.Admin.Socket; socket != "" {
		p.clears = append(p.clears, foldersOf(s.path(socket))...)
	}
	if socket := s.settings.Metrics.Listen; isSocket(socket) {
		p.clears = append(p.clears, foldersOf(s.path(socket))...)
	}

	// The machine's own: where its name servers are, what its users are
	// called, its time zones, and how much of it there is. Its programs rename
	// other files into the places of those in /etc, so that the folder is
	// needed; others' secrets in there are not this user's to read. Root could
	// read them all: he gets the files alone, and sees no others in their
	// places until a restart.
	if root {
		p.reads = append(p.reads, "/etc/resolv.conf", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/localtime")
	} else {
		p.reads = append(p.reads, "/etc")
	}
	if to, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && filepath.Dir(to) != "/etc" {
		p.reads = append(p.reads, filepath.Dir(to))
	}
	p.reads = append(p.reads, "/usr/share/zoneinfo", "/sys/fs/cgroup", "/proc/self")
	for _, list := range []*[]string{&p.reads, &p.writes, &p.clears} {
		slices.Sort(*list)
		*list = slices.DeleteFunc(slices.Compact(*list), isNotExist)
	}
	return p
}

// foldersOf are the folder of a file and, if it is a link, that of the file to
// which it leads.
func foldersOf(path string) []string {
	folders := []string{filepath.Dir(absolute(path))}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		folders = append(folders, filepath.Dir(absolute(to)))
	}
	return folders
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

const (
	mayReadFile = ll.AccessFSReadFile
	mayRead     = mayReadFile | ll.AccessFSReadDir
	mayWrite    = mayRead | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSMakeDir |
		ll.AccessFSMakeSym | ll.AccessFSRemoveFile | ll.AccessFSRemoveDir
	mayClear = ll.AccessFSRemoveFile
)

// enforce leaves nothing but the places. A kernel that has only a part of it,
// enforces that: versions below 3 do not know of truncating.
func (p *places) enforce() (err error) {
	// The kernel knows a folder by its inode, and forgets those of /proc when
	// memory is short, unless somebody has them open.
	if p.own, err = os.Open("/proc/self"); err != nil {
		return err
	}
	var rules []landlock.Rule
	add := func(access landlock.AccessFSSet, paths []string) {
		for _, path := range paths {
			allowed := access
			if info, err := os.Stat(path); err == nil && !info.IsDir() {
				allowed &= mayReadFile
			}
			rules = append(rules, landlock.PathAccess(allowed, path).IgnoreIfMissing())
		}
	}
	add(mayRead, p.reads)
	add(mayWrite, p.writes)
	add(mayClear, p.clears)
	return landlock.V5.BestEffort().RestrictPaths(rules...)
}
