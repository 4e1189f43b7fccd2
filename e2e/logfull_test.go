//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sekisho/audit"
)

const logFull = "the audit log cannot be written, so no forward is opened"

func TestALogThatCannotBeWrittenStopsNewForwardsUntilItCan(t *testing.T) {
	t.Parallel()
	t.Run("a full disk", func(t *testing.T) {
		b := prepareBastion(t, setup{})
		b.startWithDisk(`mount -t tmpfs -o size=256k,mode=700 none "$1"`)
		filler := filepath.Join(b.auditAt, "filler")
		testLogFull(t, b, func() {
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, err = f.Write(make([]byte, 4096)); err == nil; {
				_, err = f.Write(make([]byte, 4096))
			}
			for err = nil; err == nil; { // the last page, too
				_, err = f.Write([]byte{0})
			}
		}, func() {
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("a limit on the size of files", func(t *testing.T) {
		b := newBastion(t, setup{})
		var before unix.Rlimit
		testLogFull(t, b, func() {
			limit := func() error { return unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Max: before.Max}, nil) }
			if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, nil, &before); err != nil {
				t.Fatal(err)
			}
			if err := limit(); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, &before, nil); err != nil {
				t.Fatal(err)
			}
		})
	})
	for _, on := range []string{"keep", "close"} {
		t.Run("a disk that is gone, and what runs: "+on, func(t *testing.T) {
			b := prepareBastion(t, setup{settings: map[string]any{"audit": map[string]any{"on_failure": on}}})
			at := b.auditAt
			// It is mounted twice, so that taking it away loses nothing.
			b.startWithDisk(`mkdir "$1.disk"; mount -t tmpfs -o mode=700 none "$1.disk"; mount --bind "$1.disk" "$1"`)
			testLogFull(t, b, func() { b.inMounts("umount", "-l", at) }, func() { b.inMounts("mount", "--bind", at+".disk", at) })
		})
		t.Run("a disk that turns read-only, and what runs: "+on, func(t *testing.T) {
			if _, err := os.Stat("/dev/loop-control"); err != nil {
				return
			}
			testLogReadOnly(t, on)
		})
	}
}

// startWithDisk starts the server with a disk of its own for its log, that
// mount, a shell script, mounts in the server's mount namespace only. It is
// there to be read until the test ends, or until leave is called.
func (b *bastion) startWithDisk(mount string) (leave func()) {
	t := b.t
	t.Helper()
	needRoot(t, "it mounts a small disk of its own")
	at := filepath.Join(b.dir, "audit")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	b.setup.wrap = []string{"unshare", "-m", "--propagation", "private", "sh", "-ec", mount + `; shift; exec "$@"`, "sh", at}
	b.start()
	// An open folder keeps the disk after the server has ended.
	disk, err := os.Open(fmt.Sprintf("/proc/%d/root%s", b.proc.pid(), at))
	if err != nil {
		t.Fatal(err)
	}
	p := b.proc
	t.Cleanup(func() {
		if b.proc == p && !b.stopped {
			b.stop()
		}
		disk.Close()
	})
	b.auditAt = fmt.Sprintf("/proc/self/fd/%d", disk.Fd())
	return func() { disk.Close() }
}

// inMounts runs a command in the server's mount namespace.
func (b *bastion) inMounts(args ...string) {
	b.t.Helper()
	succeeds(b.t, append([]string{"nsenter", "-m", "-t", fmt.Sprint(b.proc.pid())}, args...)...)
}

// testLogReadOnly has an ext4 turn read-only as it does when its disk fails.
// That is for good: such a disk is taken away, mended, and mounted again, and
// the server, whose files are on the old one, has to be started again for it.
func testLogReadOnly(t *testing.T, on string) {
	b := prepareBastion(t, setup{
		settings: map[string]any{"audit": map[string]any{"on_failure": on}},
		limits:   map[string]any{"dial_timeout": "3s"}, // bounds the stop
	})
	at, image := b.auditAt, filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "mkfs.ext4", "-q", image)
	mount := fmt.Sprintf(`mount -o loop '%s' "$1"; chmod 700 "$1"`, image)
	leave := b.startWithDisk(mount)
	host := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	running := c.mustOpen("appserver", host.port)
	running.echoes()

	b.inMounts("mount", "-o", "remount,abort", at)
	extra := b.refuses(c, host)
	if on == "close" {
		running.ends()
	} else {
		running.echoes()
	}

	b.proc.cmd.Process.Signal(syscall.SIGTERM)
	c.Close()
	b.proc.wait(t)
	b.stopped = true
	b.proc.says(t, `the stop is not recorded`)
	leave()
	b.startWithDisk(mount)
	again := b.login(alice(t)).mustOpen("appserver", host.port)
	again.echoes()
	again.Close()
	if f := b.forwards(extra + 2)[0]; f.end.Type != audit.ForwardLost {
		t.Errorf("the end of the forward that ran is %+v", f.end)
	}
}

// testLogFull uses a bastion before its disk is full or gone, while, and after.
func testLogFull(t *testing.T, b *bastion, fill, free func()) {
	keeps := !strings.Contains(fmt.Sprint(b.setup.settings["audit"]), "close")
	host := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	running, ending := c.mustOpen("appserver", host.port), c.mustOpen("appserver", host.port)
	running.echoes()
	ending.echoes()

	fill()
	extra := b.refuses(c, host)
	if keeps {
		running.echoes()
		ending.CloseWrite()
		ending.ends() // its end cannot be written now, and is not forgotten
		ending.Close()
	} else {
		running.ends()
		ending.ends()
	}
	// Orders are followed, and what is denied is told.
	if r := b.sekisho("reload"); r.code != 0 {
		t.Errorf("reload: exit %d: %s%s", r.code, r.out, r.err)
	}
	if refusal := c.refused("vault", 22); refusal.Reason != ssh.Prohibited {
		t.Errorf("what the policy denies is denied with %v", refusal)
	}

	free()
	var again *channel
	eventually(t, "forwards to be opened again", func() bool {
		ch, err := c.open("appserver", host.port)
		again = ch
		return err == nil
	})
	again.echoes()
	again.Close()
	if keeps {
		running.echoes()
		running.Close()
	}
	for i, f := range b.forwards(extra + 3) {
		var reasons []string
		if !keeps && i < 2 {
			reasons = []string{"log_failed"}
		}
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: reasons})
	}
}

// refuses opens forwards until one is refused, since the page or block at hand
// may still take a few records, and looks at how. It returns how many were
// opened.
func (b *bastion) refuses(c *raw, host *target) (opened int) {
	t := b.t
	t.Helper()
	var refusal *ssh.OpenChannelError
	for {
		ch, err := c.open("appserver", host.port)
		if errors.As(err, &refusal) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if opened++; opened == 100 {
			t.Fatal("forwards are still opened")
		}
		ch.Close()
	}
	if refusal.Reason != ssh.ResourceShortage || !matches(`^sekisho: `+logFull+` \[f\w+\]$`, refusal.Message) {
		t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
	}
	reached := host.accepted.Load()
	b.proc.says(t, `level=error.*forward refused: the audit log cannot be written`)
	// The connection that is there is told so by the stock client as well; a
	// login is not refused, since it reaches nothing.
	r := command(t, "", b.ssh("-W", host.as("appserver"), "bastion")...)
	if r.code != 255 || !matches(`open failed: resource shortage: sekisho: `+logFull, r.err) {
		t.Errorf("ssh ended with %d and said %s", r.code, r.err)
	}
	if n := host.accepted.Load(); n != reached {
		t.Errorf("the target was reached %d times without a record", n-reached)
	}
	return opened
}
