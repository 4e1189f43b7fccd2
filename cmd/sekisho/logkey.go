package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"sekisho/authz/strictyaml"
)

// A logKey is the key that signs the heads of the audit log, in the text form
// of package note.
type logKey struct{ private, public string }

// makeLogKey makes a key of a server's name. Such a name has no space and no
// "+", which those of keys must not have.
func makeLogKey(name string) (logKey, error) {
	private, public, err := note.GenerateKey(rand.Reader, name)
	return logKey{private, public}, err
}

// files are those of the key, the public half of which has the same name and
// .pub.
func (k logKey) files(name string) []newFile {
	return []newFile{{name, []byte(k.private + "\n"), 0o600}, {name + ".pub", []byte(k.public + "\n"), 0o644}}
}

// logKeyPath is the file of the private log key.
func (s *setup) logKeyPath() string { return s.path(s.settings.Audit.Key) }

// readLogKey reads the log key. Where there is a problem that is an error, none
// is returned. The public half is that of the private one, whatever its own
// file says.
func readLogKey(path string) (note.Signer, note.Verifier, strictyaml.Problems) {
	bad := func(hint, format string, args ...any) (note.Signer, note.Verifier, strictyaml.Problems) {
		return nil, nil, strictyaml.Problems{{File: path, Message: fmt.Sprintf(format, args...), Hint: hint}}
	}
	content, err := readFile(path)
	if err != nil {
		hint := ""
		switch {
		case errors.Is(err, os.ErrNotExist):
			hint = "sekisho audit key --new makes one"
		case errors.Is(err, os.ErrPermission):
			hint = "the log key is for the user that sekisho serves as: chown it, or run this as that user or root"
		}
		return bad(hint, "the log key cannot be read: %v", reason(err))
	}
	text := strings.TrimSpace(string(content))
	signer, err := note.NewSigner(text)
	if err != nil {
		if _, err := note.NewVerifier(text); err == nil {
			return bad("name the file without .pub", "this is a public log key")
		}
		return bad("", "this is not a log key") // not what the library says: it could tell a part of the key
	}
	public, err := publicHalf(text)
	if err != nil {
		return bad("", "this is not a log key: %v", err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return bad("", "this is not a log key: %v", err)
	}
	if content, err := readFile(path + ".pub"); err == nil && string(bytes.TrimSpace(content)) != public {
		return signer, verifier, strictyaml.Problems{{File: path + ".pub", Message: "this is not the public half of " + path, Warning: true,
			Hint: "sekisho audit key prints the right one"}}
	}
	return signer, verifier, nil
}

// publicHalf returns the public text of a key that note.NewSigner takes.
func publicHalf(private string) (string, error) {
	parts := strings.SplitN(private, "+", 5) // PRIVATE, KEY, name, hash, and algorithm with seed
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 5 || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("its form is not known")
	}
	key := ed25519.NewKeyFromSeed(seed[1:])
	return note.NewEd25519VerifierKey(parts[2], key.Public().(ed25519.PublicKey))
}

// readPublicKey reads a public log key: the text itself, or a file of it.
func readPublicKey(given string) (note.Verifier, error) {
	key, _, err := readPublicText(given)
	return key, err
}

// readPublicText is readPublicKey, and returns the text of the key, too.
func readPublicText(given string) (key note.Verifier, text string, err error) {
	if key, err := note.NewVerifier(given); err == nil {
		return key, given, nil
	}
	const hint = "give the line that sekisho audit key prints, or a file that has it"
	content, err := readFile(given)
	if err != nil {
		if strings.Contains(given, "+") && !strings.ContainsRune(given, filepath.Separator) && errors.Is(err, os.ErrNotExist) {
			return nil, "", failf(hint, "%q is not a public log key", printable(given))
		}
		return nil, "", failf(hint, "the key %s cannot be read: %v", printable(given), reason(err))
	}
	text = strings.TrimSpace(string(content))
	if key, err = note.NewVerifier(text); err == nil {
		return key, text, nil
	}
	if strings.HasPrefix(text, "PRIVATE+KEY+") {
		return nil, "", failf("give "+given+".pub; the private one stays with the server", "%s is a private log key", given)
	}
	return nil, "", failf(hint, "%s is not a public log key", given)
}

// readOldKeys reads the public halves of log keys that came before the one in a
// file, KEY.*.pub beside it. That there is none is no error.
func readOldKeys(path string) ([]note.Verifier, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var keys []note.Verifier
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".")
		if !ok || !strings.HasSuffix(name, ".pub") {
			continue
		}
		key, err := readPublicKey(filepath.Join(filepath.Dir(path), e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// readPublicKeys reads several. One that is given twice counts once. Two that
// go by one name and hash are an error: a signature does not tell which of them
// made it, and somebody must have made the second one for that.
func readPublicKeys(given []string) ([]note.Verifier, error) {
	if len(given) == 0 {
		return nil, usagef("give the public log key, which sekisho audit key prints on the server", "--key is missing")
	}
	var keys []note.Verifier
	texts := map[string]string{} // by name and hash
	for _, g := range given {
		key, text, err := readPublicText(g)
		if err != nil {
			return nil, err
		}
		id := fmt.Sprintf("%s+%08x", key.Name(), key.KeyHash())
		switch had, ok := texts[id]; {
		case !ok:
			keys, texts[id] = append(keys, key), text
		case had != text:
			return nil, failf("find out where each of them comes from", "two keys that were given differ, and both are named %s", printable(id))
		}
	}
	return keys, nil
}
