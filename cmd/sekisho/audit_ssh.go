package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// auditOverSSH answers "ssh bastion audit WORDS…" (bastion.AuditCommand): the
// commands that read the log, on the log of this server.
func (svc *service) auditOverSSH(ctx context.Context, words []string, stdout, stderr io.Writer) int {
	std := stdio{strings.NewReader(""), stdout, stderr}
	served := &servedLog{dir: svc.auditPath(), key: svc.setup.logPub, book: svc.book}
	cmd := &cobra.Command{
		Use:   "audit COMMAND",
		Short: "Read the audit log",
		Long:  `These commands read the audit log of this server. Each use of them is a record in it.`,
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,

		SilenceErrors: true,
		SilenceUsage:  true,
	}
	for _, reader := range auditReaders(std, served) {
		reader.Use = strings.TrimSuffix(reader.Use, " [DIR]")
		reader.Example = overSSH(reader.Example)
		cmd.AddCommand(reader)
	}
	cmd.SetIn(std.in)
	cmd.SetOut(std.out)
	cmd.SetErr(std.err)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetArgs(words)
	return report(std.err, cmd.ExecuteContext(ctx))
}

// overSSH leaves those examples that can be given there.
func overSSH(examples string) string {
	var lines []string
	for line := range strings.Lines(examples) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "sekisho audit "); ok && !strings.Contains(line, "--log") && !strings.Contains(line, "check-proof") {
			after := "" // of this side
			if i := strings.IndexAny(rest, "|>"); i > 0 {
				rest, after = strings.TrimSpace(rest[:i]), " "+rest[i:]
			}
			rest = "audit " + rest
			if strings.ContainsAny(rest, `'"*`) {
				rest = shellWord(rest)
			}
			lines = append(lines, "  ssh bastion "+rest+after)
		} else if strings.HasPrefix(line, "ssh bastion ") {
			lines = append(lines, "  "+line)
		}
	}
	return strings.Join(lines, "\n")
}

// auditReaders are the commands that only read the log: what an auditor can
// have over SSH.
func auditReaders(std stdio, served *servedLog) []*cobra.Command {
	return []*cobra.Command{
		newAuditTail(std, served), newAuditSearch(std, served), newAuditShow(std, served), newAuditReport(std, served),
		newAuditPolicy(std, served), newAuditProve(std, served), newAuditHead(std, served),
	}
}
