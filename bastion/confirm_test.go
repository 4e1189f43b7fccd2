package bastion

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"sekisho/audit"
)

// ends keeps the types of the records that a Forwarder writes.
type ends struct {
	mu    sync.Mutex
	types []audit.Type
}

func (e *ends) Append(_ context.Context, rec audit.Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.types = append(e.types, rec.Type)
	return nil
}

// A forward that is cut while it is confirmed: what its record says must be
// what the client was told.
func TestForwardCutWhileItIsConfirmed(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error // of the accept
		want audit.Type
	}{
		{"the client was told that it is open", nil, audit.ForwardClose},
		{"the client was not told", errors.New("gone"), audit.ForwardFail},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 50 { // two things come at once, and either may be seen first
				book := &ends{}
				log := logrus.New()
				log.SetOutput(t.Output())
				f := &Forwarder{recorder: book, limits: DefaultLimits(), log: log}
				f.giveUp, f.stopTrying = context.WithCancel(context.Background())
				fw, finished := newForward(t.Context(), Principal{User: "alice", Source: netip.MustParseAddrPort("192.0.2.1:1")}, Ask{At: time.Now()})
				target, theirs := tcpPair(t)
				defer theirs.Close()
				_, refusal := f.confirm(fw, target, func() (Stream, error) {
					fw.cut(draining)
					return nil, c.err
				})
				finished()
				if refusal == nil && c.err == nil {
					continue // the relay would see the cut, and record a close
				}
				if refusal == nil || !slices.Equal(book.types, []audit.Type{c.want}) {
					t.Fatalf("refusal %v, recorded %v", refusal, book.types)
				}
			}
		})
	}
}
