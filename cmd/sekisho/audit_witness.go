package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"

	"sekisho/audit"
	"sekisho/audit/tree"
)

func newAuditWitness(std stdio) *cobra.Command {
	var w witness
	var given []string
	cmd := &cobra.Command{
		Use:   "witness --key PUB --state FILE DESTINATION [-- SSH-ARGS…]",
		Short: "Ask a server for its newest head, and make sure that its log has only grown",
		Long: `Witness is for cron on an auditor's machine. It asks the server for the newest
signed head of its log by ssh, makes sure that the log only grew since the head
that is kept in FILE, and keeps the new one there. The first head is kept as it
comes. Heads of before are in FILE.history, and should FILE be lost, the last of
them is the one that is kept: to begin anew, move both away.

The server signs a fresh head for each asking, so one that is older than --max-age
is an alarm, even if the log is quiet. That its time is before that of the kept
head, by more than a minute, is a warning: the server's clock may have been set.

The exit status is 0 if all is well, 4 if the server could not be asked, and 3 if
the log is not what it was: rewritten, shortened, signed with another key, or no
longer provable. FILE is not replaced then, and what was offered in place of its
head is in FILE.alarm-TIME.`,
		Example: `  sekisho audit witness --key bastion-1.pub --state bastion-1.head auditor@bastion.example -- -p 2222
  */10 * * * *  sekisho audit witness --key b.pub --state b.head --max-age 1h bastion >/dev/null`,
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case dash < 0 && len(args) > 1:
				return usagef("what ssh is to be given stands after --", "witness takes one destination: %q", args[1])
			case len(args) == 0 || dash == 0 || dash > 1 || args[0] == "" || args[0][0] == '-':
				return usagef("see "+cmd.CommandPath()+" --help", "witness takes one destination, such as bastion or auditor@bastion.example")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if w.keys, err = readPublicKeys(given); err != nil {
				return err
			}
			switch {
			case w.state == "":
				return usagef("name the file that the newest head is kept in", "--state is missing")
			case w.maxAge < 0 || w.timeout <= 0:
				return usagef("write it as 1h or 30s", "a time must not be negative, and --timeout leave some")
			}
			w.destination, w.sshArgs = args[0], args[1:]
			return w.run(cmd.Context(), std)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&given, "key", nil, "the `public` log key or a file of it; may be given several times")
	f.StringVar(&w.state, "state", "", "the `file` that the newest head is kept in")
	w.maxAge = ageLimit(24 * time.Hour)
	f.Var(&w.maxAge, "max-age", "the greatest `age` of the newest head, such as 1h, or off")
	f.StringVar(&w.ssh, "ssh", "ssh", "the `program` to ask with")
	f.DurationVar(&w.timeout, "timeout", time.Minute, "how long asking may take")
	return cmd
}

// An ageLimit is a flag. 0 is none.
type ageLimit time.Duration

func (a *ageLimit) Type() string { return "duration" }

func (a *ageLimit) String() string {
	if *a == 0 {
		return "off"
	}
	return brief(time.Duration(*a))
}

func (a *ageLimit) Set(text string) error {
	if text == "off" {
		*a = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("it is neither a time, such as 1h, nor off")
	}
	*a = ageLimit(d)
	return nil
}

// A witness is one run of the command.
type witness struct {
	keys        []note.Verifier
	state       string
	maxAge      ageLimit
	ssh         string
	sshArgs     []string
	destination string
	timeout     time.Duration
}

// errStale is that of a head which is signed and consistent, but so old, or so
// far ahead of this clock, that it may hide what came since.
var errStale = errors.New("its time is not that of now")

func (w *witness) run(ctx context.Context, std stdio) error {
	unlock, err := w.lock()
	if err != nil {
		return err
	}
	defer unlock()
	old, oldText, err := w.kept()
	lost := err == nil && old == nil
	if lost {
		old, oldText, err = w.remembered()
		lost = old != nil
	}
	if err != nil {
		return err
	}
	if lost {
		fmt.Fprintf(std.err, "sekisho: warning: %s is missing: the last head of %s is taken for it: %s, signed at %s\n",
			w.state, w.history(), manyRecords(old.Size), old.Time.Format(time.RFC3339))
	}
	from := uint64(0)
	if old != nil {
		from = old.Size
	}
	answer, err := w.ask(ctx, from)
	if err != nil {
		return &graveError{failure{err, "the log was not checked; " + w.state + " is as it was"}, exitUnasked}
	}
	now := time.Now()
	h, text, err := tree.CheckAnswer(answer, w.keys, old)
	if err == nil && w.maxAge > 0 && now.Sub(h.Time).Abs() > time.Duration(w.maxAge) {
		err = fmt.Errorf("%w: it was signed at %s", errStale, h.Time.Format(time.RFC3339))
	}
	switch why := whyNot(err); {
	case why != "":
		return w.alarm(why, err, answer, now)
	case err != nil:
		return &graveError{failure{fmt.Errorf("the answer of %s is none: %w", printable(w.destination), err),
			"the log was not checked; see what " + w.command(from) + " prints"}, exitUnasked}
	}
	if err := w.keep(h, text, old, oldText, lost); err != nil {
		return failf("the log is well, but the next run compares with what was kept before", "the new head could not be kept: %v", err)
	}
	w.tell(std, h, old)
	return nil
}

// whyNot says what an error means for the log, or "" if it means nothing for it.
func whyNot(err error) string {
	for _, why := range []struct {
		err  error
		word string
	}{
		{tree.ErrInconsistent, "the log was rewritten"},
		{tree.ErrRollback, "the log was rolled back"},
		{tree.ErrForeignKey, "the log is signed with a foreign key"},
		{tree.ErrSignature, "the head is forged or damaged"},
		{tree.ErrPruned, "the head that is kept here can be proven no more"},
		{tree.ErrUnprovable, "the log was changed on the disk of the server"},
		{errStale, "the newest head is too old"},
	} {
		if errors.Is(err, why.err) {
			return why.word
		}
	}
	return ""
}

// lock keeps another witness from the same files. It does not wait: that one
// is doing the same.
func (w *witness) lock() (unlock func(), err error) {
	f, err := os.OpenFile(w.state+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, failf("the head is kept in a folder that exists and that you can write", "%w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &graveError{failure{fmt.Errorf("another witness is at work with %s: %w", w.state, err), ""}, exitUnasked}
	}
	return func() { f.Close() }, nil
}

// kept reads the head of the last run; the first has none.
func (w *witness) kept() (*tree.Head, []byte, error) {
	text, err := readFile(w.state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, failf("without it nothing can be compared", "%s cannot be read: %v", w.state, reason(err))
	}
	h, err := tree.OpenHead(text, w.keys...)
	if err != nil {
		return nil, nil, failf("the file holds one signed head, and older ones are in "+w.history()+"; without it the log is trusted anew",
			"%s is not a head that was kept: %w", w.state, err)
	}
	return &h, text, nil
}

// history is the file with the heads of before.
func (w *witness) history() string { return w.state + ".history" }

// remembered reads the last head of the history, for when that of the last run
// is missing: who has removed one file is not to be trusted anew. If there is no
// history, this is the first run.
func (w *witness) remembered() (*tree.Head, []byte, error) {
	hint := "nothing is trusted anew while it is there: put a head that was kept into " + w.state + ", or move " + w.history() + " away to begin anew"
	text, err := lastBytes(w.history(), tree.MaxHead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, failf(hint, "%s is missing, and %s cannot be read: %v", w.state, w.history(), reason(err))
	}
	heads := audit.SplitHeads(text)
	if len(heads) == 0 || !bytes.HasSuffix(text, heads[len(heads)-1]) {
		return nil, nil, failf(hint, "%s is missing, and %s does not end with a whole head", w.state, w.history())
	}
	last := heads[len(heads)-1]
	h, err := tree.OpenHead(last, w.keys...)
	if err != nil {
		return nil, nil, failf(hint, "%s is missing, and the last head of %s is none: %w", w.state, w.history(), err)
	}
	return &h, last, nil
}

// lastBytes returns the last bytes of a regular file, so many at most.
func lastBytes(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	return io.ReadAll(io.NewSectionReader(f, max(info.Size()-most, 0), most))
}

// ask returns what the server answers to somebody with a head of from records.
func (w *witness) ask(ctx context.Context, from uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, fmt.Errorf("there was no answer within %s", brief(w.timeout)))
	defer cancel()
	out, errs := &bounded{most: tree.MaxAnswer}, &bounded{most: 2048, cut: true}
	cmd := exec.CommandContext(ctx, w.ssh, w.arguments(from)...)
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = time.Second // what ssh has started may hold its pipes
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well; a master connection that it left behind holds the pipe
	}
	switch {
	case out.full:
		return nil, fmt.Errorf("%s: the answer is longer than %d bytes", printable(w.destination), tree.MaxAnswer)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w", printable(w.destination), context.Cause(ctx))
	case err != nil:
		return nil, fmt.Errorf("%s could not be asked: %w%s", printable(w.destination), err, said(errs.text))
	}
	return out.text, nil
}

func (w *witness) arguments(from uint64) []string {
	args := append([]string{"-o", "BatchMode=yes"}, w.sshArgs...)
	return append(args, w.destination, "audit", "head", strconv.FormatUint(from, 10))
}

func (w *witness) command(from uint64) string {
	words := []string{shellWord(w.ssh)}
	for _, a := range w.arguments(from) {
		words = append(words, shellWord(a))
	}
	return strings.Join(words, " ")
}

// said is what a program has said of its failure, on one line.
func said(text []byte) string {
	if s := strings.Join(strings.Fields(string(text)), " "); s != "" {
		return ": " + printable(s)
	}
	return ""
}

// A bounded takes so many bytes. One more is an error, or if cut is set, lost.
type bounded struct {
	text []byte
	most int
	cut  bool
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	take := min(len(p), b.most-len(b.text))
	b.text = append(b.text, p[:take]...)
	if take < len(p) && !b.cut {
		b.full = true
		return take, errors.New("too much output")
	}
	return len(p), nil
}

// keep puts the head into the place of the one that was kept. The history,
// which has one of each size, is first: it is to miss none. lost is that the
// kept one is nowhere else.
func (w *witness) keep(h tree.Head, text []byte, old *tree.Head, oldText []byte, lost bool) error {
	if !lost && string(text) == string(oldText) {
		return nil
	}
	if old == nil || h.Size != old.Size {
		// The empty line before it ends what a full disk may have left.
		if err := appendFile(w.history(), append([]byte("\n"), text...)); err != nil {
			return err
		}
	}
	return replaceFile(w.state, text, 0o600)
}

// appendFile appends to a file durably.
func appendFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// mostAlarms is how many offers are kept beside a head: cron comes again and
// again, and the first ones tell the most.
const mostAlarms = 100

// alarm keeps what was offered, and is the error that says so.
func (w *witness) alarm(why string, cause error, answer []byte, now time.Time) error {
	saved := "what was offered is in "
	evidence := w.state + ".alarm-" + now.UTC().Format("20060102T150405.000Z")
	switch err := w.saveAlarm(evidence, answer); {
	case errors.Is(err, errManyAlarms):
		saved = fmt.Sprintf("%d offers are kept already beside ", mostAlarms) + w.state
	case err != nil:
		saved = fmt.Sprintf("what was offered could not be kept: %v", err)
	default:
		saved += evidence
	}
	return &graveError{failure{fmt.Errorf("ALARM: %s: %s: %w", printable(w.destination), why, cause),
		"find out why before anything is changed here or there; " + saved + ", and " + w.state + " is as it was"}, exitAlarm}
}

var errManyAlarms = errors.New("there are many alarms already")

func (w *witness) saveAlarm(path string, answer []byte) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(w.state)+".alarm-") {
			n++
		}
	}
	if n >= mostAlarms {
		return errManyAlarms
	}
	return writeNew(filepath.Dir(path), []newFile{{filepath.Base(path), answer, 0o600}})
}

func (w *witness) tell(std stdio, h tree.Head, old *tree.Head) {
	if old == nil {
		fmt.Fprintf(std.out, "%s: the first head is kept: %s, signed at %s; from now on the log is watched; what was changed before that is not seen\n",
			h.Origin, manyRecords(h.Size), h.Time.Format(time.RFC3339))
		return
	}
	// A clock that is set is no change of the log, whose sizes only grow.
	if old.Time.Sub(h.Time) > time.Minute {
		fmt.Fprintf(std.err, "sekisho: warning: the clock of %s went back: its head was signed at %s, and the one before it at %s\n",
			printable(w.destination), h.Time.Format(time.RFC3339), old.Time.Format(time.RFC3339))
	}
	fmt.Fprintf(std.out, "%s: all is well: %s, %d more than at %s, signed at %s\n",
		h.Origin, manyRecords(h.Size), h.Size-old.Size, old.Time.Format(time.RFC3339), h.Time.Format(time.RFC3339))
}
