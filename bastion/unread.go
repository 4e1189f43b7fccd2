package bastion

import (
	"reflect"
	"time"
	"unsafe"

	"golang.org/x/crypto/ssh"
)

// discardUnread reads, until the connection is over, the requests of a channel
// that could not be confirmed. x/crypto/ssh takes requests for a channel into
// a queue of 16 from the moment that Accept begins; when Accept fails, it hands
// that queue to nobody, and its loop waits at the seventeenth request for ever
// and never sees that the connection has ended. Nothing exported leads to the
// queue, so it is taken out of the channel;
// TestAChannelThatCannotBeConfirmedDoesNotWedgeItsConnection holds that it is
// still there.
func discardUnread(ch ssh.NewChannel) {
	v := reflect.ValueOf(ch)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return
	}
	queue := v.Elem().FieldByName("incomingRequests")
	if !queue.IsValid() || queue.Type() != reflect.TypeFor[chan *ssh.Request]() {
		return
	}
	ssh.DiscardRequests(*(*chan *ssh.Request)(unsafe.Pointer(queue.UnsafeAddr())))
}

// packetsOf returns the queue of packets that have come for a connection and
// are not looked at yet. x/crypto/ssh reads them into it in a goroutine of its
// own, and when it ends a connection for what a packet says, before the login
// or after, it looks at no other. With 17 more the goroutine waits for ever,
// and with it the connection's end: a stranger could leave as much behind as he
// likes. Nothing exported leads to the queue, so it is taken out of the
// connection, which the library hands to its callbacks;
// TestPacketsBehindOneThatEndsTheConnectionDoNotWedgeIt holds that it is there.
func packetsOf(conn ssh.ConnMetadata) <-chan []byte {
	v := reflect.ValueOf(conn)
	for _, field := range []string{"transport", "incoming"} {
		for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return nil
		}
		v = v.FieldByName(field)
	}
	if !v.IsValid() || v.Type() != reflect.TypeFor[chan []byte]() || !v.CanAddr() {
		return nil
	}
	return *(*chan []byte)(unsafe.Pointer(v.UnsafeAddr()))
}

// wedgedAfter is how long a connection whose wire is closed may take to end by
// itself.
const wedgedAfter = 2 * time.Second

// unwedge ends a connection whose wire is closed and that does not see it.
// When the server has asked for new keys and the client has not answered,
// x/crypto/ssh keeps 64 packets that it would write and then waits for the
// keys, in the loop too that looks at the packets that come: these fill their
// queue, and nobody reads the wire any more.
func (c *connection) unwedge() {
	late := time.NewTimer(wedgedAfter)
	defer late.Stop()
	select {
	case <-c.served:
	case <-late.C:
		c.discardPackets()
	}
}

// discardPackets reads, until the wire's end, the packets that nobody looks at
// any more.
func (c *connection) discardPackets() {
	if packets := c.packets.Load(); packets != nil && *packets != nil {
		for range *packets {
		}
	}
}
