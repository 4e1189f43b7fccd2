package query

import (
	"context"

	"sekisho/audit"
)

// Tail calls fn with the last n records of the log that fit, and then, if
// follow is not nil, with those that are written from then on, until ctx ends,
// whose error it returns. No record is missed between the two.
func Tail(ctx context.Context, dir string, q Query, n int, opts Options, follow *audit.FollowOptions, fn func(line []byte, rec audit.Record) error) error {
	p, err := q.compile()
	if err != nil {
		return err
	}
	from := uint64(0)
	if follow != nil {
		if from, err = next(ctx, dir, opts); err != nil {
			return err
		}
	}
	if n > 0 {
		opts.Last = n
		err := Search(ctx, dir, q, opts, func(line []byte, rec audit.Record) error {
			if follow != nil && rec.Seq >= from {
				return nil // it has just come, and is followed
			}
			return fn(line, rec)
		})
		if err != nil {
			return err
		}
	}
	if follow == nil {
		return nil
	}
	return audit.Follow(ctx, dir, from, *follow, func(line []byte, rec audit.Record) error {
		if !p.fits(&rec) {
			return nil
		}
		return fn(line, rec)
	})
}

// next is the number of the record that comes next.
func next(ctx context.Context, dir string, opts Options) (uint64, error) {
	seq := uint64(0)
	opts.Last, opts.Progress = 1, nil
	err := Search(ctx, dir, Query{}, opts, func(_ []byte, rec audit.Record) error {
		seq = rec.Seq + 1
		return nil
	})
	return seq, err
}
