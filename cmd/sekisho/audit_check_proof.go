package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

func newAuditCheckProof(std stdio) *cobra.Command {
	var given []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check-proof --key PUB PROOF…",
		Short: "Check that records are in the log, from a proof and the public key alone",
		Long: `Check-proof checks files that prove records, and prints the records that they
prove. It needs the public log key and nothing else: no server, no log, no
sekisho.yaml. A PROOF of - is standard input.

The exit status is 0 if all is proven, and 1 if not.`,
		Example: `  sekisho audit check-proof --key bastion-1.pub incident.proof
  sekisho audit check-proof --key bastion-1+b0c3ae19+AZr… - < incident.proof`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("see "+cmd.CommandPath()+" --help", "check-proof takes the files of proofs")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readPublicKeys(given)
			if err != nil {
				return err
			}
			return checkProofs(std, keys, args, asJSON)
		},
	}
	cmd.Flags().StringArrayVar(&given, "key", nil, "the `public` log key or a file of it; may be given several times")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the results as a JSON array")
	return cmd
}

// A proofResult is what has become of one file, as programs read it.
type proofResult struct {
	File    string            `json:"file"`
	Proven  bool              `json:"proven"`
	Error   string            `json:"error,omitempty"`
	Origin  string            `json:"origin,omitempty"`
	Size    uint64            `json:"size,omitempty"`
	Time    *time.Time        `json:"time,omitempty"`
	Records []json.RawMessage `json:"records,omitempty"`

	proven []tree.Proven
}

func checkProofs(std stdio, keys []note.Verifier, files []string, asJSON bool) error {
	results, failed := []proofResult{}, false
	for _, file := range files {
		r := proofResult{File: file}
		h, proven, err := checkProof(std.in, keys, file)
		if err != nil {
			r.Error, failed = err.Error(), true
		} else {
			r.Proven, r.Origin, r.Size, r.Time, r.proven = true, h.Origin, h.Size, &h.Time, proven
		}
		for _, p := range proven {
			r.Records = append(r.Records, p.Line)
		}
		results = append(results, r)
	}
	if asJSON {
		if err := printJSON(std.out, results); err != nil {
			return err
		}
	} else {
		tellProofs(std, results)
	}
	if failed {
		return errTold
	}
	return nil
}

func checkProof(in io.Reader, keys []note.Verifier, file string) (tree.Head, []tree.Proven, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(in, tree.MaxProof+1))
	} else {
		text, err = readFile(file)
	}
	if err != nil {
		return tree.Head{}, nil, fmt.Errorf("cannot be read: %v", reason(err))
	}
	return tree.CheckProof(text, keys...)
}

func tellProofs(std stdio, results []proofResult) {
	proven := 0
	for _, r := range results {
		if !r.Proven {
			fmt.Fprintf(std.err, "sekisho: error: %s: not proven: %s\n", printable(r.File), r.Error)
			continue
		}
		proven++
		fmt.Fprintf(std.out, "%s: proven by the head of %s that %s signed at %s\n",
			printable(r.File), manyRecords(r.Size), r.Origin, r.Time.Format(time.RFC3339))
		for _, p := range r.proven {
			fmt.Fprintf(std.out, "  record %d: %s\n", p.Seq, p.Line)
		}
	}
	if proven > 0 {
		fmt.Fprint(std.out, strings.TrimLeft(`
These records stand in the log as they are printed here, and did when the head was
signed. That there are no others, before, between or after them, is not shown; nor
that the log which has them is the one that others were shown.
`, "\n"))
	}
}

func manyRecords(n uint64) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}
