package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"sekisho/audit/tree"
)

// A segment is packed in these steps, after each of which a crash leaves what
// is read as before and packed anew: of both forms the plain one counts.
//
//	STEM.jsonl.zst.tmp  written, synced, read back and compared
//	STEM.index          written, synced, renamed into its place
//	STEM.heads          thinned, in the same way
//	STEM.jsonl.zst      renamed into its place; the folder is synced
//	STEM.jsonl          removed; the folder is synced
//
// Only the records that count are packed.

// syncEvery is after how many bytes what is packed is synced: all at once it
// would hold up the records of forwards that begin.
const syncEvery = 4 << 20

func (k *keeper) pack(p piece) error {
	disk := k.log.opts.disk
	to := p.beside(packedEnd)
	tmp := to + tmpEnd
	x, err := k.compress(p, tmp)
	if err == nil {
		err = k.compare(p, tmp, x)
	}
	if err == nil {
		err = k.putIndex(p, x)
	}
	if err == nil {
		if err := k.thin(p); err != nil {
			k.warn("the heads beside a segment of the audit log are not thinned", err, map[string]any{"segment": p.path})
		}
		err = k.ready()
	}
	if err == nil {
		err = disk.Rename(tmp, to)
	}
	if err != nil {
		disk.Remove(tmp)
		return fmt.Errorf("audit: pack %s: %w", p.path, err)
	}
	if err = disk.SyncDir(k.log.dir); err == nil {
		err = k.ready()
	}
	if err == nil {
		err = disk.Remove(p.path)
	}
	if err == nil {
		err = disk.SyncDir(k.log.dir)
	}
	if err != nil {
		return fmt.Errorf("audit: remove %s, which is packed: %w", p.path, err)
	}
	return nil
}

// compress writes the records of p to a file and returns their index.
func (k *keeper) compress(p piece, path string) (x *Index, err error) {
	f, err := k.log.opts.disk.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := newPacker(&syncer{file: f})
	if err != nil {
		return nil, err
	}
	x, err = k.read(p, func(line []byte) error {
		return packLine(z, line)
	})
	if err = errors.Join(err, z.Close()); err == nil {
		err = f.Sync()
	}
	return x, err
}

func newPacker(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(mostWindow), zstd.WithEncoderCRC(true))
}

func packLine(z *zstd.Encoder, line []byte) error {
	if _, err := z.Write(line); err != nil {
		return err
	}
	_, err := z.Write([]byte("\n"))
	return err
}

// A counter counts what is written to it.
type counter uint64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// read goes through a closed piece and returns its index. An error is a damage
// if the piece is not what it should be. fn may be nil.
//
// What is not about failed logins is packed a second time by itself, to no
// file: how well their text compresses, those choose who fail to log in, so
// that their share of the packed file says nothing about the rest.
func (k *keeper) read(p piece, fn func(line []byte) error) (*Index, error) {
	in := newIndexer(p.first)
	var size counter
	z, err := newPacker(&size)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	e, err := p.scan(func(line []byte, r Record) error {
		in.add(line, r)
		if !r.Type.failsLogin() {
			if err := packLine(z, line); err != nil {
				return err
			}
		}
		if fn != nil {
			if err := fn(line); err != nil {
				return err
			}
		}
		return k.pace(len(line) + 1)
	})
	if err != nil {
		return nil, err
	}
	if err := p.whole(e); err != nil {
		return nil, &damage{err}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	x := in.done()
	x.packed = uint64(size)
	return x, nil
}

// A syncer syncs now and then.
type syncer struct {
	file
	dirty int
}

func (w *syncer) Write(b []byte) (int, error) {
	n, err := w.file.Write(b)
	if w.dirty += n; err == nil && w.dirty >= syncEvery {
		w.dirty = 0
		err = w.Sync()
	}
	return n, err
}

// compare reads back what is packed.
func (k *keeper) compare(p piece, path string, x *Index) error {
	s, err := piece{path: path, packed: true}.open()
	if err != nil {
		return err
	}
	defer s.Close()
	lines := lineReader(s)
	defer readers.Put(lines)
	got := tree.NewRange(p.first)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			break
		}
		if err != nil {
			return err
		}
		got.Append(tree.Leaf(line[:len(line)-1]))
		if err := k.pace(len(line)); err != nil {
			return err
		}
	}
	if !sameRange(got, x.tree) {
		return errors.New("what was packed is not what was read")
	}
	return nil
}

// putIndex writes the index of a piece, if there is a key to sign it, and
// remembers it.
func (k *keeper) putIndex(p piece, x *Index) error {
	if s := k.log.opts.Signer; s != nil {
		text, err := x.sign(s)
		if err != nil {
			return err
		}
		if err := k.ready(); err != nil {
			return err
		}
		if err := writeFile(k.log.opts.disk, p.beside(indexEnd), text); err != nil {
			return err
		}
	}
	k.remember(p, x)
	return nil
}

func (k *keeper) remember(p piece, x *Index) {
	light := *x
	light.filter = nil
	k.pieces[p.stem()] = &light
}

// summary returns the index of a packed piece without its filter: the one that
// is known, or that stands beside it, or else one that is made of its records.
func (k *keeper) summary(p piece) (*Index, error) {
	if x := k.pieces[p.stem()]; x != nil {
		return x, nil
	}
	if key := k.log.opts.Verifier; key != nil {
		if x, err := p.index(key); err == nil && x != nil {
			k.remember(p, x)
			return k.pieces[p.stem()], nil
		}
	}
	x, err := k.read(p, nil)
	if err == nil {
		err = k.putIndex(p, x)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: index %s: %w", p.path, err)
	}
	return k.pieces[p.stem()], nil
}

// glance finds out what shows of a packed piece without reading it.
func (k *keeper) glance(p piece) error {
	info, err := os.Stat(p.path)
	if err != nil {
		return fmt.Errorf("audit: look at a segment: %w", err)
	}
	if info.Size() == 0 {
		return &damage{fmt.Errorf("%s is empty", p.path)}
	}
	if x := k.pieces[p.stem()]; x != nil && x.Next() != p.limit {
		return &damage{fmt.Errorf("%s: records %d to %d are missing after it", p.path, x.Next(), p.limit-1)}
	}
	return nil
}

// examine reads a packed piece and returns a damage unless its records are
// those of its index.
func (k *keeper) examine(p piece) error {
	err := k.glance(p)
	var x *Index
	if err == nil {
		x, err = k.summary(p)
	}
	if err != nil {
		return err
	}
	got := tree.NewRange(p.first)
	e, err := p.scan(func(line []byte, _ Record) error {
		got.Append(tree.Leaf(line))
		return k.pace(len(line) + 1)
	})
	if err != nil {
		return err
	}
	if err := p.whole(e); err != nil {
		return &damage{err}
	}
	if !sameRange(got, x.tree) {
		return &damage{fmt.Errorf("%s: its records are not those that it was packed with", p.path)}
	}
	return nil
}

func sameRange(a, b tree.Range) bool {
	is, err := a.MarshalText()
	want, err2 := b.MarshalText()
	return err == nil && err2 == nil && bytes.Equal(is, want)
}

// thin leaves of the heads beside a piece the last one of each minute.
func (k *keeper) thin(p piece) error {
	path := p.beside(headsEnd)
	all, err := headsOf(path)
	if err != nil {
		return err
	}
	kept := thinned(all)
	if len(kept) == len(all) {
		return nil
	}
	if err := k.ready(); err != nil {
		return err
	}
	return writeHeads(k.log.opts.disk, path, kept)
}

func writeHeads(d disk, path string, heads [][]byte) error {
	var text []byte
	for _, head := range heads {
		text = append(append(text, head...), '\n')
	}
	return writeFile(d, path, text)
}

func thinned(all [][]byte) (kept [][]byte) {
	var next time.Time // when the one after it was signed
	for i := len(all) - 1; i >= 0; i-- {
		h, err := tree.PeekHead(all[i])
		if err == nil && h.Time.Truncate(time.Minute).Equal(next) {
			continue
		}
		kept, next = append(kept, all[i]), h.Time.Truncate(time.Minute)
	}
	slices.Reverse(kept)
	return kept
}
