package main

import "github.com/spf13/cobra"

func newAudit(std stdio) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit COMMAND",
		Short: "Check the audit log, and what was seen of it before",
		Long: `These commands are about the audit log. The server signs what it has written with
its log key; whoever has the public half, and keeps what was signed, can tell when
the log is changed afterwards, also by somebody who has the server.`,
		RunE: needsCommand,
	}
	cmd.AddCommand(auditReaders(std, nil)...)
	cmd.AddCommand(newAuditVerify(std), newAuditKey(std), newAuditCheckProof(std), newAuditWitness(std))
	return cmd
}
