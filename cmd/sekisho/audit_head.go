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
			log, err := p.findKeyed(cmd, nil)
			if err != nil {
				return err
			}
			head, err := p.newestHead(log)
			if err != nil {
				return err
			}
			answer, err := audit.Answer(log.dir, head, from, log.keys...)
			if err != nil {
				return failf("sekisho audit verify tells what is wrong with a log", "%w", err)
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

// newestHead is the newest that is signed; of a server's own log a fresh one,
// over all that is durable.
func (p *logPlace) newestHead(log foundLog) ([]byte, error) {
	if p.served != nil {
		return p.served.book.Head()
	}
	head, _, err := audit.NewestHead(log.dir, log.keys...)
	if err != nil {
		return nil, failf("heads are signed by a server that runs, and checked with its public log key: --key", "%w", err)
	}
	return head, nil
}
