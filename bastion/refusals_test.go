package bastion_test

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"sekisho/audit"
	"sekisho/bastion"
)

func TestWhoIsRefusedTooOftenIsSentAwayForAWhileAndNobodyElse(t *testing.T) {
	const policy = `users:
  - {name: alice, keys: ["{alice}"]}
  - {name: bob, keys: ["{bob}"]}
targets:
  - {name: a, hosts: [target], ports: ["22"]}
grants:
  - {name: all, users: [alice, bob], to: [a]}
`
	inBubble(t, policy, func(t *testing.T, b *bubble) {
		bob := b.login(b.Bob).open("target")
		alice := b.login(b.Alice)
		alice.open("target").echoes()
		refused := 0
		for ; refused < 10*bastion.RefusalBurst; refused++ {
			if _, err := alice.Dial("tcp", "secret:22"); err == nil {
				t.Fatal("it is opened")
			} else if _, ok := err.(*ssh.OpenChannelError); !ok {
				break
			}
		}
		if rec := b.Book.Await(t, audit.ConnClose, 1); rec.Reason != "flood" || rec.User != "alice" {
			t.Errorf("%s", rec.AppendJSON(nil))
		}
		// Every one of them is recorded, and so is the last one, of which she
		// may not have been told.
		recorded := len(b.Book.Records(audit.ForwardDeny))
		if recorded < refused || recorded > refused+1 || recorded < bastion.RefusalBurst || recorded > bastion.RefusalBurst+10 {
			t.Errorf("%d refusals are recorded of %d", recorded, refused)
		}
		if reason := b.refused(b.Alice); reason != "limit" {
			t.Errorf("she is refused with %s", reason)
		}
		bob.echoes()
		b.login(b.Bob).open("target").echoes()

		time.Sleep(bastion.RefusalBurst * bastion.RefusalEvery / 2)
		b.login(b.Alice).open("target").echoes()
	})
}

func TestRefusalsAtALowRateAreForgotten(t *testing.T) {
	const policy = `users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: a, hosts: [target], ports: ["22"]}
grants:
  - {name: all, users: [alice], to: [a]}
`
	inBubble(t, policy, func(t *testing.T, b *bubble) {
		alice := b.login(b.Alice)
		for range 2 * bastion.RefusalBurst {
			time.Sleep(bastion.RefusalEvery)
			if _, err := alice.Dial("tcp", "secret:22"); err == nil {
				t.Fatal("it is opened")
			}
		}
		alice.open("target").echoes()
	})
}

// What fails for all is not held against one.
func TestAnOutageIsNotARefusalOfWhoAsks(t *testing.T) {
	const policy = `users:
  - {name: alice, keys: ["{alice}"]}
targets:
  - {name: a, hosts: [target], ports: ["22"]}
grants:
  - {name: all, users: [alice], to: [a]}
`
	inBubble(t, policy, func(t *testing.T, b *bubble) {
		alice := b.login(b.Alice)
		running := alice.open("target")
		b.Book.Fail(errors.New("no room"))
		for range 2 * bastion.RefusalBurst {
			if _, err := alice.Dial("tcp", "target:22"); err == nil {
				t.Fatal("it is opened")
			}
		}
		b.Book.Fail(nil)
		running.echoes()
		alice.open("target").echoes()
	})
}
