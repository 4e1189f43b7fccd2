//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"sekisho/audit"
)

func TestADrainByCommandLetsATransferEndAndEndsTheRestInTime(t *testing.T) {
	t.Parallel()
	metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t, "127.0.0.1"))
	b := newBastion(t, setup{settings: map[string]any{"metrics": map[string]any{"listen": metrics}}})
	gone := make(chan struct{}, 1)
	host, silent := serve(t, appserverIP, answerAfterEnd), serve(t, rdsIP, stalled(gone))
	client := b.through(host.as("appserver"))
	client.in.Write([]byte("half a ques"))
	eventually(t, "the forward", func() bool { return b.count(audit.ForwardOpen) == 1 && host.open.Load() == 1 })
	c := b.login(bob(t), "bob")
	c.mustOpen("rds", silent.port)
	idle := b.login(bob(t), "bob")

	drain := start(t, exec.Command(staticBinary, "drain", "--timeout", "1h", "--why", "kernel update", "--config", b.dir))
	drain.says(t, `2 forwards may end by themselves until (?s:.*)bob +rds:`)
	idle.over()
	resp, err := http.Get("http://" + metrics + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz says %s", resp.Status)
	}
	if conn, err := net.Dial("tcp", b.addr); err == nil {
		conn.Close()
		t.Error("a server that drains listens")
	}
	if refusal := c.refused("rds", silent.port); refusal.Reason != ssh.ResourceShortage || !matches(`^sekisho: the server is stopping \[f\w+\]$`, refusal.Message) {
		t.Errorf("the refusal is %v: %s", refusal.Reason, refusal.Message)
	}
	client.in.Write([]byte("tion\n"))
	client.in.Close()
	if _, n := hashOf(client.out); n < answerSize {
		t.Errorf("%d bytes of the answer arrived, of %d", n, answerSize)
	}
	drain.says(t, `1 forward of \d connections? left, until .*: bob to rds:`)

	const limit = 2 * time.Second // is given in the end
	began := time.Now()
	if r := b.sekisho("drain", "--timeout", limit.String(), "--no-wait"); r.code != 0 {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	if code := drain.wait(t); code != 0 || !strings.HasSuffix(drain.out.String(), "\nstopped; 1 forward had to be ended\n") || drain.err.String() != "" {
		t.Errorf("exit %d: %s%s", code, drain.out, drain.err)
	}
	if took := time.Since(began); took < limit || took > limit+promptly {
		t.Errorf("it took %v, not %v", took, limit)
	}
	if !b.proc.ended() {
		t.Error("the command has ended, and the server not")
	}
	receive(t, "the target to see the end", gone)
	b.stopped = true
	if code := b.proc.wait(t); code != 0 {
		t.Errorf("the server ended with exit status %d", code)
	}
	b.judge()
	b.checkLog()
	forwards := b.forwards(2)
	forwards[0].check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, reasons: []string{"closed"}})
	forwards[1].check(t, want{user: "bob", login: "bob", grant: "dba-db", host: "rds", port: silent.port, address: rdsIP, reasons: []string{"drain"}})
	if deny := b.denied(1)[0]; deny.Reason != "drain" || deny.User != "bob" {
		t.Errorf("the refusal is recorded as %+v", deny)
	}
	all := b.records()
	if end := all[len(all)-1]; end.Type != audit.ServerStop || end.Reason != "stopped" || !matches(`^drain by \S+: kernel update; 1 forward had to be ended$`, end.Detail) {
		t.Errorf("the last record is %+v", end)
	}
}

func TestADrainThatCannotBeRecordedIsDoneAndSaysSo(t *testing.T) {
	t.Parallel()
	b := newBastion(t, setup{mayFail: true, limits: map[string]any{"dial_timeout": "3s"}}) // which bounds the stop
	gone := make(chan struct{}, 1)
	silent := serve(t, appserverIP, stalled(gone))
	b.login(alice(t)).mustOpen("appserver", silent.port)
	var before unix.Rlimit
	if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, nil, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(b.proc.pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Max: before.Max}, nil); err != nil {
		t.Fatal(err)
	}
	r := b.sekisho("drain", "--timeout", "0s")
	receive(t, "the target to see the end", gone)
	if r.code != 1 || !strings.HasSuffix(r.out, "\nstopped; 1 forward had to be ended\n") || !strings.Contains(r.err, "sekisho: error: IT IS NOT RECORDED: the audit log could not be written: ") {
		t.Errorf("exit %d: %s%s", r.code, r.out, r.err)
	}
	b.stopped = true
	b.proc.wait(t)
	b.start()
	if f := b.forwards(1)[0]; f.end.Type != audit.ForwardLost {
		t.Errorf("the end is %+v", f.end)
	}
}
