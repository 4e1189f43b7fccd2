package main

import (
	"crypto/ed25519"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// Among many keys there are some whose base64 has a "+", by which the parts of
// a key are parted.
func TestLogKeyIsReadAsItWasMade(t *testing.T) {
	dir := t.TempDir()
	plus := 0
	for range 100 {
		key, err := makeLogKey("bastion-1.example_x")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(key.private, "+") > 4 {
			plus++
		}
		for _, f := range key.files("log_key") {
			if err := os.WriteFile(filepath.Join(dir, f.name), f.content, f.perm); err != nil {
				t.Fatal(err)
			}
		}
		signer, verifier, problems := readLogKey(filepath.Join(dir, "log_key"))
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		public, err := publicHalf(key.private)
		if err != nil || public != key.public {
			t.Fatalf("the public half of %s is %s, %v; want %s", key.private, public, err, key.public)
		}
		text, err := note.Sign(&note.Note{Text: "x\n"}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := note.Open(text, note.VerifierList(verifier)); err != nil {
			t.Fatal(err)
		}
	}
	if plus == 0 {
		t.Error("none of the keys had a plus in its base64")
	}
}

func TestWhatIsNoLogKeyTellsNothingOfIt(t *testing.T) {
	key, err := makeLogKey("bastion-1")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty":            "",
		"cut off":          key.private[:len(key.private)-4],
		"of another name":  strings.Replace(key.private, "bastion-1", "bastion-2", 1),
		"two keys":         key.private + "\n" + key.private,
		"another sort":     "PRIVATE+KEY+x+00000000+",
		"the public half":  key.public,
		"something random": "\x00\xff+++++",
	} {
		path := filepath.Join(t.TempDir(), "log_key")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		signer, verifier, problems := readLogKey(path)
		if signer != nil || verifier != nil || problems.Err() == nil {
			t.Errorf("%s: it is a key", name)
			continue
		}
		if secret := key.private[len(key.private)-30 : len(key.private)-10]; strings.Contains(problems.Err().Error(), secret) {
			t.Errorf("%s: %v", name, problems)
		}
	}
}

func TestAKeyMayBeGivenTwiceButNotTwoOfOneName(t *testing.T) {
	// Keys with one hash of 32 bits are found fast.
	var keys []string
	had := map[string]string{}
	for n := uint32(0); keys == nil; n++ {
		key := make([]byte, ed25519.PublicKeySize)
		binary.BigEndian.PutUint32(key, n)
		text, err := note.NewEd25519VerifierKey("bastion-1", key)
		if err != nil {
			t.Fatal(err)
		}
		hash := strings.Split(text, "+")[1]
		if other, ok := had[hash]; ok {
			keys = []string{other, text}
		}
		had[hash] = text
	}
	file := filepath.Join(t.TempDir(), "pub")
	if err := os.WriteFile(file, []byte(keys[0]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readPublicKeys([]string{keys[0], file, keys[0]})
	if err != nil || len(got) != 1 {
		t.Errorf("the same key three times: %v, %v", got, err)
	}
	if got, err := readPublicKeys(keys); err == nil {
		t.Errorf("two keys of one name and hash: %v", got)
	}
}
