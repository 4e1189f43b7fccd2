package main

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"sekisho/audit"
	"sekisho/audit/query"
	"sekisho/audit/tree"
)

func newAuditProve(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	cmd := &cobra.Command{
		Use:   "prove FORWARD|CONNECTION|SEQ…",
		Short: "Print a proof that records are in the log, for somebody who has only its public key",
		Long: `Prove prints the records of a forward or of a connection, or those with the numbers
given, together with what proves to whoever has the public log key that they are in
the log just so: their paths in its tree, and the newest signed head. It is checked
with sekisho audit check-proof, on any machine and without the log.`,
		Example: `  sekisho audit prove f5kq2mzx7c3w4n6p > proof
  sekisho audit check-proof --key log_key.pub proof`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || slices.Contains(args, "") {
				return usagef("the id of a forward is in what its client was told, and in sekisho audit search", "prove takes the ids of forwards or connections, or the numbers of records")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			log, head, err := p.newestHead(cmd)
			if err != nil {
				return err
			}
			records, err := proven(cmd, newLooking(std, log), args)
			if err != nil {
				return err
			}
			h, err := tree.PeekHead(head)
			if err != nil {
				return err
			}
			if last := records[len(records)-1]; last.Seq >= h.Size {
				return failf("the server signs a head within a second or two; try again", "record %d is not below a signed head yet", last.Seq)
			}
			text, err := audit.Prove(log.dir, head, records, log.keys...)
			if err != nil {
				return unprovable(err)
			}
			_, err = std.out.Write(text)
			return err
		},
	}
	p.addKeyed(cmd)
	return cmd
}

// proven finds the records that are to be proven: at least one, in their order.
func proven(cmd *cobra.Command, l *looking, args []string) ([]tree.Proven, error) {
	var records []tree.Proven
	found := func(line []byte, rec audit.Record) error {
		if len(records) == tree.MaxProven {
			return failf("name fewer forwards or records", "these are more than %d records", tree.MaxProven)
		}
		records = append(records, tree.Proven{Seq: rec.Seq, Line: bytes.Clone(line)})
		return nil
	}
	for _, arg := range args {
		before := len(records)
		seq, err := strconv.ParseUint(arg, 10, 64)
		switch {
		case err == nil:
			err = audit.ReadRecord(l.log.dir, seq, found)
		case arg[0] == 'f':
			err = query.Search(cmd.Context(), l.log.dir, query.Query{Forwards: []string{arg}}, l.options(), found)
		case arg[0] == 'c':
			err = query.Search(cmd.Context(), l.log.dir, query.Query{Conns: []string{arg}}, l.options(), found)
		default:
			err = usagef("ids of forwards begin with f, those of connections with c", "%q is neither an id nor the number of a record", arg)
		}
		l.clear()
		switch {
		case errors.Is(err, query.ErrDamaged):
			return nil, l.end(err)
		case err != nil:
			return nil, err
		case len(records) == before:
			return nil, failf("sekisho audit search finds records", "no record of %s is in the log", arg)
		}
	}
	slices.SortFunc(records, func(a, b tree.Proven) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(records, func(a, b tree.Proven) bool { return a.Seq == b.Seq }), nil
}
