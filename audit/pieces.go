package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// noLimit is the limit of the newest segment.
const noLimit = math.MaxUint64

// A piece is a segment as it is found in the folder.
type piece struct {
	path   string
	first  uint64 // seq of its first record
	nth    int    // 0, or more if others before it began at the same seq and failed
	limit  uint64 // first of the piece after it; records from here on are void
	packed bool   // with zstd: it is closed, and holds its records and nothing else
}

// void reports whether all of the piece is superseded by the one after it.
func (p piece) void() bool { return p.first >= p.limit }

// The ends of names: of a segment, and of one that is packed.
const (
	plainEnd  = ".jsonl"
	packedEnd = ".jsonl.zst"
)

// stem is the name of a segment without its end, which what stands beside it
// begins with, too.
func stem(first uint64, nth int) string {
	if nth == 0 {
		return fmt.Sprintf("%020d", first)
	}
	return fmt.Sprintf("%020d.%d", first, nth)
}

func (p piece) stem() string { return stem(p.first, p.nth) }

// beside is the path of a file that belongs to the piece.
func (p piece) beside(end string) string {
	return filepath.Join(filepath.Dir(p.path), p.stem()+end)
}

func parsePieceName(name string) (p piece, ok bool) {
	p.limit = noLimit
	rest, plain := strings.CutSuffix(name, plainEnd)
	if !plain {
		if rest, p.packed = strings.CutSuffix(name, packedEnd); !p.packed {
			return p, false
		}
	}
	digits, nth, _ := strings.Cut(rest, ".")
	var err error
	if p.first, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return p, false
	}
	p.nth, _ = strconv.Atoi(nth)
	return p, p.stem() == rest
}

// list returns the pieces of the log in the order in which they are read. Of
// one that is there in both forms, since a crash kept it from being removed
// after it was packed, that is the plain one.
func list(dir string) ([]piece, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: list the segments: %w", err)
	}
	var all []piece
	for _, e := range entries {
		if p, ok := parsePieceName(e.Name()); ok {
			p.path = filepath.Join(dir, e.Name())
			if !e.Type().IsRegular() {
				return nil, fmt.Errorf("audit: list the segments: %w", notRegular(p.path, e.Type()))
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.nth, b.nth), cmp.Compare(len(a.path), len(b.path)))
	})
	all = slices.CompactFunc(all, func(a, b piece) bool { return a.first == b.first && a.nth == b.nth })
	for i := range all[:max(len(all)-1, 0)] {
		all[i].limit = all[i+1].first
	}
	return all, nil
}

// A stream is the text of a piece.
type stream struct {
	io.Reader
	file *os.File
	zstd *zstd.Decoder // nil of one that is not packed
}

// mostWindow bounds the memory that a packed segment may ask for. It is the
// window of what the log packs itself.
const mostWindow = 8 << 20

// open returns the text of the piece, packed or not. What does not unpack
// reads as an error that wraps errPacked. A plain one may have been packed
// since it was listed.
func (p piece) open() (*stream, error) {
	f, err := openFile(p.path)
	if !p.packed && errors.Is(err, os.ErrNotExist) {
		p.path, p.packed = p.beside(packedEnd), true
		if f, err2 := openFile(p.path); err2 == nil {
			return p.unpack(f)
		} else if errors.Is(err2, ErrNotRegular) {
			err = err2
		}
	}
	if err != nil {
		return nil, fmt.Errorf("audit: read a segment: %w", err)
	}
	if !p.packed {
		return &stream{Reader: f, file: f}, nil
	}
	return p.unpack(f)
}

func (p piece) unpack(f *os.File) (*stream, error) {
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(mostWindow))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit: read a segment: %w", err)
	}
	return &stream{Reader: unpacking{z, p.path}, file: f, zstd: z}, nil
}

func (s *stream) Close() error {
	if s.zstd != nil {
		s.zstd.Close()
	}
	return s.file.Close()
}

var errPacked = errors.New("the segment does not unpack")

// unpacking names the file in errors.
type unpacking struct {
	io.Reader
	path string
}

func (u unpacking) Read(b []byte) (int, error) {
	n, err := u.Reader.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%s: %w: %w", u.path, errPacked, err)
	}
	return n, err
}

// A Segment is a part of a log as a text of lines, for those who would rather
// not read it record by record.
type Segment struct{ piece piece }

// Segments returns those of the log in dir, oldest first. Each has its records
// up to where the next one begins.
func Segments(dir string) ([]Segment, error) {
	_, all, err := survey(dir)
	if err != nil {
		return nil, err
	}
	var segments []Segment
	for _, p := range all {
		if !p.void() {
			segments = append(segments, Segment{p})
		}
	}
	return segments, nil
}

// Path is that of its file.
func (s Segment) Path() string { return s.piece.path }

// First is the seq of its first record.
func (s Segment) First() uint64 { return s.piece.first }

// Limit is the seq of the first record of the next segment: lines with this
// seq or a higher one are void and not to be read. Of the newest segment it is
// the largest number there is.
func (s Segment) Limit() uint64 { return s.piece.limit }

// Packed tells whether the file is compressed, which only a segment is that
// will not change any more.
func (s Segment) Packed() bool { return s.piece.packed }

// Open returns its text. That of the newest segment may end within a line.
func (s Segment) Open() (io.ReadCloser, error) { return s.piece.open() }
