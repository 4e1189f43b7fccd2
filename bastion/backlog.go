package bastion

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/crypto/ssh"
)

// What a client sends waits in x/crypto/ssh until it is taken away: by a
// target that reads, or by what answers a session. A channel holds up to 2 MiB
// of payload so, and the library keeps every packet by itself: sent a byte at
// a time it is 96 MiB of memory, and a connection has hundreds of channels.
//
// So what is held for a connection is counted now and then, exactly, and the
// connection that makes the server hold more than a limit is ended, with the
// reason backlog. What is counted is what is held, not what came in: a busy
// connection whose targets read holds nothing, and one with thirty uploads
// that all stand still holds 60 MiB.
//
// Counting costs time, so it is done when as much has come in as could fill
// the limit, by the very goroutine that reads from the client: who sends much
// pays, and nothing comes in meanwhile. On the way of the bytes there is one
// addition.

const (
	reasonBacklog    = "backlog"     // more is held for a connection, or for all, than is good
	reasonLoginBytes = "login_bytes" // more than a login can need came before it

	// packetCost is what the library keeps for a packet beside its payload:
	// a list element of 32 bytes, and the packet's head in an allocation that
	// is rounded up.
	packetCost = 48

	// blowUp is by how much at most a byte on the wire is more in memory: a
	// packet has at least 36 bytes there and, with one byte of payload, takes
	// packetCost.
	blowUp = 1.5

	// maxPacket is the largest packet that the library takes. A request that
	// waits in a channel's queue is counted as one: how large it is cannot be
	// told, and honest clients have none waiting.
	maxPacket = 256 << 10

	// backlogShare of the memory that the process may use is what all
	// connections together may make it hold.
	backlogShare = 4
)

// maxLoginBytes bounds what a client may send before it has logged in: its
// part of the key exchange, and every key that it may offer, certificates
// among them, each several times as large as they come.
func maxLoginBytes(l Limits) int64 { return 64<<10 + int64(l.MaxAuthTries)*(8<<10) }

// maxBacklog is what all connections together may make the server hold, by
// the memory limit of the process (GOMEMLIMIT).
func maxBacklog() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return limit
	}
	return limit / backlogShare
}

// backlog is what one connection makes the server hold.
type backlog struct {
	most int64 // bytes of memory

	mu       sync.Mutex
	channels map[ssh.NewChannel]struct{} // from being asked for until they are over
	held     int64                       // when it was counted last
	after    int64                       // bytes that had come in by then

	in  atomic.Int64 // bytes that have come in
	due atomic.Int64 // so many of them, and it must be counted again
}

func newBacklog(l Limits) *backlog {
	b := &backlog{most: l.MaxBacklogPerConnection, channels: map[ssh.NewChannel]struct{}{}}
	b.due.Store(maxLoginBytes(l))
	return b
}

func (b *backlog) add(ch ssh.NewChannel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.channels[ch] = struct{}{}
}

func (b *backlog) remove(ch ssh.NewChannel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.channels, ch)
}

// count counts what is held, and says when to count again.
func (b *backlog) count() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.after, b.held = b.in.Load(), 0
	for ch := range b.channels {
		b.held += unread(ch)
	}
	// A connection close to its limit is let over it by a little, or it would
	// be counted all the time.
	room := max(b.most-b.held, b.most/16)
	b.due.Store(b.after + int64(float64(room)/blowUp))
	return b.held
}

// atMost is what is held at most, without counting.
func (b *backlog) atMost() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held + int64(float64(b.in.Load()-b.after)*blowUp)
}

// took is told of bytes that came in from the client, by the goroutine that
// reads them.
func (c *connection) took(n int) {
	b := c.backlog
	if b.in.Add(int64(n)) < b.due.Load() {
		return
	}
	if c.principal() == nil {
		b.due.Store(math.MaxInt64)
		c.end(&endCause{reasonLoginBytes, fmt.Sprintf("more than %d bytes came before a login", maxLoginBytes(c.server.limits))})
		return
	}
	if held := b.count(); held > b.most {
		c.end(&endCause{reasonBacklog, fmt.Sprintf("%d MiB of what it sent were held for targets that do not take it (max_backlog_per_connection, %d MiB)", held>>20, b.most>>20)})
	}
}

// tendBacklog ends the connections that hold the most, while all together hold
// more than the server may.
func (s *Server) tendBacklog(conns []*connection) {
	sum := int64(0)
	for _, c := range conns {
		sum += c.backlog.atMost()
	}
	if sum <= s.maxBacklog {
		return
	}
	sum = 0
	held := make(map[*connection]int64, len(conns))
	for _, c := range conns {
		if c.principal() != nil && c.ctx.Err() == nil { // what has ended is let go already
			held[c] = c.backlog.count()
			sum += held[c]
		}
	}
	for sum > s.maxBacklog {
		var worst *connection
		for c, n := range held {
			if worst == nil || n > held[worst] {
				worst = c
			}
		}
		worst.end(&endCause{reasonBacklog, fmt.Sprintf(
			"%d MiB of what it sent were held for targets that do not take it, the most of all connections, and together they held %d MiB of %d MiB", held[worst]>>20, sum>>20, s.maxBacklog>>20)})
		sum -= held[worst]
		delete(held, worst)
	}
}

// unread is the memory that x/crypto/ssh holds of what a client has sent for a
// channel and nobody has taken. It is in no exported field, so it is looked up
// where it is: see findUnread.
func unread(ch ssh.NewChannel) int64 {
	v := reflect.ValueOf(ch)
	if v.Type() != libraryChannel.Type {
		return 0
	}
	at := func(f reflect.StructField) unsafe.Pointer { return fieldOf(v, f) }
	queue := *(*chan *ssh.Request)(at(libraryChannel.requests))
	// What follows the type of channel is copied when its packet is read, and
	// once more when it is looked into; the packet may be kept as well.
	held := 3*int64(len(ch.ExtraData())+len(ch.ChannelType())) + int64(len(queue))*maxPacket
	for _, f := range []reflect.StructField{libraryChannel.data, libraryChannel.stderr} {
		held += (*(**unreadBuffer)(at(f))).size()
	}
	return held
}

func fieldOf(channel reflect.Value, f reflect.StructField) unsafe.Pointer {
	return unsafe.Add(channel.UnsafePointer(), f.Offset)
}

// unreadData is where x/crypto/ssh holds the bytes of a channel that nobody has
// read; nil if ch is none of its channels.
func unreadData(ch ssh.Channel) *unreadBuffer {
	v := reflect.ValueOf(ch)
	if v.Type() != libraryChannel.Type {
		return nil
	}
	return *(**unreadBuffer)(fieldOf(v, libraryChannel.data))
}

// unreadBuffer and unreadPacket are what x/crypto/ssh calls buffer and element:
// a list of the packets that came, and of the first what is left of it.
type unreadBuffer struct {
	*sync.Cond
	head, tail *unreadPacket
	closed     bool
}

type unreadPacket struct {
	buf  []byte
	next *unreadPacket
}

// ready reports whether there is something to read. It does not tell of the
// end.
func (b *unreadBuffer) ready() bool {
	b.L.Lock()
	defer b.L.Unlock()
	return b.head != b.tail || len(b.head.buf) > 0
}

func (b *unreadBuffer) size() (n int64) {
	b.L.Lock()
	defer b.L.Unlock()
	for p := b.head; p != nil; p = p.next {
		n += int64(len(p.buf)) + packetCost
	}
	return n - packetCost // the list has one element that is empty, or the rest of one
}

// libraryChannel is the library's type of a channel and those of its fields
// that hold what has come in.
var libraryChannel struct {
	reflect.Type
	data, stderr, requests reflect.StructField
}

// findUnread finds the fields, once. It fails if the library is not the one
// that is known here: a server without this bound does not start.
var findUnread = sync.OnceValue(func() error {
	request, ok := reflect.TypeFor[ssh.Request]().FieldByName("ch")
	if !ok || request.Type.Kind() != reflect.Pointer || request.Type.Elem().Kind() != reflect.Struct || !request.Type.Implements(reflect.TypeFor[ssh.NewChannel]()) {
		return errUnknownLibrary
	}
	fields := map[string]*reflect.StructField{
		"pending": &libraryChannel.data, "extPending": &libraryChannel.stderr, "incomingRequests": &libraryChannel.requests,
	}
	for name, f := range fields {
		if *f, ok = request.Type.Elem().FieldByName(name); !ok || len(f.Index) != 1 {
			return errUnknownLibrary
		}
	}
	buffer := reflect.TypeFor[*unreadBuffer]()
	if libraryChannel.requests.Type != reflect.TypeFor[chan *ssh.Request]() ||
		!sameLayout(libraryChannel.data.Type, buffer, 3) || !sameLayout(libraryChannel.stderr.Type, buffer, 3) {
		return errUnknownLibrary
	}
	libraryChannel.Type = request.Type
	return nil
})

var errUnknownLibrary = errors.New("golang.org/x/crypto/ssh holds what clients send in a way that is not known here, so it cannot be bounded")

// sameLayout reports whether two types lie in memory in the same way, as far
// as pointers lead in depth steps.
func sameLayout(a, b reflect.Type, depth int) bool {
	if a == b {
		return true
	}
	if a.Kind() != b.Kind() || a.Size() != b.Size() {
		return false
	}
	switch a.Kind() {
	case reflect.Pointer:
		return depth == 0 || sameLayout(a.Elem(), b.Elem(), depth-1)
	case reflect.Struct:
		if a.NumField() != b.NumField() {
			return false
		}
		for i := range a.NumField() {
			x, y := a.Field(i), b.Field(i)
			if x.Name != y.Name || x.Offset != y.Offset || !sameLayout(x.Type, y.Type, depth) {
				return false
			}
		}
		return true
	}
	return false
}
