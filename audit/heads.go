package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"sekisho/audit/tree"
)

// headPause is how long after one head the next is signed at the earliest. So
// long a change of the newest records can go unnoticed.
const headPause = time.Second

// Heads stand beside the segment that their last record is in, each as it is
// signed, with an empty line after it.
const headsEnd = ".heads"

// A growth is the tree over all that is durable, as the writer lets it grow.
type growth struct {
	tree tree.Range
	stem string     // of the segment that the last record is in
	part tree.Range // the part of the tree over the records of that segment

	named map[string]uint64 // see Log.tell
}

// grow adds the leaves of a batch that is durable.
func (l *Log) grow(stem string) {
	l.growing.Lock()
	rotated := l.grown.stem != stem
	if rotated {
		l.grown.stem, l.grown.part = stem, tree.NewRange(l.grown.tree.Next())
	}
	for _, leaf := range l.leaves {
		l.grown.tree.Append(leaf)
		l.grown.part.Append(leaf)
	}
	l.growing.Unlock()
	if rotated {
		select {
		case l.rotated <- struct{}{}:
		default:
		}
	}
	select {
	case l.unsigned <- struct{}{}:
	default:
	}
}

// Head signs the head of all that is durable now. It is nil if the log has no
// key.
func (l *Log) Head() ([]byte, error) {
	if l.opts.Signer == nil {
		return nil, nil
	}
	text, _, _, err := l.signed()
	return text, err
}

func (l *Log) signed() (text []byte, size uint64, stem string, err error) {
	l.growing.Lock()
	size, stem = l.grown.tree.Next(), l.grown.stem
	root, err := l.grown.tree.Root()
	l.growing.Unlock()
	if err == nil {
		text, err = tree.Head{Size: size, Root: root, Time: l.opts.now()}.Sign(l.opts.Signer)
	}
	return text, size, stem, err
}

// signHeads signs what is new, at most once in headPause, until the writer has
// stopped, and then once more.
func (l *Log) signHeads() {
	defer close(l.sealed)
	w := headWriter{dir: l.dir, disk: l.opts.disk}
	defer w.close()
	last, told := uint64(0), false
	for over := false; !over; {
		select {
		case <-l.unsigned:
		case <-l.stopped:
			over = true
		}
		text, size, stem, err := l.signed()
		if err == nil && size != last {
			err = w.write(stem, text)
		}
		if err == nil {
			last = size
		} else {
			err = fmt.Errorf("audit: sign a head: %w", err)
			select { // try again, even if nothing is new by then
			case l.unsigned <- struct{}{}:
			default:
			}
		}
		l.signing.Store(&headState{last, err})
		if told != (err != nil) {
			told = err != nil
			l.tellHeads(last, err)
		}
		if !over {
			select {
			case <-time.After(l.opts.headPause):
			case <-l.stopped:
			}
		}
	}
}

// tellHeads warns that heads can no longer be written, or can again. No append
// waits for them.
func (l *Log) tellHeads(last uint64, err error) {
	fields := map[string]any{"signed": last} // records
	text := "heads of the audit log are signed and written again"
	if err != nil {
		text = "no head of the audit log can be signed and written, so a change of its newest records would go unnoticed; this is tried again"
		fields["error"] = err
	}
	l.warn(text, fields)
}

// A headState is how the signing of heads stands.
type headState struct {
	size uint64 // of the newest that is written
	err  error  // why the last attempt failed
}

// A headWriter writes heads into the files beside the segments.
type headWriter struct {
	dir     string
	disk    disk
	file    file // nil if none is open
	stem    string
	torn    bool // it may end in half a head
	size    int64
	thinned int64  // size after that was thinned
	begun   string // stem of the file that thinned is of
}

// write appends a head and makes it durable. After a failure the descriptor is
// not used again; half a head, which that may leave, is nobody's.
func (w *headWriter) write(stem string, text []byte) error {
	if w.file != nil && (w.stem != stem || w.moved()) {
		w.close()
	}
	if w.file != nil && w.size > max(thinAt, 2*w.thinned) {
		if err := w.thin(); err != nil {
			return err
		}
	}
	if w.file == nil {
		f, err := w.disk.OpenFile(filepath.Join(w.dir, stem+headsEnd), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		w.file, w.stem, w.torn = f, stem, true
		if info, err := f.Stat(); err == nil {
			w.size = info.Size()
		}
		if w.stem != w.begun {
			w.begun, w.thinned = stem, 0
		}
		if err := w.disk.SyncDir(w.dir); err != nil {
			w.close()
			return err
		}
	}
	text = append(text, '\n')
	if w.torn {
		text = append([]byte("\n"), text...)
	}
	_, err := w.file.Write(text)
	if err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		w.close()
	}
	w.torn = false
	w.size += int64(len(text))
	return err
}

// thin leaves one head a minute in the file, and closes it.
func (w *headWriter) thin() error {
	w.close()
	w.thinned = 0
	path := filepath.Join(w.dir, w.stem+headsEnd)
	all, err := headsOf(path)
	if err != nil {
		return err
	}
	kept := thinned(all)
	for _, text := range kept {
		w.thinned += int64(len(text)) + 1
	}
	return writeHeads(w.disk, path, kept)
}

// moved reports whether the open file is not the one in the folder any more.
func (w *headWriter) moved() bool {
	info, err := w.file.Stat()
	return err != nil || inPlace(info, filepath.Join(w.dir, w.stem+headsEnd)) != nil
}

func (w *headWriter) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

// headLines is how many lines a head has, the empty one before the signature
// among them.
const headLines = 6

// splitHeads returns the texts of the heads in a file of them. What is none is
// left out: a crash leaves half a one, and the next begins right behind it.
func splitHeads(b []byte) [][]byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	var heads [][]byte
	for i := 0; i+headLines <= len(lines); i++ {
		end := i + headLines
		if len(lines[end-2]) != 1 || !bytes.HasPrefix(lines[end-1], []byte("— ")) || !wholeSignature(bytes.TrimSuffix(lines[end-1], []byte("\n"))) {
			continue
		}
		text := bytes.Join(lines[i:end], nil)
		if _, err := tree.PeekHead(text); err != nil {
			// Half a head may stand before the first line of this one.
			continue
		}
		heads = append(heads, text)
		i = end - 1
	}
	return heads
}

// wholeSignature reports whether the line with a signature is as long as one
// with Ed25519 is, after the 4 bytes that name the key. What a full disk cuts
// off looks like a wrong signature otherwise.
func wholeSignature(line []byte) bool {
	return len(line)-1-bytes.LastIndexByte(line, ' ') == base64.StdEncoding.EncodedLen(4+ed25519.SignatureSize)
}

// mostHeads bounds a file of heads that is read whole: more than the writer
// lets it become.
const mostHeads = 64 << 20

// thinAt is from which size on the writer thins the file that it writes, so
// that a segment may be written for as long as somebody likes: heads of six
// hours, one a second.
const thinAt = 4 << 20

// headsOf returns the heads beside a piece, oldest first.
func headsOf(path string) ([][]byte, error) {
	b, err := readUpTo(path, mostHeads)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: read the heads: %w", err)
	}
	return splitHeads(b), nil
}

// headFiles are the files of heads in dir, in the order of the log.
func headFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name, which is the order but for the nth of one seq
	if err != nil {
		return nil, fmt.Errorf("audit: list the heads: %w", err)
	}
	var files []string
	for _, e := range entries {
		if rest, ok := strings.CutSuffix(e.Name(), headsEnd); ok {
			if _, ok := parsePieceName(rest + plainEnd); ok {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}

// newestHead is the newest that one of the keys has signed; text is nil if
// there is none. foreign tells of a newer one that another key has signed.
func newestHead(dir string, keys ...note.Verifier) (text []byte, h tree.Head, foreign error, err error) {
	files, err := headFiles(dir)
	if err != nil {
		return nil, h, nil, err
	}
	for _, path := range slices.Backward(files) {
		text, h, err := newestIn(path, &foreign, keys)
		if err != nil {
			return nil, h, nil, fmt.Errorf("audit: %s: %w", path, err)
		}
		if text != nil {
			return text, h, foreign, nil
		}
	}
	return nil, h, foreign, nil
}

// newestIn looks through a file of heads from its end, for it may be long.
func newestIn(path string, foreign *error, keys []note.Verifier) (text []byte, h tree.Head, err error) {
	f, err := openFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, h, nil // retention has just taken it
	}
	if err != nil {
		return nil, h, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, h, err
	}
	const chunk = 64 << 10
	for end := info.Size(); end > 0; {
		// Of a head that is cut at the beginning of one chunk, the next one has
		// the whole.
		begin := max(end-chunk, 0)
		b := make([]byte, min(end+tree.MaxHead, info.Size())-begin)
		if _, err := f.ReadAt(b, begin); err != nil && err != io.EOF {
			return nil, h, err
		}
		for _, text := range slices.Backward(splitHeads(b)) {
			h, err := tree.OpenHead(text, keys...)
			if err == nil {
				return text, h, nil
			}
			if !errors.Is(err, tree.ErrForeignKey) {
				return nil, h, err
			}
			if *foreign == nil {
				*foreign = err
			}
		}
		end = begin
	}
	return nil, h, nil
}
