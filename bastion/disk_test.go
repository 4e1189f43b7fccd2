package bastion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// A slowDisk is the real one, whose fsyncs call before first.
type slowDisk struct {
	audit.Disk
	before atomic.Pointer[func() error]
	syncs  atomic.Int64
}

func (d *slowDisk) OpenFile(name string, flag int, perm os.FileMode) (audit.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return slowFile{f, d}, nil
}

type slowFile struct {
	audit.File
	disk *slowDisk
}

func (f slowFile) Sync() error {
	f.disk.syncs.Add(1)
	if before := f.disk.before.Load(); before != nil {
		if err := (*before)(); err != nil {
			return err
		}
	}
	return f.File.Sync()
}

// hang lets every fsync wait until release is called.
func (d *slowDisk) hang(t *testing.T) (release func()) {
	hung := make(chan struct{})
	release = sync.OnceFunc(func() { close(hung) })
	t.Cleanup(release)
	before := func() error { <-hung; return nil }
	d.before.Store(&before)
	return release
}

// onDisk runs a bastion whose log is a real one.
func onDisk(t *testing.T, dir string, opts bastiontest.Options) (*bastiontest.Bastion, *slowDisk, *audit.Log) {
	t.Helper()
	d := &slowDisk{Disk: audit.RealDisk()}
	log, err := audit.Open(dir, audit.Options{Bastion: "test"}.On(d))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() }) // after the server has ended
	opts.Recorder = log
	return bastiontest.Start(t, opts), d, log
}

// written are the records that stand in the log.
func written(t *testing.T, dir string) (all []audit.Record) {
	t.Helper()
	if err := audit.Read(dir, func(r audit.Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	io.WriteString(conn, "x")
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatalf("the running forward: %v", err)
	}
}

func TestForwardsThatWaitForASlowDiskShareItsFsyncs(t *testing.T) {
	dir := t.TempDir()
	b, d, _ := onDisk(t, dir, bastiontest.Options{})
	port := bastiontest.Target(t, bastiontest.Echo)
	client := b.Dial()
	running := mustOpen(t, client, target(port))
	echoes(t, running)

	const fsync, many = time.Second, 50
	before := func() error { time.Sleep(fsync); return nil }
	d.before.Store(&before)
	syncs := d.syncs.Load()
	var opening sync.WaitGroup
	for range many {
		opening.Go(func() {
			conn, err := client.Dial("tcp", target(port))
			if err != nil {
				t.Errorf("a slow disk refuses a forward: %v", err)
				return
			}
			io.WriteString(conn, "x")
			io.ReadFull(conn, make([]byte, 1))
		})
	}
	began := time.Now()
	for range 100 {
		echoes(t, running)
	}
	if took := time.Since(began); took > fsync*many/2 {
		t.Errorf("a running forward was slowed: 100 echoes took %v", took)
	}
	opening.Wait()
	if n := d.syncs.Load() - syncs; n > many/5 {
		t.Errorf("%d forwards took %d fsyncs", many, n)
	}
	client.Close()
	bastiontest.Eventually(t, "all ends", func() bool { return bastiontest.CheckForwards(written(t, dir)) == nil })
}

func TestADiskThatHangsHoldsNobodyUpButNewForwards(t *testing.T) {
	const limit = 6 * time.Second // dial_timeout
	// What does not wait for the disk is given a second, recordWait, and what
	// the machine takes.
	const soon = limit / 2
	quickly := func(t *testing.T, what string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		if took := time.Since(began); took > soon {
			t.Errorf("%s took %v while the disk hung", what, took)
		}
	}
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("on_failure close %v", closes), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b, d, log := onDisk(t, dir, bastiontest.Options{
				Limits: func(l *bastion.Limits) { l.DialTimeout = limit },
				Config: func(c *bastion.Config) { c.CloseOnLogFailure = closes },
			})
			ended := make(chan struct{}, 100)
			port := bastiontest.Target(t, func(c *net.TCPConn) { bastiontest.Echo(c); ended <- struct{}{} })
			client := b.Dial()
			running, ending := mustOpen(t, client, target(port)), mustOpen(t, client, target(port))
			echoes(t, running)
			echoes(t, ending)
			release := d.hang(t)

			const many = 50
			refused := make(chan error, many)
			for range many {
				go func() {
					began := time.Now()
					_, err := client.Dial("tcp", target(port))
					var refusal *ssh.OpenChannelError
					switch took := time.Since(began); {
					case !errors.As(err, &refusal) || refusal.Reason != ssh.ResourceShortage || !strings.Contains(refusal.Message, "the audit log cannot be written"):
						err = fmt.Errorf("not refused: %v", err)
					case took < limit-time.Second || took > 2*limit:
						err = fmt.Errorf("refused after %v, not dial_timeout", took)
					default:
						err = nil
					}
					refused <- err
				}()
			}
			quickly(t, "a login", func() { b.Dial().Close() })
			quickly(t, "a denial", func() {
				_, err := client.Dial("tcp", "forbidden:1")
				openError(t, err)
			})
			quickly(t, "an end", func() {
				ending.Close()
				<-ended
			})
			quickly(t, "a refused request", func() {
				if ok, _, err := client.SendRequest("tcpip-forward", true, nil); ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			})
			quickly(t, "a running forward", func() {
				for range 100 {
					echoes(t, running)
				}
			})
			for range many {
				if err := <-refused; err != nil {
					t.Error(err)
				}
			}
			if closes {
				quickly(t, "on_failure", func() { running.Read(make([]byte, 1)); <-ended })
			} else {
				echoes(t, running)
			}
			if !strings.Contains(b.Lines.String(), "forward refused: the audit log cannot be written") {
				t.Error("the operational log does not say it")
			}

			began := time.Now()
			b.Server.Shutdown(context.Background())
			if took := time.Since(began); took > 2*limit {
				t.Errorf("the stop took %v", took)
			}
			release()

			// What this run did not come to write, the next one does.
			if err := log.Close(); err != nil {
				t.Error(err)
			}
			log, err := audit.Open(dir, audit.Options{Bastion: "test"})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			if err := bastiontest.CheckForwards(written(t, dir)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A record that could not be written is tried again by who waited for it.
func TestADiskThatFailsLosesNoEndAndLetsNobodyThrough(t *testing.T) {
	dir := t.TempDir()
	b, d, _ := onDisk(t, dir, bastiontest.Options{})
	var reached atomic.Int64
	port := bastiontest.Target(t, func(c *net.TCPConn) { reached.Add(1); bastiontest.Echo(c) })
	client := b.Dial()
	ending, running := mustOpen(t, client, target(port)), mustOpen(t, client, target(port))
	echoes(t, ending)
	echoes(t, running)

	fails := func() error { return errors.New("input/output error") }
	d.before.Store(&fails)
	ending.Close()
	bastiontest.Eventually(t, "its end cannot be recorded", func() bool {
		return strings.Contains(b.Lines.String(), "the end of a forward is not yet recorded")
	})
	if _, err := client.Dial("tcp", target(port)); err == nil || !strings.Contains(err.Error(), "the audit log cannot be written") {
		t.Errorf("a forward without a record: %v", err)
	}
	if _, err := client.Dial("tcp", "forbidden:1"); err == nil {
		t.Error("what is forbidden is opened")
	}
	echoes(t, running)
	if n := reached.Load(); n != 2 {
		t.Errorf("the target saw %d connections, want 2", n)
	}

	d.before.Store(nil)
	client.Close()
	bastiontest.Eventually(t, "each forward has its one end", func() bool {
		all := written(t, dir)
		ends := 0
		for _, rec := range all {
			if rec.Type == audit.ForwardClose {
				ends++
			}
		}
		return ends == 2 && bastiontest.CheckForwards(all) == nil
	})
}
