package tree

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// MaxHead bounds the text of a signed head.
const MaxHead = 4096

var (
	// ErrForeignKey is that of a head which a key that was not given has signed.
	ErrForeignKey = errors.New("signed with another key")
	// ErrSignature is that of a head which claims a given key and has no valid
	// signature of it: somebody has written it or changed it.
	ErrSignature = errors.New("the signature is wrong")
)

// A Head says what the whole log was at one moment. Signed it is a note
// (https://c2sp.org/signed-note) in the shape of a checkpoint
// (https://c2sp.org/tlog-checkpoint), with the time as its extension line:
//
//	bastion-1
//	812
//	SyvGQsTRNcHfRrvSVrQNNWcMNPnMnFiiHGbGxOsnEmY=
//	time 2026-11-22T01:02:03Z
//
//	— bastion-1 4xG2w…
type Head struct {
	Origin string    // the name of the key
	Size   uint64    // records
	Root   Hash      // of the tree over them
	Time   time.Time // when it was signed; UTC, whole seconds
}

// Sign returns the text of h, signed. The origin is the name of the signer,
// whatever h says, and the time loses its fraction of a second.
func (h Head) Sign(s note.Signer) ([]byte, error) {
	h.Origin = s.Name()
	text, err := note.Sign(&note.Note{Text: h.body()}, s)
	if err != nil {
		return nil, fmt.Errorf("sign a head: %w", err)
	}
	if _, err := PeekHead(text); err != nil {
		return nil, fmt.Errorf("sign a head: %w", err) // nobody could read it
	}
	return text, nil
}

func (h Head) body() string {
	return fmt.Sprintf("%s\n%d\n%s\ntime %s\n", h.Origin, h.Size, h.Root, h.Time.UTC().Format(time.RFC3339))
}

// OpenHead reads a head that one of the keys has signed. What is wrong with
// any other text is one of ErrMalformed, ErrForeignKey and ErrSignature.
func OpenHead(text []byte, keys ...note.Verifier) (Head, error) {
	h, n, err := readHead(text)
	if err != nil {
		return Head{}, err
	}
	sig := n.UnverifiedSigs[0]
	_, err = note.Open(text, Keys(keys))
	switch {
	case err == nil:
		return h, nil
	case errors.As(err, new(*note.UnverifiedNoteError)):
		return Head{}, fmt.Errorf("the head is %w: %s+%08x, not %s", ErrForeignKey, sig.Name, sig.Hash, keyList(keys))
	case errors.As(err, new(*note.InvalidSignatureError)):
		return Head{}, fmt.Errorf("the head of %d records: %w: it is not one of the key %s+%08x that it names", h.Size, ErrSignature, sig.Name, sig.Hash)
	}
	return Head{}, malformed("the head: %v", err)
}

// Keys are those whose signatures count, as note.Open wants them. Unlike in
// note.VerifierList, the same key may be there twice.
type Keys []note.Verifier

// Verifier is that of note.Verifiers.
func (k Keys) Verifier(name string, hash uint32) (note.Verifier, error) {
	for _, v := range k {
		if v.Name() == name && v.KeyHash() == hash {
			return v, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: hash}
}

func keyList(keys []note.Verifier) string {
	var list []string
	for _, k := range keys {
		list = append(list, fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()))
	}
	if len(list) == 0 {
		return "one that was given"
	}
	return strings.Join(list, " or ")
}

// PeekHead reads a head without asking who has signed it. It is for messages;
// nothing that it returns proves anything.
func PeekHead(text []byte) (Head, error) {
	h, _, err := readHead(text)
	return h, err
}

// readHead is strict: exactly one signature, by a key of the name that the
// head begins with, and the one spelling that Sign has.
func readHead(text []byte) (Head, *note.Note, error) {
	if len(text) > MaxHead {
		return Head{}, nil, malformed("a head of more than %d bytes", MaxHead)
	}
	_, err := note.Open(text, nil)
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if !ok || len(unverified.Note.UnverifiedSigs) != 1 {
		return Head{}, nil, malformed("the head is not a note with one signature")
	}
	n := unverified.Note
	l := lines{rest: []byte(n.Text)}
	var field [4]string
	for i := range field {
		if field[i], err = l.next(); err != nil {
			return Head{}, nil, malformed("the head has %d lines of the %d that it should have", i, len(field))
		}
	}
	h := Head{Origin: field[0]}
	if h.Size, err = parseSize(field[1]); err != nil {
		return Head{}, nil, err
	}
	if h.Root, err = parseHash(field[2]); err != nil {
		return Head{}, nil, err
	}
	if h.Time, err = time.Parse("time "+time.RFC3339, field[3]); err != nil {
		return Head{}, nil, malformed("%.60q is not the time of a head", field[3])
	}
	sig := n.UnverifiedSigs[0]
	if sig.Name != h.Origin || !printable([]byte(h.Origin)) {
		return Head{}, nil, malformed("the head begins with %.60q, and the key that signed it is named %.60q", h.Origin, sig.Name)
	}
	if string(text) != h.body()+"\n— "+sig.Name+" "+sig.Base64+"\n" {
		return Head{}, nil, malformed("the head of %d records is not spelt as it should be", h.Size)
	}
	h.Time = h.Time.UTC()
	return h, n, nil
}
