package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"

	"sekisho/audit"
)

// scriptWriteLog adds a run with so many records to a log, signed with a key,
// and keeps the head of them: writelog KEY DIR N HEAD.
func scriptWriteLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: writelog KEY DIR N HEAD")
	}
	signer, verifier, problems := readLogKey(ts.MkAbs(args[0]))
	ts.Check(problems.Err())
	log, err := audit.Open(ts.MkAbs(args[1]), audit.Options{Bastion: "edge", Signer: signer, Verifier: verifier})
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for i := range n {
		ts.Check(log.Append(context.Background(), audit.Record{Type: audit.PolicyLoad, Detail: fmt.Sprint("record ", i)}))
	}
	head, err := log.Head()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), head, 0o644))
	ts.Check(log.Close())
}
