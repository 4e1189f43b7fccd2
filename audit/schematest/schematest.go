// Package schematest holds what tests write into an audit log against the
// schema of its records, docs/audit.schema.json.
package schematest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"sekisho/docs"
)

var schema = sync.OnceValue(func() *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(docs.AuditSchema))
	if err != nil {
		panic(fmt.Sprintf("docs/audit.schema.json: %v", err))
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("audit.schema.json", doc); err != nil {
		panic(err)
	}
	return c.MustCompile("audit.schema.json")
})

// CheckLine returns what of a record's line the schema does not allow.
func CheckLine(line []byte) error {
	record, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
	if err != nil {
		return fmt.Errorf("%w: %s", err, line)
	}
	var invalid *jsonschema.ValidationError
	if err := schema().Validate(record); errors.As(err, &invalid) {
		return fmt.Errorf("%s\n%s", strings.Join(leaves(invalid), "\n"), line)
	} else if err != nil {
		return err
	}
	return nil
}

// leaves are what an error comes down to.
func leaves(err *jsonschema.ValidationError) (all []string) {
	for _, cause := range err.Causes {
		all = append(all, leaves(cause)...)
	}
	if len(err.Causes) == 0 {
		all = append(all, err.Error())
	}
	return all
}

// How many records of a kind are all looked at, and which of further ones are.
const (
	first = 50
	every = 100
)

// A Check looks at the lines of a log. Of many records that have the same type
// and reason it looks at some, as to validate one takes a while. The zero one
// is ready.
type Check struct {
	seen map[kind]int
	errs []error
}

type kind struct{ Type, Reason string }

// Line takes note of a record's line.
func (c *Check) Line(line []byte) {
	var k kind
	if err := json.Unmarshal(line, &k); err != nil {
		c.errs = append(c.errs, err)
		return
	}
	if c.seen == nil {
		c.seen = map[kind]int{}
	}
	n := c.seen[k]
	c.seen[k]++
	if n >= first && n%every != 0 || len(c.errs) >= 5 {
		return
	}
	if err := CheckLine(line); err != nil {
		c.errs = append(c.errs, err)
	}
}

// Err is what was wrong with the lines, or nil.
func (c *Check) Err() error {
	if err := errors.Join(c.errs...); err != nil {
		return fmt.Errorf("not as docs/audit.schema.json has it: %w", err)
	}
	return nil
}
