package query

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"sekisho/audit"
)

func TestTailFollows(t *testing.T) {
	dir := t.TempDir()
	l, err := audit.Open(dir, audit.Options{Bastion: "b", SegmentSize: 400}) // two records or so
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write := func(user string) {
		if err := l.Append(t.Context(), audit.Record{Type: audit.AuthOK, User: user, Detail: "x"}); err != nil {
			t.Error(err)
		}
	}
	for _, u := range []string{"bob", "alice", "bob", "bob"} {
		write(u)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var seqs []uint64
	err = Tail(ctx, dir, Query{Users: []string{"bob"}}, 2, Options{}, &audit.FollowOptions{Poll: time.Millisecond}, func(line []byte, rec audit.Record) error {
		seqs = append(seqs, rec.Seq)
		switch len(seqs) {
		case 2:
			for _, u := range []string{"alice", "bob", "alice", "bob"} {
				write(u)
			}
		case 4:
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if want := []uint64{3, 4, 6, 8}; !slices.Equal(seqs, want) {
		t.Errorf("%v and not %v", seqs, want)
	}
}
