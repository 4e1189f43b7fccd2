package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/mod/sumdb/tlog"

	"sekisho/audit/tree"
)

// scriptAnswer writes what a server with the log key would answer to audit head:
// answer KEY FILE size=20 from=13 [other=3] [age=1h] [pruned=15] [unprovable=1].
// With other, the record of that number is another one.
func scriptAnswer(ts *testscript.TestScript, neg bool, args []string) {
	log := newScriptLog(ts, args)
	from := uint64(log.number("from"))
	var text []byte
	var err error
	if pruned := log.number("pruned"); pruned > 0 {
		text, err = tree.FormatPruned(log.head, from, uint64(pruned))
	} else if log.number("unprovable") > 0 {
		text, err = tree.FormatUnprovable(log.head, from)
	} else {
		text, err = tree.FormatAnswer(log.head, from, log)
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o644))
}

// scriptProof writes a proof of records: proof KEY FILE size=20 seq=3,12.
func scriptProof(ts *testscript.TestScript, neg bool, args []string) {
	log := newScriptLog(ts, args)
	var records []tree.Proven
	for _, word := range commas(log.options["seq"]) {
		seq, err := strconv.Atoi(word)
		ts.Check(err)
		records = append(records, tree.Proven{Seq: uint64(seq), Line: log.lines[seq]})
	}
	text, err := tree.FormatProof(log.head, records, log)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o644))
}

// A scriptLog is a log that a script describes.
type scriptLog struct {
	options map[string]string
	lines   [][]byte
	head    []byte
}

func newScriptLog(ts *testscript.TestScript, args []string) *scriptLog {
	log := &scriptLog{options: map[string]string{}}
	for _, a := range args[2:] {
		name, value, _ := strings.Cut(a, "=")
		log.options[name] = value
	}
	var r tree.Range
	for i := range log.number("size") {
		line := fmt.Appendf(nil, `{"v":1,"seq":%d,"type":"forward.open","user":"bob"}`, i)
		if log.options["other"] == strconv.Itoa(i) {
			line = fmt.Appendf(nil, `{"v":1,"seq":%d,"type":"forward.open","user":"eve"}`, i)
		}
		log.lines = append(log.lines, line)
		r.Append(tree.Leaf(line))
	}
	age, err := time.ParseDuration(log.options["age"] + "0s")
	ts.Check(err)
	root, err := r.Root()
	ts.Check(err)
	signer, _, problems := readLogKey(ts.MkAbs(args[0]))
	ts.Check(problems.Err())
	log.head, err = tree.Head{Size: r.Next(), Root: root, Time: time.Now().Add(-age)}.Sign(signer)
	ts.Check(err)
	return log
}

func (log *scriptLog) number(option string) int {
	n, _ := strconv.Atoi(log.options[option])
	return n
}

// ReadHashes is that of a tlog.HashReader.
func (log *scriptLog) ReadHashes(indexes []int64) ([]tree.Hash, error) {
	var all []tree.Hash
	for _, i := range indexes {
		level, n := tlog.SplitStoredHashIndex(i)
		r := tree.NewRange(uint64(n) << level)
		for _, line := range log.lines[n<<level : (n+1)<<level] {
			r.Append(tree.Leaf(line))
		}
		h, _ := r.Node(level, uint64(n))
		all = append(all, h)
	}
	return all, nil
}
