package bastion

import "time"

// clockStep is by how much a clock must have been set to be looked after. It
// is more than what is lost between two readings.
const clockStep = time.Second

// A clockWatch notices that the wall clock was set, forwards or back, or that
// the machine slept: the edges of time in the policy that were worked out
// before may then lie on the wrong side. Limits do not go by that clock and
// need nothing.
type clockWatch struct {
	wall time.Time // as it was when it last agreed
	even int64     // see clock
}

func newClockWatch(wall time.Time) *clockWatch { return &clockWatch{wall.Round(0), clock()} }

// step returns by how much the wall clock has been set since it last agreed,
// and takes it as it is now; 0 if it agrees.
func (w *clockWatch) step(wall time.Time) time.Duration {
	wall, even := wall.Round(0), clock() // without its monotonic reading
	by := wall.Sub(w.wall) - time.Duration(even-w.even)
	if by.Abs() < clockStep {
		return 0 // the reference stays, so that what adds up slowly counts, too
	}
	w.wall, w.even = wall, even
	return by
}
