//go:build linux

package e2e

import (
	"testing"

	"sekisho/audit"
)

func TestProgressIsRecordedAsOftenAsTheSettingsSay(t *testing.T) {
	t.Parallel()
	host := serve(t, appserverIP, echo)
	with := func(every string) (*bastion, *channel) {
		b := newBastion(t, setup{settings: map[string]any{"audit": map[string]any{"progress": every}}})
		ch := b.login(alice(t)).mustOpen("appserver", host.port)
		ch.echoes()
		return b, ch
	}
	never, silent := with("0s")
	often, told := with("200ms")
	const line = uint64(len("are you there?\n"))
	for moved := line; moved <= 3*line; moved += line {
		r := often.recorded(audit.ForwardProgress, func(r audit.Record) bool { return r.BytesUp == moved && r.BytesDown == moved })
		if r.User != "alice" || r.Grant != "dev-web" || r.Target.Host != "appserver" || r.Reason != "" || r.Duration <= 0 {
			t.Errorf("the record says %+v", r)
		}
		told.echoes()
	}
	silent.echoes()
	for _, ch := range []*channel{silent, told} {
		ch.Close()
	}
	f := often.forwards(1)[0]
	f.check(t, want{grant: "dev-web", host: "appserver", port: host.port, address: appserverIP, bytes: &tapped{4 * line, 4 * line}})
	for _, r := range f.between {
		if r.Seq < f.open.Seq || r.Seq > f.end.Seq {
			t.Errorf("progress outside its forward: %+v", r)
		}
	}
	if n := len(never.forwards(1)[0].between); n != 0 {
		t.Errorf("with progress: 0s there are %d records of it", n)
	}
}
