//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const logFull = "the audit log cannot be written, so no forward is opened"

func TestALogThatCannotBeWrittenStopsNewForwardsUntilItCan(t *testing.T) {
	t.Parallel()
	t.Run("a full disk", func(t *testing.T) {
		needRoot(t, "it mounts a small disk of its own")
		b := prepareBastion(t, setup{})
		if err := os.Mkdir(b.auditAt, 0o700); err != nil {
			t.Fatal(err)
		}
		// The disk is only in the server's mount namespace.
		b.setup.wrap = []string{"unshare", "-m", "--propagation", "private", "sh", "-ec",
			`mount -t tmpfs -o size=256k,mode=700 none "$1"; shift; exec "$@"`, "sh", b.auditAt}
		b.start()
		// An open folder keeps the disk after the server has ended.
		disk, err := os.Open(fmt.Sprintf("/proc/%d/root%s", b.proc.pid(), b.auditAt))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.stop(); disk.Close() })
		b.auditAt = fmt.Sprintf("/proc/self/fd/%d", disk.Fd())
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
}

// testLogFull uses a bastion before its disk is full, while, and after.
func testLogFull(t *testing.T, b *bastion, fill, free func()) {
	host := serve(t, appserverIP, echo)
	c := b.login(alice(t))
	running, ending := c.mustOpen("appserver", host.port), c.mustOpen("appserver", host.port)
	running.echoes()
	ending.echoes()

	fill()
	// The page or block at hand may still take a few records.
	var refusal *ssh.OpenChannelError
	extra := 0
	for extra = 0; refusal == nil; extra++ {
		ch, err := c.open("appserver", host.port)
		if err == nil {
			if extra == 100 {
				t.Fatal("forwards are still opened")
			}
			ch.Close()
			continue
		}
		refusal, _ = err.(*ssh.OpenChannelError)
		if refusal == nil {
			t.Fatal(err)
		}
	}
	extra--
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
	running.echoes() // on_failure: keep
	ending.CloseWrite()
	ending.ends() // its end cannot be written now, and is not forgotten
	ending.Close()

	free()
	var again *channel
	eventually(t, "forwards to be opened again", func() bool {
		ch, err := c.open("appserver", host.port)
		again = ch
		return err == nil
	})
	again.echoes()
	again.Close()
	running.echoes()
	running.Close()
	for _, f := range b.forwards(extra + 3) {
		f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP})
	}
}
