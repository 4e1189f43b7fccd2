package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"sekisho/audit"
	"sekisho/audit/tree"
)

func newAuditHead(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served}
	cmd := &cobra.Command{
		Use:   "head [SIZE]",
		Short: "Print the newest signed head of the log, for whoever keeps one",
		Long: `Head prints the newest head that is signed with the log key. With the size of an
older one that somebody keeps, it prints the proof, too, that the log has only
grown since then. sekisho audit witness asks for it over SSH, and checks it.`,
		Example: `  sekisho audit head
  ssh bastion audit head 812`,
		Args: atMostOneWord("number of records"),
		RunE: func(cmd *cobra.Command, args []string) error {
			from := uint64(0)
			if len(args) > 0 {
				var err error
				if from, err = strconv.ParseUint(args[0], 10, 63); err != nil || from > tree.MaxSize {
					return usagef("the second line of a head is its size", "%q is not a number of records", args[0])
				}
			}
			log, head, err := p.newestHead(cmd)
			if err != nil {
				return err
			}
			answer, err := audit.Answer(log.dir, head, from, log.keys...)
			if err != nil {
				return unprovable(err)
			}
			if _, err := std.out.Write(answer); err != nil {
				return err
			}
			// The answer is the same as ever, since whoever asks judges by the
			// signed head in it.
			if h, err := tree.PeekHead(head); err == nil && h.Size < from {
				fmt.Fprintf(std.err, "sekisho: warning: the newest head is of %s, fewer than the %d of yours: the log has become shorter, or yours is of another one\n",
					manyRecords(h.Size), from)
			}
			return nil
		},
	}
	p.addKeyed(cmd)
	return cmd
}

// newestHead finds the log and the newest head that is signed; of a server's own
// log a fresh one, over all that is durable.
func (p *logPlace) newestHead(cmd *cobra.Command) (log foundLog, head []byte, err error) {
	if log, err = p.findKeyed(cmd, nil); err != nil {
		return log, nil, err
	}
	if p.served != nil {
		head, err = p.served.book.Head()
		return log, head, err
	}
	if head, _, err = audit.NewestHead(log.dir, log.keys...); err != nil {
		err = failf("heads are signed by a server that runs, and checked with its public log key: --key", "%w", err)
	}
	return log, head, err
}

// unprovable is the error of a proof that cannot be made.
func unprovable(err error) error {
	return failf("sekisho audit verify tells what is wrong with a log", "%w", err)
}
