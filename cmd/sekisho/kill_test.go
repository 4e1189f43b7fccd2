package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/bastion"
)

func TestWhatIsToBeKilledIsNamedInOneWay(t *testing.T) {
	const conn, forward = "caaaabbbbccccdddd", "faaaabbbbccccdddd"
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name string
		want wantKill
		says string // of the error
		aims []bastion.Selection
	}{
		{"nothing", wantKill{}, "kill takes ids, or one --user, or one --target", nil},
		{"two ways", wantKill{IDs: []string{conn}, User: "alice"}, "kill takes ids, or one --user, or one --target", nil},
		{"two other ways", wantKill{User: "alice", Target: "rds"}, "kill takes ids, or one --user, or one --target", nil},
		{"a connection and a forward", wantKill{IDs: []string{conn, forward}}, "", []bastion.Selection{{ID: conn}, {ID: forward}}},
		{"one twice", wantKill{IDs: []string{conn, conn}}, "", []bastion.Selection{{ID: conn}}},
		{"the beginning of an id", wantKill{IDs: []string{conn[:8]}}, "is not the id of a connection", nil},
		{"an empty id", wantKill{IDs: []string{""}}, "is not the id of a connection", nil},
		{"a user without the word", wantKill{IDs: []string{"alice"}}, "is not the id of a connection", nil},
		{"an id in upper case", wantKill{IDs: []string{strings.ToUpper(conn)}}, "is not the id of a connection", nil},
		{"a user named as a connection is", wantKill{User: conn}, "", []bastion.Selection{{User: conn}}},
		{"a host", wantKill{Target: "rds"}, "", []bastion.Selection{{Host: "rds"}}},
		{"a host in other spelling", wantKill{Target: "RDS.Corp.:3306"}, "", []bastion.Selection{{Host: "rds.corp", Port: 3306}}},
		{"an IPv4 address", wantKill{Target: "10.0.0.1"}, "", []bastion.Selection{{Addr: addr("10.0.0.1")}}},
		{"an IPv4 address and a port", wantKill{Target: "10.0.0.1:22"}, "", []bastion.Selection{{Addr: addr("10.0.0.1"), Port: 22}}},
		{"an IPv6 address", wantKill{Target: "fd00::1"}, "", []bastion.Selection{{Addr: addr("fd00::1")}}},
		{"an IPv6 address and a port", wantKill{Target: "[fd00::1]:22"}, "", []bastion.Selection{{Addr: addr("fd00::1"), Port: 22}}},
		{"an IPv4 address as IPv6", wantKill{Target: "::ffff:10.0.0.1"}, "", []bastion.Selection{{Addr: addr("10.0.0.1")}}},
		{"a pattern", wantKill{Target: "*.corp"}, "no forward can go there", nil},
		{"a network", wantKill{Target: "10.0.0.0/8"}, "no forward can go there", nil},
		{"half an address", wantKill{Target: "0x7f.1"}, "no forward can go there", nil},
		{"a host without its name", wantKill{Target: ":3306"}, "no forward can go there", nil},
		{"port 0", wantKill{Target: "rds:0"}, "0 is not a port", nil},
		{"a port that is too high", wantKill{Target: "rds:65536"}, "65536 is not a port", nil},
		{"a port that is none", wantKill{Target: "rds:ssh"}, `"ssh" is not a port`, nil},
		{"a host with two ports", wantKill{Target: "rds:1:2"}, "is not a host and a port", nil},
		{"too many", wantKill{IDs: make([]string, mostKilled+1)}, "kill takes at most 1000 ids", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			aims, err := test.want.aims()
			var usage *usageError
			if test.says != "" {
				if !errors.As(err, &usage) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v, want %q", err, test.says)
				}
				return
			}
			var got []bastion.Selection
			for _, a := range aims {
				got = append(got, a.selection)
			}
			if err != nil || !reflect.DeepEqual(got, test.aims) {
				t.Errorf("%+v, %v, want %+v", got, err, test.aims)
			}
		})
	}
}

func TestTablesCutNothingOffAndPrintNothingStrange(t *testing.T) {
	var b strings.Builder
	long := strings.Repeat("x", 200)
	table{{"ID", "USER", "END"}, {"関所", "a\x1b[2J\nb", ""}, {"c", long, "z"}}.write(&b)
	want := fmt.Sprintf("ID  USER%s  END\n関所  a\uFFFD[2J\uFFFDb\nc   %s  z\n", strings.Repeat(" ", 196), long)
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
}

func TestAFailureIsForgottenWhenItsKindIsGoodAgain(t *testing.T) {
	var a attempts
	a.taken("start")
	a.bad(bySignal, "x")
	a.bad("hosts", "y")
	a.good("locks")
	policy, last, failed := a.now()
	if policy.By != "start" || last.By != "hosts" || last.Error != "y" || len(failed) != 2 || failed[0].Error != "x" {
		t.Errorf("%+v, %+v, %+v", policy, last, failed)
	}
	a.good("hosts")
	a.taken("authorized_keys")
	if _, last, failed := a.now(); len(failed) != 1 || failed[0].By != bySignal || last.By != "authorized_keys" {
		t.Errorf("%+v, %+v", last, failed)
	}
	a.taken(byCommand)
	if policy, last, failed := a.now(); len(failed) != 0 || policy.By != byCommand || last != policy {
		t.Errorf("%+v, %+v, %+v", policy, last, failed)
	}
}

// A script that reads nothing but the exit status must see that the book does
// not have it; and a person must not miss it.
func TestWhatKillTells(t *testing.T) {
	for _, test := range []struct {
		name     string
		killed   killed
		out, err string
		status   int
	}{
		{"all is well", killed{Connections: 1, Forwards: 2}, "1 connection, 2 forwards ended\n", "", exitOK},
		{"nothing is there", killed{Missing: []string{"user alice"}}, "", "sekisho: error: nothing is open of user alice\nsekisho: hint: sekisho sessions lists what runs\n", exitError},
		{"not recorded", killed{Forwards: 1, Unrecorded: "disk full"}, "0 connections, 1 forward ended\n",
			"sekisho: error: IT IS NOT RECORDED: the audit log could not be written: disk full\nsekisho: hint: note down what was ended, and see what the log has: sekisho status\n", exitError},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out, errs strings.Builder
			status := report(&errs, test.killed.tell(stdio{nil, &out, &errs}))
			if out.String() != test.out || errs.String() != test.err || status != test.status {
				t.Errorf("%d\n%s\n%s", status, &out, &errs)
			}
		})
	}
}

func TestKillActsWithinASecondThoughTheLogFails(t *testing.T) {
	svc, dir, out := startTest(t)
	if err := os.Rename(dir+"/audit/lock", dir+"/audit/away"); err != nil {
		t.Fatal(err)
	}
	done, err := svc.kill(wantKill{User: demoUser}, "root")
	if err != nil || len(done.Missing) != 1 || done.Unrecorded != "" {
		t.Errorf("nobody is there: %+v, %v", done, err)
	}
	serving := make(chan error, 1)
	go func() { serving <- svc.server.Serve(svc.listeners[0]) }()
	pem, err := os.ReadFile(dir + "/demo_key")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", svc.listeners[0].Addr().String(), &ssh.ClientConfig{
		User: demoUser, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(svc.setup.hostKeys[0].PublicKey()),
		HostKeyAlgorithms: []string{svc.setup.hostKeys[0].PublicKey().Type()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	began := time.Now()
	done, err = svc.kill(wantKill{User: demoUser, Why: "drill"}, "root")
	if took := time.Since(began); err != nil || done.Connections != 1 || !strings.Contains(done.Unrecorded, "lock") || took > time.Second {
		t.Errorf("%+v, %v, after %v", done, err, took)
	}
	awaitText(t, out, "what was killed is ended, but that is not in the audit log")
	awaitText(t, out, "reason=killed")
	svc.server.Shutdown(t.Context())
	<-serving
}

func TestWhatIsKilledWaitsForItsRecordButNotForEver(t *testing.T) {
	full := errors.New("the disk is full")
	t.Run("recorded", func(t *testing.T) {
		recorded, acted := make(chan error, 1), false
		recorded <- nil
		if failed, late := afterRecord(recorded, func() { acted = true }); failed != nil || late || !acted {
			t.Errorf("%v, late %v, acted %v", failed, late, acted)
		}
	})
	t.Run("not before it is recorded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			recorded, began := make(chan error, 1), time.Now()
			time.AfterFunc(killWait/2, func() { recorded <- nil })
			failed, late := afterRecord(recorded, func() {
				if took := time.Since(began); took != killWait/2 {
					t.Errorf("acted after %v", took)
				}
			})
			if failed != nil || late {
				t.Errorf("%v, late %v", failed, late)
			}
		})
	})
	t.Run("a log that does not answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			recorded, began := make(chan error, 1), time.Now()
			time.AfterFunc(recordTime, func() { recorded <- full })
			failed, late := afterRecord(recorded, func() {
				if took := time.Since(began); took > time.Second {
					t.Errorf("acted after %v", took)
				}
			})
			if failed != full || !late {
				t.Errorf("%v, late %v", failed, late)
			}
		})
	})
}

func FuzzParseKillTarget(f *testing.F) {
	for _, s := range []string{"rds", "RDS.:3306", "10.0.0.1:22", "[fd00::1]:22", "fd00::1", "::ffff:10.0.0.1", "0x7f.1", "a:b:c", "[]:1", ":", "rds:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sel, err := parseKillTarget(s)
		switch {
		case err != nil:
			if sel.Host != "" || sel.Addr.IsValid() {
				t.Errorf("%q: %+v and %v", s, sel, err)
			}
		case (sel.Host != "") == sel.Addr.IsValid() || sel.Port < 0 || sel.Port > 65535 || sel.ID != "" || sel.User != "":
			t.Errorf("%q: %+v", s, sel)
		case sel.Host != "":
			if again, err := parseKillTarget(sel.Host); err != nil || again.Host != sel.Host {
				t.Errorf("%q: %+v, then %+v, %v", s, sel, again, err)
			}
		}
	})
}
