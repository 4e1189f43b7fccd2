package main

import (
	"testing"
	"time"

	"sekisho/authz"
)

func TestALockDoesNotWaitForAPolicyThatIsRead(t *testing.T) {
	svc, dir, _ := startTest(t)
	svc.reading.Lock() // as while a large policy is read
	defer svc.reading.Unlock()
	write(t, dir, "locks.yaml", string((*authz.Locks)(nil).With(authz.Lock{User: "alice", At: time.Now()}).Text()))
	done := make(chan locking)
	go func() {
		l, problems := svc.reloadLocks("root")
		if problems.Err() != nil {
			t.Error(problems)
		}
		done <- l
	}()
	select {
	case l := <-done:
		if len(l.Changes) != 1 || svc.setup.policy.Locks().Has(authz.Lock{User: "alice"}) == nil {
			t.Errorf("%+v", l)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the lock waits")
	}
}

func TestOneListThatIsDamagedKeepsNoOtherFromRevoking(t *testing.T) {
	svc, dir, _ := startTest(t)
	s := svc.setup
	s.settings.RevokedKeys = []string{"one", "two"}
	key := lineOf(newTestKey(t).PublicKey()) + "\n"
	write(t, dir, "one", key)
	write(t, dir, "two", "# none\n")
	if problems := s.beside.read(s); problems.Err() != nil {
		t.Fatal(problems)
	}
	write(t, dir, "one", "damaged\n")
	write(t, dir, "two", key+lineOf(newTestKey(t).PublicKey())+"\n")
	if _, _, problems := svc.reloadLists(); problems.Err() == nil {
		t.Error("nothing is said of the damaged one")
	}
	if one, two := s.beside.lists[0].List.Len(), s.beside.lists[1].List.Len(); one != 1 || two != 2 {
		t.Errorf("the lists have %d and %d entries", one, two)
	}
}

// The file of locks is followed, which may be quicker than the command that has
// changed it: it is told all the same what became of its change.
func TestALockCommandIsToldWhatBecameOfALockThatWasFollowedFirst(t *testing.T) {
	svc, dir, _ := startTest(t)
	write(t, dir, "locks.yaml", string((*authz.Locks)(nil).With(authz.Lock{User: "alice", At: time.Now()}).Text()))
	followed, problems := svc.reloadLocks("")
	if problems.Err() != nil || len(followed.Changes) != 1 {
		t.Fatalf("%+v, %v", followed, problems)
	}
	for i, want := range []int{1, 0} { // and once only
		told, problems := svc.reloadLocks("root")
		if problems.Err() != nil || len(told.Changes) != want {
			t.Errorf("answer %d: %+v, %v", i, told, problems)
		}
	}
}
