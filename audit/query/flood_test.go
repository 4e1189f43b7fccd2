package query

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sekisho/audit"
)

func TestAReportCountsFloods(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	var text []byte
	n := uint64(0)
	put := func(r audit.Record) {
		r.V, r.Seq, r.Time, r.Run = audit.Version, n, at.Add(time.Duration(n)*time.Minute), "01J"
		text = append(r.AppendJSON(text), '\n')
		n++
	}
	one := netip.MustParseAddrPort("198.51.100.7:1")
	put(audit.Record{Type: audit.AuthFail, Login: "root", Source: one, Reason: "no_auth"})
	put(audit.Record{Type: audit.AuthFlood, Source: netip.AddrPortFrom(one.Addr(), 0), Count: 4000, Duration: time.Minute, Reason: "no_auth"})
	put(audit.Record{Type: audit.AuthFlood, Count: 1_000_000, Sources: 70_000, Duration: time.Minute, Reason: "no_auth"})
	put(audit.Record{Type: audit.AuthFlood, Count: 5, Sources: 3, Duration: time.Minute, Reason: "no_auth"})
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000000.jsonl"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := NewReport(t.Context(), dir, Query{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.FailedLogins) != 2 {
		t.Fatalf("%d rows", len(r.FailedLogins))
	}
	source, others := r.FailedLogins[0], r.FailedLogins[1] // others come last
	if !others.Others || others.Count != 1_000_005 || others.Source.IsValid() || !others.First.Equal(at.Add(time.Minute)) || !others.Last.Equal(at.Add(3*time.Minute)) {
		t.Errorf("%+v", others)
	}
	if source.Source != one.Addr() || source.Count != 4001 || !source.MoreLogins || len(source.Logins) != 1 || !source.First.Equal(at) {
		t.Errorf("%+v", source)
	}
	var b strings.Builder
	if err := r.WriteText(&b, time.UTC); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "Failed logins: 1004006") && !strings.Contains(b.String(), "1,004,006") {
		t.Errorf("the sum is not in\n%s", b.String())
	}
}
