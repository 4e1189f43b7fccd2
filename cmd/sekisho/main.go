// Command sekisho is an SSH bastion: it lets people through to the private
// hosts that a policy allows them, and writes every forward into a log.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // policies name time zones, and small images have none
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what does not end by itself
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio is where a command reads and prints.
type stdio struct {
	in  io.Reader
	out io.Writer // results
	err io.Writer // errors, hints, questions, and serve's operational log
}

// run is the program; it returns the exit status.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(args)
	return report(std.err, root.ExecuteContext(ctx))
}
