package audit

import (
	"errors"
	"fmt"
	"os"
)

// Read calls fn with every record of the log in dir that retention has left,
// in order, until fn returns an error, which Read returns.
//
// It does not need the lock. Of a log that is being written, the last records
// may not be durable yet, and a last line that is not finished is left out.
func Read(dir string, fn func(Record) error) error {
	gone, all, err := survey(dir)
	if err != nil {
		return err
	}
	next := gone.Next()
	for _, p := range all {
		if p.void() {
			continue
		}
		if p.first != next {
			return fmt.Errorf("audit: %s: records %d to %d are missing before it", p.path, next, p.first-1)
		}
		e, err := p.scan(func(_ []byte, r Record) error { return fn(r) })
		if errors.Is(err, os.ErrNotExist) {
			// Retention may have come first.
			if gone, err := readPruned(dir); err == nil && gone.Next() >= p.limit {
				next = p.limit
				continue
			}
		}
		if err != nil {
			return err
		}
		if p.limit == noLimit && e.part {
			return nil
		}
		if err := p.whole(e); err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		next = e.next
	}
	return nil
}
