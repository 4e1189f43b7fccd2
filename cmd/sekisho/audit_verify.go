package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"sekisho/audit"
	"sekisho/audit/tree"
)

func newAuditVerify(std stdio) *cobra.Command {
	var c verifyCommand
	cmd := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Make sure that the log is what the server wrote",
		Long: `Verify reads the whole log and holds it against the heads that the server has
signed, and with --since against those that you kept elsewhere: one, or the file
FILE.history in which witness keeps all. It names the first record that is not what was written, or the records
between the last head that fits and the first that does not.

DIR is the folder of sekisho.yaml. With --log it checks any folder of a log, such
as a copy on another machine, and needs nothing else but --key. The server may
run meanwhile.

The public log key is best given from where you keep it. Without --key that beside
the settings is taken, which whoever changes the log could have changed as well;
and KEY.*.pub beside it, such as log_key.2026.pub, are old ones, whose heads count
up to the first of the newer key.

The exit status is 0 if all is well, 3 if the log is not what was written, and 1 if
it could not be read, or nothing is wrong but not all could be checked: there is no
key, no head, or what is after --since is of records that retention took away.`,
		Example: `  sekisho audit verify --key bastion-1.pub --since bastion-1.head
  sekisho audit verify --key bastion-1.pub --since bastion-1.head.history
  sekisho audit verify --log /mnt/copy/audit --key bastion-1+b0c3ae19+AZr… --json`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, std, args) },
	}
	c.addKeyed(cmd)
	f := cmd.Flags()
	f.StringVar(&c.since, "since", "", "a signed `head` that was kept elsewhere, or a file of one or many")
	f.BoolVar(&c.json, "json", false, "print the verdict as JSON")
	return cmd
}

type verifyCommand struct {
	logPlace
	since string
	json  bool
}

func (c *verifyCommand) run(cmd *cobra.Command, std stdio, args []string) error {
	log, _, err := c.look(cmd, args) // without a key, too
	if err != nil {
		return err
	}
	opts := audit.VerifyOptions{Keys: log.keys}
	if log.own {
		if opts.Old, err = readOldKeys(log.file); err != nil {
			return err
		}
	}
	foreign := false
	if cmd.Flags().Changed("since") {
		if opts.Since, foreign, err = c.readSince(log, opts.Old); err != nil {
			return err
		}
	}
	l := newLooking(std, log)
	opts.Progress = func(records uint64, bytes int64) { l.show("read %s, %d MiB", manyRecords(records), bytes>>20) }
	v, err := audit.Verify(cmd.Context(), log.dir, opts)
	l.clear()
	if err != nil {
		return unverified(log.dir, err)
	}
	if v.Good() && log.own {
		v.Notes = append(v.Notes, "The key is the one beside the settings: this only shows that the log fits it, and whoever changed one could have changed the other. Give the key that you keep elsewhere with --key.")
	}
	if v.Good() && foreign {
		v.Gaps = append(v.Gaps, "A head that was kept is signed with another key than the one beside the settings.")
	}
	if c.json {
		err = printJSON(std.out, v)
	} else {
		_, err = io.WriteString(std.out, verdictText(v))
	}
	if err != nil {
		return err
	}
	switch {
	case !v.Good():
		return &graveError{failure{fmt.Errorf("%s is not what was written: %s, %s", log.dir, harmWords(v.Harms[0].Kind), printable(v.Harms[0].Place())),
			"keep the folder as it is, as evidence, before anything is changed there"}, exitAlarm}
	case !v.Full():
		return failf("", "not all could be checked")
	}
	return nil
}

// mostKept is how many heads of a history are taken: those of years.
const mostKept = 300_000

// readSince reads the heads that were kept. Each has to be signed with one of the
// keys that were given. If the key is only the one beside the log, the heads are
// to be trusted rather than that, and foreign tells that one is of another.
func (c *verifyCommand) readSince(log foundLog, old []note.Verifier) (kept []tree.Head, foreign bool, err error) {
	const hint = "give a file that witness keeps, or what sekisho audit head printed"
	text := []byte(c.since)
	if !strings.Contains(c.since, "\n") {
		if text, err = readFile(c.since); err != nil {
			return nil, false, failf(hint, "the head %s cannot be read: %v", printable(c.since), reason(err))
		}
	} else if !strings.HasSuffix(c.since, "\n") {
		text = append(text, '\n') // a shell takes it away
	}
	heads := [][]byte{text}
	if _, err := tree.PeekHead(text); err != nil {
		if heads = audit.SplitHeads(text); len(heads) == 0 {
			return nil, false, failf(hint, "what is given with --since is not a head: %w", err)
		}
	}
	if len(heads) > mostKept {
		return nil, false, failf(fmt.Sprintf("give the newer ones: tail -n %d %s", 7*mostKept, shellWord(c.since)), "more than %d heads are in %s", mostKept, printable(c.since))
	}
	for _, text := range heads {
		head, other, err := openKept(text, log, old)
		if err != nil {
			return nil, false, err
		}
		kept, foreign = append(kept, head), foreign || other
	}
	return kept, foreign, nil
}

func openKept(text []byte, log foundLog, old []note.Verifier) (head tree.Head, foreign bool, err error) {
	if head, err = tree.PeekHead(text); err != nil || len(log.keys) == 0 {
		return head, false, err
	}
	_, err = tree.OpenHead(text, slices.Concat(log.keys, old)...)
	if err != nil && !(log.own && errors.Is(err, tree.ErrForeignKey)) {
		return head, false, failf("give the key that it was signed with, too", "the head of %d records that was kept cannot be trusted: %w", head.Size, err)
	}
	return head, err != nil, nil
}

// unverified is an error of reading the log.
func unverified(dir string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return failf("", "interrupted: the log was not checked")
	case errors.Is(err, fs.ErrNotExist):
		return failf("name the folder of the log with --log", "there is no log to check in %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return failf("run it as the user that sekisho serves as, or as root", "the log was not checked: %w", err)
	}
	return fmt.Errorf("the log was not checked: %w", err)
}

var harmNames = map[audit.Kind]string{
	audit.KindEdited:    "edited record",
	audit.KindRemoved:   "removed records",
	audit.KindInserted:  "inserted record",
	audit.KindReordered: "reordered records",
	audit.KindChanged:   "changed records",
	audit.KindRewritten: "rewritten with the log key",
	audit.KindTruncated: "truncated end",
	audit.KindRollback:  "end missing that the kept head has",
	audit.KindMissing:   "missing segment",
	audit.KindSegment:   "forged segment",
	audit.KindUnpack:    "packed segment that does not unpack",
	audit.KindForeign:   "head of a foreign key",
	audit.KindSignature: "head with a wrong signature",
	audit.KindHeads:     "head out of its place",
	audit.KindPruned:    "false account of what retention took",
	audit.KindForwards:  "forward with too many ends or openings",
	audit.KindIndex:     "index that is not signed",
}

func harmWords(k audit.Kind) string {
	if s, ok := harmNames[k]; ok {
		return s
	}
	return string(k)
}

// keptText tells what came of the heads that were kept.
func keptText(v *audit.Verdict) string {
	of := func(h *audit.SignedFor) string {
		return fmt.Sprintf("%s, signed at %s", manyRecords(h.Size), h.Time.Format(time.RFC3339))
	}
	fit, misfit := v.NewestFit, v.OldestMisfit
	switch {
	case v.SinceSays == audit.SinceFits && v.Kept == 1:
		return "The head that was kept fits: " + of(fit) + "."
	case v.SinceSays == audit.SinceFits:
		return fmt.Sprintf("Of %d heads that were kept, all fit. The newest: %s.", v.Kept, of(fit))
	case v.SinceSays == audit.SincePruned && v.Kept == 1:
		return "The head that was kept could not be compared: " + of(v.Since) + "."
	case v.SinceSays == audit.SincePruned:
		return fmt.Sprintf("Of %d heads that were kept, none could be compared. The newest: %s.", v.Kept, of(v.Since))
	case v.Kept == 1 && misfit == nil:
		return "The head that was kept was not reached: " + of(v.Since) + "."
	case v.Kept == 1:
		return "The head that was kept does not fit: " + of(misfit) + "."
	}
	s := fmt.Sprintf("Of %d heads that were kept, none fits.", v.Kept)
	switch {
	case fit == nil && misfit == nil:
		return fmt.Sprintf("Of %d heads that were kept, none was reached.", v.Kept)
	case fit != nil:
		s = fmt.Sprintf("Of %d heads that were kept, the newest that fits: %s.", v.Kept, of(fit))
	}
	if misfit == nil {
		return s + " Those after the harm were not reached."
	}
	s += "\nThe oldest that does not: " + of(misfit) + "."
	switch {
	case fit == nil || fit.Size == 0:
	case v.SinceSays == audit.SinceAhead:
		s += fmt.Sprintf("\nUp to record %d the log is what it was.", fit.Size-1)
	case fit.Size < misfit.Size:
		s += fmt.Sprintf("\nSo the first record that is not what it was is among records %d to %d, which were written between the two.", fit.Size, misfit.Size-1)
	}
	return s
}

// verdictText is the verdict for people.
func verdictText(v *audit.Verdict) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, h := range v.Harms {
		more := ""
		if h.More > 0 {
			more = fmt.Sprintf("; and %d more of this kind", h.More)
		}
		which := fmt.Sprintf("record %d", h.From)
		if h.To > h.From+1 {
			which = fmt.Sprintf("records %d to %d", h.From, h.To-1)
		}
		place := ""
		if h.File != "" {
			place = printable(h.Place()) + ", "
		}
		say("HARM: %s: %s%s: %s%s", harmWords(h.Kind), place, which, printable(h.Detail), more)
	}
	if !v.Complete {
		say("What comes after the first bad record was not judged.")
	}
	if !v.Good() {
		say("")
	}
	times := ""
	if !v.Begin.IsZero() {
		times = fmt.Sprintf(", from %s to %s", v.Begin.Format(time.RFC3339), v.End.Format(time.RFC3339))
	}
	say("Read %s in %s, %d bytes%s, in %.1f s.", manyRecords(v.Records()), many(v.Segments, "segment"), v.Bytes, times, v.Seconds)
	against := ""
	if len(v.Keys) > 0 {
		against = fmt.Sprintf(", %s verified with %s", many(v.Signatures, "signature"), printable(and(v.Keys)))
		if len(v.OldKeys) > 0 {
			against += fmt.Sprintf(" and, up to its first head, %s", printable(and(v.OldKeys)))
		}
	}
	say("Held against %s%s.", many(v.Heads, "head"), against)
	if v.First > 0 {
		say("Retention has taken away %s before them.", manyRecords(v.First))
	}
	if v.Open > 0 {
		say("%s without an end yet.", many(v.Open, "forward"))
	}
	if v.Kept > 0 {
		say("%s", keptText(v))
	}
	switch {
	case v.Full():
		say("\n%s is good.", printable(v.Dir))
	case v.Good():
		say("\nNothing is wrong with %s, but NOT ALL COULD BE CHECKED:", printable(v.Dir))
	}
	for _, g := range v.Gaps {
		say("- %s", printable(g))
	}
	if len(v.Notes) > 0 {
		say("\nWhat this does not say:")
	}
	for _, n := range v.Notes {
		say("- %s", printable(n))
	}
	return b.String()
}
