package main

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
)

func TestJSONIsHarmlessInATerminal(t *testing.T) {
	var b strings.Builder
	const text = "\u009b2J\u202e\u200b\ufeff\U000e0041\x7f日本 <&>"
	if err := printJSON(&b, map[string]string{"text": text}); err != nil {
		t.Fatal(err)
	}
	const want = "{\n  \"text\": \"" + `\u009b2J\u202e\u200b\ufeff\udb40\udc41\u007f日本 <&>` + "\"\n}\n"
	if b.String() != want {
		t.Errorf("it is\n%s\nand not\n%s", &b, want)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back["text"] != text {
		t.Errorf("%q comes back, %v", back["text"], err)
	}
}

func TestALogThatCannotBeReadSaysWhoCan(t *testing.T) {
	var b strings.Builder
	err := noLog("/etc/sekisho/audit", "", &fs.PathError{Op: "open", Path: "/etc/sekisho/audit", Err: fs.ErrPermission}, false)
	report(&b, err)
	const want = "sekisho: error: the log in /etc/sekisho/audit cannot be read: permission denied\n" +
		"sekisho: hint: the log is for the user that sekisho serves as: run this as that user or as root, or over SSH as a user with the role auditor\n"
	if got := b.String(); strings.ReplaceAll(got, fs.ErrPermission.Error(), "permission denied") != want {
		t.Errorf("it says\n%s\nand not\n%s", got, want)
	}
}
