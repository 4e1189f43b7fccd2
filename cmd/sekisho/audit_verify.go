package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/term"

	"sekisho/audit"
	"sekisho/audit/tree"
)

func newAuditVerify(std stdio) *cobra.Command {
	var c verifyCommand
	cmd := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Make sure that the log is what the server wrote",
		Long: `Verify reads the whole log and holds it against the heads that the server has
signed, and with --since against one that you kept elsewhere, such as witness
does. It names the first record that is not what was written, or the records
between the last head that fits and the first that does not.

DIR is the folder of sekisho.yaml. With --log it checks any folder of a log, such
as a copy on another machine, and needs nothing else but --key. The server may
run meanwhile.

The public log key is best given from where you keep it. Without --key that beside
the settings is taken, which whoever changes the log could have changed as well.

The exit status is 0 if all is well, 3 if the log is not what was written, and 1 if
it could not be read, or nothing is wrong but not all could be checked: there is no
key, no head, or the head after --since is of records that retention took away.`,
		Example: `  sekisho audit verify --key bastion-1.pub --since bastion-1.head
  sekisho audit verify --log /mnt/copy/audit --key bastion-1+b0c3ae19+AZr… --json`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd, std, args) },
	}
	c.addConfig(cmd)
	f := cmd.Flags()
	f.StringVar(&c.log, "log", "", "the `folder` of the log, in place of that in the settings")
	f.StringArrayVar(&c.keys, "key", nil, "the `public` log key or a file of it; several times if it was changed")
	f.StringVar(&c.since, "since", "", "a signed `head` that was kept elsewhere, or a file of it")
	f.BoolVar(&c.json, "json", false, "print the verdict as JSON")
	return cmd
}

type verifyCommand struct {
	where
	log   string
	keys  []string
	since string
	json  bool
}

func (c *verifyCommand) run(cmd *cobra.Command, std stdio, args []string) error {
	dir, keyFile, err := c.place(cmd, args)
	if err != nil {
		return err
	}
	var opts audit.VerifyOptions
	if opts.Keys, keyFile, err = c.readKeys(keyFile); err != nil {
		return err
	}
	foreign := false
	if cmd.Flags().Changed("since") {
		if opts.Since, foreign, err = c.readSince(opts.Keys, keyFile != ""); err != nil {
			return err
		}
	}
	bar := newVerifyBar(std.err)
	opts.Progress = bar.show
	v, err := audit.Verify(cmd.Context(), dir, opts)
	bar.clear()
	if err != nil {
		return unverified(dir, err)
	}
	if v.Good() && keyFile != "" {
		v.Notes = append(v.Notes, "The key is that in "+keyFile+": this only shows that the log fits that file, and whoever changed one could have changed the other. Give the key that you keep elsewhere with --key.")
	}
	if v.Good() && foreign {
		v.Gaps = append(v.Gaps, "The head that was kept is signed with another key than that in "+keyFile+".")
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
		return &graveError{failure{fmt.Errorf("%s is not what was written: %s, %s", dir, harmWords(v.Harms[0].Kind), printable(v.Harms[0].Place())),
			"keep the folder as it is, as evidence, before anything is changed there"}, exitAlarm}
	case !v.Full():
		return failf("", "not all could be checked")
	}
	return nil
}

// place returns the folder of the log, and the file of the public key beside
// the settings, if those are used.
func (c *verifyCommand) place(cmd *cobra.Command, args []string) (dir, keyFile string, err error) {
	if cmd.Flags().Changed("log") {
		switch {
		case c.log == "":
			return "", "", usagef("name the folder, or leave --log away", "the name after --log is empty")
		case len(args) > 0 || c.config != "":
			return "", "", usagef("give one of the two", "--log %s names the log, and no settings are read for it", c.log)
		}
		return c.log, "", nil
	}
	config, err := c.findConfig(cmd, args)
	if err != nil {
		return "", "", err
	}
	s, problems := loadSettings(config, nil, os.Environ())
	if problems.Err() != nil {
		return "", "", &badFiles{problems}
	}
	return s.path(s.settings.Audit.Dir), s.logKeyPath() + ".pub", nil
}

// readKeys returns the keys that are given, or else that in the file, which it
// names then. There need be none.
func (c *verifyCommand) readKeys(file string) ([]note.Verifier, string, error) {
	if len(c.keys) > 0 {
		keys, err := readPublicKeys(c.keys)
		return keys, "", err
	}
	if file == "" || isNotExist(file) {
		return nil, "", nil
	}
	key, err := readPublicKey(file)
	if err != nil {
		return nil, "", err
	}
	return []note.Verifier{key}, file, nil
}

// readSince reads the head that was kept. It has to be signed with one of the
// keys that were given. If the key is only the one beside the log, the head is
// to be trusted rather than that, and foreign tells that it is of another.
func (c *verifyCommand) readSince(keys []note.Verifier, beside bool) (h *tree.Head, foreign bool, err error) {
	const hint = "give the file that witness keeps, or what sekisho audit head printed"
	text := []byte(c.since)
	if !strings.Contains(c.since, "\n") {
		if text, err = readFile(c.since); err != nil {
			return nil, false, failf(hint, "the head %s cannot be read: %v", printable(c.since), reason(err))
		}
	} else if !strings.HasSuffix(c.since, "\n") {
		text = append(text, '\n') // a shell takes it away
	}
	peeked, err := tree.PeekHead(text)
	if err != nil {
		return nil, false, failf(hint, "what is given with --since is not a head: %w", err)
	}
	if len(keys) == 0 {
		return &peeked, false, nil
	}
	_, err = tree.OpenHead(text, keys...)
	if err != nil && !(beside && errors.Is(err, tree.ErrForeignKey)) {
		return nil, false, failf("give the key that it was signed with, too", "the head that was kept cannot be trusted: %w", err)
	}
	return &peeked, err != nil, nil
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
	if !v.Good() {
		say("What comes after the first bad record was not judged.\n")
	}
	times := ""
	if !v.Begin.IsZero() {
		times = fmt.Sprintf(", from %s to %s", v.Begin.Format(time.RFC3339), v.End.Format(time.RFC3339))
	}
	say("Read %s in %s, %d bytes%s, in %.1f s.", manyRecords(v.Records()), many(v.Segments, "segment"), v.Bytes, times, v.Seconds)
	against := ""
	if len(v.Keys) > 0 {
		against = fmt.Sprintf(", %s verified with %s", many(v.Signatures, "signature"), printable(and(v.Keys)))
	}
	say("Held against %s%s.", many(v.Heads, "head"), against)
	if v.First > 0 {
		say("Retention has taken away %s before them.", manyRecords(v.First))
	}
	if v.Open > 0 {
		say("%s without an end yet.", many(v.Open, "forward"))
	}
	if v.SinceSays == audit.SinceFits {
		say("The head that was kept fits: %s, signed at %s.", manyRecords(v.Since.Size), v.Since.Time.Format(time.RFC3339))
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

// A verifyBar shows on a terminal how far the work is, after a second.
type verifyBar struct {
	w     io.Writer // nil: nowhere
	begun time.Time
	last  time.Time
}

func newVerifyBar(w io.Writer) *verifyBar {
	b := &verifyBar{begun: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		b.w = w
	}
	return b
}

func (b *verifyBar) show(records uint64, bytes int64) {
	now := time.Now()
	if b.w == nil || now.Sub(b.begun) < time.Second || now.Sub(b.last) < 200*time.Millisecond {
		return
	}
	b.last = now
	fmt.Fprintf(b.w, "\r\x1b[Kread %s, %d MiB", manyRecords(records), bytes>>20)
}

func (b *verifyBar) clear() {
	if !b.last.IsZero() {
		io.WriteString(b.w, "\r\x1b[K")
	}
}
