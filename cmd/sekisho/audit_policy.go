package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sekisho/audit"
)

func newAuditPolicy(std stdio, served *servedLog) *cobra.Command {
	p := logPlace{served: served, policies: true}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "policy [HASH]",
		Short: "Print a policy that was in force once, or list them all",
		Long: `Policy prints the policy that a record names by its hash, as it was when it was
loaded; how it decides, explain tells. The beginning of a hash is enough if no
other policy has the same, and "sha256:" may be left out.

Without a hash it lists all that are kept: when each was first loaded, its hash
and its size.`,
		Example: `  sekisho audit policy
  sekisho audit policy sha256:9f86d081 > then.yaml
  sekisho audit policy --log /mnt/copy 9f86d081`,
		Args: atMostOneWord("hash"),
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := p.find(cmd, nil)
			if err != nil {
				return err
			}
			kept, err := audit.Policies(log.dir)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return listPolicies(std, kept, asJSON)
			}
			found, err := findPolicy(kept, args[0])
			if err != nil {
				return err
			}
			text, err := audit.Policy(log.dir, found.Hash)
			if errors.Is(err, audit.ErrNoPolicy) || errors.Is(err, os.ErrPermission) {
				return failf("the log is for the user who serves alone: sudo sekisho …", "%w", err)
			}
			if err != nil {
				return failf("somebody has changed it: the file's owner, or a disk that fails", "%w", err)
			}
			if asJSON {
				return printJSON(std.out, policyLine{found.Hash, found.First, found.Bytes, string(text)})
			}
			_, err = std.out.Write(text)
			return err
		},
	}
	p.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// findPolicy is the one whose hash begins so.
func findPolicy(kept []audit.KeptPolicy, begin string) (audit.KeptPolicy, error) {
	digits := strings.TrimPrefix(begin, "sha256:")
	if digits == "" || strings.Trim(digits, "0123456789abcdef") != "" {
		return audit.KeptPolicy{}, usagef(`a hash stands in the field "policy" of a record: sha256:… with hexadecimal digits`, "%q is not a hash", begin)
	}
	var found []audit.KeptPolicy
	for _, p := range kept {
		if strings.HasPrefix(p.Hash, "sha256:"+digits) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return audit.KeptPolicy{}, failf("sekisho audit policy lists those that are", "no policy whose hash begins with %q is kept beside this log", digits)
	case 1:
		return found[0], nil
	}
	var hashes []string
	for _, p := range found[:min(len(found), 5)] {
		hashes = append(hashes, p.Hash[:len("sha256:")+16])
	}
	return audit.KeptPolicy{}, failf("write more of it", "%d policies have a hash that begins with %q: %s", len(found), digits, strings.Join(hashes, ", "))
}

// A policyLine is a kept policy in JSON.
type policyLine struct {
	Hash  string    `json:"hash"`
	First time.Time `json:"first_loaded"`
	Bytes int64     `json:"bytes"`
	Text  string    `json:"text,omitempty"`
}

func listPolicies(std stdio, kept []audit.KeptPolicy, asJSON bool) error {
	if asJSON {
		lines := []policyLine{}
		for _, p := range kept {
			lines = append(lines, policyLine{p.Hash, p.First, p.Bytes, ""})
		}
		return printJSON(std.out, lines)
	}
	for _, p := range kept {
		fmt.Fprintf(std.out, "%s %s %d bytes\n", p.First.Format(time.RFC3339), p.Hash, p.Bytes)
	}
	return nil
}
