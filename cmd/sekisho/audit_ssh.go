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
		RunE:  needsCommand,

		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(auditReaders(std, served)...)
	cmd.SetIn(std.in)
	cmd.SetOut(std.out)
	cmd.SetErr(std.err)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(flagError)
	cmd.SetArgs(words)
	return report(std.err, cmd.ExecuteContext(ctx))
}

// auditReaders are the commands that only read the log: what an auditor can
// have over SSH.
func auditReaders(std stdio, served *servedLog) []*cobra.Command {
	return []*cobra.Command{
		newAuditTail(std, served), newAuditSearch(std, served), newAuditShow(std, served), newAuditReport(std, served),
		newAuditPolicy(std, served), newAuditProve(std, served), newAuditHead(std, served),
	}
}
