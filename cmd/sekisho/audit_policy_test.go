package main

import (
	"encoding/json"
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
