package bastion

import (
	"reflect"
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
