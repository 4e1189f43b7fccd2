package bastion_test

import (
	"testing"
	"time"

	"sekisho/audit"
	"sekisho/bastion"
	"sekisho/bastion/bastiontest"
)

// The library looks at no packet behind one that ends the connection, and must
// not wait for that either.
func TestPacketsBehindOneThatEndsTheConnectionDoNotWedgeIt(t *testing.T) {
	ignored := []byte{50, 0, 0, 0, 0} // looked at by nobody
	for _, c := range []struct {
		name   string
		step   bastiontest.Step
		packet []byte
	}{
		{"another service", bastiontest.SentNewKeys, []byte("\x05\x00\x00\x00\x0essh-connection")},
		{"no service request", bastiontest.SentNewKeys, []byte{255}},
		{"no request to log in", bastiontest.SentServiceRequest, []byte{255}},
		{"a login for another service", bastiontest.SentServiceRequest, []byte("\x32\x00\x00\x00\x05alice\x00\x00\x00\x03ftp\x00\x00\x00\x04none")},
	} {
		t.Run(c.name, func(t *testing.T) {
			goroutinesReturn(t)
			b := bastiontest.Start(t, bastiontest.Options{Limits: func(l *bastion.Limits) { l.LoginGrace = 2 * time.Second }})
			r := silent(t, b)
			if err := r.Until(c.step); err != nil {
				t.Fatal(err)
			}
			r.Cork()
			r.Send(c.packet)
			for range 100 {
				r.Send(ignored)
			}
			r.Uncork()
			gone(t, b)
		})
	}
	t.Run("data of no channel after the login", func(t *testing.T) {
		goroutinesReturn(t)
		b := bastiontest.Start(t, bastiontest.Options{})
		r := logIn(t, b)
		r.Cork()
		for range 100 {
			r.Send(data(77, 1))
		}
		r.Uncork()
		gone(t, b)
		if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "protocol_error" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
	})
}

func TestKeysThatTheServerAsksForAndNeverGetsDoNotWedgeTheConnection(t *testing.T) {
	goroutinesReturn(t)
	b := bastiontest.Start(t, bastiontest.Options{
		Policy: twoUsers,
		Config: func(c *bastion.Config) { c.RekeyThreshold = 100_000 },
		Limits: func(l *bastion.Limits) { l.KeepaliveInterval, l.KeepaliveMaxMissed = 300*time.Millisecond, 3 },
	})
	w := watch(t, b, nil)
	r := logIn(t, b)
	ping := append([]byte{192, 0, 0, 0x3, 0xe8}, make([]byte, 1000)...)
	for range 400 {
		if r.Send(ping) != nil {
			break
		}
	}
	time.Sleep(500 * time.Millisecond)
	w.unharmed()
	r.Close()
	if rec := hasEnded(t, b.Book); rec.Reason != "keepalive" {
		t.Errorf("%s", rec.AppendJSON(nil))
	}
	w.client.Close()
	gone(t, b)
}
